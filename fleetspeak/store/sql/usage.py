"""Resource usage records of clients.

On MySQL other servers insert into this table by position: it keeps exactly these columns, in this order.
"""

from __future__ import annotations

from fleetspeak.ids import ClientId
from fleetspeak.pb import monitoring, resource
from fleetspeak.store.sql.dialect import Connection
from fleetspeak.store.sql.statements import insert
from fleetspeak.store.timing import Timing
from fleetspeak.store.usage import usage_record

_TIMES = ("process_start_time", "client_timestamp", "server_timestamp")
_COLUMNS = (
    "scope",
    "pid",
    *_TIMES,
    "process_terminated",
    "mean_user_cpu_rate",
    "max_user_cpu_rate",
    "mean_system_cpu_rate",
    "max_system_cpu_rate",
    "mean_resident_memory_mib",
    "max_resident_memory_mib",
    "mean_num_fds",
    "max_num_fds",
)


def record(db: Connection, client_id: ClientId, data: monitoring.ResourceUsageData, *, timing: Timing) -> None:
    """Store what a client reported; the data was checked."""
    usage = usage_record(data, timing.now_ns())
    values = (getattr(usage, column) for column in _COLUMNS)
    flat = [
        value.ToNanoseconds() if column in _TIMES else value for column, value in zip(_COLUMNS, values, strict=True)
    ]
    insert(db, "client_resource_usage_records", ("client_id", *_COLUMNS), [client_id, *flat])


def page(db: Connection, client_id: ClientId, start_ns: int, end_ns: int) -> list[resource.ClientResourceUsageRecord]:
    """The records of a client with start <= time of storage < end, in the order of that time."""
    rows = db.rows(
        f"SELECT {', '.join(_COLUMNS)} FROM client_resource_usage_records"
        " WHERE client_id = ? AND server_timestamp >= ? AND server_timestamp < ? ORDER BY server_timestamp",
        (client_id, start_ns, end_ns),
    )
    return [_record(dict(zip(_COLUMNS, row, strict=True))) for row in rows]


def _record(values: dict[str, object]) -> resource.ClientResourceUsageRecord:
    times = {name: values.pop(name) for name in _TIMES}
    record = resource.ClientResourceUsageRecord(**values)  # type: ignore[arg-type]
    for name, time in times.items():
        getattr(record, name).FromNanoseconds(time)
    return record
