"""The audit trail: looked at by pages, and exported."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

from fleetspeak.errors import InvalidRecord
from fleetspeak.interfaces import IStore
from fleetspeak.pb import operator
from fleetspeak.records import AuditEntry, AuditFilter
from fleetspeak.store.checks import nanoseconds

DEFAULT_PAGE = 100
MAX_PAGE = 1_000
EXPORT_PAGE = 1_000

_MAX_NUMBER = 2**63 - 1


class AuditOperations:
    """The operations on the audit trail."""

    def __init__(self, store: IStore, settled: Callable[[], Awaitable[object]]) -> None:
        """`settled`: waits until the outcomes of calls that have ended are written."""
        self._store = store
        self._settled = settled

    async def list_audit_entries(self, request: operator.ListAuditEntriesRequest) -> operator.ListAuditEntriesResponse:
        """A page of entries, the newest first."""
        if request.page_size < 0:
            raise InvalidRecord("page_size must not be negative")
        size = min(request.page_size or DEFAULT_PAGE, MAX_PAGE)
        wanted = AuditFilter(
            *_span(request.time),
            caller=request.caller,
            method=request.method,
            before=_before(request.page_token),
            newest_first=True,
        )
        await self._settled()
        entries = await self._store.audit_entries(wanted, size + 1)
        more = len(entries) > size
        return operator.ListAuditEntriesResponse(
            entries=[_shown(entry) for entry in entries[:size]],
            next_page_token=str(entries[size - 1].number) if more else "",
        )

    async def export_audit_entries(
        self, request: operator.ExportAuditEntriesRequest
    ) -> AsyncIterator[list[operator.AuditEntry]]:
        """All entries in ascending order, by pages."""
        if request.after > _MAX_NUMBER:
            raise InvalidRecord(f"after must be at most {_MAX_NUMBER}")
        wanted = AuditFilter(*_span(request.time), after=request.after)
        await self._settled()
        while True:
            entries = await self._store.audit_entries(wanted, EXPORT_PAGE)
            yield [_shown(entry) for entry in entries]
            if len(entries) < EXPORT_PAGE:
                return
            wanted = replace(wanted, after=entries[-1].number)


def _span(time: operator.TimeSpan) -> tuple[int | None, int | None]:
    ends: list[Any] = [
        nanoseconds(name, getattr(time, name)) if time.HasField(name) else None for name in ("start", "end")
    ]
    start, end = ends
    if start is not None and end is not None and start > end:
        raise InvalidRecord("time is no span: its start is after its end")
    return start, end


def _before(token: str) -> int | None:
    if not token:
        return None
    if not (token.isascii() and token.isdecimal() and len(token) < 20):
        raise InvalidRecord("page_token is none of this list")
    return min(int(token), _MAX_NUMBER)


def _shown(entry: AuditEntry) -> operator.AuditEntry:
    call = entry.call
    shown = operator.AuditEntry(
        number=entry.number,
        caller=call.caller,
        address=call.address,
        role=call.role,
        method=call.method,
        request=call.request,
        outcome=entry.outcome,
        detail=entry.detail,
    )
    shown.time.FromNanoseconds(entry.time_ns)
    if entry.outcome:
        shown.duration.FromNanoseconds(entry.duration_ns)
    return shown
