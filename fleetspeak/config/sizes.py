"""Sizes as people write them."""

from __future__ import annotations

import re

from fleetspeak.errors import ConfigError

DEFAULT_SPOOL_LIMIT = 256 * 1024 * 1024
"""Bytes of messages that are kept on the disk while no server can be reached: of a daemon with a report of 1 KiB every
ten seconds, almost a month."""

SMALLEST_SPOOL_LIMIT = 1024 * 1024

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(?:i?b)?|b?)", re.IGNORECASE | re.ASCII)


def parse_size(text: str) -> int:
    """Bytes, for instance of ``64MiB``, ``1.5g`` or ``1000000``; each unit is 1024 of the one below.

    @raise ConfigError: it is no size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None or len(match[1]) > 20:
        raise ConfigError(f"no size: {text!r}; expected a number of bytes, or for instance 64MiB")
    return int(float(match[1]) * _UNITS[(match[2] or "").lower()])


def spool_limit(text: str | None, *, off: bool) -> int | None:
    """What ``--spool-limit`` and ``--no-spool`` say: bytes, or None for no spool.

    @param text: of the option, if it was given.
    @raise ConfigError: that cannot be.
    """
    if off:
        if text is not None:
            raise ConfigError("--spool-limit goes without --no-spool")
        return None
    if text is None:
        return DEFAULT_SPOOL_LIMIT
    try:
        limit = parse_size(text)
    except ConfigError as error:
        raise ConfigError(f"--spool-limit: {error}") from None
    if limit < SMALLEST_SPOOL_LIMIT:
        raise ConfigError(f"--spool-limit {text} is too little, expected at least 1MiB; --no-spool turns the spool off")
    return limit
