"""What a message's processing ended in, written into the message itself."""

from __future__ import annotations

from fleetspeak.pb import common

REASON_LIMIT = 900
"""Most bytes of a stored failed_reason, as upstream has it."""

SHOWN = 128
"""Most bytes of a client's words that go into a line of the log."""

_NANOS = 1_000_000_000


def succeed(message: common.Message, now_ns: int) -> None:
    """Make `message` processed, and drop its payload, which nobody needs any more."""
    message.ClearField("result")
    time = message.result.processed_time
    time.seconds, time.nanos = divmod(now_ns, _NANOS)
    message.ClearField("data")


def fail(message: common.Message, reason: str, now_ns: int) -> None:
    """Make `message` failed for good, for this reason, and drop its payload."""
    succeed(message, now_ns)
    message.result.failed = True
    message.result.failed_reason = cut(reason)


def cut(text: str, limit: int = REASON_LIMIT) -> str:
    """Shorten `text` to at most `limit` bytes of UTF-8, ending in ``...`` if something is left out."""
    raw = text.encode("utf-8", "replace")
    if len(raw) <= limit:
        return raw.decode()
    return raw[: limit - 3].decode("utf-8", "ignore") + "..."
