"""client-https 5 and client-tests F: the polling communicator, on a clock."""

from __future__ import annotations

import random
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.client.comms import polling
from fleetspeak.client.comms.polling import FAREWELL, POLL_TIMEOUT, PollingCommunicator
from fleetspeak.client.stats import Stats
from fleetspeak.pb import common
from fleetspeak.testing.clientside import FakeLink
from tests.client.comms.memory import Heard, Network, Poll, WholeResponse, message, settings

MIB = 1024 * 1024


class RekeyedLink(FakeLink):
    """As the real client: a message of type ``rekey`` changes the identity, and that resets the communicator."""

    communicator: Any = None

    def received(self, contact: common.ContactData, *, first: bool) -> None:
        super().received(contact, first=first)
        if any(message.message_type == "rekey" for message in contact.messages):
            self.rekey()
            self.communicator.reset()


class PollingTestCase(SynchronousTestCase):
    u = 0.0

    def setUp(self) -> None:
        self.clock, self.network, self.link = Clock(), Network(), RekeyedLink()
        self.patch(polling, "Transport", self.network.transport)
        self.times: list[float] = []

    def begin(self, servers: int = 1, **config: int) -> PollingCommunicator:
        communicator = PollingCommunicator(self.link, settings(servers, **config), self.clock, lambda: self.u)
        self.link.communicator = communicator
        communicator.start()
        return communicator

    def next_poll(self, within: float = 1000) -> Poll:
        """The poll that waits for its answer; if there is none, let time pass until there is."""
        if not self.network.polls[-1].response.called:
            return self.network.polls[-1]
        before, end = len(self.network.polls), self.clock.seconds() + within
        while len(self.network.polls) == before:
            calls = self.clock.getDelayedCalls()
            self.assertTrue(calls and calls[0].getTime() <= end, "no poll")
            self.clock.advance(calls[0].getTime() - self.clock.seconds())
        return self.network.polls[-1]

    def send(self, name: str, **fields: Any) -> list[str]:
        """Send a message; its name is in the list once it is acked."""
        acked: list[str] = []
        self.link.outbox.submit(message(name, **fields), lambda: acked.append(name))
        return acked


class WhenTests(PollingTestCase):
    def test_item_54_the_first_poll_is_at_once_and_a_message_follows_after_the_buffer_delay(self) -> None:
        for self.u, delay in ((0.0, 1.0), (0.998, 1.499)):
            began = self.clock.seconds()
            self.begin(max_poll_delay_seconds=2, max_buffer_delay_seconds=1)
            self.assertEqual(self.network.polls[-1].names, [])
            self.network.polls[-1].answer()
            acked = self.send("ClientInfo", background=True)
            poll = self.next_poll()
            self.assertAlmostEqual(self.clock.seconds() - began, delay)
            self.assertEqual(poll.names, ["ClientInfo"])
            poll.answer()
            self.assertEqual(acked, ["ClientInfo"])
            self.setUp()

    def test_without_messages_it_polls_seldom(self) -> None:
        self.begin()
        self.network.polls[0].answer()
        self.next_poll()
        self.assertEqual(self.clock.seconds(), 300)

    def test_item_55_after_activity_it_polls_often_and_then_less_and_less(self) -> None:
        self.begin()
        self.network.polls[0].answer(message("work"))
        times = []
        for _ in range(3):
            self.next_poll().answer()
            times.append(round(self.clock.seconds(), 3))
        self.assertEqual(times, [0.2, 0.42, 0.662])

    def test_item_55_background_messages_are_no_activity(self) -> None:
        self.begin()
        self.network.polls[0].answer()
        self.send("usage", background=True)
        self.next_poll().answer()
        self.next_poll()
        self.assertEqual(self.clock.seconds(), 305)

    def test_item_46_a_hundred_and_five_messages(self) -> None:
        """At most 100 in a contact, at least 50 in one, and a full load does not wait."""
        self.begin()
        self.network.polls[0].answer()
        for number in range(105):
            self.send(str(number), priority=number % 2)
        poll = self.next_poll()
        self.assertEqual((self.clock.seconds(), len(poll.names)), (0, 100))
        poll.answer()
        self.assertEqual(len(self.next_poll().names), 5)

    def test_item_47_twenty_messages_of_a_mebibyte(self) -> None:
        """At most 15 in a contact, at least 10 in one."""
        self.begin()
        self.network.polls[0].answer()
        for number in range(20):
            large = message(str(number))
            large.data.value = random.Random(number).randbytes(MIB)
            self.link.outbox.submit(large)
        sizes = []
        while sum(sizes) < 20:
            poll = self.next_poll()
            sizes.append(len(poll.names))
            poll.answer()
        self.assertTrue(max(sizes) <= 15 and max(sizes) >= 10, sizes)

    def test_nothing_is_taken_while_a_poll_is_in_flight(self) -> None:
        self.begin()
        self.send("waits")
        self.assertTrue(self.link.outbox.when_ready().called)
        self.network.polls[0].answer()
        self.assertFalse(self.link.outbox.when_ready().called)


