"""What is kept of a client's resource usage report."""

from __future__ import annotations

import math

from fleetspeak.errors import InvalidRecord
from fleetspeak.pb import monitoring, resource
from fleetspeak.store.checks import MAX_NAME, nanoseconds

_MIB = 2**20
_MAX_INT = 2**31 - 1


def check_usage(data: monitoring.ResourceUsageData) -> None:
    """Raise InvalidRecord if `data` cannot be stored."""
    for name in ("process_start_time", "data_timestamp"):
        if not data.HasField(name):
            raise InvalidRecord(f"a resource usage record needs its {name}")
    nanoseconds("process_start_time", data.process_start_time)
    nanoseconds("data_timestamp", data.data_timestamp)
    if len(data.scope) > MAX_NAME:
        raise InvalidRecord(f"the scope of a resource usage record has more than {MAX_NAME} characters")


def usage_record(data: monitoring.ResourceUsageData, now_ns: int) -> resource.ClientResourceUsageRecord:
    """The record of `data`, stored now: memory in whole MiB, descriptors in whole numbers."""
    usage = data.resource_usage
    record = resource.ClientResourceUsageRecord(
        scope=data.scope,
        pid=data.pid,
        process_start_time=data.process_start_time,
        client_timestamp=data.data_timestamp,
        process_terminated=data.process_terminated,
        mean_user_cpu_rate=usage.mean_user_cpu_rate,
        max_user_cpu_rate=usage.max_user_cpu_rate,
        mean_system_cpu_rate=usage.mean_system_cpu_rate,
        max_system_cpu_rate=usage.max_system_cpu_rate,
        mean_resident_memory_mib=_whole(usage.mean_resident_memory / _MIB),
        max_resident_memory_mib=_whole(usage.max_resident_memory / _MIB),
        mean_num_fds=_whole(usage.mean_num_fds),
        max_num_fds=_whole(usage.max_num_fds),
    )
    record.server_timestamp.FromNanoseconds(now_ns)
    return record


def _whole(number: float) -> int:
    """A number that a client reported, cut to an integer of 32 bits."""
    if math.isnan(number):
        return 0
    return int(min(max(number, -_MAX_INT), _MAX_INT))
