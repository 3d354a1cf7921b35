"""The way to the server: one gRPC channel, calls with a limit, and errors that say what to do."""

from __future__ import annotations

import os
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from fleetspeak.cli.admin import explain
from fleetspeak.cli.admin.failure import CommandFailed, NotReached
from fleetspeak.cli.admin.settings import Settings
from fleetspeak.config.addresses import is_loopback

if TYPE_CHECKING:
    import grpc

    from fleetspeak.rpc import admin, operator

MAX_REPLY = 1 << 30
"""Bytes, as of upstream's tool: lists of large fleets come in one reply."""

CONNECT_LIMIT = 10.0
"""Seconds to go on trying while nobody listens, if the call's limit is not nearer: the server may be starting."""

CONNECT_PAUSE = 0.2
NOTE_AFTER = 1.0
"""Seconds after which somebody at a terminal is told what is waited for."""

_MAX_TOKEN = 4096

Q = TypeVar("Q")
R = TypeVar("R")


class Link:
    """Use it as a context manager.  Nothing is connected, nor grpc imported, before the first call."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._channel: grpc.Channel | None = None

    @property
    def address(self) -> str:
        """Of the server."""
        return self._settings.admin_addr

    @property
    def timeout(self) -> float:
        """Seconds for each call."""
        return self._settings.timeout

    @cached_property
    def admin(self) -> admin.AdminStub:
        """Upstream's API.  Raises CommandFailed."""
        channel = self._connect()
        from fleetspeak import rpc

        return rpc.admin.AdminStub(channel)

    @cached_property
    def operator(self) -> operator.OperatorStub:
        """Ours, which Go servers do not have.  Raises CommandFailed."""
        channel = self._connect()
        from fleetspeak import rpc

        return rpc.operator.OperatorStub(channel)

    def call(self, name: str, method: Callable[..., R], request: Any, instead: str = "") -> R:
        """Make a call and wait for its reply.

        @param name: of the RPC, for errors.
        @param instead: what to do with a server that does not have it.
        @raise CommandFailed: it failed; the text says why, and what can be done.
        """
        import grpc

        begun = time.monotonic()
        noted = False
        while True:
            left = begun + self.timeout - time.monotonic()
            try:
                return method(request, timeout=max(left, 0.001), metadata=self.metadata)
            except grpc.RpcError as error:
                waited = time.monotonic() - begun
                if not explain.nobody_listens(error) or waited + CONNECT_PAUSE > min(self.timeout, CONNECT_LIMIT):
                    raise self.explained(name, error, instead) from None
            if waited > NOTE_AFTER and not noted and sys.stderr.isatty():
                noted = True
                print(f"waiting for a server at {self._settings.admin_addr} ...", file=sys.stderr)
            time.sleep(CONNECT_PAUSE)

    @contextmanager
    def perhaps_done(self, advice: str) -> Iterator[None]:
        """Add this advice to the error of a call that may have been carried out without an answer."""
        try:
            yield
        except NotReached as error:
            raise NotReached(str(error), *error.advice, advice) from None

    def stream(self, name: str, method: Callable[..., Any], request: Any, instead: str = "") -> Iterator[Any]:
        """Make a call whose replies come one by one.  None may take longer than the timeout; all together may.

        Raises CommandFailed.
        """
        import grpc

        replies = method(request, metadata=self.metadata)
        with Patience(self.timeout, replies.cancel) as patience:
            try:
                for reply in replies:
                    patience.hold()  # whoever reads may take any time
                    yield reply
                    patience.renew()
            except grpc.RpcError as error:
                raise self._interrupted(name, patience, error, instead) from None
            finally:
                replies.cancel()

    def upload(self, name: str, method: Callable[..., Any], requests: Iterator[Any], instead: str = "") -> Any:
        """Make a call with requests one by one.  Each must be on its way within the timeout, and then the reply come.

        Raises CommandFailed, and what `requests` raise.
        """
        import grpc

        failures: list[Exception] = []

        def watched() -> Iterator[Any]:
            try:
                for request in requests:
                    patience.renew()
                    yield request
            except Exception as error:
                failures.append(error)
                raise
            patience.renew()

        # No timeout of its own: how long it may take is a matter of its size.
        metadata = self.metadata
        with Patience(self.timeout) as patience:
            call = method.future(watched(), metadata=metadata)  # type: ignore[attr-defined]
            patience.when_lost = call.cancel
            if patience.lost:
                call.cancel()
            try:
                return call.result()
            except (grpc.RpcError, grpc.FutureCancelledError) as error:
                if failures:
                    raise failures[0] from None
                raise self._interrupted(name, patience, call if patience.lost else error, instead) from None
            finally:
                call.cancel()

    def has_operator(self) -> bool:
        """Whether the server has our API beside upstream's.  Raises NotReached."""
        import grpc

        from fleetspeak.pb import operator

        try:
            self.operator.GetEnrolment(operator.GetEnrolmentRequest(), timeout=self.timeout, metadata=self.metadata)
        except grpc.RpcError as error:
            if explain.code_of(error) in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
                raise self.explained("GetEnrolment", error) from None
            return explain.code_of(error) != "UNIMPLEMENTED"
        return True

    def _interrupted(self, name: str, patience: Patience, error: Any, instead: str) -> CommandFailed:
        if patience.lost:
            return NotReached(f"{name} RPC failed: nothing went on for {self.timeout:g} s", "-timeout 2m waits longer")
        return self.explained(name, error, instead)

    def explained(self, name: str, error: grpc.RpcError, instead: str = "") -> CommandFailed:
        """What to tell of a call that failed."""
        return explain.explain(name, error, self._settings, instead)

    @cached_property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with each call.  Raises CommandFailed."""
        if self._settings.token_file is None:
            return ()
        if not self._settings.tls and not is_here(self._settings.admin_addr):
            raise CommandFailed(
                f"the token is not sent to {self._settings.admin_addr} without encryption",
                "give -tls, or -tls_ca with the authorities that the server's certificate is by",
            )
        return (("authorization", f"Bearer {_read_token(self._settings.token_file)}"),)

    def _connect(self) -> grpc.Channel:
        if self._channel is None:
            address = self._settings.admin_addr
            if ":" not in address:
                raise CommandFailed(f"{address!r} is no address", "expected host:port, such as localhost:6061")
            _import_grpc()
            import grpc

            options: list[tuple[str, Any]] = [
                ("grpc.max_receive_message_length", MAX_REPLY),
                ("grpc.max_send_message_length", -1),
                ("grpc.initial_reconnect_backoff_ms", int(CONNECT_PAUSE * 1000)),
                ("grpc.max_reconnect_backoff_ms", 1000),
            ]
            if is_here(address):
                options.append(("grpc.enable_http_proxy", 0))
            if not self._settings.tls:
                self._channel = grpc.insecure_channel(address, options)
            else:
                if self._settings.tls_server_name:
                    options.append(("grpc.ssl_target_name_override", self._settings.tls_server_name))
                self._channel = grpc.secure_channel(address, self._credentials(), options)
        return self._channel

    def _credentials(self) -> grpc.ChannelCredentials:
        import grpc

        settings = self._settings
        return grpc.ssl_channel_credentials(
            root_certificates=_read_pem("tls_ca", settings.tls_ca, b"CERTIFICATE"),
            private_key=_read_pem("tls_key", settings.tls_key, b"PRIVATE KEY"),
            certificate_chain=_read_pem("tls_cert", settings.tls_cert, b"CERTIFICATE"),
        )

    def __enter__(self) -> Link:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._channel is not None:
            self._channel.close()


class Patience:
    """Gives a call up that makes no progress.  Use it as a context manager."""

    def __init__(self, seconds: float, when_lost: Callable[[], object] = lambda: None) -> None:
        self.lost = False
        self.when_lost = when_lost
        self._seconds = seconds
        self._since = time.monotonic()
        self._held = False
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="patience", daemon=True)

    def renew(self) -> None:
        """There is progress."""
        self._since = time.monotonic()
        self._held = False

    def hold(self) -> None:
        """Until `renew` it is not the server that is waited for."""
        self._held = True

    def _watch(self) -> None:
        while not self._ended.wait(self._seconds if self._held else self._left()):
            if not self._held and not self._left():
                self.lost = True
                self.when_lost()
                return

    def _left(self) -> float:
        return max(self._since + self._seconds - time.monotonic(), 0)

    def __enter__(self) -> Patience:
        self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._watcher.join()


def is_here(address: str) -> bool:
    """Whether a target is on this machine, as far as its text tells."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    return is_loopback(address.rpartition(":")[0].rpartition("/")[2].strip("[]"))


