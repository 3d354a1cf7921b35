"""``twistd fleetspeak-server``: the options, and the service made of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from twisted.application.service import IService
from twisted.python import usage

from fleetspeak.config.adminaccess import with_access
from fleetspeak.config.retries import DEFAULT_MAX_DELAY, retry_limits
from fleetspeak.config.server import DEFAULT_BROADCAST_RATE, ServerSettings, read_server_config, small_set_up
from fleetspeak.core.retention import parse_keep
from fleetspeak.errors import ConfigError
from fleetspeak.interfaces import IFileStore, IFileStoreFactory, IServerServiceFactory, IServerStats
from fleetspeak.lookup import PLUG_INS, made_of
from fleetspeak.program.systemd import Notifier
from fleetspeak.records import RetryLimits
from fleetspeak.server.assembly import make_server
from fleetspeak.server.notify.chosen import MIN_SECRET, plugged_in, with_secret
from fleetspeak.store.sql.workers import SWITCH_INTERVAL

DEFAULT_HTTPS_ADDRESS = ":4443"
DEFAULT_ADMIN_ADDRESS = "localhost:6061"
DEFAULT_DATABASE = "fleetspeak.sqlite"


class Options(usage.Options):
    """The command line.  Names may be written with ``_`` in place of ``-``, as upstream does."""

    synopsis = "[options]"
    optParameters = [  # noqa: N815
        ["components-config", None, None, "Components file, as of the Go server. Needs --services-config."],
        ["services-config", None, None, "Services file, as of the Go server."],
        ["database-path", None, None, f"SQLite database. [default: {DEFAULT_DATABASE} without a components file]"],
        [
            "https-addr",
            None,
            None,
            f"Where clients connect, without a components file. [default: {DEFAULT_HTTPS_ADDRESS}]",
        ],
        [
            "admin-addr",
            None,
            None,
            "Where operators' programs connect, without a components file; empty for nowhere. "
            f"[default: {DEFAULT_ADMIN_ADDRESS}]",
        ],
        [
            "admin-access",
            None,
            None,
            "File that says who may do what on the admin port; by default everybody may.",
        ],
        ["store", None, None, "A plug-in in place of the database: NAME:ARGUMENT, such as mysql:FILE."],
        ["authorizer", None, None, "A plug-in that says which clients may make contact: NAME:ARGUMENT."],
        [
            "broadcast-rate",
            None,
            DEFAULT_BROADCAST_RATE,
            "Connected clients a second that are sent a new broadcast.",
            float,
        ],
        ["notifier", None, None, "How servers notify each other, in place of HTTP: NAME:ARGUMENT of a plug-in."],
        ["notification-secret-file", None, None, "File with what only servers know, to prove notifications by."],
        [
            "retry-max-delay",
            None,
            DEFAULT_MAX_DELAY,
            "Most seconds between two tries of a message that its service does not take.",
            float,
        ],
        ["retry-max-age", None, None, "Seconds after which such a message fails as expired. [default: never]", float],
        ["retry-max-attempts", None, None, "Tries after which it does. [default: never]", int],
    ]
    optFlags = [  # noqa: N815
        ["share-port", None, "Let other server processes on this machine listen for clients on the same port."],
        ["admin-plaintext-anywhere", None, "Let the admin port be in plaintext where other machines reach it, too."],
        ["notification-accept-unsigned", None, "Hear servers without the secret too, such as the Go server."],
    ]
    longdesc = (
        "The server of a Fleetspeak fleet. Without files it makes a certificate authority and a server certificate "
        "beside its database at the first start, and says how to start a client. With --components-config and "
        "--services-config it takes the files of the Go server; --database-path then names the SQLite database."
    )

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.file_stores: dict[str, tuple[str, str]] = {}
        """Name and argument of a plug-in, by service."""
        self.keep: list[str] = []

    def opt_file_store(self, value: str) -> None:
        """Where the files of one service are, if not in the database: SERVICE=directory:PATH. May be repeated."""
        service, _, store = value.partition("=")
        name, colon, argument = store.partition(":")
        if not service or not colon:
            raise usage.UsageError(
                f"--file-store takes SERVICE=NAME:ARGUMENT, such as updates=directory:/srv/updates, not {value}"
            )
        if service in self.file_stores:
            raise usage.UsageError(f"--file-store is given twice for service {service}")
        self.file_stores[service] = name, argument

    def opt_keep(self, value: str) -> None:
        """For how long to keep what only grows: KIND=AGE, such as messages=7d. Kinds: messages (that have a result),
        contacts, resource-usage, broadcasts, clients, pending-messages, audit. May be repeated. [default: for ever]"""
        try:
            parse_keep([*self.keep, value])
        except ConfigError as error:
            raise usage.UsageError(f"--keep {error}") from None
        self.keep.append(value)

    def parseOptions(self, options: Sequence[str] | None = None) -> None:  # noqa: N802
        """Accept ``--components_config`` for ``--components-config``."""
        super().parseOptions(None if options is None else [self._with_dashes(text) for text in options])  # type: ignore[no-untyped-call]

    def postOptions(self) -> None:  # noqa: N802
        """Refuse what does not go together."""
        if self["store"] and self["database-path"]:
            raise usage.UsageError("--store and --database-path name two databases; give only one of them")
        if not self["broadcast-rate"] > 0:
            raise usage.UsageError("--broadcast-rate must be more than 0 clients a second")
        try:
            settings_of_retries(self)
        except ConfigError as error:
            raise usage.UsageError(str(error)) from None
        if self["components-config"]:
            if not self["services-config"]:
                raise usage.UsageError("--components-config needs --services-config too (the file may be empty)")
            for name in ("https-addr", "admin-addr"):
                if self[name] is not None:
                    raise usage.UsageError(f"--{name} is for starting without --components-config, which names it")

    def _with_dashes(self, text: str) -> str:
        if not text.startswith("--"):
            return text
        name, equals, value = text.partition("=")
        dashed = name.replace("_", "-")
        return dashed + equals + value if dashed[2:] in self.synonyms else text


def settings_of_retries(options: Options) -> RetryLimits:
    """How long messages for services are tried.  Raises ConfigError."""
    return retry_limits(options["retry-max-delay"], options["retry-max-age"], options["retry-max-attempts"])


def settings_of(options: Options) -> ServerSettings:
    """What the options and the files they name ask for.  Raises ConfigError."""
    database = options["database-path"]
    services = options["services-config"]
    store, authorizer = options["store"] or "", options["authorizer"] or ""
    if options["components-config"]:
        return read_server_config(
            Path(options["components-config"]),
            Path(services),
            None if database is None else Path(database),
            store,
            authorizer,
        )
    https, admin = options["https-addr"], options["admin-addr"]
    return small_set_up(
        DEFAULT_HTTPS_ADDRESS if https is None else https,
        DEFAULT_ADMIN_ADDRESS if admin is None else admin,
        Path(database or DEFAULT_DATABASE),
        None if services is None else Path(services),
        store=store,
        authorizer=authorizer,
    )


def file_stores_of(options: Options, reactor: Any) -> dict[str, IFileStore]:
    """The stores of files that the options name, by service.  Raises ConfigError."""
    return {
        service: made_of(f"--file-store {service}", IFileStoreFactory, IFileStore, f"{name}:{argument}", reactor)
        for service, (name, argument) in options.file_stores.items()
    }


def collectors() -> list[IServerStats]:
    """The statistics plug-ins that are installed."""
    return PLUG_INS.all(IServerStats)


def makeService(options: Options) -> IService:  # noqa: N802
    """Build the server.  What is wrong with the configuration ends the process with one line and status 1."""
    from twisted.internet import reactor

    sys.setswitchinterval(SWITCH_INTERVAL)
    try:
        # Before the files are read: it makes known the types of the plug-ins' configurations.
        factories = PLUG_INS.all(IServerServiceFactory)
        settings = replace(
            settings_of(options),
            broadcast_rate=options["broadcast-rate"],
            share_port=bool(options["share-port"]),
            retry_limits=settings_of_retries(options),
            keep=parse_keep(options.keep),
        )
        settings = with_access(settings, options["admin-access"], bool(options["admin-plaintext-anywhere"]))
        settings = with_secret(
            settings,
            options["notification-secret-file"],
            bool(options["notification-accept-unsigned"]),
            at_least=MIN_SECRET if options["notifier"] is None else 1,
        )
        notifications = plugged_in(options["notifier"], settings, reactor)
        files = file_stores_of(options, reactor)
        told = Notifier.from_environment()
        return make_server(settings, factories, reactor, told, files, collectors(), notifications)
    except ConfigError as error:
        raise SystemExit(f"fleetspeak-server: {error}") from None