class FailureTests(PollingTestCase):
    def test_item_51_attempts_keep_their_distance(self) -> None:
        """A server that always answers 500, min failure delay 5 s: 5 to 7.5 s between the attempts."""
        for self.u, distance in ((0.0, 5), (0.5, 6.25), (0.999, 7.4975)):
            self.setUp()
            self.begin(min_failure_delay_seconds=5)
            times = []
            for _ in range(3):
                times.append(self.clock.seconds())
                self.network.polls[-1].refuse(500)
                self.send("does not hurry")
                self.next_poll()
            self.assertAlmostEqual(times[1] - times[0], distance)
            self.assertAlmostEqual(times[2] - times[1], distance)

    def test_what_could_not_be_delivered_comes_again(self) -> None:
        self.begin()
        self.network.polls[0].answer()
        acked = self.send("again")
        self.next_poll().fail()
        poll = self.next_poll()
        self.assertEqual(poll.names, ["again"])
        self.assertEqual(acked, [])
        poll.answer()
        self.assertEqual(acked, ["again"])

    def test_item_57_the_next_server_gets_the_same_and_is_asked_first_from_then_on(self) -> None:
        self.begin(servers=3)
        self.network.polls[0].answer()
        self.send("m")
        self.next_poll().fail()
        self.network.polls[-1].refuse(503)
        self.network.polls[-1].answer()
        self.assertEqual([poll.names for poll in self.network.polls[1:]], [["m"]] * 3)
        self.assertEqual(self.next_poll().server, "server2:443")
        self.network.polls[-1].fail()
        self.assertEqual(self.network.polls[-1].server, "server1:443")
        self.assertEqual(self.link.attempts, [str(poll.server) for poll in self.network.polls], "the watchdog is told")

    def test_an_answer_that_is_none_is_a_failure(self) -> None:
        self.begin()
        self.network.polls[0].response.callback(WholeResponse(200, b"\xff\xff"))
        self.assertEqual(self.link.contacts, [])
        self.next_poll()
        self.assertEqual(self.clock.seconds(), 10)

    def test_a_server_that_never_answers_is_given_up(self) -> None:
        self.begin(servers=2)
        self.clock.advance(POLL_TIMEOUT)
        self.assertEqual([poll.server for poll in self.network.polls], ["server0:443", "server1:443"])

    def test_item_59_too_lonely_after_a_contact(self) -> None:
        self.begin(failure_suicide_time_seconds=1)
        self.network.polls[0].answer()
        self.next_poll().fail()
        [(reason, status)] = self.link.gave_up
        self.assertEqual((reason, status), ("Too Lonely! Failed to contact server in 300 s.", 2))

    def test_items_59_82_too_lonely_from_the_start(self) -> None:
        """Never reachable: it stays alive for as long as is configured, and no longer."""
        self.begin(failure_suicide_time_seconds=25)
        for _ in range(3):
            self.assertEqual(self.link.gave_up, [])
            self.network.polls[-1].fail()
            self.next_poll()
        self.network.polls[-1].fail()
        self.assertEqual([status for _, status in self.link.gave_up], [2])


