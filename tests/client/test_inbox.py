"""Inboxes: one message at a time, in order; a service that hangs holds up nobody but itself."""

from __future__ import annotations

from collections.abc import Awaitable

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from fleetspeak.client.flow import Flow
from fleetspeak.client.inbox import CAPACITY, Inbox, ServiceGone
from fleetspeak.errors import PermanentError
from fleetspeak.interfaces import IClientService
from fleetspeak.pb import common


class Told:
    """Stands in for `Reports`: what the server would hear."""

    def __init__(self) -> None:
        self.acked: list[bytes] = []
        self.errors: list[tuple[bytes, str]] = []

    def ack(self, message_id: bytes) -> None:
        self.acked.append(message_id)

    def error(self, message_id: bytes, text: str) -> None:
        self.errors.append((message_id, text))


@implementer(IClientService)
class Slow:
    """Processes each message until the test says otherwise."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self.work: list[Deferred[None]] = []
        self.cancelled: list[Deferred[None]] = []

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def process(self, message: common.Message) -> Awaitable[None] | None:
        self.seen.append(message.message_id)
        self.work.append(Deferred(self.cancelled.append))
        return self.work[-1]


class Quick(Slow):
    """Is done at once, or fails at once."""

    def process(self, message: common.Message) -> None:
        self.seen.append(message.message_id)
        if message.message_type == "bad":
            raise PermanentError("a terrible test error")


class Native(Slow):
    """Is written as a coroutine."""

    async def process(self, message: common.Message) -> None:  # type: ignore[override]
        waiting = Slow.process(self, message)
        assert waiting is not None
        await waiting


def message(number: int, message_type: str = "") -> common.Message:
    return common.Message(message_id=b"%032d" % number, message_type=message_type)


def ids(*numbers: int) -> list[bytes]:
    return [b"%032d" % number for number in numbers]


class InboxTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.flow = Flow()
        self.flow.add_service("S")
        self.told = Told()
        self.inbox = Inbox("S", self.flow, self.told, self.clock)  # type: ignore[arg-type]

    def tokens(self) -> int:
        return self.flow.tokens(first=True)["S"]

    def test_success_is_acked_and_failure_reported_with_its_text(self) -> None:
        self.inbox.attach(Quick())
        for number, kind in enumerate(["", "bad", ""]):
            self.assertTrue(self.inbox.deliver(message(number, kind)))
        self.assertEqual(self.told.acked, ids(0, 2))
        self.assertEqual(self.told.errors, [(ids(1)[0], "a terrible test error")])

    def test_one_at_a_time_in_order(self) -> None:
        for service in (Slow(), Native()):
            self.told.acked.clear()
            self.inbox.attach(service)
            for number in range(3):
                self.inbox.deliver(message(number))
            for number in range(3):
                self.assertEqual(service.seen, ids(*range(number + 1)))
                service.work[number].callback(None)
            self.assertEqual(self.told.acked, ids(0, 1, 2))
            self.inbox.detach()

    def test_a_deferred_failure_is_reported_even_without_text(self) -> None:
        service = Slow()
        self.inbox.attach(service)
        self.inbox.deliver(message(1))
        service.work[0].errback(ValueError())
        self.assertEqual(self.told.errors, [(ids(1)[0], "ValueError")])

    def test_item_48_five_messages_to_a_service_that_blocks_leave_96_tokens(self) -> None:
        service = Slow()
        self.inbox.attach(service)
        for number in range(5):
            self.inbox.deliver(message(number))
        self.assertEqual(self.tokens(), 96)
        for number in range(5):
            service.work[number].callback(None)
        self.assertEqual(self.tokens(), 100)

    def test_more_than_was_granted_is_refused(self) -> None:
        self.inbox.attach(Slow())
        results = [self.inbox.deliver(message(number)) for number in range(CAPACITY + 3)]
        self.assertEqual(results.count(False), 2, "one is in progress, the inbox is full")
        self.assertEqual(self.tokens(), 0)

    def test_detach_cancels_what_is_in_progress_without_reporting_it_and_keeps_the_rest(self) -> None:
        first, second = Slow(), Quick()
        self.inbox.attach(first)
        self.inbox.deliver(message(1))
        self.inbox.deliver(message(2))
        self.inbox.detach()
        self.assertEqual(first.cancelled, first.work)
        self.inbox.attach(second)
        self.assertEqual(second.seen, ids(2))
        self.assertEqual(self.told.errors, [])

    def test_a_service_that_ignores_its_cancelling_does_not_hold_up_the_next_one(self) -> None:
        class Stubborn(Slow):
            async def process(self, message: common.Message) -> None:  # type: ignore[override]
                for _ in range(2):
                    waiting = Slow.process(self, message)
                    assert waiting is not None
                    try:
                        await waiting
                    except CancelledError:
                        continue

        first, second = Stubborn(), Quick()
        self.inbox.attach(first)
        self.inbox.deliver(message(1))
        self.inbox.detach()
        self.inbox.attach(second)
        self.inbox.deliver(message(2))
        self.assertEqual(second.seen, ids(2))
        first.work[1].callback(None)
        self.inbox.deliver(message(3))
        self.assertEqual(second.seen, ids(2, 3))
        self.assertEqual(self.told.acked, ids(2, 1, 3), "it was processed after all")

    def test_a_service_may_send_to_itself_while_it_processes(self) -> None:
        inbox = self.inbox

        class Echo(Slow):
            def process(self, message: common.Message) -> None:
                self.seen.append(message.message_id)
                if len(self.seen) < 250:
                    inbox.deliver_local(common.Message())

        service = Echo()
        inbox.attach(service)
        inbox.deliver_local(common.Message())
        self.assertEqual(len(service.seen), 100, "then it is others' turn")
        self.clock.advance(0)
        self.clock.advance(0)
        self.assertEqual(len(service.seen), 250)

    def test_item_139_local_messages_are_not_acked_and_take_no_tokens(self) -> None:
        service = Slow()
        self.inbox.attach(service)
        for number in range(3):
            self.successResultOf(self.inbox.deliver_local(message(number)))
        self.assertEqual(self.tokens(), 100)
        service.work[0].callback(None)
        service.work[1].errback(ValueError("text"))
        self.assertEqual((self.told.acked, self.told.errors), ([], []))

    def test_local_messages_wait_for_room_of_their_own(self) -> None:
        service = Slow()
        self.inbox.attach(service)
        accepted = [self.inbox.deliver_local(message(number)) for number in range(CAPACITY + 3)]
        self.assertNoResult(accepted[-2])
        self.assertTrue(self.inbox.deliver(message(999)), "the server's messages have room of their own")
        accepted[-1].cancel()
        self.failureResultOf(accepted[-1], CancelledError)
        service.work[0].callback(None)
        self.successResultOf(accepted[-2])
        late = self.inbox.deliver_local(message(1000))
        self.inbox.close()
        self.failureResultOf(late, ServiceGone)

    def test_item_70_a_beacon_every_32_messages(self) -> None:
        self.inbox.attach(Quick())
        beacon = self.flow.when_beacon()
        for number in range(31):
            self.inbox.deliver(message(number))
        self.assertNoResult(beacon)
        self.inbox.deliver(message(31))
        self.successResultOf(beacon)
        self.assertNoResult(self.flow.when_beacon())

    def test_a_beacon_is_kept_until_somebody_asks_but_not_beyond_the_next_record(self) -> None:
        self.inbox.attach(Quick())
        for number in range(64):
            self.inbox.deliver(message(number))
        self.successResultOf(self.flow.when_beacon())
        self.flow.tokens(first=False)
        waiting = self.flow.when_beacon()
        self.assertNoResult(waiting)
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)

    @given(st.lists(st.sampled_from(["deliver", "local", "done", "fail", "restart"]), max_size=120))
    @settings(max_examples=60, deadline=None)
    def test_every_message_is_seen_once_in_order_and_tokens_never_exceed_100(self, steps: list[str]) -> None:
        self.setUp()
        service = Slow()
        self.inbox.attach(service)
        delivered: list[bytes] = []
        seen: list[bytes] = []
        for number, step in enumerate(steps):
            if step == "deliver":
                if self.inbox.deliver(message(number)):
                    delivered += ids(number)
            elif step == "local":
                if self.inbox.deliver_local(message(number)).called:
                    delivered += ids(number)
            elif step == "restart":
                seen += service.seen
                self.inbox.detach()
                service = Slow()
                self.inbox.attach(service)
            elif service.work and not service.work[-1].called:
                service.work[-1].callback(None) if step == "done" else service.work[-1].errback(ValueError("no"))
            self.assertLessEqual(self.tokens(), 100)
        while service.work and not service.work[-1].called:
            service.work[-1].callback(None)
        self.assertEqual(seen + service.seen, delivered)
