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


def server() -> None:
    """Entry point of ``fleetspeak-server``."""
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
    flags.strings("keep", "for how long to keep what only grows: KIND=AGE, such as messages=7d; may be repeated")
    glog.declare(flags)
    values = flags.parse(sys.argv[1:])
    if values["https_addr"] is None and values["admin_addr"] is None:
        values["components_config"] = values["components_config"] or _COMPONENTS
        values["services_config"] = values["services_config"] or _SERVICES
    else:
        _tell_the_person(values)
    names = (
        "components_config",
        "services_config",
        "database_path",
        "https_addr",
        "admin_addr",
        "store",
        "authorizer",
        "notifier",
        "notification_secret_file",
        "notification_accept_unsigned",
        "keep",
    )
    run("fleetspeak-server", values, as_options(values, names))


def client() -> None:
    """Entry point of ``fleetspeak-client``."""
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
    glog.declare(flags)
    values = flags.parse(sys.argv[1:])
    if values["config"] is None:
        _tell_the_person(values)
    names = (
        "config",
        "std_forward",
        "profile_dir",
        "trusted_cert_file",
        "server",
        "config_path",
        "deployment_key_file",
        "insecure_config",
        "no_clone_check",
        "dialer",
        "stdin_time_limit",
        "stdin_output_limit",
        "spool_limit",
        "no_spool",
    )
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