def _import_grpc() -> None:
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    # What it would write to stderr by itself comes as an error of the call, too.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        import grpc  # noqa: F401
    except ImportError as error:
        raise CommandFailed(
            f"fleetspeak-admin needs grpcio, which cannot be imported ({error})",
            "pip install 'fleetspeak-twisted[server]'",
        ) from None


def _read_token(path: Path) -> str:
    """The first line of the file.  Raises CommandFailed; its text never has what is in the file."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & stat.S_IROTH:
                raise CommandFailed(f"everybody on this machine can read the token in {path}", f"chmod 600 {path}")
            raw = file.read(_MAX_TOKEN + 1)
    except OSError as error:
        raise CommandFailed(f"unable to read the token in {path}: {error.strerror}") from None
    line = raw.split(b"\n", 1)[0].strip()
    if not line or len(line) > _MAX_TOKEN or not line.isascii() or not line.decode("ascii").isprintable():
        raise CommandFailed(f"there is no token in the first line of {path}")
    return line.decode("ascii")


def _read_pem(option: str, path: Path | None, kind: bytes) -> bytes | None:
    if path is None:
        return None
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise CommandFailed(f"-{option}: unable to read {path}: {error.strerror}") from None
    if b"-----BEGIN " not in raw or kind + b"-----" not in raw:
        raise CommandFailed(f"-{option}: {path} is no PEM file with a {kind.decode().lower()}")
    return raw
