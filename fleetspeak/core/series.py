"""Counters, gauges and distributions by label values, whose number is bounded whoever chooses the values.

A table holds one cell for each combination of label values, and a cell one number or `Distribution` for each metric
of the table: metrics that are counted together are looked up once.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

OTHER = "other"
"""Stands for all the values that a label has no place for."""

MAX_VALUES = 100
"""Different values of one label."""

MAX_VALUE_LENGTH = 200
"""Characters; a longer value counts as `OTHER`.  Names have at most 128, but sets of labels are joined."""

MAX_CELLS = 500
"""Combinations of label values in one table."""

MOST = 1e15
"""What a larger observation counts as: a sum of any number of them is still a number."""


class LabelValues:
    """The values that one label may have: those that are expected, and the first ones that come."""

    def __init__(self, limit: int = MAX_VALUES, expected: Iterable[str] = ()) -> None:
        self._limit = limit
        self._expected = frozenset((*expected, OTHER))
        self._known: set[str] = set()
        self.refused = 0
        """How often a value was replaced."""

    def admit(self, value: str) -> str:
        """`value`, or `OTHER` if there is no place for it."""
        if value in self._expected or value in self._known:
            return value
        if len(value) <= MAX_VALUE_LENGTH and len(self._known) < self._limit:
            self._known.add(value)
            return value
        self.refused += 1
        return OTHER


class Distribution:
    """How many observations are at most so large; as a Prometheus histogram."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds` ascend; what is beyond the last one counts as well."""
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """Between each bound and the one before it."""
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count `value`.  One that is negative, or no number at all, is passed over: sums must only grow."""
        if value >= 0:
            value = min(value, MOST)
            self.counts[bisect_left(self.bounds, value)] += 1
            self.total += value

    def copy(self) -> Distribution:
        """As it is now."""
        made = Distribution.__new__(Distribution)
        made.bounds, made.counts, made.total = self.bounds, self.counts.copy(), self.total
        return made

    def cumulative(self) -> list[tuple[float, int]]:
        """For each bound, and infinity, how many observations are at most that."""
        result, count = [], 0
        for bound, number in zip((*self.bounds, math.inf), self.counts, strict=True):
            count += number
            result.append((bound, count))
        return result


Cell = list[Any]
"""A number or a `Distribution` for each metric of the table."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric."""

    name: str
    """As it is exposed."""
    help: str
    type: str = "counter"
    """``counter``, ``gauge`` or ``histogram``."""
    bounds: Sequence[float] = ()
    """Of a histogram."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A table at one moment."""

    labels: Sequence[str]
    metrics: Sequence[Metric]
    rows: Sequence[tuple[Sequence[str], Cell]]


class Table:
    """Metrics that have the same labels and are counted together."""

    def __init__(
        self,
        labels: Sequence[str],
        *metrics: Metric,
        capped: Mapping[str, LabelValues] | None = None,
        max_cells: int = MAX_CELLS,
    ) -> None:
        """
        @param capped: by label, the values that it may have, where these come from elsewhere; others are ours, and few.
        """
        self.labels = tuple(labels)
        self.metrics = metrics
        self._caps = [(capped or {}).get(label) for label in self.labels]
        self._max_cells = max_cells
        self._cells: dict[tuple[str, ...], Cell] = {}
        self.overflowed = 0
        """How often there was no place for a combination."""

    def cell(self, *values: str) -> Cell:
        """The cell for these values, one for each label."""
        found = self._cells.get(values)
        return found if found is not None else self._admit(values)

    def _admit(self, values: tuple[str, ...]) -> Cell:
        admitted = tuple(
            cap.admit(value) if cap is not None else value for cap, value in zip(self._caps, values, strict=True)
        )
        if admitted not in self._cells and len(self._cells) >= self._max_cells:
            self.overflowed += 1
            admitted = tuple(OTHER if cap else value for cap, value in zip(self._caps, admitted, strict=True))
        found = self._cells.get(admitted)
        if found is None:
            found = self._cells[admitted] = [self._zero(metric) for metric in self.metrics]
        return found

    @staticmethod
    def _zero(metric: Metric) -> float | Distribution:
        return Distribution(metric.bounds) if metric.type == "histogram" else 0

    def read(self) -> Reading:
        """A copy that nobody changes any more."""
        rows = [
            (values, [one.copy() if isinstance(one, Distribution) else one for one in cell])
            for values, cell in self._cells.items()
        ]
        return Reading(self.labels, self.metrics, rows)
