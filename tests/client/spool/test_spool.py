"""What the outbox does with a spool: nothing accepted is lost, room is bounded, and so is memory."""

from __future__ import annotations

import os
import stat
import tracemalloc

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import capturedLogs

from fleetspeak.client.outbox import OutboxClosed
from fleetspeak.client.spool.spool import RETRY_DELAY
from fleetspeak.core.outbox import MAX_PENDING_COUNT
from fleetspeak.ids import ClientId
from fleetspeak.pb import common
from tests.client.spool.cases import HIGH, LOW, MEDIUM, MIB, PLENTY, SpoolCase, labels, message


class Kept(SpoolCase):
    def test_what_was_accepted_comes_out_after_a_kill_with_the_same_source_message_ids(self) -> None:
        for label, priority in (("L1", LOW), ("M2", MEDIUM), ("H3", HIGH), ("H4", HIGH), ("M5", MEDIUM), ("L6", LOW)):
            self.send(label, priority)
        self.restart()
        taken = self.outbox.take(100, PLENTY)
        self.assertEqual(["H3", "H4", "M2", "M5", "L1", "L6"], labels(taken))
        ids = [entry.message.source_message_id.rstrip(b"\0").decode() for entry in taken]
        self.assertEqual(["H3", "H4", "M2", "M5", "L1", "L6"], ids)
        self.assertEqual(message("H3", HIGH), taken[0].message)

    def test_what_was_acked_does_not_come_again(self) -> None:
        for label in "abcd":
            self.send(label)
        taken = self.outbox.take(3, PLENTY)
        self.outbox.ack(taken[:1] + taken[2:])
        self.restart()
        self.assertEqual(["b", "d"], self.everything())
        self.restart()
        self.assertEqual([], self.everything())

    def test_what_was_taken_and_not_acked_comes_again(self) -> None:
        self.send("a")
        self.send("b")
        self.outbox.nack(self.outbox.take(1, PLENTY))
        self.outbox.take(2, PLENTY)
        self.restart()
        self.assertEqual(["a", "b"], self.everything())

    def test_after_a_rekey_messages_have_the_new_source(self) -> None:
        self.send("disk")
        self.restart()
        self.send("memory")
        self.client_id = ClientId(bytes.fromhex("1111111111111111"))
        taken = self.outbox.take(100, PLENTY)
        self.assertEqual(["disk", "memory"], labels(taken))
        self.assertEqual({self.client_id}, {entry.message.source.client_id for entry in taken})
        self.assertEqual(b"disk".ljust(16, b"\0"), taken[0].message.source_message_id)

    def test_fsync_comes_before_accepted(self) -> None:
        """The name of a new file is synced as well."""
        self.disk.held = True
        accepted = [self.outbox.submit(message(str(number)), spool=True) for number in range(10)]
        for each in accepted:
            self.assertNoResult(each)
        self.assertEqual([], self.outbox.take(100, PLENTY))
        self.files.log.clear()
        accepted[0].addCallback(lambda _: self.files.log.append("accepted"))
        self.disk.release()
        self.assertEqual(["create", "sync folder", "write", "sync", "accepted"], self.files.log)
        for each in accepted[1:]:
            self.successResultOf(each)

    def test_the_clients_own_reports_are_not_spooled(self) -> None:
        self.successResultOf(self.outbox.submit(message("report", HIGH)))
        self.assertEqual([], self.segments())
        self.send("a")
        self.restart()
        self.assertEqual(["a"], self.everything())

    def test_reports_do_not_wait_behind_what_is_on_the_disk(self) -> None:
        for number in range(300):
            self.send(str(number), HIGH)
        report = self.outbox.submit(message("report", HIGH))
        self.assertNoResult(report)
        self.outbox.ack(self.outbox.take(100, PLENTY))
        self.successResultOf(report)

    def test_on_ack_is_called_also_for_what_was_on_the_disk_only(self) -> None:
        told: list[int] = []
        for number in range(250):
            self.send(str(number), on_ack=lambda number=number: told.append(number))
        self.assertEqual([str(number) for number in range(250)], self.everything())
        self.assertEqual(list(range(250)), told)

    def test_files_and_folder_are_for_their_owner_alone(self) -> None:
        self.path.chmod(0o755)
        self.restart()
        self.send("a")
        self.outbox.ack(self.outbox.take(1, PLENTY))
        self.assertEqual(0o700, stat.S_IMODE(self.path.stat().st_mode))
        self.assertEqual({0o600}, {stat.S_IMODE(path.stat().st_mode) for path in self.path.iterdir()})

    def test_a_folder_that_cannot_be_used_is_done_without(self) -> None:
        self.folder.close()
        for path in self.path.iterdir():
            path.unlink()
        self.path.rmdir()
        self.path.write_text("a file")
        with capturedLogs() as logs:
            self.start()
        self.assertIn("cannot be used", logs[0]["log_format"])
        self.assertFalse(self.outbox.spooled)
        self.send("a")
        self.assertEqual(["a"], self.everything())

    def test_a_folder_of_another_user_is_not_believed(self) -> None:
        self.send("a")
        self.patch(os, "geteuid", lambda: os.getuid() + 1)
        with capturedLogs() as logs:
            self.restart()
        self.assertIn("belongs to another user", str(logs[0]["error"]))
        self.assertFalse(self.outbox.spooled)
        self.assertEqual([], self.everything())

    def test_messages_of_any_size_that_an_outbox_takes(self) -> None:
        self.limit = 64 * MIB
        self.restart()
        for size in (1, 300_000, 15 * MIB - 100, 2):
            self.send(str(size), size=size)
        self.restart()
        self.assertEqual(["1", "300000", str(15 * MIB - 100), "2"], self.everything())

    def test_without_a_spool_nothing_is_different(self) -> None:
        self.assertTrue(self.outbox.spooled)
        self.assertEqual([], list(self.path.iterdir()))


