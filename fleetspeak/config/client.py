"""The client's settings: read from its configuration file or from the small set-up's options, and checked."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import Certificate

from fleetspeak.config import textproto
from fleetspeak.config.addresses import parse_host_port
from fleetspeak.config.hardcoded import MODULE, NOTHING, Hardcoded
from fleetspeak.config.sizes import DEFAULT_SPOOL_LIMIT
from fleetspeak.config.trust import Trust, Unsafe
from fleetspeak.core.proxies import parse_proxy
from fleetspeak.errors import ConfigError
from fleetspeak.pb import client, client_config, system
from fleetspeak.security.certificates import load_readable_certificates

_DEFAULT_SECONDS = {
    "max_poll_delay_seconds": 300,
    "max_buffer_delay_seconds": 5,
    "min_failure_delay_seconds": 300,
    "failure_suicide_time_seconds": 7 * 24 * 3600,
}
"""What the Go client uses where communicator.txt has 0."""

_MAX_PEM = 1024 * 1024
"""Bytes of a file with keys or certificates that are read."""

_STATE_FILE = "state"
"""Name of the state file in the small set-up's folder."""


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """All that a client needs to know to run; made by `read_client_config` or by the small set-up's options."""

    trusted_certs: Sequence[Certificate]
    servers: Sequence[tuple[str, int]]
    """Host and port of each, in order of preference."""
    labels: tuple[str, ...]
    """Architecture, operating system, then the configured ones."""
    streaming: bool
    configuration_directory: Path | None
    """Holds communicator.txt, services/ and textservices/."""
    state_file: Path | None
    """None: a new identity at every start."""
    communicator: client.CommunicatorConfig
    """From communicator.txt, with every default filled in."""
    proxy: str = ""
    client_certificate_header: str = ""
    server_name: str = ""
    dialer: str = ""
    """Name of the `IDialer` that makes the connections; empty for the default one."""
    deployment_keys: Sequence[RSAPublicKey] = ()
    """When there are any, a signed service configuration must verify with one of them."""
    fixed_services: Sequence[system.ClientServiceConfig] = ()
    """Installed before those of the configuration directory."""
    revoked_serials: frozenset[bytes] = frozenset()
    """Of certificates that are never to be trusted, beside those of the state; big-endian, without leading zeros."""
    stdin_time_limit: float | None = None
    """Seconds that a command of a Stdin service may take; None: the default."""
    stdin_output_limit: int | None = None
    """Bytes that it may write; None: the default."""
    clone_check: bool = True
    """Whether to look for signs that the state is a copy."""
    trust: Trust = field(default_factory=Trust)
    """By which files are opened."""
    spool_limit: int | None = DEFAULT_SPOOL_LIMIT
    """Bytes on the disk for messages that the server does not have yet; None: they are kept in memory only.  Without
    a state file there is no spool, either."""
    warnings: tuple[str, ...] = ()
    """What was odd but could be passed over; to be logged at start."""


RESTART_NEEDED = frozenset({"state_file", "clone_check", "spool_limit", "stdin_time_limit", "stdin_output_limit"})
"""Settings that a running client cannot change."""

NOT_THE_CONNECTIONS = frozenset({"configuration_directory", "deployment_keys", "fixed_services", "trust", "warnings"})
"""Settings that the communicator does not see.  Whatever is in neither set is one of the connection."""


def read_client_config(
    path: Path | None,
    deployment_key_files: Iterable[Path] = (),
    *,
    trust: Trust | None = None,
    hardcoded: Hardcoded = NOTHING,
) -> ClientSettings:
    """Read a client's configuration file (text ``fleetspeak.client.generic.Config``) and what belongs to it.

    @param path: None if everything is hardcoded.
    @param trust: opens all files; by default only those of root and of who runs this.
    @raise ConfigError: the client cannot start with it; the text says where it is wrong and what was expected.
    """
    trust = trust or Trust()
    where = MODULE if path is None else f'configuration file "{path}"'
    config = client_config.Config()
    if path is not None:
        try:
            config = textproto.read(path, client_config.Config, opened=trust.open)
            trust.check_way_to(path)
        except OSError as error:
            raise ConfigError(f"unable to read {where}: {error.strerror}") from None
        except Unsafe as error:
            raise ConfigError(f"unable to use {where}: {error}") from None
        except ConfigError as error:
            raise ConfigError(f"unable to parse {where}: {error}") from None
        if hardcoded.config.ListFields():
            where += f" or {MODULE}"
    hardcoded.apply(config)
    try:
        return _check(config, deployment_key_files, trust, hardcoded)
    except ConfigError as error:
        raise ConfigError(f"error in {where}: {error}") from None


