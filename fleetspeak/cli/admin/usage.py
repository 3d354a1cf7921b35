"""What a client reported of its processes: CPU, memory, file descriptors."""

from __future__ import annotations

import argparse
import time

from fleetspeak.cli.admin import identifiers, times
from fleetspeak.cli.admin.command import Arguments, Command
from fleetspeak.cli.admin.link import Link
from fleetspeak.cli.admin.output import Column, Listing, Row
from fleetspeak.pb import admin, resource


def _rate(milliseconds: float) -> str:
    return f"{milliseconds / 10:.1f}%"


def _mebibytes(size: int) -> str:
    return f"{size} MiB"


COLUMNS = (
    Column("time", "Reported", 24),
    Column("scope", "Of", 20),
    Column("pid", "Pid", 7, right=True),
    Column("mean_user_cpu", "User CPU", 8, _rate, right=True),
    Column("mean_system_cpu", "System", 7, _rate, right=True),
    Column("mean_memory_mib", "Memory", 11, _mebibytes, right=True),
    Column("max_memory_mib", "at most", 11, _mebibytes, right=True),
    Column("max_files", "Files", 6, right=True),
)


def _declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("client_id")
    how = "a time such as 2026-11-28T14:30:00Z, or how long ago, such as 2h"
    parser.add_argument("--since", default="1d", metavar="TIME", help=f"reports from then on: {how} [default: 1d]")
    parser.add_argument("--until", default="now", metavar="TIME", help="reports before that [default: now]")


def _usage(link: Link, arguments: Arguments) -> Listing:
    now = time.time()
    request = admin.FetchClientResourceUsageRecordsRequest(
        client_id=identifiers.one_client_id(arguments.client_id),
        start_timestamp=times.parse(arguments.since, now),
        end_timestamp=times.parse(arguments.until, now),
    )
    method = link.admin.FetchClientResourceUsageRecords
    reply = link.call("FetchClientResourceUsageRecords", method, request)
    records = sorted(reply.records, key=lambda one: times.to_nanoseconds(one.server_timestamp))
    return Listing(COLUMNS, map(_row, records), "No reports found.")


def _row(record: resource.ClientResourceUsageRecord) -> Row:
    return {
        "time": record.server_timestamp if record.HasField("server_timestamp") else None,
        "client_time": record.client_timestamp if record.HasField("client_timestamp") else None,
        "scope": record.scope,
        "pid": record.pid,
        "process_start": record.process_start_time if record.HasField("process_start_time") else None,
        "process_terminated": record.process_terminated,
        "mean_user_cpu": record.mean_user_cpu_rate,
        "max_user_cpu": record.max_user_cpu_rate,
        "mean_system_cpu": record.mean_system_cpu_rate,
        "max_system_cpu": record.max_system_cpu_rate,
        "mean_memory_mib": record.mean_resident_memory_mib,
        "max_memory_mib": record.max_resident_memory_mib,
        "mean_files": record.mean_num_fds,
        "max_files": record.max_num_fds,
    }


COMMANDS = (Command("usage", "list what a client reported of its processes", _usage, _declare),)
