"""client-https 6 and client-tests H: which stream comes when: opening, reconnecting, reset, stop."""

from __future__ import annotations

import itertools

from twisted.internet.defer import CancelledError, Deferred

from fleetspeak.client.comms.streaming import FAREWELL, START_TIMEOUT, StreamingCommunicator
from fleetspeak.pb import common
from tests.client.comms import memory
from tests.client.comms.memory import message
from tests.client.comms.test_streaming import StreamingTestCase


class ReconnectTests(StreamingTestCase):
    """A fleet does not come back to its server all at once."""

    def test_after_the_end_of_a_normal_life_the_next_stream_follows_at_once(self) -> None:
        stream = self.begin_stream()
        self.clock.advance(570)
        stream.send(common.ContactData(done_sending=True))
        self.assertEqual(len(self.network.streams), 2)

    def test_when_the_server_stops_or_is_gone_the_clients_spread(self) -> None:
        for announced in (False, True):
            self.setUp()
            stream = self.begin_stream()
            self.clock.advance(60)
            stream.send(common.ContactData(done_sending=True)) if announced else stream.close()
            self.clock.advance(4.9)
            self.assertEqual(len(self.network.streams), 1)
            self.clock.advance(0.1)  # u is 0.5, and the most to wait the configured 10 s
            self.assertEqual(len(self.network.streams), 2)

    def test_while_the_server_is_away_the_attempts_grow_to_the_configured_delay(self) -> None:
        self.begin(min_failure_delay_seconds=100)
        self.stream.open()
        self.clock.advance(60)
        self.network.reachable = False
        times = self.attempts(400)
        self.assertEqual([after - before for before, after in itertools.pairwise(times)], [10, 20, 40, 125, 125])

    def attempts(self, seconds: int) -> list[float]:
        """When the stream ends, and when others are tried after that."""
        self.stream.close()
        times, seen = [self.clock.seconds()], self.network.attempts
        for _ in range(seconds * 2):
            self.clock.advance(0.5)
            if self.network.attempts > seen:
                seen = self.network.attempts
                times.append(self.clock.seconds())
        return times