class Long(SpoolCase):
    """Many messages while no server can be reached."""

    def test_days_without_a_server_take_disk_and_no_memory(self) -> None:
        self.limit = 64 * MIB
        self.restart()
        body = 10_000
        for number in range(200):
            self.send(str(number), size=body)
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        before = tracemalloc.get_traced_memory()[0]
        for number in range(200, 4200):
            self.send(str(number), size=body)
        self.assertGreater(self.size(), 40 * MIB)
        self.assertLess(tracemalloc.get_traced_memory()[0] - before, MIB)
        self.assertEqual((4200, 4200), (self.spool.count, self.outbox.unconfirmed))
        self.assertEqual((MAX_PENDING_COUNT, MAX_PENDING_COUNT), (self.outbox.pending(MEDIUM)[0], 100))
        self.assertEqual([str(number) for number in range(4200)], self.everything())
        self.assertEqual(0, self.spool.count)
        self.assertLess(self.size(), MIB, "acked segments are deleted")

    def test_all_that_is_not_confirmed_is_counted(self) -> None:
        for number in range(300):
            self.send(str(number), HIGH)
        self.outbox.submit(message("report", LOW))
        self.assertEqual(301, self.outbox.unconfirmed)
        self.outbox.ack(self.outbox.take(30, PLENTY))
        self.assertEqual(271, self.outbox.unconfirmed)
        self.restart()
        self.assertEqual(270, self.outbox.unconfirmed)

    def test_order_is_kept_while_new_ones_come_and_others_are_read_back(self) -> None:
        sent = out = 0
        for step in range(40):
            for _ in range(step * 7 % 60):
                self.send(str(sent))
                sent += 1
            taken = self.outbox.take(step * 11 % 50, PLENTY)
            self.assertEqual([str(number) for number in range(out, out + len(taken))], labels(taken))
            out += len(taken)
            self.outbox.ack(taken)
            if step % 10 == 9:
                self.restart()
        self.assertEqual([str(number) for number in range(out, sent)], self.everything())

    def test_many_small_ones_are_quickly_through(self) -> None:
        for number in range(5000):
            self.send(str(number))
        self.restart()
        self.assertEqual(5000, self.spool.count)
        self.assertEqual([str(number) for number in range(5000)], self.everything())
        self.restart()
        self.assertEqual([], self.everything())

    def test_files_of_acks_do_not_grow(self) -> None:
        for number in range(20_000):
            self.send(str(number))
            self.outbox.ack(self.outbox.take(1, PLENTY))
        self.assertLess((self.path / "medium.acks").stat().st_size, 100_000)
        self.assertLess(self.size(), MIB)

    def test_a_message_that_is_never_acked_pins_no_space(self) -> None:
        self.limit = 4 * MIB
        self.restart()
        self.send("stuck")
        self.outbox.take(1, PLENTY)
        for number in range(2000):
            self.send(str(number), size=10_000)
            self.outbox.ack(self.outbox.take(1, PLENTY))
        self.assertLess(self.size(), 4 * 64 * 1024)
        self.restart()
        self.assertEqual(["stuck"], self.everything())


