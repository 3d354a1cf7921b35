"""Which notifier and listener a server has (server-core 1 and 7), and what the command line says about it."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.config.server import ServerSettings
from fleetspeak.errors import ConfigError
from fleetspeak.interfaces import IListener, INotifier, INotifierFactory
from fleetspeak.lookup import PLUG_INS
from fleetspeak.server.assembly import Server
from fleetspeak.server.dispatch import Dispatcher
from fleetspeak.server.notify.chosen import plugged_in, with_secret
from fleetspeak.server.notify.httplistener import HttpListener
from fleetspeak.server.notify.httpnotifier import HttpNotifier
from fleetspeak.server.notify.local import LocalListener, LocalNotifier
from fleetspeak.server.notify.pair import pair_for
from fleetspeak.store.memory import MemoryStore
from fleetspeak.wire import dsn


class PairTests(SynchronousTestCase):
    """The table of implementations."""

    def pair(self, **settings: object) -> tuple[INotifier, IListener]:
        return pair_for(ServerSettings(**settings), Dispatcher(), Clock())  # type: ignore[arg-type]

    def test_section_7_local(self) -> None:
        notifier, listener = self.pair()
        self.assertIsInstance(notifier, LocalNotifier)
        self.assertIsInstance(listener, LocalListener)
        self.assertEqual(listener.address, "local")

    def test_section_7_http(self) -> None:
        notifier, listener = self.pair(notification_address=("", 8081), notification_public_address="me:8081")
        self.assertIsInstance(notifier, HttpNotifier)
        self.assertIsInstance(listener, HttpListener)
        self.assertEqual(listener.address, "me:8081")

    def test_section_7_http_notifier_and_local_listener(self) -> None:
        notifier, listener = self.pair(notification_use_http=True)
        self.assertIsInstance(notifier, HttpNotifier)
        self.assertIsInstance(listener, LocalListener)
        self.assertEqual(listener.address, "local")

    def test_the_database_says_by_which_way_others_come(self) -> None:
        for text, host in (("u@tcp(10.0.0.9:3306)/fs", "10.0.0.9"), ("u@unix(/run/db.sock)/fs", "")):
            with mock.patch("fleetspeak.server.notify.pair.HttpListener") as made:
                self.pair(notification_address=("", 8081), mysql=dsn.parse(text))
            self.assertEqual(made.call_args.kwargs["database_host"], host)

    def test_section_1_one_without_the_other(self) -> None:
        """The construction fails, in upstream's words."""
        for pair in ((LocalNotifier(Dispatcher(), Clock()), None), (None, LocalListener())):
            with self.assertRaisesRegex(ConfigError, r"expected \(Listener, Notifier\) to be both set, got \("):
                Server(ServerSettings(), [], Clock(), store=MemoryStore(), notifications=pair)


class SecretTests(SynchronousTestCase):
    def test_it_comes_from_a_file(self) -> None:
        path = Path(self.mktemp())
        path.write_text("a secret of some length\n")
        path.chmod(0o600)
        settings = with_secret(ServerSettings(), str(path), accept_unsigned=True)
        self.assertEqual(settings.notification_secret, b"a secret of some length")
        self.assertTrue(settings.notification_accept_unsigned)

    def test_none(self) -> None:
        self.assertIsNone(with_secret(ServerSettings(), None, False).notification_secret)

    def test_what_cannot_be_meant(self) -> None:
        path = Path(self.mktemp())
        path.write_text("too short\n")
        path.chmod(0o600)
        with self.assertRaisesRegex(ConfigError, "--notification-secret-file: the secret in .* must have 16 to"):
            with_secret(ServerSettings(), str(path), False)
        with self.assertRaisesRegex(ConfigError, "says nothing without --notification-secret-file"):
            with_secret(ServerSettings(), None, True)


class _Factory:
    name = "pigeons"
    help = "By pigeons."

    def make(self, argument: str, secret: bytes | None, reactor: object) -> tuple[INotifier, IListener]:
        if argument != "loft:1":
            raise ConfigError(f"there is no loft at {argument}")
        return LocalNotifier(Dispatcher(), Clock()), LocalListener()


class PlugInTests(SynchronousTestCase):
    """``--notifier NAME:ARGUMENT``."""

    def setUp(self) -> None:
        self.patch(PLUG_INS, "_load", lambda kind: [(__name__, _Factory())] * (kind is INotifierFactory))

    def test_chosen_by_name(self) -> None:
        pair = plugged_in("pigeons:loft:1", ServerSettings(), Clock())
        assert pair is not None
        self.assertIsInstance(pair[1], LocalListener)
        self.assertIsNone(plugged_in(None, ServerSettings(), Clock()))

    def test_what_cannot_be_is_said(self) -> None:
        for option, settings, words in (
            ("smoke:x", ServerSettings(), "there is no smoke; there are: pigeons"),
            ("pigeons:y", ServerSettings(), "--notifier: there is no loft at y"),
            ("pigeons:loft:1", ServerSettings(notification_use_http=True), "choose one"),
            ("pigeons:loft:1", ServerSettings(notification_address=("", 1)), "choose one"),
        ):
            with self.assertRaises(ConfigError) as raised:
                plugged_in(option, settings, Clock())
            self.assertIn(words, str(raised.exception))
