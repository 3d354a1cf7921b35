"""The console scripts ``fleetspeak-server`` and ``fleetspeak-client``: the Go programs' command lines as they stand.

They run the services of ``twistd fleetspeak-server`` and ``twistd fleetspeak-client`` in the foreground, in this
process.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from twisted.python.usage import UsageError
from twisted.scripts import twistd

from fleetspeak.cli import glog
from fleetspeak.cli.goflags import FlagSet

_COMPONENTS = "/etc/fleetspeak-server/server.components.config"
_SERVICES = "/etc/fleetspeak-server/server.services.config"


def server_flags() -> FlagSet:
    """All that twistd's plug-in takes."""
    flags = FlagSet("fleetspeak-server", "the server of a Fleetspeak fleet, in the foreground")
    flags.string("components_config", None, f"components file; without -https_addr and -admin_addr: {_COMPONENTS}")
    flags.string("services_config", None, f"services file; without -https_addr and -admin_addr: {_SERVICES}")
    flags.string("database_path", None, "SQLite database, for a components file that names no other database")
    flags.string("https_addr", None, "where clients connect; instead of a components file")
    flags.string("admin_addr", None, "where operators' programs connect; instead of a components file")
    flags.string("store", None, "a plug-in in place of the database: NAME:ARGUMENT, such as mysql:FILE")
    flags.string("authorizer", None, "a plug-in that says which clients may make contact: NAME:ARGUMENT")
    flags.string("notifier", None, "how servers notify each other, in place of HTTP: NAME:ARGUMENT of a plug-in")
    flags.string("notification_secret_file", None, "file with what only servers know, to prove notifications by")
    flags.boolean("notification_accept_unsigned", "hear servers without the secret too, such as the Go server")
    flags.string("admin_access", None, "file that says who may do what on the admin port; by default everybody may")
    flags.boolean("admin_plaintext_anywhere", "let the admin port be in plaintext where other machines reach it, too")
    flags.string("broadcast_rate", None, "connected clients a second that are sent a new broadcast; 500 by default")
    flags.strings("file_store", "where the files of one service are: SERVICE=directory:PATH; may be repeated")
    flags.string("retry_max_delay", None, "most seconds between two tries of a message that its service does not take")
    flags.string("retry_max_age", None, "seconds after which such a message fails as expired; never by default")
    flags.string("retry_max_attempts", None, "tries after which it does; never by default")
    flags.boolean("share_port", "let other server processes on this machine listen for clients on the same port")
    flags.strings("keep", "for how long to keep what only grows: KIND=AGE, such as messages=7d; may be repeated")
    return flags


def server() -> None:
    """Entry point of ``fleetspeak-server``."""
    flags = server_flags()
    names = [flag.name for flag in flags.known()]
    glog.declare(flags)
    values = flags.parse(sys.argv[1:])
    if values["https_addr"] is None and values["admin_addr"] is None:
        values["components_config"] = values["components_config"] or _COMPONENTS
        values["services_config"] = values["services_config"] or _SERVICES
    else:
        _tell_the_person(values)
    run("fleetspeak-server", values, as_options(values, names))


def client_flags() -> FlagSet:
    """All that twistd's plug-in takes."""
    flags = FlagSet("fleetspeak-client", "the client of a Fleetspeak fleet, in the foreground")
    flags.string("config", None, "client configuration file")
    flags.boolean("std_forward", "attach daemon services to the client's own stdin, stdout and stderr")
    flags.boolean("no_clone_check", "do not look for signs that the state is a copy of another client's")
    flags.boolean("insecure_config", "use configuration and state that others than root and this user may have written")
    flags.string("profile_dir", "/tmp", "where stack traces and heap profiles go")  # noqa: S108  (the Go default)
    flags.string("trusted_cert_file", None, "PEM file of the servers' authority; instead of -config")
    flags.strings("server", "host:port of a server; may be repeated; instead of -config")
    flags.string("config_path", None, "folder of state and services; instead of -config")
    flags.strings("deployment_key_file", "PEM public key that must have signed the services; may be repeated")
    flags.string("stdin_time_limit", None, "seconds that a command of a Stdin service may take; 3600 by default")
    flags.string(
        "stdin_output_limit", None, "bytes that such a command may write; nearly 15 MiB by default, and at most"
    )
    flags.string("spool_limit", None, "bytes on the disk for messages that no server has yet; 256MiB by default")
    flags.boolean("no_spool", "keep messages in memory only")
    flags.string("dialer", None, "how to connect: proxy (the default), direct, or the name of a plug-in")
    return flags


def client() -> None:
    """Entry point of ``fleetspeak-client``."""
    flags = client_flags()
    names = [flag.name for flag in flags.known()]
    glog.declare(flags)
    values = flags.parse(sys.argv[1:])
    if values["config"] is None:
        _tell_the_person(values)
    run("fleetspeak-client", values, as_options(values, names))


def _tell_the_person(values: dict[str, Any]) -> None:
    """Without configuration files there is somebody at a terminal, not a unit of the Go programs."""
    values["logtostderr"] = values["logtostderr"] or not values["log_dir"]


def as_options(values: dict[str, Any], names: Iterable[str]) -> list[str]:
    """The same flags as the twistd plug-ins take them."""
    options = []
    for name in names:
        value, option = values[name], "--" + name.replace("_", "-")
        if value is True:
            options.append(option)
        elif isinstance(value, list):
            options.extend(f"{option}={one}" for one in value)
        elif value is not None and value is not False:
            options.append(f"{option}={value}")
    return options


def run(program: str, values: dict[str, Any], options: list[str]) -> None:
    """Run a twistd plug-in in this process until it ends.

    The exit status is the plug-in's: 1 with one line on stderr if it cannot start.
    """
    config = twistd.ServerOptions()  # type: ignore[attr-defined, no-untyped-call]
    try:
        config.parseOptions(["--nodaemon", "--pidfile=", "--no_save", "--originalname", program, *options])  # type: ignore[no-untyped-call]
    except UsageError as error:
        sys.exit(f"{program}: {error}")
    config["logger"] = lambda: glog.observer(program, values)
    twistd.runApp(config)  # type: ignore[no-untyped-call]
