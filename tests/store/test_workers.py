"""The threads that carry out what waits."""

from __future__ import annotations

import threading
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from fleetspeak.errors import ConfigError, StoreError
from fleetspeak.store.sql.groupcommit import Call
from fleetspeak.store.sql.workers import ThreadWorker


class Database:
    """A database that notes what it is asked for, and can be held up."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.threads: set[threading.Thread] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.open_error: Exception | None = None
        self.closed = False

    def open(self) -> None:
        self._note()
        if self.open_error is not None:
            raise self.open_error

    def close(self) -> None:
        self._note()
        self.closed = True

    def begin(self) -> None:
        self._note()
        self.entered.set()
        self.gate.wait(10)
        self.batches.append([])

    def commit(self) -> None:
        self._note()

    savepoint = release = undo = roll_back = commit

    def _note(self) -> None:
        self.threads.add(threading.current_thread())


def note(database: Database, items: list[int]) -> list[int]:
    database.batches[-1] += items
    return items


class ThreadWorkerTests(TestCase):
    """With real threads and the real reactor; nothing sleeps."""

    def setUp(self) -> None:
        self.database = Database()
        self.worker = ThreadWorker("test-worker", self.database, reactor)  # type: ignore[arg-type]
        self.addCleanup(self.worker.close)

    def call(self, number: int) -> Deferred[Any]:
        call = Call(note, [number], 0, list, self.worker.take_back)
        self.worker.submit(call)
        return call.done

    async def hold_up(self) -> Deferred[Any]:
        """Let the thread begin with a transaction, and stay in it."""
        self.database.gate.clear()
        first = self.call(0)
        await deferToThread(self.database.entered.wait, 10)
        return first

    async def test_what_arrives_meanwhile_is_the_next_batch(self) -> None:
        await self.worker.open()
        first = await self.hold_up()
        others = [self.call(number) for number in range(1, 6)]
        self.database.gate.set()
        self.assertEqual(await first, [0])
        self.assertEqual(await gatherResults(others), [[1], [2], [3], [4], [5]])
        self.assertEqual(self.database.batches, [[0], [1, 2, 3, 4, 5]])

    async def test_whoever_observes_it_hears_of_each_batch_in_the_reactor(self) -> None:
        heard: list[tuple[Any, ...]] = []
        self.worker.observe(lambda *told: heard.append((*told, threading.current_thread())))
        await self.worker.open()
        first = await self.hold_up()
        others = [self.call(number) for number in range(1, 6)]
        self.assertEqual(self.worker.waiting()[0], 5)
        self.assertGreater(self.worker.waiting()[1], 0)
        self.database.gate.set()
        await gatherResults([first, *others])
        self.assertEqual([told[:3] for told in heard], [("test-worker", 1, 1), ("test-worker", 5, 5)])
        self.assertEqual({told[4] for told in heard}, {threading.current_thread()})
        self.assertGreaterEqual(heard[0][3], 0)
        self.assertEqual(self.worker.waiting(), (0, 0))

    async def test_one_thread_does_it_all_and_deferreds_fire_in_the_reactor(self) -> None:
        await self.worker.open()
        fired_in: list[threading.Thread] = []
        done = self.call(1).addCallback(lambda _: fired_in.append(threading.current_thread()))
        await done
        await self.worker.close()
        [thread] = self.database.threads
        self.assertEqual(thread.name, "test-worker")
        self.assertEqual(fired_in, [threading.current_thread()])

    async def test_closing_finishes_what_was_accepted(self) -> None:
        await self.worker.open()
        await self.hold_up()
        accepted = [self.call(number) for number in range(1, 4)]
        closing = self.worker.close()
        with self.assertRaises(StoreError):
            self.call(4)
        self.database.gate.set()
        self.assertEqual(await gatherResults(accepted), [[1], [2], [3]])
        await closing
        self.assertTrue(self.database.closed)
        await self.worker.close()  # once more is no error
        with self.assertRaises(StoreError):
            await self.worker.open()

    async def test_a_caller_gives_up(self) -> None:
        """Before its call began it never happens; after that it does, but nobody is told."""
        await self.worker.open()
        begun = await self.hold_up()
        waiting = self.call(1)
        begun.cancel()
        waiting.cancel()
        last = self.call(2)
        self.database.gate.set()
        await last
        for given_up in (begun, waiting):
            with self.assertRaises(CancelledError):
                await given_up
        self.assertEqual(self.database.batches, [[0], [2]])

    async def test_it_cannot_be_opened(self) -> None:
        """What was submitted meanwhile fails, and so does what comes after."""
        self.database.open_error = ConfigError("no")
        opening = self.worker.open()
        early = self.call(1)
        with self.assertRaises(ConfigError):
            await opening
        [outcome] = await early
        self.assertIsInstance(outcome, StoreError)
        with self.assertRaises(StoreError):
            self.call(2)
        await self.worker.close()

    async def test_not_opened(self) -> None:
        with self.assertRaises(StoreError):
            self.call(1)
        await self.worker.close()
