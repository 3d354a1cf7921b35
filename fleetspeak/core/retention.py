"""What is pruned when: ages, the order of a pass, how much at a time, and where to go on.  No I/O; times are passed in.

A pass goes through all kinds of rows that have an age.  It can be broken off after any part: its state is a text,
from which any process can go on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from fleetspeak.errors import ConfigError
from fleetspeak.records import Prunable, Prune, Pruned

MIN_AGE = 3600
"""Seconds: what is younger may still be in use, such as the contact that a stream began with."""

SHARE = 0.2
"""Of the time, how much is spent pruning while there is something to prune; the rest are pauses."""

TARGET = 0.03
"""Seconds that one part shall take: for so long others may have to wait for it."""

MAX_PAUSE = 5.0
"""Seconds between two parts at most."""

FIRST_ROWS, MIN_ROWS, MAX_ROWS = 200, 100, 2000
"""How many rows a part deletes, at first, at least, and at most.  Fewer would not be much quicker: what a transaction
costs in any case is most of it then, and on a busy database waiting for a turn."""

_AGES = "; keep "
"""In a state, before the ages."""

_UNITS = {"h": 3600, "d": 86_400, "w": 7 * 86_400}
_KINDS = [kind for kind in Prunable if kind is not Prunable.MESSAGES_OF_CLIENTS]
_AGE = re.compile("([0-9]{1,5})([hdw])")

Keep = Mapping[Prunable, int]
"""For how many seconds rows of a kind are kept; others are kept for ever."""


def parse_keep(texts: Iterable[str]) -> dict[Prunable, int]:
    """Read ages such as ``messages=7d``.  Raises ConfigError."""
    keep: dict[Prunable, int] = {}
    for text in texts:
        name, _, age = text.partition("=")
        known = ", ".join(_KINDS)
        if name not in _KINDS:
            raise ConfigError(f"{text}: expected one of {known}, and an age, such as messages=7d")
        kind = Prunable(name)
        if kind in keep:
            raise ConfigError(f"{text}: there is an age for {name} already")
        keep[kind] = parse_age(text, age)
    return keep


def parse_age(text: str, age: str) -> int:
    """Seconds of ``36h``, ``7d`` or ``4w``.  Raises ConfigError, which quotes `text`."""
    match = _AGE.fullmatch(age)
    if match is None:
        raise ConfigError(f"{text}: an age is a number with h (hours), d (days) or w (weeks), such as 36h or 7d")
    seconds = int(match[1]) * _UNITS[match[2]]
    if seconds < MIN_AGE:
        raise ConfigError(f"{text}: what is younger than an hour may still be in use")
    return seconds


def steps(keep: Keep) -> list[tuple[Prunable, int]]:
    """What a pass goes through, in this order: parents after what would have to go with them otherwise."""
    found = [(kind, keep[kind]) for kind in Prunable if kind in keep]
    age = keep.get(Prunable.CLIENTS)
    if age is not None and keep.get(Prunable.MESSAGES, age + 1) > age:
        found.append((Prunable.MESSAGES_OF_CLIENTS, age))
    return found


class Pass:
    """One pass: `next` says what to do, `done` hears what came of it."""

    def __init__(self, keep: Keep, state: str = "", *, share: float = SHARE, dry_run: bool = False) -> None:
        """
        @param state: what an earlier pass with the same ages has left; anything else is a beginning.
        @param share: of the time, 0 < share <= 1.
        """
        self._keep = keep
        self._steps = steps(keep)
        self._share = share
        self._dry_run = dry_run
        self._step, self._position = self._read(state)
        self._rows = MAX_ROWS if dry_run else FIRST_ROWS
        self._asked: Prune | None = None

    def next(self, now_ns: int) -> Prune | None:
        """The next part; None: the pass is over."""
        if self._step >= len(self._steps):
            return None
        kind, seconds = self._steps[self._step]
        self._asked = Prune(kind, now_ns - seconds * 10**9, self._position, self._rows, self._dry_run)
        return self._asked

    def done(self, pruned: Pruned, seconds: float) -> float:
        """The part that `next` gave took so long.  Returns for how many seconds to pause."""
        asked = self._asked
        assert asked is not None, "it was asked for"
        stuck = not pruned.rows and pruned.position == asked.position
        if pruned.position is None or stuck:
            self._step += 1
            self._position = ""
        else:
            self._position = pruned.position
        if not self._dry_run:
            self._adapt(seconds)
        return min(MAX_PAUSE, seconds * (1 / self._share - 1))

    def _adapt(self, seconds: float) -> None:
        if seconds > 2 * TARGET:
            self._rows = max(MIN_ROWS, self._rows // 2)
        elif seconds < TARGET:
            self._rows = min(MAX_ROWS, self._rows + self._rows // 4)

    def state(self) -> str:
        """From where another pass can go on; empty: this one has come to its end."""
        if self._step >= len(self._steps):
            return ""
        return f"at {self._steps[self._step][0]} {self._position}{_AGES}{_show(self._keep)}"

    def _read(self, state: str) -> tuple[int, str]:
        """The step and the position."""
        where, _, ages = state.rpartition(_AGES)
        word, _, rest = where.partition(" ")
        kind, _, position = rest.partition(" ")
        kinds = [kind for kind, _ in self._steps]
        if word == "at" and kind in kinds and ages == _show(self._keep):
            return kinds.index(Prunable(kind)), position
        return 0, ""


def finished(keep: Keep, now_ns: int) -> str:
    """The state after a pass that has come to its end."""
    return f"finished {now_ns} {_show(keep)}"


def wait(state: str, keep: Keep, now_ns: int, interval_ns: int) -> int:
    """For how many ns no pass is due, since somebody has finished one with the same ages."""
    word, _, rest = state.partition(" ")
    time, _, ages = rest.partition(" ")
    if word != "finished" or not time.isdecimal() or ages != _show(keep):
        return 0
    return max(0, min(int(time) + interval_ns - now_ns, interval_ns))


def _show(keep: Keep) -> str:
    return " ".join(f"{kind}={keep[kind]}" for kind in Prunable if kind in keep)
