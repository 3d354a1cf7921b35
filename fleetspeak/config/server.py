"""The server's settings: read from its two configuration files, or made of a few options, and checked."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.message import Message

from fleetspeak.config import owncertificate, textproto
from fleetspeak.config.addresses import parse_host_port, parse_listen, show
from fleetspeak.config.adminaccess import AdminAccess
from fleetspeak.errors import ConfigError
from fleetspeak.pb import components, server, services
from fleetspeak.records import NO_LIMITS, Prunable, RetryLimits
from fleetspeak.wire import dsn
from fleetspeak.wire.dsn import DataSource

DEFAULT_BROADCAST_POLL_TIME = 60.0
"""Seconds between two looks for new broadcasts, if the services file does not say."""

DEFAULT_BROADCAST_RATE = 500.0
"""Connected clients a second that are sent a new broadcast."""

MAX_PUBLIC_ADDRESS = 128
"""Characters that upstream's column has room for."""

_CLEARTEXT_MODES = ("cleartext_header_config", "cleartext_header_checksum_config", "cleartext_xfcc_config")

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """All that a server needs to know to run; made by `read_server_config`, or by `small_set_up`."""

    database_path: Path | None = None
    """Of the SQLite database, unless there is `mysql` or `store`."""
    mysql: DataSource | None = None
    store: str = ""
    """``NAME:ARGUMENT`` of a plug-in (`fleetspeak.interfaces.IStoreFactory`), in place of both."""
    https_address: tuple[str, int] | None = None
    """Host (empty: all) and port of the frontend; None: there is none."""
    share_port: bool = False
    """Other server processes on this machine may listen there, too."""
    certificate_chain: str = ""
    """PEM, leaf first; for `fleetspeak.security.tls.server_options`, like `key`."""
    key: str = field(default="", repr=False)
    """PEM."""
    streaming: bool = True
    """Serve /streaming-message."""
    file_authorization: bool = True
    """Only clients that the authorizer admits read files; otherwise everyone who can connect does."""
    admin_address: tuple[str, int] | None = None
    admin_access: AdminAccess | None = None
    """Who may do what on the admin port; None: everybody everything."""
    health_address: tuple[str, int] | None = None
    stats_address: tuple[str, int] | None = None
    """Where Prometheus finds the metrics; None: nowhere, and nothing is counted for it."""
    required_label: str = ""
    """Non-empty: only clients that claim this label may make contact."""
    authorizer: str = ""
    """``NAME:ARGUMENT`` of a plug-in (`fleetspeak.interfaces.IAuthorizerFactory`), in place of that."""
    services: Sequence[services.ServiceConfig] = ()
    broadcast_poll_time: float = DEFAULT_BROADCAST_POLL_TIME
    """Seconds."""
    broadcast_rate: float = DEFAULT_BROADCAST_RATE
    """Connected clients a second that are sent a new broadcast."""
    retry_limits: RetryLimits = NO_LIMITS
    """How long messages for services are tried that do not take them."""
    notification_address: tuple[str, int] | None = None
    """Host (empty: all) and port where other servers notify this one; None: nowhere."""
    notification_public_address: str = ""
    """``host:port`` that they are told instead of what can be found out."""
    notification_use_http: bool = False
    """Notify others by HTTP although nobody can notify this one."""
    notification_secret: bytes | None = field(default=None, repr=False)
    """Known to all servers; who has it is heard."""
    notification_accept_unsigned: bool = False
    """With a secret: servers that know of none, such as upstream's, are heard too."""
    keep: Mapping[Prunable, int] = field(default_factory=dict)
    """For how many seconds rows are kept, by kind; others are never pruned."""
    warnings: tuple[str, ...] = ()
    """What was odd but could be passed over; to be logged at start."""
    announcement: str = ""
    """What to tell the person who starts the server; of the small set-up."""


