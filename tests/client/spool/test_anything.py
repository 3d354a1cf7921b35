"""Any sequence of sending, acks, failing disks, damage and kills: what was accepted and not acked comes out, once."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.client.outbox import ClientOutbox
from fleetspeak.client.spool.files import Files
from fleetspeak.client.spool.folder import SpoolFolder
from fleetspeak.client.spool.spool import RETRY_DELAY, Spool
from fleetspeak.core.outbox import ORDER, Entry
from fleetspeak.core.spool import segment_size
from fleetspeak.core.stored import Priority
from fleetspeak.testing.spool import SameThread
from fleetspeak.wire.spoolrecords import ACK_SIZE
from tests.client.spool.cases import MIB, PLENTY, FaultyFiles, labels, message

LIMIT = MIB


class Anything(SynchronousTestCase):
    def test_whatever_happens_nothing_accepted_is_lost(self) -> None:
        run_state_machine_as_test(
            _Machine,
            settings=settings(max_examples=12, stateful_step_count=30, deadline=None),
        )


class _Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "state.spool"
        self.clock = Clock()
        self.files = FaultyFiles()
        self.count = 0
        self.waiting: dict[str, Deferred[None]] = {}
        self.ever: dict[str, Priority] = {}
        """All that was sent and not taken back."""
        self.accepted: dict[Priority, list[str]] = {priority: [] for priority in ORDER}
        self.acked: set[str] = set()
        self.gone: set[str] = set()
        """Damaged by us."""
        self.faults = False
        self.start()

    def start(self) -> None:
        self.disk = SameThread()
        self.spool_folder = SpoolFolder(self.path, segment_size(LIMIT), self.files, self.clock.seconds)
        self.outbox = ClientOutbox(spool=Spool(self.spool_folder, LIMIT, self.disk, self.clock))
        self.outbox.open()
        self.taken: list[Entry] = []

    def teardown(self) -> None:
        self.spool_folder.close()
        self.folder.cleanup()

    # ---- what happens

    @rule(priority=st.sampled_from(ORDER), size=st.sampled_from([0, 0, 3000, 30_000]), many=st.integers(1, 40))
    def send(self, priority: Priority, size: int, many: int) -> None:
        for _ in range(many):
            label = str(self.count)
            self.count += 1
            self.ever[label] = priority
            waiting = self.outbox.submit(message(label, priority, size), spool=True)
            self.waiting[label] = waiting
            waiting.addCallbacks(self.was_accepted, lambda failure: failure.trap(CancelledError), callbackArgs=(label,))

    def was_accepted(self, _: None, label: str) -> None:
        self.accepted[self.ever[label]].append(label)
        del self.waiting[label]

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def take_back(self, data: st.DataObject) -> None:
        label = data.draw(st.sampled_from(sorted(self.waiting)))
        self.waiting.pop(label).cancel()

    @rule(held=st.booleans())
    def hold(self, held: bool) -> None:
        self.disk.held = held
        if not held:
            self.disk.release()

    @rule(many=st.integers(1, 120))
    def take(self, many: int) -> None:
        taken = self.outbox.take(many, PLENTY)
        assert not set(labels(taken)) & self.acked
        for label in labels(taken):
            assert label in self.accepted[self.ever[label]], "nobody takes what is not on the disk"
        self.taken += taken

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def bring_back(self, data: st.DataObject) -> None:
        some = data.draw(st.integers(1, len(self.taken)))
        back, self.taken = self.taken[:some], self.taken[some:]
        if data.draw(st.sampled_from([True, True, False])):
            self.acked.update(labels(back))
            self.outbox.ack(back)
        else:
            self.outbox.nack(back)

    @rule(kind=st.sampled_from(["fine", "fine", "full", "torn", "sync"]), torn=st.integers(1, 5000))
    def disk(self, kind: str, torn: int) -> None:  # type: ignore[no-redef]
        self.files.failing = kind in ("full", "torn")
        self.files.torn = torn if kind == "torn" else 0
        self.files.failing_syncs = kind == "sync"
        self.files.failing_truncates = kind == "sync" and torn % 2 == 1
        self.faults = self.faults or kind != "fine"
        self.clock.advance(RETRY_DELAY)

    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        """Of what was written and not synced, the disk may have any part."""
        self.spool_folder.close()
        for path in self.path.glob("*.segment"):
            size, sure = path.stat().st_size, self.files.synced.get(path.stat().st_ino, 0)
            if size > sure:
                with path.open("ab") as file:
                    file.truncate(data.draw(st.integers(sure, size)))
        for path in self.path.glob("*.acks"):
            if data.draw(st.sampled_from([False, False, True])):
                with path.open("ab") as file:
                    file.truncate(data.draw(st.integers(0, path.stat().st_size)))
        self.check(self.path)
        self.begin_again()

    @precondition(lambda self: any(self.path.glob("*.segment")))
    @rule(data=st.data())
    def damage(self, data: st.DataObject) -> None:
        """A bit flips while the client is down: at most the record it is in is lost."""
        self.spool_folder.close()
        paths = [path for path in sorted(self.path.glob("*.segment")) if path.stat().st_size]
        if paths:
            path = data.draw(st.sampled_from(paths))
            content = bytearray(path.read_bytes())
            place = data.draw(st.integers(0, len(content) * 8 - 1))
            before = self.recovered(self.path)
            content[place // 8] ^= 1 << place % 8
            path.write_bytes(content)
            after = self.recovered(self.path)  # one more, if the bit was flipped before
            lost = set(before) - set(after)
            assert len(lost) <= 1, lost
            assert [label for label in before if label not in lost] == [label for label in after if label in before]
            self.gone = (self.gone | lost) - set(after)
        self.begin_again()

    def begin_again(self) -> None:
        """A new client.  What was not accepted when the old one was killed may come or not."""
        found = self.recovered(self.path)
        self.acked -= set(found)
        self.waiting = {}
        self.accepted = {priority: [label for label in found if self.ever[label] == priority] for priority in ORDER}
        for call in self.clock.getDelayedCalls():
            call.cancel()
        self.files.failing = self.files.failing_syncs = self.files.failing_truncates = False
        for path in self.path.glob("*.segment"):
            self.files.synced[path.stat().st_ino] = path.stat().st_size
        self.start()

    # ---- what must hold

    def check(self, path: Path) -> None:
        """What a client would find now."""
        found = self.recovered(path)
        assert len(found) == len(set(found)), "each comes once"
        for priority in ORDER:
            mine = [label for label in found if self.ever[label] == priority]
            due = [label for label in self.accepted[priority] if label not in self.acked | self.gone]
            assert [label for label in mine if label in set(due)] == due, "all that is due comes, in order"
            for label in set(mine) - set(due):
                assert label in self.acked or label not in self.accepted[priority], "nothing else does"
        assert found == sorted(found, key=lambda label: ORDER.index(self.ever[label])), "by priority"

    def recovered(self, path: Path) -> list[str]:
        """What comes out of a copy of this spool."""
        with tempfile.TemporaryDirectory() as name:
            copy = Path(name) / "copy"
            shutil.copytree(path, copy)
            folder = SpoolFolder(copy, segment_size(LIMIT), Files(), self.clock.seconds)
            outbox = ClientOutbox(spool=Spool(folder, LIMIT, SameThread(), Clock()))
            outbox.open()
            entries: list[Entry] = []
            while taken := outbox.take(1000, PLENTY):
                entries += taken
                outbox.ack(taken)
            folder.close()
            assert not list(copy.glob("*.segment")) or (outbox._spool is not None and not outbox._spool.count)
            entries.sort(key=lambda entry: ORDER.index(entry.priority))
            return labels(entries)

    @invariant()
    def the_limit_holds(self) -> None:
        if not self.faults:
            assert sum(path.stat().st_size for path in self.path.glob("*.segment")) <= LIMIT

    @invariant()
    def files_of_acks_hold_whole_entries(self) -> None:
        for path in self.path.glob("*.acks"):
            assert path.stat().st_size < 5000 * ACK_SIZE