class OpeningTests(StreamingTestCase):
    def test_item_57_the_next_server_is_tried_and_comes_first_from_then_on(self) -> None:
        """With the messages of the first attempt."""
        self.send("m")
        self.begin(servers=2)
        self.stream.refuse(503)
        self.assertEqual((self.stream.server, self.stream.names), ("server1:443", [["m"]]))
        self.stream.open()
        self.clock.advance(60)
        self.stream.close()
        self.clock.advance(5)
        self.assertEqual(self.stream.server, "server1:443")
        self.assertEqual(self.link.attempts, ["server0:443", "server1:443", "server1:443"], "the watchdog is told")

    def test_the_preferred_server_is_tried_again_after_a_while(self) -> None:
        self.begin(servers=2)
        self.stream.refuse(503)
        self.stream.open()
        for _ in range(4):
            self.clock.advance(570)
            self.stream.send(common.ContactData(done_sending=True))
            self.stream.open()
        tried = [stream.server for stream in self.network.streams]
        self.assertEqual(tried, ["server0:443", *["server1:443"] * 4, "server0:443"])

    def test_an_empty_answer_is_a_refusal(self) -> None:
        """So upstream's server refuses: status 200, and nothing."""
        self.send("m")
        self.begin()
        self.network.streams[0].response.callback(memory.WholeResponse(200, b""))
        self.clock.advance(15)
        self.assertEqual((len(self.network.streams), self.stream.names), (2, [["m"]]))

    def test_a_server_that_never_answers_is_given_up(self) -> None:
        self.begin(servers=2)
        self.clock.advance(START_TIMEOUT)
        self.assertTrue(self.network.streams[0].aborted)
        self.assertEqual(self.stream.server, "server1:443")

    def test_failures_keep_their_distance(self) -> None:
        self.network.reachable = False
        self.begin()
        self.clock.pump([0.5] * 200)
        self.assertEqual(self.network.attempts, 1 + 100 // 12.5)

    def test_item_82_never_reachable_for_too_long(self) -> None:
        self.network.reachable = False
        self.begin(failure_suicide_time_seconds=1, min_failure_delay_seconds=1)
        for _ in range(4):
            self.clock.advance(0.5)
        self.assertEqual([status for _, status in self.link.gave_up][:1], [2])

    def test_item_79_a_server_that_accepts_and_closes_is_not_hammered(self) -> None:
        """Growing delays, with or without an announcement."""
        for announced in (False, True):
            self.setUp()
            self.begin(min_failure_delay_seconds=60)
            times = []
            while self.clock.seconds() < 120:
                if not self.stream.is_over:
                    times.append(self.clock.seconds())
                    self.stream.open()
                    if announced:
                        self.stream.send(common.ContactData(done_sending=True))
                    else:
                        self.stream.close()
                self.clock.advance(0.25)
            gaps = [after - before for before, after in itertools.pairwise(times)]
            self.assertEqual(gaps, [10, 20, 30, 30])

    def test_a_stream_that_lived_makes_up_for_it(self) -> None:
        self.begin(min_failure_delay_seconds=60)
        for lived, delay in ((1, 10), (1, 20), (60, 10), (1, 20)):
            count = len(self.network.streams)
            self.stream.open()
            self.clock.advance(lived)
            self.stream.close()
            self.clock.advance(delay - 0.5)
            self.assertEqual(len(self.network.streams), count)
            self.clock.advance(0.5)
            self.assertEqual(len(self.network.streams), count + 1)


class ResetTests(StreamingTestCase):
    def test_item_74_a_reset_makes_a_new_stream_at_once(self) -> None:
        stream = self.begin_stream()
        self.send("m")
        self.communicator.reset()
        self.assertTrue(stream.aborted)
        self.assertEqual((len(self.network.streams), self.stream.names), (2, [["m"]]))

    def test_item_74_a_flush_after_a_reset_waits_for_the_new_stream(self) -> None:
        self.begin_stream()
        self.successResultOf(self.communicator.flush())
        self.communicator.reset()
        flushed = self.communicator.flush()
        self.assertNoResult(flushed)
        self.stream.open()
        self.successResultOf(flushed)
        self.assertEqual(len(self.network.streams), 2)

    def test_a_flush_waits_until_all_is_sent_and_acknowledged(self) -> None:
        stream = self.begin_stream()
        self.link.outbox.submit(message("m"))
        flushed = self.communicator.flush()
        cancelled = self.communicator.flush()
        cancelled.cancel()
        self.failureResultOf(cancelled, CancelledError)
        self.turn()
        self.assertNoResult(flushed)
        stream.acknowledge(1)
        self.successResultOf(flushed)

    def test_a_stop_ends_a_flush(self) -> None:
        self.network.reachable = False
        communicator = self.begin()
        flushed = communicator.flush()
        self.successResultOf(Deferred.fromCoroutine(communicator.stop()))
        self.successResultOf(flushed)

    def test_item_73_a_reset_of_a_hanging_connection(self) -> None:
        """And of a request without an answer."""
        self.network.hangs = True
        communicator = self.begin()
        communicator.reset()
        self.assertEqual(self.network.attempts, 2)
        self.network.hangs = False
        communicator.reset()
        communicator.reset()
        self.assertEqual((self.network.attempts, len(self.network.streams)), (4, 2))

    def test_a_reset_ends_the_wait_after_a_failure(self) -> None:
        self.network.reachable = False
        communicator = self.begin()
        communicator.reset()
        self.assertEqual(self.network.attempts, 2)

    def test_item_80_a_rekey_reconnects_as_the_new_client(self) -> None:
        """What was sent is sent again, and acked once."""
        stream = self.begin_stream()
        self.send("m")
        stream.send(common.ContactData(ack_index=1, messages=[message("rekey")]))
        self.assertTrue(stream.aborted)
        self.assertEqual(self.stream.client_id, self.link.identity.client_id)
        self.assertEqual((self.acked, self.stream.names), ([], [["m"]]))
        self.stream.open()
        self.assertEqual(self.acked, ["m"])

    def test_a_rekey_in_the_very_first_answer(self) -> None:
        self.send("m")
        self.begin()
        self.stream.open(message("rekey"))
        self.assertEqual(self.stream.client_id, self.link.identity.client_id)
        self.assertEqual((len(self.network.streams), self.stream.names), (2, [["m"]]))
        self.stream.open()
        self.assertEqual(self.acked, ["m"])


class StopTests(StreamingTestCase):
    def stop(self, communicator: StreamingCommunicator) -> Deferred[None]:
        return Deferred.fromCoroutine(communicator.stop())

    def test_with_nothing_to_deliver_it_ends_at_once(self) -> None:
        stream = self.begin_stream()
        self.successResultOf(self.stop(self.communicator))
        self.assertTrue(stream.ended)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_item_58_what_is_left_is_delivered(self) -> None:
        """For a stream: all of it, and confirmed."""
        stream = self.begin_stream()
        names = [str(number) for number in range(100)]
        for name in names:
            self.link.outbox.submit(message(name), lambda name=name: self.acked.append(name))  # type: ignore[misc]
        stopped = self.stop(self.communicator)
        self.assertNoResult(stopped)
        for index in range(1, len(stream.contacts)):
            stream.acknowledge(index)
        self.successResultOf(stopped)
        self.assertEqual(self.acked, names)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_server_that_hangs_holds_it_up_for_a_few_seconds_only(self) -> None:
        stream = self.begin_stream()
        self.send("left")
        stopped = self.stop(self.communicator)
        self.clock.advance(FAREWELL)
        self.successResultOf(stopped)
        self.assertTrue(stream.aborted)
        self.assertEqual((self.acked, self.clock.getDelayedCalls()), ([], []))

    def test_a_stream_that_is_being_opened_still_delivers(self) -> None:
        self.send("left")
        stopped = self.stop(self.begin())
        self.assertNoResult(stopped)
        self.stream.open()
        self.successResultOf(stopped)
        self.assertEqual((self.acked, self.stream.ended), (["left"], True))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_without_anything_to_deliver_nobody_waits_for_a_stream(self) -> None:
        stopped = self.stop(self.begin())
        self.successResultOf(stopped)
        self.assertTrue(self.stream.aborted)

    def test_a_refusal_while_it_stops(self) -> None:
        self.send("left")
        stopped = self.stop(self.begin(servers=2))
        self.stream.refuse(500)
        self.successResultOf(stopped)
        self.assertEqual((len(self.network.streams), self.clock.getDelayedCalls()), (1, []))

    def test_while_it_waits_after_a_failure(self) -> None:
        self.network.reachable = False
        self.successResultOf(self.stop(self.begin()))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_before_it_was_started(self) -> None:
        communicator = StreamingCommunicator(self.link, memory.settings(), self.clock)
        self.successResultOf(self.stop(communicator))
