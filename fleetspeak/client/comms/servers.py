"""In which order a client tries its servers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Server:
    """One server, as clients reach it."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class ServerList:
    """The configured order, except that the one that worked last is tried first.  Kept in memory only."""

    def __init__(self, servers: Sequence[tuple[str, int]]) -> None:
        self._order = [Server(host, port) for host, port in servers]

    def order(self) -> list[Server]:
        """All of them, the next to be tried first."""
        return list(self._order)

    def worked(self, server: Server) -> None:
        """Try this one first from now on; it changes places with the one that was."""
        position = self._order.index(server)
        self._order[0], self._order[position] = self._order[position], self._order[0]
