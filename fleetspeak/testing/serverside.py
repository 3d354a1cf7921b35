"""Doubles of what surrounds a server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zope.interface import implementer

from fleetspeak.interfaces import IServerStats


@implementer(IServerStats)
class RecordingServerStats:
    """A statistics plug-in that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, tuple[Any, ...]]] = []
        """Names of hooks, each with its arguments."""

    def __getattr__(self, hook: str) -> Callable[..., None]:
        if hook not in IServerStats:
            raise AttributeError(hook)
        return lambda *arguments: self.told.append((hook, arguments))

    def calls(self, hook: str) -> list[tuple[Any, ...]]:
        """The arguments of each call of that hook."""
        return [arguments for told, arguments in self.told if told == hook]
