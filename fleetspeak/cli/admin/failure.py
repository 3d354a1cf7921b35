"""Why a command cannot do what was asked, and what its user can do about it."""

from __future__ import annotations

from fleetspeak.errors import FleetspeakError


class CommandFailed(FleetspeakError):
    """The command ends with status 1."""

    def __init__(self, problem: str, *advice: str) -> None:
        """`advice`: lines that say what to check or to do."""
        super().__init__(problem)
        self.advice = advice


class NotReached(CommandFailed):
    """The server does not answer; it may later."""