def read_server_config(
    components_path: Path, services_path: Path, database_path: Path | None = None, store: str = "", authorizer: str = ""
) -> ServerSettings:
    """Read and check the components file and the services file of the Go server.

    The types of the services' configurations must be known by now: import the modules of their factories first.

    @param database_path: the SQLite database, which the components file has no field for.
    @param store: a plug-in in place of a database.
    @param authorizer: a plug-in in place of a required_label.
    @raise ConfigError: the server cannot start with them; the text says where it is wrong and what was expected.
    """
    configured, poll_time = read_services(services_path)
    parsed = _read(components_path, "component config", components.Config)
    try:
        _check(parsed)
        _refuse_what_is_to_come(parsed)
        if authorizer and parsed.required_label:
            raise ConfigError(
                "required_label and --authorizer both say which clients may make contact; give only one of them"
            )
        return ServerSettings(
            **_database(parsed, database_path, store),
            https_address=_listen("https_config", parsed.https_config.listen_address),
            certificate_chain=parsed.https_config.certificates,
            key=parsed.https_config.key,
            streaming=not parsed.https_config.disable_streaming,
            file_authorization=parsed.https_config.enable_file_server_authorization,
            admin_address=_listen("admin_config", parsed.admin_config.listen_address),
            health_address=_listen("health_check_config", parsed.health_check_config.listen_address),
            stats_address=_listen("stats_config", parsed.stats_config.address, "address"),
            required_label=parsed.required_label,
            authorizer=authorizer,
            services=configured,
            broadcast_poll_time=poll_time,
            **_notifications(parsed),
            warnings=_warnings(parsed, components_path),
        )
    except ConfigError as error:
        raise ConfigError(f"Failed to load components: {components_path}: {error}") from None


def read_database(components_path: Path | None, database_path: Path | None = None, store: str = "") -> ServerSettings:
    """Settings of nothing but the database, for programs that work on it beside servers.

    @param components_path: the components file, if there is one.
    @param database_path: the SQLite database.
    @param store: a plug-in in place of both.
    @raise ConfigError: none is named, or more than one, or the file cannot be read.
    """
    parsed = components.Config()
    if components_path is not None:
        parsed = _read(components_path, "component config", components.Config)
    return ServerSettings(**_database(parsed, database_path, store))


def small_set_up(
    https_addr: str,
    admin_addr: str,
    database_path: Path,
    services_path: Path | None = None,
    now: float | None = None,
    store: str = "",
    authorizer: str = "",
) -> ServerSettings:
    """Settings for a server without configuration files.

    An authority and a server certificate are made beside the database at the first start and used ever after, which
    blocks for a few milliseconds.  The result's `announcement` says where they are and how to start a client.

    @param https_addr: where clients connect, such as ``:4443``.
    @param admin_addr: where operators' services connect; empty for nowhere.
    @param services_path: a services file, if there are services beside the built-in ones.
    @param now: seconds since the epoch; the clock's if None.
    @param store: a plug-in in place of the database, beside which there would be the certificates.
    @param authorizer: a plug-in in place of letting everyone in.
    @raise ConfigError: an option or a file cannot be used.
    """
    database = database_path.absolute()
    if not database.parent.is_dir():
        raise ConfigError(f'the directory of the database, "{database.parent}", does not exist; make it first')
    host, port = parse_listen(https_addr)
    admin_address = parse_listen(admin_addr) if admin_addr else None
    configured, poll_time = read_services(services_path) if services_path else ((), DEFAULT_BROADCAST_POLL_TIME)
    paths = owncertificate.Paths.beside(database)
    hosts = owncertificate.own_hosts(host)
    certificate = owncertificate.read_or_make(paths, hosts, time.time() if now is None else now)
    return ServerSettings(
        database_path=None if store else database,
        store=store,
        authorizer=authorizer,
        https_address=(host, port),
        certificate_chain=certificate.pem,
        key=certificate.key_pem,
        admin_address=admin_address,
        services=configured,
        broadcast_poll_time=poll_time,
        announcement=_announcement(paths, show(hosts[0], port) if port else f"{hosts[0]}:PORT"),
    )


def _announcement(paths: owncertificate.Paths, address: str) -> str:
    return (
        f"Clients trust the authority in {paths.ca}; copy that file to them. "
        f"Its key, {paths.ca_key}, and the server's, {paths.server_key}, stay here.\n"
        "Start a client with:\n"
        f"  fleetspeak-client --trusted-cert-file {shlex.quote(str(paths.ca))} "
        f"--server {address} --config-path ./fleetspeak-client"
    )


def read_services(path: Path) -> tuple[tuple[services.ServiceConfig, ...], float]:
    """The services in a services file, and the seconds between looks for new broadcasts.  Raises ConfigError."""
    parsed = _read(path, "services configuration", server.ServerConfig)
    poll_time = DEFAULT_BROADCAST_POLL_TIME
    if parsed.HasField("broadcast_poll_time"):
        poll_time = parsed.broadcast_poll_time.ToNanoseconds() / 1e9
        if poll_time <= 0:
            raise ConfigError(f"{path}: broadcast_poll_time must be more than 0 seconds")
    return tuple(parsed.services), poll_time


