"""Keeps a client's state for as long as the process lives: a new identity at every start."""

from __future__ import annotations

from zope.interface import implementer

from fleetspeak.interfaces import IPersistence
from fleetspeak.pb import client


@implementer(IPersistence)
class MemoryPersistence:
    """A copy of the last state that was saved, in `state`."""

    def __init__(self, state: client.ClientState | None = None) -> None:
        self.state = state or client.ClientState()

    def claim(self) -> None:
        """Nobody else can have it."""

    def release(self) -> None:
        """Nothing to give back."""

    def load(self) -> client.ClientState:
        """A copy, as reading a file gives one."""
        return client.ClientState.FromString(self.state.SerializeToString())

    def save(self, state: client.ClientState) -> None:
        """Keep a copy."""
        self.state = client.ClientState.FromString(state.SerializeToString())

    def __str__(self) -> str:
        return "memory"