def small_set_up(
    trusted_cert_file: Path | None,
    servers: Sequence[str],
    config_path: Path,
    deployment_key_files: Iterable[Path] = (),
    labels: Iterable[str] = (),
    *,
    trust: Trust | None = None,
    hardcoded: Hardcoded = NOTHING,
) -> ClientSettings:
    """Settings for a client without a configuration file: streaming, everything of its own in one folder.

    @param trusted_cert_file: PEM file of the authority that issued the servers' certificates; None if it is hardcoded.
    @param servers: ``host:port`` of each.
    @param config_path: the folder of the state file, communicator.txt, services/ and textservices/; made if missing.
    @param trust: opens all files; by default only those of root and of who runs this.
    @raise ConfigError: one of them cannot be used.
    """
    trust = trust or Trust()
    config = client_config.Config(server=servers, client_label=labels, streaming=True)
    if trusted_cert_file is not None:
        config.trusted_certs = _trusted_certs(trusted_cert_file, trust)
    hardcoded.apply(config)
    _servers(config.server)
    if config.WhichOneof("persistence_handler") is None:
        folder = _own_folder(config_path)
        config.filesystem_handler.configuration_directory = str(folder)
        config.filesystem_handler.state_file = str(folder / _STATE_FILE)
    return _check(config, deployment_key_files, trust, hardcoded)


def _trusted_certs(path: Path, trust: Trust) -> str:
    try:
        with trust.open(path) as file:
            pem = file.read(_MAX_PEM).decode("utf-8", "replace")
    except OSError as error:
        raise ConfigError(f'unable to read trusted certificates "{path}": {error.strerror}') from None
    if not load_readable_certificates(pem):
        raise ConfigError(f'no certificate in "{path}"; expected -----BEGIN CERTIFICATE----- blocks')
    return pem


def default_communicator() -> client.CommunicatorConfig:
    """The communicator's settings when there is no communicator.txt."""
    return _with_defaults(client.CommunicatorConfig())


def read_deployment_keys(paths: Iterable[Path], trust: Trust | None = None) -> tuple[RSAPublicKey, ...]:
    """The public keys, PEM, that signed service configurations must verify with.  Raises ConfigError."""
    trust = trust or Trust()
    return tuple(_read_deployment_key(path, trust) for path in paths)


def _read_deployment_key(path: Path, trust: Trust) -> RSAPublicKey:
    try:
        with trust.open(path) as file:
            key = load_pem_public_key(file.read(_MAX_PEM))
        trust.check_way_to(path)
    except OSError as error:
        raise ConfigError(f'unable to read deployment key "{path}": {error.strerror}') from None
    except ValueError:
        raise ConfigError(f'no public key in "{path}"; expected a -----BEGIN PUBLIC KEY----- block') from None
    if not isinstance(key, RSAPublicKey):
        raise ConfigError(f'the deployment key "{path}" is not an RSA key')
    return key


def _check(
    config: client_config.Config, deployment_key_files: Iterable[Path], trust: Trust, hardcoded: Hardcoded
) -> ClientSettings:
    """The checks of the Go client, in its order, and those it leaves to the first connection."""
    trusted_certs = load_readable_certificates(config.trusted_certs)
    if not trusted_certs:
        raise ConfigError("unable to parse trusted_certs: expected at least one -----BEGIN CERTIFICATE----- block")
    if not config.server:
        raise ConfigError('no server provided: expected at least one server: "host:port"')
    servers = _servers(config.server)
    handler = config.WhichOneof("persistence_handler")
    if handler is None:
        raise ConfigError("persistence_handler is required: expected filesystem_handler { ... }")
    if handler == "registry_handler":
        raise ConfigError("registry_handler is supported on Windows only; use filesystem_handler { ... }")
    _check_proxy(config.proxy)
    directory = _existing_directory("configuration_directory", config.filesystem_handler.configuration_directory)
    _check_folders(directory, trust)
    communicator, warnings = _communicator(directory, trust, hardcoded)
    deployment_keys = hardcoded.deployment_keys
    if deployment_keys is None:
        deployment_keys = read_deployment_keys(deployment_key_files, trust)
    return ClientSettings(
        trusted_certs=trusted_certs,
        servers=servers,
        labels=_labels(config.client_label),
        streaming=config.streaming,
        configuration_directory=directory,
        state_file=_state_file(config.filesystem_handler.state_file),
        communicator=communicator,
        proxy=config.proxy,
        client_certificate_header=config.client_certificate_header,
        server_name=config.server_name,
        deployment_keys=deployment_keys,
        fixed_services=hardcoded.services,
        revoked_serials=hardcoded.revoked_serials,
        trust=trust,
        warnings=(*warnings, *trust.complaints()),
    )


