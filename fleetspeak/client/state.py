"""What the client remembers across restarts: its key, the server's last nonce, revoked serial numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from fleetspeak.client.identity import KeyedIdentity, load_identity, new_identity
from fleetspeak.client.stats import Stats
from fleetspeak.errors import ConfigError
from fleetspeak.ids import NO_CLIENT, show
from fleetspeak.interfaces import IPersistence
from fleetspeak.pb import client
from fleetspeak.security import keys

FLUSH_INTERVAL = 60.0
"""Seconds between looks whether something less urgent than the key must be written."""

MAX_REVOKED = 100_000
"""Serial numbers of revoked certificates that are kept; they are never removed."""


InThread = Callable[..., Deferred[Any]]
"""Runs a blocking call with its arguments elsewhere; `deferToThreadPool` bound to a reactor and a pool is one."""


class StateKeeper:
    """Holds the client's state and writes it: at once when the key changes, otherwise within a minute.

    Writes go to a thread one after another, so the disk never holds up the reactor, nor an older state
    overwrites a newer one.
    """

    _log = Logger()

    def __init__(
        self,
        persistence: IPersistence,
        clock: IReactorTime,
        in_thread: InThread,
        stats: Stats | None = None,
        revoked: Iterable[bytes] = (),
    ) -> None:
        """@param revoked: serial numbers that are revoked whatever the state says; big-endian, no leading zeros."""
        self._persistence = persistence
        self._clock = clock
        self._in_thread = in_thread
        self._stats = stats or Stats()
        self._state = client.ClientState()
        self._revoked = set(revoked)
        self._identity: KeyedIdentity | None = None
        self._dirty = False
        self._writing = DeferredLock()
        self._listeners: list[Callable[[KeyedIdentity], None]] = []
        self._ticking = LoopingCall(self._tick)
        self._ticking.clock = clock

    @property
    def identity(self) -> KeyedIdentity:
        """Who we are now.  Only after `open`."""
        assert self._identity is not None, "the state is not open"
        return self._identity

    @property
    def nonce(self) -> int:
        """The sequencing nonce of the server's last contact data; 0 before the first."""
        return self._state.sequencing_nonce

    @nonce.setter
    def nonce(self, value: int) -> None:
        if value != self._state.sequencing_nonce:
            self._state.sequencing_nonce = value
            self._dirty = True

    def is_revoked(self, serial: int) -> bool:
        """Is this serial number of a certificate on the list of revoked ones?"""
        return bool(self._revoked) and serial.to_bytes((serial.bit_length() + 7) // 8, "big") in self._revoked

    async def revoke(self, serials: Iterable[bytes]) -> int:
        """Add these serial numbers (big-endian) to the list, and write it.  Returns how many were not on it yet.

        They count from the next handshake on, written or not.  What cannot be written is logged, and tried again.
        """
        new = {stripped for serial in serials if (stripped := serial.lstrip(b"\0"))} - self._revoked
        if len(self._revoked) + len(new) > MAX_REVOKED:
            raise ValueError(f"more than {MAX_REVOKED} revoked serial numbers")
        if new:
            self._revoked |= new
            self._state.revoked_cert_serials.extend(sorted(new))
            self._dirty = True
            await self._flush()
        return len(new)

    def on_rekey(self, listener: Callable[[KeyedIdentity], None]) -> None:
        """Call `listener` with each new identity from now on."""
        self._listeners.append(listener)

    def open(self) -> None:
        """Read the state, or make a new key, and write it before anybody can see it.  Blocks; begins no timer.

        @raise ConfigError: it cannot be kept there, another client has it, or its key cannot be read; says what to do.
        """
        self._persistence.claim()
        try:
            self._state = self._persistence.load()
            self._revoked |= {serial.lstrip(b"\0") for serial in self._state.revoked_cert_serials}
            self._identity, is_new = self._load_or_make_key()
            self._save_at_start()
        except ConfigError as error:
            self._persistence.release()
            self._stats.key_loaded(NO_CLIENT, False, error)
            raise
        self._stats.key_loaded(self._identity.client_id, is_new, None)

    def start(self) -> None:
        """Begin to write changes once a minute."""
        self._ticking.start(FLUSH_INTERVAL, now=False)

    async def close(self) -> None:
        """Stop the timer and write what is not written yet.  Never fails, only logs."""
        if self._ticking.running:
            self._ticking.stop()
        await self._flush()
        self._persistence.release()

    async def rekey(self) -> KeyedIdentity:
        """Become somebody else.  The new key is durable before it is used.

        @raise OSError: it could not be written; then the identity stays as it is.
        """
        identity = new_identity(self._clock.seconds())
        await self._writing.acquire()
        try:
            state = self._snapshot()
            state.client_key = keys.dump_sec1(identity.key)
            try:
                await self._save(state)
            except Exception:
                self._dirty = True  # the new key, which nobody uses, may have got into the file
                raise
            self._state.client_key = state.client_key
            previous, self._identity = self.identity, identity
        finally:
            self._writing.release()
        self._log.info(
            "rekeyed: client {old} is now client {client_id}",
            old=show(previous.client_id),
            client_id=show(identity.client_id),
        )
        self._stats.key_loaded(identity.client_id, True, None)
        for listener in self._listeners:
            try:
                listener(identity)
            except Exception:
                self._log.failure("a listener failed at the new identity")
        return identity

    def _load_or_make_key(self) -> tuple[KeyedIdentity, bool]:
        """The identity, and whether it is a new one.  Raises ConfigError."""
        if not self._state.client_key:
            identity = new_identity(self._clock.seconds())
            self._state.client_key = keys.dump_sec1(identity.key)
            return identity, True
        try:
            return load_identity(self._state.client_key, self._clock.seconds()), False
        except ValueError as error:
            raise ConfigError(
                f"unable to parse client key of the state in {self._persistence}: {error}; put a good copy "
                "in its place, or move it away to start with a new identity"
            ) from None

    def _save_at_start(self) -> None:
        """Raises ConfigError."""
        try:
            self._persistence.save(self._state)
        except OSError as error:
            self._stats.state_written(error)
            raise ConfigError(
                f"cannot write the client's state to {self._persistence}: {error.strerror}; its folder must exist, "
                "be writable for the client, and have room"
            ) from error
        self._stats.state_written(None)

    async def _save(self, state: client.ClientState) -> None:
        try:
            await self._in_thread(self._persistence.save, state)
        except Exception as error:
            self._stats.state_written(error)
            raise
        self._stats.state_written(None)

    async def _flush(self) -> None:
        await self._writing.acquire()
        try:
            if not self._dirty:
                return
            self._dirty = False
            await self._save(self._snapshot())
        except Exception as error:
            self._dirty = True
            self._log.error(
                "cannot write the client's state to {where}: {error}; trying again in {interval:.0f} s",
                where=self._persistence,
                error=error,
                interval=FLUSH_INTERVAL,
            )
        finally:
            self._writing.release()

    def _tick(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._flush())

    def _snapshot(self) -> client.ClientState:
        state = client.ClientState()
        state.CopyFrom(self._state)
        return state
