"""The state keeper: the key is durable before it is used, everything else within a minute."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, execute
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.client.identity import load_identity
from fleetspeak.client.persistence.memory import MemoryPersistence
from fleetspeak.client.state import FLUSH_INTERVAL, StateKeeper
from fleetspeak.client.stats import Stats
from fleetspeak.errors import ConfigError
from fleetspeak.ids import ClientId
from fleetspeak.pb import client
from tests.vectors import load

NOW = 1_700_000_000.0
VECTORS = load("state_file")


class Disk(MemoryPersistence):
    """Persistence that can be full, and slow."""

    def __init__(self, state: client.ClientState | None = None) -> None:
        super().__init__(state)
        self.error: OSError | None = None
        self.saves = 0
        self.slow: list[Deferred[None]] | None = None
        self.claims = 0

    def claim(self) -> None:
        self.claims += 1

    def release(self) -> None:
        self.claims -= 1

    def save(self, state: client.ClientState) -> None:
        if self.error is not None:
            raise self.error
        self.saves += 1
        super().save(state)

    def in_thread(self, call: Callable[[client.ClientState], None], state: client.ClientState, /) -> Deferred[None]:
        if self.slow is None:
            return execute(call, state)
        done: Deferred[None] = Deferred()
        done.addCallback(lambda _: call(state))
        self.slow.append(done)
        return done


class Heard(Stats):
    """Keeps what the hooks of item 9, 10 and 13 are told."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: list[tuple[ClientId, bool, Exception | None]] = []
        self.writes: list[Exception | None] = []

    def key_loaded(self, client_id: ClientId, new: bool, error: Exception | None) -> None:
        self.keys.append((client_id, new, error))

    def state_written(self, error: Exception | None) -> None:
        self.writes.append(error)


class StateKeeperTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(NOW)
        self.disk = Disk()
        self.heard = Heard()

    def keeper(self) -> StateKeeper:
        keeper = StateKeeper(self.disk, self.clock, self.disk.in_thread, Stats([self.heard]))
        keeper.open()
        return keeper

    def test_item_11_a_first_start_writes_the_key_at_once(self) -> None:
        keeper = self.keeper()
        self.assertEqual(self.disk.saves, 1)
        written = load_identity(self.disk.state.client_key, NOW)
        self.assertEqual(written.client_id, keeper.identity.client_id)

    def test_item_9_the_hook_hears_of_each_new_key_in_order(self) -> None:
        keeper = self.keeper()
        first = keeper.identity.client_id
        self.assertEqual(len(first), 8)
        self.assertEqual((self.heard.keys, self.heard.writes), ([(first, True, None)], [None]))
        second = self.successResultOf(Deferred.fromCoroutine(keeper.rekey())).client_id
        self.assertNotIn(second, (first, b""))
        self.assertEqual(self.heard.keys, [(first, True, None), (second, True, None)])
        self.assertEqual(self.heard.writes, [None, None])

    def test_item_10_a_second_start_has_the_same_id(self) -> None:
        first = self.keeper().identity.client_id
        self.assertEqual(self.keeper().identity.client_id, first)
        self.assertEqual(self.heard.keys, [(first, True, None), (first, False, None)])

    def test_item_13_without_persistence_the_key_is_new_at_each_start(self) -> None:
        first = self.keeper().identity.client_id
        self.disk = Disk()
        second = self.keeper().identity.client_id
        self.assertNotEqual(first, second)
        self.assertEqual(self.heard.keys, [(first, True, None), (second, True, None)])

    def test_the_state_is_ours_alone_from_open_to_close(self) -> None:
        keeper = self.keeper()
        self.assertEqual(self.disk.claims, 1)
        self.successResultOf(Deferred.fromCoroutine(keeper.close()))
        self.assertEqual(self.disk.claims, 0)

    def test_hooks_hear_of_what_goes_wrong_and_nothing_stays_claimed(self) -> None:
        self.disk = Disk(client.ClientState(client_key=b"no key"))
        error = self.assertRaises(ConfigError, self.keeper)
        self.assertEqual((self.heard.keys, self.heard.writes), ([(b"", False, error)], []))
        self.disk = Disk()
        self.disk.error = OSError(30, "Read-only file system")
        self.assertRaises(ConfigError, self.keeper)
        self.assertEqual(self.heard.writes, [self.disk.error])
        self.assertEqual(self.disk.claims, 0)

    def test_item_11_state_files_of_the_go_client_give_its_ids(self) -> None:
        for vector in VECTORS["observed"] + VECTORS["made"]:
            self.disk = Disk(client.ClientState.FromString(bytes.fromhex(vector["file_hex"])))
            keeper = self.keeper()
            self.assertEqual(keeper.identity.client_id.hex(), vector["client_id_hex"])
            self.assertEqual(keeper.nonce, vector["sequencing_nonce"])
            for serial in vector["revoked_cert_serials_hex"]:
                self.assertTrue(keeper.is_revoked(int(serial, 16)))
            self.assertFalse(keeper.is_revoked(999))

    def test_hardcoded_serials_are_revoked_whatever_the_state_says(self) -> None:
        keeper = StateKeeper(self.disk, self.clock, self.disk.in_thread, revoked=[b"\x09"])
        keeper.open()
        self.assertTrue(keeper.is_revoked(9))
        self.assertFalse(keeper.is_revoked(7))
        self.assertEqual(list(self.disk.state.revoked_cert_serials), [])

    def test_an_unparsable_key_stops_the_client_and_is_not_overwritten(self) -> None:
        self.disk = Disk(client.ClientState(client_key=b"no key"))
        error = self.assertRaises(ConfigError, self.keeper)
        self.assertIn("unable to parse client key", str(error))
        self.assertEqual(self.disk.state.client_key, b"no key")

    def test_an_unwritable_state_at_start_is_one_clear_error(self) -> None:
        self.disk.error = OSError(30, "Read-only file system")
        error = self.assertRaises(ConfigError, self.keeper)
        self.assertIn("Read-only file system", str(error))

    def test_a_new_nonce_is_written_within_a_minute(self) -> None:
        keeper = self.keeper()
        keeper.start()
        keeper.nonce = 42
        self.clock.advance(FLUSH_INTERVAL - 1)
        self.assertEqual(self.disk.state.sequencing_nonce, 0)
        self.clock.advance(1)
        self.assertEqual(self.disk.state.sequencing_nonce, 42)
        self.clock.advance(FLUSH_INTERVAL)
        self.assertEqual(self.disk.saves, 2, "nothing new, nothing written")
        self.successResultOf(Deferred.fromCoroutine(keeper.close()))

    def test_item_17_stop_writes_what_is_not_written_yet(self) -> None:
        keeper = self.keeper()
        keeper.start()
        keeper.nonce = 42
        self.successResultOf(Deferred.fromCoroutine(keeper.close()))
        self.assertEqual(self.disk.state.sequencing_nonce, 42)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_disk_that_is_full_is_tried_again_and_the_client_lives(self) -> None:
        keeper = self.keeper()
        keeper.start()
        keeper.nonce = 42
        self.disk.error = OSError(28, "No space left on device")
        with capturedLogs() as logged:
            self.clock.advance(FLUSH_INTERVAL)
        self.assertIn("cannot write the client's state", logged[0]["log_format"])
        self.disk.error = None
        self.clock.advance(FLUSH_INTERVAL)
        self.assertEqual(self.disk.state.sequencing_nonce, 42)
        self.successResultOf(Deferred.fromCoroutine(keeper.close()))

    def test_item_17_a_rekey_is_written_before_the_new_id_is_used(self) -> None:
        keeper = self.keeper()
        old = keeper.identity.client_id
        heard: list[bytes] = []
        keeper.on_rekey(lambda identity: heard.append(identity.client_id))
        self.disk.slow = []
        rekeying = Deferred.fromCoroutine(keeper.rekey())
        self.assertEqual(keeper.identity.client_id, old, "not on the disk yet")
        self.disk.slow.pop().callback(None)
        identity = self.successResultOf(rekeying)
        self.assertNotEqual(identity.client_id, old)
        self.assertEqual(heard, [identity.client_id])
        self.assertEqual(keeper.identity, identity)
        self.assertEqual(load_identity(self.disk.state.client_key, NOW).client_id, identity.client_id)

    def test_a_rekey_that_cannot_be_written_changes_nothing(self) -> None:
        keeper = self.keeper()
        old = keeper.identity
        self.disk.error = OSError(28, "No space left on device")
        self.failureResultOf(Deferred.fromCoroutine(keeper.rekey()), OSError)
        self.assertIs(keeper.identity, old)
        self.disk.error = None
        self.successResultOf(Deferred.fromCoroutine(keeper.rekey()))
        self.assertIsNot(keeper.identity, old)

    def test_a_flush_during_a_rekey_does_not_bring_the_old_key_back(self) -> None:
        keeper = self.keeper()
        keeper.nonce = 42
        self.disk.slow = []
        rekeying = Deferred.fromCoroutine(keeper.rekey())
        closing = Deferred.fromCoroutine(keeper.close())
        while self.disk.slow:
            self.disk.slow.pop(0).callback(None)
        identity = self.successResultOf(rekeying)
        self.successResultOf(closing)
        self.assertEqual(load_identity(self.disk.state.client_key, NOW).client_id, identity.client_id)
        self.assertEqual(self.disk.state.sequencing_nonce, 42)

    def test_a_listener_that_fails_does_not_spoil_the_rekey(self) -> None:
        keeper = self.keeper()
        keeper.on_rekey(lambda _: 1 / 0)
        self.successResultOf(Deferred.fromCoroutine(keeper.rekey()))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class IdentityTests(SynchronousTestCase):
    def test_item_6_ids_are_those_of_the_go_client(self) -> None:
        for vector in load("client_ids")["derived"]:
            identity = load_identity(bytes.fromhex(vector["sec1_private_der_hex"]), NOW)
            self.assertEqual(identity.client_id.hex(), vector["client_id_hex"])

    def test_the_certificate_is_of_the_key(self) -> None:
        key_der = bytes.fromhex(VECTORS["made"][0]["client_key_sec1_der_hex"])
        identity = load_identity(key_der, NOW)
        self.assertEqual(
            identity.certificate.public_key().public_numbers(),  # type: ignore[union-attr]
            identity.key.public_key().public_numbers(),
        )
