"""Shares of a limit, and who gets them."""

from __future__ import annotations

from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.core.broadcasts import (
    LIFETIME_NS,
    Account,
    Entry,
    affordable,
    candidates,
    kept,
    replaces,
    share,
)
from fleetspeak.pb import broadcasts, common
from fleetspeak.records import UNLIMITED, Label

SECOND = 10**9


def entry(limit: int = 10, number: int = 1, labels: str = "", **fields: Any) -> Entry:
    broadcast = broadcasts.Broadcast(
        broadcast_id=number.to_bytes(8, "big"),
        required_labels=[common.Label(service_name="client", label=label) for label in labels],
    )
    broadcast.source.service_name = "service"
    return Entry(broadcast, limit, **fields)


class ShareTests(SynchronousTestCase):
    def test_item_33_the_shares_of_eight(self) -> None:
        taken, shares = 0, []
        for fraction in (0.5, 0.5, 0.1, 2.0, 2.0):
            shares.append(share(8, taken, fraction))
            taken += shares[-1]
        self.assertEqual(shares, [4, 2, 1, 1, 0])

    def test_single_precision(self) -> None:
        """10 * 0.7 is 7 in single precision, and a little less in double precision of the same fraction."""
        self.assertEqual(share(10, 0, 0.7), 7)
        self.assertEqual(share(2**24 + 1, 0, 1.0), 2**24)

    @given(st.integers(0, UNLIMITED), st.integers(0, UNLIMITED), st.floats(0, 1e6))
    def test_bounds(self, limit: int, taken: int, fraction: float) -> None:
        """Never more than is left, and something as long as there is anything."""
        got = share(limit, taken, fraction)
        self.assertTrue(0 <= got <= max(0, limit - taken))
        self.assertEqual(got > 0, limit > taken)


class Servers:
    """Some servers on one account, which send, give back, crash, and are swept behind; the clock runs too."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.account = Account(limit)
        self.now = 0
        self.held: list[tuple[bytes, Entry]] = []
        self.sent = 0

    def allocate(self, number: int) -> None:
        allocation_id = len(self.held).to_bytes(8, "big")
        size = self.account.allocate(allocation_id, (number % 12) / 10, self.now + 60)
        if size:
            self.held.append((allocation_id, entry(size, allocation_id=allocation_id, expiry_ns=self.now + 60)))

    def send(self, number: int, reported: bool = True) -> None:
        """As a server does; one whose clock is wrong, or that was given up, tries as well."""
        if not self.held:
            return
        allocation_id, held = self.held[number % len(self.held)]
        if not held.reserve():
            return
        if self.account.refusal(allocation_id, self.now):
            held.unreserve()
            return
        self.account.count(allocation_id)
        self.sent += 1
        if not reported:
            held.unreserve()  # it was cancelled, and does not know

    def lose(self, number: int) -> None:
        self.send(number, reported=False)

    def give_back(self, number: int) -> None:
        if self.held:
            allocation_id, held = self.held[number % len(self.held)]
            self.account.give_back(allocation_id, held.sent)

    def sweep(self, number: int) -> None:
        self.account.sweep(self.now - number)

    def wait(self, number: int) -> None:
        self.now += number

    def pause(self, number: int) -> None:
        self.account.pause()

    def resume(self, number: int) -> None:
        self.account.resume()

    def disable(self, number: int) -> None:
        if number % 4 == 0:
            self.account.disable()


ACTIONS = ["allocate", "send", "send", "send", "lose", "give_back", "sweep", "wait", "pause", "resume", "disable"]


class AccountTests(SynchronousTestCase):
    @settings(max_examples=300, deadline=None)
    @given(st.integers(0, 30), st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 40)), max_size=60))
    def test_never_over_the_limit(self, limit: int, actions: list[tuple[str, int]]) -> None:
        """Under any interleaving of servers, saves, clean-ups, lost answers, crashes (of which nothing comes any
        more) and sweeps."""
        servers = Servers(limit)
        for action, number in actions:
            getattr(servers, action)(number)
            account = servers.account
            self.assertLessEqual(servers.sent, limit)
            counted = account.sent + sum(held.sent for held in account.shares.values())
            self.assertGreaterEqual(counted, servers.sent, "what was sent stays counted")
            self.assertEqual(account.allocated, sum(held.limit for held in account.shares.values()))

    def test_the_whole_limit_can_be_sent(self) -> None:
        """Although every other server crashes."""
        servers = Servers(100)
        for _ in range(200):
            servers.allocate(2)
            for _ in range(3):
                servers.send(len(servers.held) - 1)
            servers.wait(200)
            servers.sweep(0)
        self.assertEqual(servers.sent, 100)

    def test_unlimited(self) -> None:
        account = Account(UNLIMITED)
        self.assertEqual(account.allocate(b"1", 0.1, 5), UNLIMITED)
        self.assertEqual((account.allocated, account.refusal(b"1", 4), account.refusal(b"", 9)), (0, "", ""))
        account.count(b"1")
        account.give_back(b"1", 0)
        self.assertEqual((account.sent, account.allocated), (1, 0))


class EntryTests(SynchronousTestCase):
    def test_kept_until_the_next_refresh(self) -> None:
        """server-core 6, refresh 1: those with room that last longer than the margin, however large that is."""
        full = entry(1, 1)
        self.assertTrue(full.reserve())
        self.assertFalse(full.reserve())
        long = entry(1, 2, expiry_ns=LIFETIME_NS)
        short = entry(1, 3, expiry_ns=120 * SECOND)
        unlimited = entry(UNLIMITED, 4)
        unlimited.reserve()
        entries = [full, long, short, unlimited]
        self.assertEqual(list(kept(entries, 0, 120 * SECOND).values()), [long, unlimited])
        self.assertEqual(list(kept(entries, 0, 10**6 * SECOND).values()), [long, unlimited])

    def test_candidates(self) -> None:
        """server-core 6, sending 2."""
        linux = frozenset({Label("client", "l"), Label("client", "x")})
        everyone, of_both, of_others = entry(number=1), entry(number=2, labels="lx"), entry(number=3, labels="lw")
        expired = entry(number=4, expiry_ns=10)
        over = entry(number=5)
        over.broadcast.expiration_time.CopyFrom(Timestamp(seconds=0, nanos=10))
        over.__post_init__()
        entries = [everyone, of_both, of_others, expired, over]
        self.assertEqual(candidates(entries, linux, 10), [everyone, of_both])
        self.assertEqual(candidates(entries, frozenset(), 9), [everyone, expired, over])
        everyone.is_void = True
        self.assertEqual(candidates(entries, linux, 10), [of_both])

    def test_each_takes_a_token(self) -> None:
        first, second = entry(number=1), entry(number=2)
        self.assertEqual(affordable([first, second], None), [first, second])
        self.assertEqual(affordable([first, second], {"service": 1}), [first])
        self.assertEqual(affordable([first, second], {"other": 1}), [])

    def test_replaces(self) -> None:
        def made(**fields: Any) -> broadcasts.Broadcast:
            broadcast = broadcasts.Broadcast(group_name="g", **fields)
            broadcast.source.service_name = "service"
            return broadcast

        self.assertTrue(replaces(made(), made(destination=common.Address(service_name="service"))))
        self.assertFalse(replaces(made(), made(required_labels=[common.Label(label="x")])))
        nameless = made()
        nameless.group_name = ""
        self.assertFalse(replaces(nameless, nameless))
