"""Services that take lists (server-core.md 2.3): each message has an outcome of its own, and none is lost."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from zope.interface import implementer
from zope.interface.verify import verifyObject

from fleetspeak.errors import PermanentError, TemporaryError
from fleetspeak.interfaces import IBatchServerService
from fleetspeak.pb import common
from fleetspeak.records import MAX_MESSAGES_PER_CONTACT
from fleetspeak.server.services.manager import PROCESSING_LIMIT
from fleetspeak.server.services.runner import LINE_FACTOR
from fleetspeak.server.stats import ServerStats
from fleetspeak.testing.serverside import RecordingServerStats
from tests.server.services.doubles import InstantService, message
from tests.server.services.test_backlog import BacklogCase
from tests.server.services.test_manager import GOOD, ManagerCase


@implementer(IBatchServerService)
class BatchService:
    """Gives what a test wants for each list; a Deferred without `outcome`."""

    def __init__(self, *outcome: Any) -> None:
        self.outcome = outcome
        self.lists: list[list[bytes]] = []
        self.running: list[Deferred[Any]] = []

    def start(self) -> None:
        """Ready."""

    def stop(self) -> None:
        """Done."""

    def process_batch(self, messages: Sequence[common.Message]) -> Awaitable[Any] | Sequence[Any] | None:
        self.lists.append([each.message_id for each in messages])
        if not self.outcome:
            self.running.append(Deferred())
            return self.running[-1]
        [outcome] = self.outcome
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome  # type: ignore[no-any-return]


def state_of(one: common.Message) -> str:
    """What has become of a message."""
    if not one.HasField("result"):
        return "pending"
    return "failed" if one.result.failed else "done"


class BatchTests(ManagerCase):
    def run_list(self, outcome: Any, count: int = 3) -> list[common.Message]:
        """What becomes of the messages of a list."""
        self.manager.add("hello", BatchService(outcome))
        sent = [message(number=n) for n in range(count)]
        self.successResultOf(self.process(*sent))
        return sent

    def test_interface(self) -> None:
        verifyObject(IBatchServerService, BatchService())

    def test_2_3_one_list_for_each_service_and_record(self) -> None:
        """In the order of arrival; other services get their messages one by one."""
        one, two, single = BatchService(None), BatchService(None), InstantService()
        for name, service in (("one", one), ("two", two), ("hello", single)):
            self.manager.add(name, service)
        names = ["one", "hello", "two", "one", "two", "one"]
        sent = [message(name, number=n) for n, name in enumerate(names)]
        self.successResultOf(self.process(*sent))
        self.assertEqual(one.lists, [[sent[0].message_id, sent[3].message_id, sent[5].message_id]])
        self.assertEqual(two.lists, [[sent[2].message_id, sent[4].message_id]])
        self.assertEqual(len(single.seen), 1)
        self.assert_processed(*sent)

    def test_each_message_has_its_outcome(self) -> None:
        processed, refused, later, broken = self.run_list(
            [None, PermanentError("never"), TemporaryError("not now"), KeyError("oops")], 4
        )
        self.assert_processed(processed)
        self.assert_failed(refused, "never")
        self.assert_pending(later, broken)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_what_it_raises_counts_for_all(self) -> None:
        self.assert_pending(*self.run_list(TemporaryError("not now")))
        for each in self.run_list(PermanentError("never")):
            self.assert_failed(each, "never")
        self.assert_pending(*self.run_list(SystemExit(3)))
        self.assertEqual(len(self.flushLoggedErrors(SystemExit)), 1)

    def test_an_outcome_that_makes_no_sense_loses_nothing(self) -> None:
        for nonsense in ([None], [None] * 4, [None, True, None], "abc", True, {}):
            self.assert_pending(*self.run_list(nonsense))
            self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1, nonsense)

    def run_later(self, outcome: Any) -> list[str]:
        """What becomes of three messages when the service's Deferred fires."""
        service = BatchService()
        self.manager.add("hello", service)
        sent = [message(number=n) for n in range(3)]
        done = self.process(*sent)
        self.assertNoResult(done)
        if isinstance(outcome, BaseException):
            service.running[0].errback(outcome)
        else:
            service.running[0].callback(outcome)
        self.successResultOf(done)
        return [state_of(each) for each in sent]

    def test_the_same_by_a_deferred(self) -> None:
        self.assertEqual(self.run_later(None), ["done"] * 3)
        mixed = [None, PermanentError("never"), TemporaryError("not now")]
        self.assertEqual(self.run_later(mixed), ["done", "failed", "pending"])
        for broken in (["x"], KeyboardInterrupt(), TypeError("x")):
            self.assertEqual(self.run_later(broken), ["pending"] * 3)
        self.flushLoggedErrors(TypeError, KeyboardInterrupt)

    def test_the_service_may_do_with_its_list_what_it_wants(self) -> None:
        service = BatchService(None)
        service.process_batch = lambda messages: messages.clear()  # type: ignore[method-assign, attr-defined]
        self.manager.add("hello", service)
        sent = [message(number=n) for n in range(3)]
        self.successResultOf(self.process(*sent))
        self.assert_processed(*sent)

    def test_after_30_seconds_the_list_is_pending_and_late_outcomes_do_not_count(self) -> None:
        service = BatchService()
        self.manager.add("hello", service)
        service.running = []
        sent = [message(number=n) for n in range(3)]
        done = self.process(*sent)
        self.clock.advance(PROCESSING_LIMIT)
        self.successResultOf(done)
        self.assert_pending(*sent)

    def test_parallelism_counts_lists_and_the_line_is_bounded_in_messages(self) -> None:
        service = BatchService()
        self.manager.add("hello", service, max_parallelism=2)
        work, sent = [], []
        for start in range(0, 100, 5):
            sent.append([message(number=start + n) for n in range(5)])
            work.append(self.process(*sent[-1]))
        self.assertEqual(len(service.lists), 2)
        in_line = 2 * LINE_FACTOR // 5
        while service.running:
            service.running.pop(0).callback(None)
        for done in work:
            self.successResultOf(done)
        self.assertEqual(len(service.lists), 2 + in_line)
        for each in sent[: 2 + in_line]:
            self.assert_processed(*each)
        for each in sent[2 + in_line :]:
            self.assert_pending(*each)

    def test_a_list_that_is_longer_than_the_line_is_processed_nevertheless(self) -> None:
        service = BatchService()
        self.manager.add("hello", service, max_parallelism=1)
        first = self.process(message(number=1000))
        sent = [message(number=n) for n in range(5 * LINE_FACTOR)]
        done = self.process(*sent)
        service.running.pop(0).callback(None)
        service.running.pop(0).callback(None)
        self.successResultOf(first)
        self.successResultOf(done)
        self.assert_processed(*sent)

    def test_every_message_of_a_list_is_counted(self) -> None:
        heard = RecordingServerStats()
        self.manager._stats = ServerStats([heard], self.clock)
        self.run_list([None, PermanentError("never"), TemporaryError("not now")])
        self.assertEqual(len(heard.calls("message_ingested")), 3)
        self.assertEqual(len(heard.calls("message_processed")), 1)
        self.assertEqual([call[3] for call in heard.calls("message_errored")], [False, True])

    @given(st.lists(st.sampled_from(["done", "failed", "pending"]), min_size=1, max_size=20))
    def test_any_outcomes(self, wanted: list[str]) -> None:
        kinds = {"done": None, "failed": PermanentError("x"), "pending": TemporaryError("x")}
        sent = self.run_list([kinds[each] for each in wanted], len(wanted))
        self.assertEqual([state_of(each) for each in sent], wanted)


class StoredTests(BacklogCase):
    """What a list leaves over is in the store, and comes again as a list."""

    def test_what_failed_for_now_comes_again_as_one_list(self) -> None:
        service = BatchService([None, TemporaryError("not now"), TemporaryError("not now")])
        self.manager.add("hello", service)
        sent = [message(number=n) for n in range(3)]
        self.successResultOf(Deferred.fromCoroutine(self.manager.process(sent, GOOD, True)))
        self.keep(*sent)
        service.outcome = (None,)
        self.begin()
        self.pass_time(62)
        self.assertEqual([sorted(each) for each in service.lists[1:]], [[sent[1].message_id, sent[2].message_id]])
        for each in sent:
            self.assertIsNotNone(self.result(each))

    def test_no_list_is_longer_than_that_of_a_contact(self) -> None:
        service = BatchService(None)
        self.manager.add("hello", service)
        self.keep(*(message(number=n) for n in range(3 * MAX_MESSAGES_PER_CONTACT)))
        self.begin()
        self.pass_time(62)
        self.assertLessEqual(max(map(len, service.lists)), MAX_MESSAGES_PER_CONTACT)
        self.assertEqual(len({one for each in service.lists for one in each}), 3 * MAX_MESSAGES_PER_CONTACT)