def _servers(texts: Sequence[str]) -> tuple[tuple[str, int], ...]:
    if not texts:
        raise ConfigError("no server provided: expected at least one host:port")
    try:
        return tuple(parse_host_port(text) for text in texts)
    except ConfigError as error:
        raise ConfigError(f"server {error}") from None


def _check_proxy(proxy: str) -> None:
    """The text is never quoted: it may hold a password."""
    if not proxy:
        return
    try:
        parse_proxy(proxy)
    except ValueError as error:
        raise ConfigError(f"unable to parse proxy: {error}") from None


def _existing_directory(name: str, text: str) -> Path:
    if not text:
        raise ConfigError(f"{name} is required: expected the path of a directory")
    path = Path(text).absolute()
    if not path.is_dir():
        problem = "is not a directory" if path.exists() else "does not exist; make it, readable by the client only"
        raise ConfigError(f'{name} "{path}" {problem}')
    return path


def _state_file(text: str) -> Path | None:
    if not text:
        return None
    path = Path(text).absolute()
    _existing_directory("the directory of state_file", str(path.parent))
    if path.is_dir():
        raise ConfigError(f'state_file "{path}" is a directory; expected the path of a file')
    return path


def _check_folders(directory: Path, trust: Trust) -> None:
    """Raises ConfigError if others than root and we could put services there."""
    for folder in (directory, directory / "services", directory / "textservices"):
        with suppress(OSError):  # not there, or not readable: whoever reads what is in it says so
            trust.check_folder(folder)


def _own_folder(path: Path) -> Path:
    folder = path.absolute()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in ("services", "textservices"):
            (folder / name).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigError(f'unable to make the folder "{folder}": {error.strerror}') from None
    return folder


def _communicator(
    directory: Path, trust: Trust, hardcoded: Hardcoded
) -> tuple[client.CommunicatorConfig, tuple[str, ...]]:
    """communicator.txt, or what is hardcoded, with the defaults filled in; and a warning if it cannot be used."""
    if hardcoded.communicator is not None:
        config = client.CommunicatorConfig()
        config.CopyFrom(hardcoded.communicator)
        return _checked_times(config, f"{MODULE}.COMMUNICATOR")
    path = directory / "communicator.txt"
    try:
        config = textproto.read(path, client.CommunicatorConfig, ignore_unknown=True, opened=trust.open)
    except FileNotFoundError:
        return default_communicator(), ()
    except (OSError, ConfigError) as error:
        return default_communicator(), (f"{path} is not used, the defaults are: {error}",)
    return _checked_times(config, str(path))


def _checked_times(config: client.CommunicatorConfig, where: str) -> tuple[client.CommunicatorConfig, tuple[str, ...]]:
    warnings = [
        f"{where}: {name} is negative; the default of {default} is used"
        for name, default in _DEFAULT_SECONDS.items()
        if getattr(config, name) < 0
    ]
    return _with_defaults(config), tuple(warnings)


def _with_defaults(config: client.CommunicatorConfig) -> client.CommunicatorConfig:
    for name, default in _DEFAULT_SECONDS.items():
        if getattr(config, name) <= 0:
            setattr(config, name, default)
    return config


def _labels(configured: Iterable[str]) -> tuple[str, ...]:
    """What the client says of itself, by the names that Go gives to architectures and systems."""
    return (architecture(), operating_system(), *(label for label in configured if label.strip()))


_ARCHITECTURES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "i386": "386",
    "i486": "386",
    "i586": "386",
    "i686": "386",
    "armv5l": "arm",
    "armv6l": "arm",
    "armv7l": "arm",
    "armv8l": "arm",
    "loongarch64": "loong64",
}
_SYSTEMS = {"win32": "windows", "cygwin": "windows"}


def architecture() -> str:
    """This machine's architecture as Go calls it; names that are the same there are passed through."""
    machine = platform.machine().lower()
    return _ARCHITECTURES.get(machine, machine)


def operating_system() -> str:
    """This machine's system as Go calls it."""
    return _SYSTEMS.get(sys.platform, sys.platform.rstrip("0123456789"))