class Room(SpoolCase):
    limit = MIB

    def fill(self, priority: int, size: int = 10_000) -> int:
        """Send until one has to wait."""
        for number in range(1000):
            self.waiting = self.outbox.submit(message(str(number), priority, size), spool=True)
            if not self.waiting.called:
                return number
        raise AssertionError("there is no end to it")

    def test_when_it_is_full_send_waits_and_says_so_once(self) -> None:
        with capturedLogs() as logs:
            count = self.fill(HIGH)
            late = self.outbox.submit(message("late", HIGH), spool=True)
            self.assertNoResult(late)
            self.assertLessEqual(self.size(), self.limit)
            self.clock.advance(5)
            self.everything()
        self.successResultOf(self.waiting)
        self.successResultOf(late)
        told = [event for event in logs if "spool" in event["log_format"]]
        self.assertEqual(["is full", "has room"], [_kind(event["log_format"]) for event in told])
        self.assertEqual((count, "HIGH", 5), (told[0]["count"], told[0]["priority"], told[1]["seconds"]))

    def test_lower_priorities_leave_room_for_higher_ones(self) -> None:
        low = self.fill(LOW)
        self.assertLessEqual(low * 10_000, self.limit // 2)
        medium = self.fill(MEDIUM)
        self.assertGreater(medium * 10_000, self.limit // 5)
        self.assertGreater(self.fill(HIGH) * 10_000, self.limit // 5)
        self.assertLessEqual(self.size(), self.limit)

    def test_higher_priorities_may_take_all_of_it(self) -> None:
        self.assertGreater(self.fill(HIGH) * 10_000, self.limit * 0.95)
        self.assertNoResult(self.outbox.submit(message("low", LOW, 10_000), spool=True))

    def test_who_waits_is_not_overtaken_by_a_smaller_one(self) -> None:
        self.fill(HIGH)
        small = self.outbox.submit(message("small", HIGH), spool=True)
        self.assertNoResult(small)
        self.assertEqual(["small"], self.everything()[-1:])

    def test_what_waits_can_be_taken_back(self) -> None:
        count = self.fill(HIGH)
        late = self.outbox.submit(message("late", HIGH), spool=True)
        self.waiting.cancel()
        self.failureResultOf(self.waiting, CancelledError)
        self.successResultOf(late)
        self.assertEqual([*map(str, range(count)), "late"], self.everything())

    def test_what_is_being_written_can_be_taken_back(self) -> None:
        self.send("a")
        self.disk.held = True
        second = self.outbox.submit(message("b"), spool=True)
        third = self.outbox.submit(message("c"), spool=True)
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.disk.held = False
        self.disk.release()
        self.successResultOf(third)
        self.restart()
        self.assertEqual(["a", "c"], self.everything())

    def test_one_that_no_empty_spool_has_room_for_is_refused(self) -> None:
        self.failureResultOf(self.outbox.submit(message("big", LOW, self.limit // 2), spool=True), ValueError)
        self.send("big", HIGH, self.limit - 1000)

    def test_the_largest_gets_in_although_acked_ones_lie_about(self) -> None:
        for priority in (LOW, MEDIUM, HIGH):
            self.send("small", priority)
        self.outbox.ack(self.outbox.take(10, PLENTY))
        self.send("big", LOW, self.limit // 2 - 1000)
        self.assertEqual(["big"], self.everything())

    def test_a_spool_that_is_over_a_limit_that_was_lowered(self) -> None:
        self.limit = 4 * MIB
        self.restart()
        for number in range(300):
            self.send(str(number), HIGH, 10_000)
        self.limit = MIB
        self.restart()
        late = self.outbox.submit(message("late", HIGH), spool=True)
        self.assertNoResult(late)
        self.assertEqual([*map(str, range(300)), "late"], self.everything())
        self.successResultOf(late)


class Trouble(SpoolCase):
    def submit(self, label: str) -> Deferred[None]:
        return self.outbox.submit(message(label), spool=True)

    def test_a_full_disk_is_waited_for(self) -> None:
        self.send("a")
        for torn in (0, 10, 50):
            self.files.failing, self.files.torn = True, torn
            with capturedLogs() as logs:
                waiting = [self.submit(f"b{torn}"), self.submit(f"c{torn}")]
                self.clock.advance(RETRY_DELAY)
                waiting.append(self.submit(f"d{torn}"))
            self.assertEqual(1, len({event["log_format"] for event in logs}))
            self.assertIn("cannot write to the spool", logs[0]["log_format"])
            for each in waiting:
                self.assertNoResult(each)
            self.files.failing = False
            self.clock.advance(RETRY_DELAY)
            for each in waiting:
                self.successResultOf(each)
        self.restart()
        expected = ["a", *(f"{label}{torn}" for torn in (0, 10, 50) for label in "bcd")]
        self.assertEqual(expected, self.everything())

    def test_a_sync_that_fails_is_not_trusted(self) -> None:
        """What it was for is written anew, elsewhere."""
        self.send("a")
        for truncates in (False, True):
            self.files.failing_syncs, self.files.failing_truncates = True, truncates
            waiting = self.submit(f"b{truncates}")
            self.assertNoResult(waiting)
            self.files.failing_syncs = False
            self.clock.advance(RETRY_DELAY)
            self.successResultOf(waiting)
        self.files.failing_truncates = False
        self.assertEqual(3, len(self.segments()))
        self.restart()
        self.send("c")
        self.assertEqual(["a", "bFalse", "bTrue", "c"], self.everything())

    def test_what_fails_can_be_taken_back(self) -> None:
        self.files.failing = True
        first, second = self.submit("a"), self.submit("b")
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.files.failing = False
        self.clock.advance(RETRY_DELAY)
        self.successResultOf(second)
        self.assertEqual(["b"], self.everything())

    def test_what_comes_while_others_fail_keeps_its_place(self) -> None:
        self.disk.held = True
        first = self.submit("a")
        self.files.failing = True
        self.disk.release()
        second = self.submit("b")
        self.disk.held = False
        self.files.failing = False
        self.clock.advance(RETRY_DELAY)
        self.successResultOf(first)
        self.successResultOf(second)
        self.assertEqual(["a", "b"], self.everything())

    def test_a_spool_that_somebody_deletes_begins_anew(self) -> None:
        self.send("a")
        self.outbox.ack(self.outbox.take(1, PLENTY))
        for path in self.path.iterdir():
            path.unlink()
        self.path.rmdir()
        self.send("b")
        self.restart()
        self.assertEqual(["b"], self.everything())

    def test_a_disk_that_cannot_be_read_is_tried_again_and_then_passed_over(self) -> None:
        for number in range(150):
            self.send(str(number))
        self.files.failing_reads = True
        taken = self.outbox.take(100, PLENTY)
        self.outbox.ack(taken[:50])
        self.outbox.ack(taken[50:])
        self.clock.pump([RETRY_DELAY] * 2)
        self.files.failing_reads = False
        self.clock.advance(RETRY_DELAY)
        self.assertEqual([str(number) for number in range(100, 150)], self.everything())
        for number in range(150):
            self.send(str(number))
        self.files.failing_reads = True
        with capturedLogs() as logs:
            self.outbox.ack(self.outbox.take(100, PLENTY))
            self.clock.pump([RETRY_DELAY] * 6)
        self.assertTrue([event for event in logs if "set aside" in event["log_format"]])
        self.assertTrue(list(self.path.glob("*.corrupt-*")))
        self.send("after")
        self.assertEqual(["after"], labels(self.outbox.take(100, PLENTY)))

    def test_closing_fails_whoever_waits_and_keeps_the_rest(self) -> None:
        self.send("a")
        self.files.failing = True
        waiting = self.submit("b")
        self.successResultOf(self.outbox.close())
        self.failureResultOf(waiting, OutboxClosed)
        self.failureResultOf(self.submit("c"), OutboxClosed)
        self.assertEqual([], self.clock.getDelayedCalls())
        self.files.failing = False
        self.start()
        self.assertEqual(["a"], self.everything())


class Damaged(SpoolCase):
    def damage(self, place: int, data: bytes = b"\xff\xff\xff\xff") -> None:
        """Write over bytes of the only segment."""
        self.folder.close()
        (path,) = self.segments()
        with path.open("r+b") as file:
            file.seek(place)
            file.write(data)

    def test_a_damaged_record_is_set_aside_and_reported_and_the_others_come(self) -> None:
        for number in range(5):
            self.send(str(number), size=150)
        self.damage(self.size() // 2)
        with capturedLogs() as logs:
            self.start()
            self.assertEqual(["0", "1", "3", "4"], self.everything())
        (event,) = [event for event in logs if "damaged" in event["log_format"]]
        (kept,) = self.path.glob("*.corrupt-20231114T221320Z")
        self.assertEqual((event["to"], event["size"]), (kept.name, kept.stat().st_size))
        self.assertEqual(0, self.spool.count)

    def test_the_last_record_is_set_aside_too_and_a_torn_one_is_cut(self) -> None:
        self.send("a", size=150)
        end = self.size()
        self.send("b", size=150)
        self.damage(self.size() - 4)
        self.start()
        (kept,) = self.path.glob("*.corrupt-*")
        self.assertEqual(end, self.size())
        self.send("c")
        self.folder.close()
        with self.segments()[0].open("ab") as file:
            file.write(b"\xf5SPL")
        self.start()
        self.send("d")
        self.assertEqual(["a", "c", "d"], self.everything())
        self.assertEqual([kept], list(self.path.glob("*.corrupt-*")))

    def test_it_is_reported_once(self) -> None:
        for number in range(3):
            self.send(str(number), size=150)
        self.damage(2)
        self.start()
        self.restart()
        self.restart()
        self.assertEqual(1, len(list(self.path.glob("*.corrupt-*"))))

    def test_lost_acks_only_mean_repeats(self) -> None:
        for number in range(3):
            self.send(str(number))
        self.outbox.ack(self.outbox.take(2, PLENTY))
        self.folder.close()
        (self.path / "medium.acks").write_bytes(b"\xff" * 1000)
        self.start()
        self.assertEqual(["0", "1", "2"], self.everything())

    def test_other_files_are_left_alone(self) -> None:
        (self.path / "README").write_text("hello")
        (self.path / "medium-00000000000000000001-zzzzzzzz.segment").write_text("hello")
        (self.path / "medium-00000000000000000002-00000000.segment").mkdir()
        self.restart()
        self.send("a")
        self.restart()
        self.assertEqual(["a"], self.everything())
        self.assertTrue((self.path / "README").exists())

    def test_a_record_that_is_no_message(self) -> None:
        self.folder.append(MEDIUM, [b"\xff\xff", message("good").SerializeToString()])
        with capturedLogs() as logs:
            self.restart()
        self.assertIn("no message", logs[-1]["log_format"])
        self.assertEqual(["good"], self.everything())


class Counted(SpoolCase):
    def test_item_35_pending_goes_up_and_down_by_the_same_messages(self) -> None:
        counted = Counting()
        self.restart()
        self.outbox._stats = counted  # type: ignore[assignment]
        for number in range(150):
            self.send(str(number))
        self.assertEqual((150, 150), (counted.count, len(counted.ids)))
        self.everything()
        self.assertEqual((0, 0), (counted.count, counted.bytes))


class Counting:
    """Statistics."""

    def __init__(self) -> None:
        self.count = self.bytes = self.retries = 0
        self.ids: set[bytes] = set()

    def message_pending(self, message: common.Message, size: int) -> None:
        self.count += 1
        self.bytes += size
        self.ids.add(message.source_message_id)

    def message_acknowledged(self, message: common.Message, size: int) -> None:
        self.count -= 1
        self.bytes -= size

    def message_retried(self, message: common.Message) -> None:
        self.retries += 1


def _kind(text: str) -> str:
    return "is full" if "is full" in text else "has room" if "has room" in text else text