class ResetTests(PollingTestCase):
    def test_item_53_a_reset_cancels_what_hangs_and_polls_at_once(self) -> None:
        """The failure delay is 10 s; a flush that was begun before ends with it."""
        communicator = self.begin(min_failure_delay_seconds=10)
        hanging = self.network.polls[0]
        flushed = communicator.flush()
        self.assertNoResult(flushed)
        communicator.reset()
        self.assertTrue(hanging.response.called)
        self.assertEqual((len(self.network.polls), self.clock.seconds()), (2, 0))
        self.assertIsNone(self.successResultOf(flushed))

    def test_a_flush_waits_for_the_end_of_the_next_poll(self) -> None:
        communicator = self.begin()
        self.network.polls[0].answer()
        flushed = [communicator.flush(), communicator.flush()]
        poll = self.next_poll()
        self.assertNoResult(flushed[0])
        flushed[0].cancel()
        self.failureResultOf(flushed[0], CancelledError)
        poll.answer()
        self.successResultOf(flushed[1])

    def test_a_stop_ends_a_flush(self) -> None:
        communicator = self.begin()
        self.network.polls[0].answer()
        flushed = communicator.flush()
        self.successResultOf(Deferred.fromCoroutine(communicator.stop()))
        self.successResultOf(flushed)

    def test_a_reset_ends_the_wait_after_a_failure(self) -> None:
        communicator = self.begin()
        self.network.polls[0].fail()
        communicator.reset()
        self.assertEqual(len(self.network.polls), 2)

    def test_a_reset_ends_the_wait_for_the_next_poll(self) -> None:
        communicator = self.begin()
        self.network.polls[0].answer()
        communicator.reset()
        self.assertEqual(len(self.network.polls), 2)

    def test_item_60_a_rekey_in_an_answer_leads_to_a_poll_as_the_new_client(self) -> None:
        """And what that poll carried is acked once."""
        self.begin()
        self.network.polls[0].answer()
        acked = self.send("before")
        self.next_poll().answer(message("rekey"))
        self.assertEqual(acked, ["before"])
        self.assertEqual(len(self.network.polls), 3)
        self.assertEqual(self.network.polls[-1].client_id, self.link.identity.client_id)
        self.assertNotEqual(self.network.polls[-1].client_id, self.network.polls[0].client_id)
        self.assertEqual(self.network.closed, 1)

    def test_after_a_rekey_the_servers_are_tried_in_the_configured_order(self) -> None:
        """client-https 2."""
        self.begin(servers=2)
        self.network.polls[0].fail()
        self.network.polls[1].answer(message("rekey"))
        self.assertEqual([poll.server for poll in self.network.polls], ["server0:443", "server1:443", "server0:443"])


class StopTests(PollingTestCase):
    def stop(self, communicator: PollingCommunicator) -> Deferred[None]:
        return Deferred.fromCoroutine(communicator.stop())

    def test_with_nothing_to_deliver_it_ends_at_once(self) -> None:
        communicator = self.begin()
        self.network.polls[0].answer()
        self.successResultOf(self.stop(communicator))
        self.assertEqual((len(self.network.polls), self.clock.getDelayedCalls()), (1, []))

    def test_item_58_what_is_left_is_delivered(self) -> None:
        """Also more than fits into one poll, and what a poll in flight had."""
        communicator = self.begin()
        self.network.polls[0].answer()
        acked = [self.send(str(number), priority=number % 3) for number in range(150)]
        self.clock.advance(5)
        stopped = self.stop(communicator)
        while not stopped.called:
            self.network.polls[-1].answer()
        self.successResultOf(stopped)
        self.assertEqual([name for names in acked for name in names], [str(number) for number in range(150)])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_server_that_hangs_holds_it_up_for_a_few_seconds_only(self) -> None:
        communicator = self.begin()
        self.network.polls[0].answer()
        acked = self.send("left")
        stopped = self.stop(communicator)
        self.clock.advance(FAREWELL - 0.1)
        self.assertNoResult(stopped)
        self.clock.advance(0.1)
        self.successResultOf(stopped)
        self.assertEqual((acked, self.clock.getDelayedCalls()), ([], []))
        self.assertEqual(self.link.outbox.pending(common.Message.MEDIUM)[0], 1)

    def test_a_server_that_fails_ends_it(self) -> None:
        communicator = self.begin()
        self.network.polls[0].answer()
        self.send("left")
        stopped = self.stop(communicator)
        self.network.polls[-1].fail()
        self.successResultOf(stopped)
        self.assertEqual((self.link.gave_up, self.clock.getDelayedCalls()), ([], []))

    def test_before_it_was_started(self) -> None:
        communicator = PollingCommunicator(self.link, settings(), self.clock)
        self.successResultOf(self.stop(communicator))
        self.assertEqual(self.network.polls, [])

    def test_while_it_waits_after_a_failure(self) -> None:
        communicator = self.begin()
        self.network.polls[0].fail()
        self.successResultOf(self.stop(communicator))
        self.assertEqual(self.clock.getDelayedCalls(), [])


class StatsTests(PollingTestCase):
    def test_each_attempt_is_told_of(self) -> None:
        heard = Heard()
        self.link.stats = Stats([heard])
        self.begin(servers=3)
        self.network.polls[0].fail()
        self.network.polls[1].refuse(503)
        self.network.polls[2].answer(nonce=5)
        sent = [(where, size > 0, error is None) for where, size, error in heard.sent]
        self.assertEqual(sent, [("server0:443", True, False), ("server1:443", True, True), ("server2:443", True, True)])
        received = [(where, size, error is None) for where, size, error in heard.received]
        self.assertEqual(received, [("server1:443", 3, False), ("server2:443", 2, True)])
