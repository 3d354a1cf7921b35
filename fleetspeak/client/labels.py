"""The labels of a client, which may change while it runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import overload


class Labels(Sequence[str]):
    """The current ones; whoever holds this sees each change.

    What is configured comes first, then what the client found out about itself.
    """

    def __init__(self, configured: Iterable[str]) -> None:
        self._configured = tuple(configured)
        self._found: tuple[str, ...] = ()

    def configure(self, labels: Iterable[str]) -> None:
        """These are configured from now on."""
        self._configured = tuple(labels)

    def found(self, labels: Iterable[str]) -> None:
        """These were found out, and none else."""
        self._found = tuple(labels)

    @property
    def all(self) -> tuple[str, ...]:
        """What they are now."""
        return self._configured + tuple(label for label in self._found if label not in self._configured)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        return self.all[index]

    def __len__(self) -> int:
        return len(self.all)
