"""The audit trail of the store in memory."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

from fleetspeak.records import AuditCall, AuditEnd, AuditEntry, AuditFilter
from fleetspeak.store import checks


class MemoryAudit:
    """Entries by their numbers, in ascending order."""

    def __init__(self) -> None:
        self._entries: dict[int, AuditEntry] = {}
        self._last = 0

    def begin(self, call: AuditCall, now_ns: int) -> int:
        """Write an entry, give its number."""
        self._last += 1
        self._entries[self._last] = AuditEntry(self._last, now_ns, checks.cut_audit_call(call))
        return self._last

    def end(self, end: AuditEnd) -> None:
        """Note how a call ended."""
        entry, end = self._entries.get(end.number), checks.cut_audit_end(end)
        if entry is not None:
            self._entries[end.number] = replace(
                entry, outcome=end.outcome, detail=end.detail, duration_ns=end.duration_ns
            )

    def page(self, wanted: AuditFilter, limit: int) -> list[AuditEntry]:
        """The first entries that fit."""
        entries = reversed(self._entries.values()) if wanted.newest_first else iter(self._entries.values())
        return list(islice((entry for entry in entries if _fits(entry, wanted)), limit))

    def old(self, before_ns: int) -> int:
        """How many there are of before then."""
        return sum(entry.time_ns < before_ns for entry in self._entries.values())

    def prune(self, before_ns: int, limit: int) -> int:
        """Delete the oldest ones of before then."""
        old = sorted((entry.time_ns, entry.number) for entry in self._entries.values() if entry.time_ns < before_ns)
        for _, number in old[:limit]:
            del self._entries[number]
        return len(old[:limit])


def _fits(entry: AuditEntry, wanted: AuditFilter) -> bool:
    return (
        (wanted.start_ns is None or wanted.start_ns <= entry.time_ns)
        and (wanted.end_ns is None or entry.time_ns < wanted.end_ns)
        and wanted.caller in ("", entry.call.caller)
        and wanted.method in ("", entry.call.method)
        and wanted.after < entry.number
        and (wanted.before is None or entry.number < wanted.before)
    )
