"""In which order a client tries its servers.  Times are seconds of any monotonic clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fleetspeak.core.backoff import jittered

RETURN_DELAY = 1800.0
"""Seconds, times 1.0 to 1.5, until a client that went to another server tries its preferred one first again."""


@dataclass(frozen=True, slots=True)
class Server:
    """One server, as clients reach it."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class ServerList:
    """The configured order, except that the one that worked last is tried first.  Kept in memory only.

    The server that is configured first is preferred: `RETURN_DELAY` after another one has worked in its place it is
    tried first once more, at the next poll or when the stream has ended; a stream that lives is not ended for that.
    """

    def __init__(self, servers: Sequence[tuple[str, int]]) -> None:
        self._order = [Server(host, port) for host, port in servers]
        self._preferred = self._order[0] if self._order else None
        self._return_at: float | None = None

    def order(self) -> list[Server]:
        """All of them, the next to be tried first."""
        return list(self._order)

    def to_try(self, now: float) -> list[Server]:
        """All of them, in the order for an attempt that begins now."""
        if self._return_at is not None and now >= self._return_at:
            self._return_at = None
            self._order.sort(key=lambda server: server != self._preferred)
        return self.order()

    def worked(self, server: Server, now: float, u: float) -> None:
        """Try this one first from now on; it changes places with the one that was.  `u` is random, 0 <= u < 1."""
        position = self._order.index(server)
        self._order[0], self._order[position] = self._order[position], self._order[0]
        if server == self._preferred:
            self._return_at = None
        elif self._return_at is None:
            self._return_at = now + jittered(RETURN_DELAY, u)
