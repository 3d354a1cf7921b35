"""What contacts tell about a machine (server-core.md 12.2, analysehistory)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.core.history import InconsistentHistory, PastContact, Summary, summarize


class Machine:
    """A machine that makes contacts, is restored from its backups, and is cloned."""

    def __init__(self) -> None:
        self.contacts: list[PastContact] = []
        self.nonces = [0]
        """Of the copies of its state that there are; the first one is the original."""

    def contact(self, copy: int = 0, address: str = "192.0.2.1:1000") -> None:
        number = len(self.contacts) + 1
        self.contacts.append(PastContact(number * 1000, number, self.nonces[copy], address))
        self.nonces[copy] = number

    def back_up(self) -> None:
        self.nonces.append(self.nonces[0])

    def restore(self, copy: int) -> None:
        self.nonces[0] = self.nonces[copy]

    def summary(self) -> Summary:
        return summarize(self.contacts)


def naive(contacts: Sequence[PastContact]) -> Summary:
    """The same, by comparing everything with everything."""
    ordered = sorted(contacts, key=lambda one: one.time_ns)

    def target(one: PastContact) -> int:
        return one.received_nonce if any(one.received_nonce == other.sent_nonce for other in ordered) else 0

    def references(nonce: int) -> int:
        return sum(target(one) == nonce for one in ordered)

    nonces = {target(one) for one in ordered}
    return Summary(
        first_ns=min(one.time_ns for one in ordered),
        last_ns=max(one.time_ns for one in ordered),
        contacts=len(ordered),
        hosts=len({one.address.split(":")[0] for one in ordered}),
        split_points=len([nonce for nonce in nonces if references(nonce) > 1]),
        splits=sum(references(nonce) - 1 for nonce in nonces),
        skips=len([0 for before, after in itertools.pairwise(ordered) if after.received_nonce != before.sent_nonce]),
    )


STEPS = st.lists(st.sampled_from(["contact", "contact of a copy", "back up", "restore"]), max_size=30)


class HistoryTests(SynchronousTestCase):
    def test_an_ordinary_machine(self) -> None:
        machine = Machine()
        for _ in range(4):
            machine.contact()
        self.assertEqual(machine.summary(), Summary(1000, 4000, 4, 1, split_points=0, splits=0, skips=0))

    def test_restored_from_a_backup(self) -> None:
        machine = Machine()
        machine.contact()
        machine.back_up()
        for _ in range(3):
            machine.contact()
            machine.restore(1)
        machine.contact()
        self.assertEqual(machine.summary(), Summary(1000, 5000, 5, 1, split_points=1, splits=3, skips=3))

    def test_cloned(self) -> None:
        machine = Machine()
        machine.contact()
        machine.back_up()
        for _ in range(3):
            machine.contact(0, "192.0.2.1:1000")
            machine.contact(1, "192.0.2.2:1000")
        found = machine.summary()
        self.assertEqual((found.split_points, found.splits, found.skips, found.hosts), (1, 1, 5, 2))

    @given(STEPS, st.data())
    def test_it_agrees_with_comparing_all_with_all(self, steps: list[str], data: st.DataObject) -> None:
        machine = Machine()
        machine.contact()
        for step in steps:
            copies = st.integers(0, len(machine.nonces) - 1)
            address = data.draw(st.sampled_from(["192.0.2.1:1", "192.0.2.1:2", "192.0.2.2:1"]))
            match step:
                case "contact":
                    machine.contact(0, address)
                case "contact of a copy":
                    machine.contact(data.draw(copies), address)
                case "back up":
                    machine.back_up()
                case _:
                    machine.restore(data.draw(copies))
        listed = data.draw(st.permutations(machine.contacts))
        kept = listed[: data.draw(st.integers(1, len(listed)))]
        self.assertEqual(summarize(kept), naive(kept))

    @given(
        st.lists(st.builds(PastContact, *[st.integers(0, 4)] * 3, st.text(alphabet="[]:1a.", max_size=6)), min_size=1)
    )
    def test_whatever_is_recorded_gives_a_summary_or_one_clear_error(self, contacts: list[PastContact]) -> None:
        try:
            found = summarize(contacts)
        except InconsistentHistory as error:
            self.assertTrue(str(error))
        else:
            self.assertEqual(found.contacts, len(contacts))
            self.assertEqual(len({one.time_ns for one in contacts}), len(contacts))
            self.assertEqual(len({one.sent_nonce for one in contacts}), len(contacts))

    def test_what_cannot_have_happened(self) -> None:
        first = PastContact(1, 10, 0, "")
        for second, problem in (
            (PastContact(1, 11, 10, ""), "duplicate timestamp"),
            (PastContact(2, 10, 0, ""), "duplicate sent nonce: 10"),
            (PastContact(2, 11, 11, ""), "nonce references future time"),
            (PastContact(0, 11, 10, ""), "nonce references future time"),
        ):
            with self.assertRaisesRegex(InconsistentHistory, problem):
                summarize([first, second])

    def test_hosts_of_addresses(self) -> None:
        def hosts(*addresses: str) -> int:
            return summarize(PastContact(i, i + 1, 0, address) for i, address in enumerate(addresses)).hosts

        self.assertEqual(hosts("192.0.2.1:1", "192.0.2.1:2", "[2001:db8::1]:1", "[2001:db8::1]:2"), 2)
        self.assertEqual(hosts("", "192.0.2.1", "2001:db8::1", "[2001:db8::1]", "[2001:db8::1"), 0)
