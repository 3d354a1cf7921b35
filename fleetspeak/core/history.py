"""What the contacts of a client tell about its machine: restored from a backup, or cloned.

Each contact gives the client a new nonce, which it presents at the next one.  A client that was restored from a backup
presents an older nonce, so two contacts refer to one: a split.  Copies that run side by side take turns, so that a
contact seldom presents the nonce of the one just before it: skips.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from fleetspeak.errors import FleetspeakError


class InconsistentHistory(FleetspeakError):
    """The contacts cannot all have happened as they are recorded; `times` has those concerned, in nanoseconds."""

    def __init__(self, problem: str, *times: int) -> None:
        super().__init__(problem)
        self.times = times


@dataclass(frozen=True, slots=True)
class PastContact:
    """One contact."""

    time_ns: int
    """Nanoseconds since the epoch."""
    sent_nonce: int
    """What the client was given, to present the next time."""
    received_nonce: int
    """What it presented; 0 the first time."""
    address: str
    """``host:port``."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What the contacts of one client tell."""

    first_ns: int
    last_ns: int
    contacts: int
    hosts: int
    """Different hosts that contacts came from."""
    split_points: int
    """Nonces that more than one contact presented; 0 and nonces that no contact was given count as one."""
    splits: int
    """Contacts that presented a nonce which an earlier one had presented already."""
    skips: int
    """Contacts that did not present the nonce given by the contact just before."""


def summarize(contacts: Iterable[PastContact]) -> Summary:
    """Look through at least one contact, in any order.

    @raise InconsistentHistory: two have the same time or gave the same nonce, or one presented a nonce that was given
        later.
    """
    ordered = sorted(contacts, key=lambda one: one.time_ns)
    given = _given(ordered)
    references: Counter[int] = Counter()
    skips = 0
    for index, contact in enumerate(ordered):
        origin = given.get(contact.received_nonce) if contact.received_nonce else None
        if origin is not None and origin >= contact.time_ns:
            raise InconsistentHistory("nonce references future time", contact.time_ns, origin)
        references[0 if origin is None else contact.received_nonce] += 1
        if index and contact.received_nonce != ordered[index - 1].sent_nonce:
            skips += 1
    return Summary(
        first_ns=ordered[0].time_ns,
        last_ns=ordered[-1].time_ns,
        contacts=len(ordered),
        hosts=len({host for contact in ordered if (host := _host(contact.address)) is not None}),
        split_points=sum(count > 1 for count in references.values()),
        splits=sum(count - 1 for count in references.values()),
        skips=skips,
    )


def _given(ordered: Iterable[PastContact]) -> dict[int, int]:
    """When each nonce was given."""
    given: dict[int, int] = {}
    before: int | None = None
    for contact in ordered:
        if contact.time_ns == before:
            raise InconsistentHistory("duplicate timestamp", contact.time_ns)
        before = contact.time_ns
        if contact.sent_nonce in given:
            raise InconsistentHistory(f"duplicate sent nonce: {contact.sent_nonce}")
        given[contact.sent_nonce] = contact.time_ns
    return given


def _host(address: str) -> str | None:
    """The host of ``host:port`` or ``[host]:port``; None if it is neither."""
    if address.startswith("["):
        host, bracket, port = address[1:].partition("]")
        return host if bracket and port.startswith(":") and ":" not in port[1:] and "[" not in host + port else None
    host, colon, port = address.partition(":")
    return host if colon and ":" not in port and not set("[]") & set(address) else None
