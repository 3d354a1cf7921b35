"""``twistd fleetspeak-client``: its options, and the service it runs."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from twisted.application.service import IService
from twisted.python import usage

from fleetspeak.client.assembly import build_client
from fleetspeak.client.service import END_LIMIT
from fleetspeak.client.watchdog import Watchdog
from fleetspeak.config.client import ClientSettings, read_client_config, small_set_up
from fleetspeak.config.hardcoded import MODULE, NOTHING, Hardcoded
from fleetspeak.config.hardcoded import load as load_hardcoded
from fleetspeak.config.sizes import spool_limit
from fleetspeak.config.trust import Trust
from fleetspeak.errors import ConfigError
from fleetspeak.program.ending import ProcessEnd
from fleetspeak.program.hangup import on_hangup
from fleetspeak.program.systemd import Notifier

_Number = TypeVar("_Number", int, float)


class Options(usage.Options):
    """Either the configuration file of the Go client, or the small set-up that needs none."""

    synopsis = "[--config FILE | --trusted-cert-file FILE --server HOST:PORT]"
    longdesc = (
        "Keeps contact with a Fleetspeak server and runs the services of this machine. Needs either --config, a "
        "text-format fleetspeak.client.generic.Config, or --trusted-cert-file and --server."
    )
    optParameters = [  # noqa: N815
        ["config", None, None, "Configuration file, a text-format fleetspeak.client.generic.Config."],
        ["trusted-cert-file", None, None, "PEM file of the authority that issued the servers' certificates."],
        [
            "config-path",
            None,
            None,
            "Folder of the client's state, communicator.txt, services/ and textservices/; made if it is missing. "
            "Without --config the default is ./fleetspeak-client.",
        ],
        [
            "spool-limit",
            None,
            None,
            "Bytes on the disk for messages that no server has yet, for instance 64MiB; 256MiB by default.",
        ],
        ["dialer", None, None, "How to connect: proxy (the default), direct, or the name of a plug-in."],
        ["stdin-time-limit", None, None, "Seconds that a command of a Stdin service may take; 3600 by default."],
        [
            "stdin-output-limit",
            None,
            None,
            "Bytes that such a command may write; nearly 15 MiB by default, and at most.",
        ],
        ["profile-dir", None, "/tmp", "Where stack traces and heap profiles go."],  # noqa: S108  (the Go default)
    ]
    optFlags = [  # noqa: N815
        ["insecure-config", None, "Use configuration and state that others than root and this user may have written."],
        ["no-clone-check", None, "Do not look for signs that the state is a copy of another client's."],
        ["no-spool", None, "Keep messages in memory only: those that no server has are lost with the client."],
        ["std-forward", None, "Attach daemon services to the client's own stdin, stdout and stderr, for testing."],
    ]

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self["server"] = []
        self["deployment-key-file"] = []

    def opt_server(self, address: str) -> None:
        """Server to connect to, as host:port; give it once for each, in order of preference."""
        self["server"].append(address)

    def opt_deployment_key_file(self, path: str) -> None:
        """PEM file of a public key; when given, one such key must have signed each file in services/."""
        self["deployment-key-file"].append(path)


def settings_of(options: Options, folder: Path = Path(), hardcoded: Hardcoded = NOTHING) -> ClientSettings:
    """Read what the options name.  Raises ConfigError.

    @param folder: what their paths are relative to.
    """
    return replace(
        _read(options, folder, hardcoded),
        dialer=options["dialer"] or "",
        stdin_time_limit=_number(options, "stdin-time-limit", float),
        stdin_output_limit=_number(options, "stdin-output-limit", int),
        clone_check=not options["no-clone-check"],
        spool_limit=spool_limit(options["spool-limit"], off=bool(options["no-spool"])),
    )


def _number(options: Options, name: str, kind: Callable[[str], _Number]) -> _Number | None:
    """The value of such an option, if it was given.  Raises ConfigError."""
    text = options[name]
    try:
        return None if text is None else kind(text)
    except ValueError:
        raise ConfigError(f"{name} is {text!r}, expected a number") from None


def _read(options: Options, folder: Path, hardcoded: Hardcoded) -> ClientSettings:
    keys = [folder / path for path in options["deployment-key-file"]]
    trust = Trust(_running_user(options), insecure=bool(options["insecure-config"]))
    small = [name for name in ("trusted-cert-file", "server", "config-path") if options[name]]
    if options["config"] is not None:
        if small:
            raise ConfigError(f"--config goes without --{small[0]}: the file says that")
        if not options["config"]:
            raise ConfigError('unable to read configuration file "": expected the path of a file')
        return read_client_config(folder / options["config"], keys, trust=trust, hardcoded=hardcoded)
    if hardcoded.is_whole and not small:
        return read_client_config(None, keys, trust=trust, hardcoded=hardcoded)
    certs = folder / options["trusted-cert-file"] if options["trusted-cert-file"] else None
    if not ((certs or hardcoded.config.trusted_certs) and (options["server"] or hardcoded.config.server)):
        raise ConfigError("give --config FILE, or both --trusted-cert-file FILE and --server HOST:PORT")
    return small_set_up(
        trusted_cert_file=certs,
        servers=options["server"],
        config_path=folder / (options["config-path"] or "fleetspeak-client"),
        deployment_key_files=keys,
        trust=trust,
        hardcoded=hardcoded,
    )


def _running_user(options: Options) -> int | None:
    """The one that twistd is going to become; None for who it is already."""
    uid = options.parent["uid"] if options.parent else None
    return uid if isinstance(uid, int) else None


def overridden(options: Options, hardcoded: Hardcoded) -> Options:
    """The options with the hardcoded ones over them.  Raises ConfigError if there is no such option."""
    for name, value in hardcoded.options.items():
        where = f"{MODULE}.OPTIONS: {name}"
        if name not in options:
            near = difflib.get_close_matches(name, list(options), 1)
            raise ConfigError(f"{where}: there is no such option" + (f"; did you mean {near[0]}?" if near else ""))
        is_list = isinstance(options[name], list)
        if is_list != isinstance(value, list):
            raise ConfigError(f"{where}: expected {'a list' if is_list else 'one value'}")
        options[name] = value
    return options


def makeService(options: Options) -> IService:  # noqa: N802
    """The client as twistd runs it.  Raises SystemExit, with one line and status 1, if it cannot be."""
    from twisted.internet import reactor

    try:
        hardcoded = load_hardcoded()
        overridden(options, hardcoded)
        settings = settings_of(options, hardcoded=hardcoded)
        return build_client(
            settings,
            reactor,
            ProcessEnd(reactor, limit=END_LIMIT, profile_dir=Path(options["profile-dir"])),
            std_forward=bool(options["std-forward"]),
            watchdog=Watchdog.of(settings, reactor),
            notifier=Notifier.from_environment(),
            # twistd may change its working directory before a reload.
            read_settings=partial(settings_of, options, Path.cwd(), hardcoded),
            take_hangup=partial(on_hangup, reactor),
        )
    except ConfigError as error:
        raise SystemExit(f"fleetspeak-client: Stopped due to unrecoverable error: {error}") from None
