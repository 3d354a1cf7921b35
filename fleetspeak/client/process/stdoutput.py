"""Gathers what a process writes to its standard output and standard error.  No I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass

from fleetspeak.pb import daemon, daemon_config

MAX_FLUSH_BYTES = 1024 * 1024
DEFAULT_FLUSH_SECONDS = 60

STDOUT = 1
STDERR = 2


@dataclass(frozen=True, slots=True)
class FlushRules:
    """When gathered output is sent."""

    size: int
    """Bytes; as soon as there are more, so many are sent."""
    seconds: float
    """The longest that output waits."""


def flush_rules(params: daemon_config.Config.StdParams) -> FlushRules:
    """The rules of a configuration, with its defaults."""
    in_range = 0 < params.flush_bytes <= MAX_FLUSH_BYTES
    seconds = params.flush_time_seconds if params.flush_time_seconds > 0 else DEFAULT_FLUSH_SECONDS
    return FlushRules(params.flush_bytes if in_range else MAX_FLUSH_BYTES, float(seconds))


class OutputGatherer:
    """Cuts both streams of one execution into `StdOutputData` of bounded size and bounded age, none of them empty.

    The pid is left to whoever sends them.
    """

    def __init__(self, rules: FlushRules) -> None:
        self._rules = rules
        self._index = 0
        self._since = 0.0
        self._streams = {STDOUT: bytearray(), STDERR: bytearray()}
        self._size = 0

    def add(self, stream: int, data: bytes, now: float) -> list[daemon.StdOutputData]:
        """Take what came from `STDOUT` or `STDERR`.

        @return: what is to be sent now, each with exactly as many bytes as the rules say.
        """
        full = []
        offset = 0
        while offset < len(data):
            if not self._size:
                self._since = now
            piece = data[offset : offset + self._rules.size - self._size]
            self._streams[stream] += piece
            self._size += len(piece)
            offset += len(piece)
            if self._size == self._rules.size and offset < len(data):
                full += self.flush()
        return full

    @property
    def deadline(self) -> float | None:
        """When `flush` is due; None: there is nothing to send."""
        return self._since + self._rules.seconds if self._size else None

    def flush(self) -> list[daemon.StdOutputData]:
        """What was gathered, to be sent now: one, or none if there is nothing."""
        if not self._size:
            return []
        stdout, stderr = self._streams[STDOUT], self._streams[STDERR]
        gathered = daemon.StdOutputData(message_index=self._index, stdout=bytes(stdout), stderr=bytes(stderr))
        self._index += 1
        self._size = 0
        stdout.clear()
        stderr.clear()
        return [gathered]