def _read(path: Path, what: str, message_class: type[M]) -> M:
    try:
        return textproto.read(path, message_class)
    except OSError as error:
        raise ConfigError(f"Unable to read {what} file [{path}]: {error.strerror}") from None
    except ConfigError as error:
        raise ConfigError(f"Unable to parse {what} file [{path}]: {error}") from None


def _check(config: components.Config) -> None:
    """The checks of the Go server, in its order and words."""
    if config.HasField("https_config"):
        https = config.https_config
        if https.frontend_config.WhichOneof("frontend_mode") in _CLEARTEXT_MODES:
            if not https.listen_address:
                raise ConfigError("http_config requires listen_address")
        elif not (https.listen_address and https.certificates and https.key):
            raise ConfigError("https_config requires listen_address, certificates and key")
    if config.HasField("admin_config") and not config.admin_config.listen_address:
        raise ConfigError("admin_config.listen_address can't be empty")


def _refuse_what_is_to_come(config: components.Config) -> None:
    """What a server must not silently do without, because its clients or its siblings count on it."""
    mode = config.https_config.frontend_config.WhichOneof("frontend_mode")
    if mode not in (None, "mtls_config"):
        raise _not_yet(f"https_config.frontend_config.{mode}", "let clients connect directly and use mtls_config {}")
    if config.proxy_protocol:
        raise _not_yet("proxy_protocol", "let clients connect directly")
    if config.HasField("spanner_config"):
        raise _not_yet("spanner_config", "use mysql_data_source_name, or start with --database-path FILE")


def _not_yet(name: str, instead: str) -> ConfigError:
    return ConfigError(f"{name} is not in this version yet; remove it and {instead}")


def _database(config: components.Config, database_path: Path | None, store: str) -> dict[str, Any]:
    """The setting that says where the database is."""
    if store:
        if config.mysql_data_source_name or database_path is not None:
            other = "--database-path" if database_path is not None else "mysql_data_source_name"
            raise ConfigError(f"{other} and --store name two databases; give only one of them")
        return {"store": store}
    if config.mysql_data_source_name:
        if database_path is not None:
            raise ConfigError("mysql_data_source_name and --database-path name two databases; give only one of them")
        try:
            return {"mysql": dsn.parse(config.mysql_data_source_name)}
        except ConfigError as error:
            raise ConfigError(f"failed to open database: mysql_data_source_name: {error}") from None
    if database_path is None:
        raise ConfigError(
            "mysql_data_source_name OR spanner_database_name is required; or start with --database-path FILE, as this "
            "version has no Spanner"
        )
    return {"database_path": database_path.absolute()}


def _notifications(config: components.Config) -> dict[str, Any]:
    """The settings of how servers notify each other."""
    public = config.notification_public_address
    try:
        if public:
            parse_host_port(public)
    except ConfigError as error:
        raise ConfigError(f"notification_public_address: {error}") from None
    if len(public) > MAX_PUBLIC_ADDRESS:
        raise ConfigError(f"notification_public_address has more than {MAX_PUBLIC_ADDRESS} characters")
    listen = config.notification_listen_address
    try:
        address = parse_listen(listen) if listen else None
    except ConfigError as error:
        raise ConfigError(f"notification_listen_address: {error}") from None
    return {
        "notification_address": address,
        "notification_public_address": public,
        "notification_use_http": config.notification_use_http_notifier,
    }


def _listen(name: str, text: str, field: str = "listen_address") -> tuple[str, int] | None:
    if not text:
        return None
    try:
        return parse_listen(text)
    except ConfigError as error:
        raise ConfigError(f"{name}.{field}: {error}") from None


def _warnings(config: components.Config, path: Path) -> tuple[str, ...]:
    """What the server can well do without."""
    warnings = []
    if config.notification_public_address and not config.notification_listen_address:
        warnings.append(f"{path}: notification_public_address says nothing without notification_listen_address")
    if not config.HasField("https_config") and not config.HasField("admin_config"):
        warnings.append(f"{path}: there is neither https_config nor admin_config, so nobody can reach this server")
    return tuple(warnings)
