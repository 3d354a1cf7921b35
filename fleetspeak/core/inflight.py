"""Which messages of a process are on their way, by the ids that it gave them, and whom to tell when they arrive."""

from __future__ import annotations

from collections.abc import Callable

Tell = Callable[[bytes], None]


class InFlight:
    """A process repeats, on a new connection, what was not acknowledged on the old one.

    What is still on its way is not sent a second time; its acknowledgement goes to where it was asked for last.
    """

    def __init__(self) -> None:
        self._tell: dict[bytes, Tell] = {}

    def begin(self, message_id: bytes, tell: Tell) -> bool:
        """Must a message with this id be sent?  Without an id, each is one of its own.

        @param tell: called with the id, once, if the message arrives.
        """
        if not message_id:
            return True
        new = message_id not in self._tell
        self._tell[message_id] = tell
        return new

    def arrived(self, message_id: bytes) -> None:
        """It need not be repeated any more."""
        tell = self._tell.pop(message_id, None)
        if tell is not None:
            tell(message_id)

    def dropped(self, message_id: bytes) -> None:
        """It is not on its way any more; should it be repeated, it must be sent again."""
        self._tell.pop(message_id, None)

    def __len__(self) -> int:
        return len(self._tell)
