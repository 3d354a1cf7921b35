"""Outcomes of the plural operations of a store."""

from __future__ import annotations

from typing import TypeVar

from twisted.internet.defer import Deferred

from fleetspeak.errors import StoreError

T = TypeVar("T")


def only(outcomes: Deferred[list[T | StoreError]]) -> Deferred[T]:
    """The single outcome of a call that was made with one request; its StoreError is raised."""
    return outcomes.addCallback(_unpack)


def _unpack(outcomes: list[T | StoreError]) -> T:
    (outcome,) = outcomes
    if isinstance(outcome, StoreError):
        raise outcome
    return outcome
