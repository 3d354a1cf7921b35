"""Streams hear of what becomes of their clients (server-core.md 2.1, note, and section 8, BlacklistClient)."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.errors import StoreError
from fleetspeak.ids import ClientId
from fleetspeak.pb import common
from fleetspeak.records import ClientData, Label
from fleetspeak.server.contact.session import Session
from fleetspeak.server.standing import INTERVAL, PAGE, Standing
from tests.server.contact.world import ADDRESS, World, for_client, identity, wrapped

ALICE = identity()
CORP = frozenset({Label("client", "corp")})


class StandingCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()
        self.woken = 0
        self.standing = Standing(self.world.store, self.world.dispatcher, self.world.cache, self.world.clock)
        self.standing.start()
        self.addCleanup(lambda: self.successResultOf(Deferred.fromCoroutine(self.standing.stop())))

    def open_stream(self, name: str = "alice") -> Session:
        """A stream of a client, which is new the first time."""

        def wake() -> None:
            self.woken += 1

        begun = Deferred.fromCoroutine(self.world.contacts.first(ADDRESS, identity(name), wrapped(), wake))
        session, _ = self.successResultOf(begun)
        return session

    def look(self, session: Session) -> list[common.Message]:
        return list(self.successResultOf(Deferred.fromCoroutine(self.world.contacts.look(session))))

    def kinds(self, session: Session) -> list[str]:
        return [message.message_type for message in self.look(session)]


class StandingTests(StandingCase):
    def blacklist(self) -> None:
        self.world.now(self.world.store.blacklist_client(ALICE.client_id))

    def test_a_client_that_is_blacklisted_here_is_told_at_once(self) -> None:
        """On the stream that it has; and gets nothing but that, once."""
        session = self.open_stream()
        self.blacklist()
        self.standing.client_changed(ALICE.client_id)
        self.assertEqual(self.woken, 1)
        self.world.insert(for_client(ALICE.client_id))
        self.assertEqual(self.kinds(session), ["RekeyRequest"])
        self.assertEqual(self.kinds(session), [])
        stored = self.world.pending(ALICE.client_id)
        self.assertEqual(sorted(message.message_type for message in stored), ["Hello", "RekeyRequest"])

    def test_what_it_sends_is_marked_from_then_on(self) -> None:
        session = self.open_stream()
        self.blacklist()
        self.standing.client_changed(ALICE.client_id)
        self.assertTrue(session.client.blacklisted)

    def test_one_that_was_blacklisted_by_another_server(self) -> None:
        """Within 45 s."""
        session = self.open_stream()
        self.blacklist()
        self.world.clock.advance(INTERVAL)
        self.assertEqual(self.kinds(session), ["RekeyRequest"])
        self.assertLess(INTERVAL, 45)

    def test_one_that_is_let_in_again(self) -> None:
        """Its messages come, and it would be told anew."""
        session = self.open_stream()
        self.blacklist()
        self.standing.client_changed(ALICE.client_id)
        self.look(session)
        self.world.insert(for_client(ALICE.client_id))
        self.world.now(self.world.store.unblacklist_clients([ALICE.client_id]))
        self.standing.client_changed(ALICE.client_id)
        self.assertIn("Hello", self.kinds(session))
        self.blacklist()
        self.standing.client_changed(ALICE.client_id)
        self.assertEqual(self.kinds(session), ["RekeyRequest"])

    def test_a_stream_that_began_blacklisted_was_told_then(self) -> None:
        self.open_stream().end()
        self.blacklist()
        self.world.cache.clear()
        session = self.open_stream()
        self.assertEqual(self.kinds(session), [])

    def test_a_request_that_cannot_be_stored_is_made_again(self) -> None:
        session = self.open_stream()
        self.blacklist()
        self.standing.client_changed(ALICE.client_id)
        self.world.store.errors = [StoreError("no database")]
        self.failureResultOf(Deferred.fromCoroutine(self.world.contacts.look(session)), StoreError)
        self.assertEqual(self.kinds(session), ["RekeyRequest"])

    def test_new_labels(self) -> None:
        """What is for them is looked for."""
        session = self.open_stream()
        self.world.now(self.world.store.update_client_labels(ALICE.client_id, list(CORP), []))
        self.world.clock.advance(INTERVAL)
        self.assertEqual((session.client.labels, self.woken), (CORP, 1))
        self.world.clock.advance(INTERVAL)
        self.assertEqual(self.woken, 1, "nothing is new")

    def test_a_look_that_began_before_a_change_changes_nothing_back(self) -> None:
        session = self.open_stream()
        self.open_stream("bob")
        answers: list[Deferred[dict[ClientId, ClientData]]] = []
        right: Any = self.world.store.client_data

        def hold(_: object) -> Deferred[dict[ClientId, ClientData]]:
            answers.append(Deferred())
            return answers[-1]

        self.world.store.client_data = hold  # type: ignore[method-assign]
        self.world.clock.advance(INTERVAL)
        self.world.store.client_data = right  # type: ignore[method-assign]
        self.blacklist()
        self.standing.client_changed(ALICE.client_id)
        answers[0].callback({ALICE.client_id: ClientData(ALICE.key)})
        self.assertTrue(session.client.blacklisted)

    def test_a_store_that_fails_is_asked_again(self) -> None:
        session = self.open_stream()
        right: Any = self.world.store.client_data
        self.world.store.client_data = lambda _: fail(StoreError("no database"))  # type: ignore[method-assign]
        with capturedLogs() as logs:
            self.world.clock.advance(INTERVAL)
        self.assertEqual(len(logs), 1)
        self.world.store.client_data = right  # type: ignore[method-assign]
        self.blacklist()
        self.world.clock.advance(INTERVAL)
        self.assertTrue(session.client.blacklisted)

    def test_many_clients_are_looked_at_in_parts(self) -> None:
        asked: list[int] = []
        for number in range(PAGE + 1):
            self.world.dispatcher.register(ClientId(number.to_bytes(8, "big")), lambda: None)
        right: Any = self.world.store.client_data

        def note(client_ids: list[ClientId]) -> Any:
            asked.append(len(client_ids))
            return right(client_ids)

        self.world.store.client_data = note  # type: ignore[assignment, method-assign]
        self.world.clock.advance(INTERVAL)
        self.assertEqual(asked, [PAGE, 1])

    def test_who_has_no_stream_is_only_forgotten(self) -> None:
        self.open_stream().end()
        self.world.store.client_data = lambda _: self.fail("asked")  # type: ignore[method-assign]
        self.standing.client_changed(ALICE.client_id)
        self.assertIsNone(self.world.cache.get(ALICE.client_id))

    def test_a_stop_in_the_middle_of_a_look(self) -> None:
        self.open_stream()
        cancelled: list[object] = []
        self.world.store.client_data = lambda _: Deferred(cancelled.append)  # type: ignore[method-assign]
        self.world.clock.advance(INTERVAL)
        self.successResultOf(Deferred.fromCoroutine(self.standing.stop()))
        self.assertEqual(len(cancelled), 1)
        self.assertEqual(self.world.clock.getDelayedCalls(), [])
        self.flushLoggedErrors()
