"""The first checks: files.  Everything here only reads."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.x509 import Certificate
from google.protobuf.message import DecodeError
from twisted.logger import ILogObserver, globalLogPublisher
from zope.interface import implementer

from fleetspeak.client.comms.dialing import dialer_named
from fleetspeak.client.doctor.findings import Finding, failed, ok, skipped, warning
from fleetspeak.client.services.loader import ServiceFile, load_services
from fleetspeak.client.tap import Options, overridden, settings_of
from fleetspeak.config import textproto
from fleetspeak.config.addresses import parse_host_port
from fleetspeak.config.client import ClientSettings
from fleetspeak.config.hardcoded import load as load_hardcoded
from fleetspeak.core.proxies import parse_proxy
from fleetspeak.errors import ConfigError
from fleetspeak.interfaces import IClientServiceFactory
from fleetspeak.lookup import PLUG_INS
from fleetspeak.pb import client_config
from fleetspeak.security.certificates import load_readable_certificates

EXPIRY_WARNING = datetime.timedelta(days=30)
"""A certificate that has less left is told of."""

_CORRECT_IT = "correct the file; doc/operating.md describes its fields"


@dataclass(frozen=True, slots=True)
class Patient:
    """Which client to examine: the options that it runs with."""

    config: Path | None = None
    trusted_cert_file: Path | None = None
    servers: Sequence[str] = ()
    config_path: Path = Path("fleetspeak-client")
    deployment_key_files: Sequence[Path] = ()
    dialer: str = ""
    insecure: bool = False
    """It runs with ``--insecure-config``."""
    contact: bool = False
    """Make contact even if it may be running."""

    def options(self) -> Options:
        """As the client gets them."""
        words = [f"--server={server}" for server in self.servers]
        words += [f"--deployment-key-file={path}" for path in self.deployment_key_files]
        if self.config is not None:
            words.append(f"--config={self.config}")
        if self.trusted_cert_file is not None:
            words.append(f"--trusted-cert-file={self.trusted_cert_file}")
        if self.trusted_cert_file is not None or self.servers:
            words.append(f"--config-path={self.config_path}")
        if self.dialer:
            words.append(f"--dialer={self.dialer}")
        if self.insecure:
            words.append("--insecure-config")
        options = Options()
        options.parseOptions(words)  # type: ignore[no-untyped-call]
        return options


def examine_configuration(patient: Patient, now: datetime.datetime) -> tuple[list[Finding], ClientSettings | None]:
    """Read the configuration as the client would.  Without settings there is nothing more to examine."""
    check = "configuration"
    try:
        settings = _read(patient)
        dialer_named(settings.dialer)
    except ConfigError as error:
        problems = list(_problems(patient.config)) if patient.config is not None else []
        if not any(problem.found in str(error) or str(error).endswith(problem.found) for problem in problems):
            problems.insert(0, failed(check, str(error), _CORRECT_IT))
        return problems, None
    findings = [failed(check, problem, _CORRECT_IT) for problem in settings.warnings]
    servers = ", ".join(f"{host}:{port}" for host, port in settings.servers)
    how = "streaming" if settings.streaming else "polling"
    findings.append(ok(check, f"{patient.config or 'options'}: {how}, servers in this order: {servers}"))
    return findings + list(_trusted(settings.trusted_certs, now)), settings


def _read(patient: Patient) -> ClientSettings:
    hardcoded = load_hardcoded()
    options = overridden(patient.options(), hardcoded)
    folder = Path(options["config-path"] or "/")
    if not folder.is_dir():
        raise ConfigError(
            f'the folder "{folder}" does not exist; it is made at the client\'s first start: start it once, '
            "or name its folder with --config-path"
        )
    return settings_of(options, hardcoded=hardcoded)


def _problems(path: Path) -> Iterator[Finding]:
    """Each field that cannot be used, where the client itself stops at the first one."""
    try:
        text = path.read_text("utf-8")
        config = textproto.parse(text, str(path), client_config.Config)
    except (OSError, UnicodeDecodeError, ConfigError):
        return  # then that is the error
    handler = config.filesystem_handler
    checks: list[tuple[str, Callable[[], object]]] = [
        ("trusted_certs", lambda: _must(load_readable_certificates(config.trusted_certs), "no certificate in it")),
        ("server", lambda: _must(config.server, "no server")),
        *(("server", lambda address=address: parse_host_port(address)) for address in config.server),
        ("proxy", lambda: config.proxy and parse_proxy(config.proxy)),
        ("configuration_directory", lambda: _must_be_directory(Path(handler.configuration_directory))),
        ("state_file", lambda: handler.state_file and _must_be_directory(Path(handler.state_file).parent)),
    ]
    for field, check in checks:
        try:
            check()
        except (ConfigError, ValueError) as error:
            yield failed("configuration", f"{_place(path, text, field)}: {field}: {error}", _CORRECT_IT)


def _must(value: object, problem: str) -> bool:
    if not value:
        raise ConfigError(problem)
    return True


def _must_be_directory(path: Path) -> bool:
    return _must(path.is_dir(), f'"{path}" is not an existing directory')


def _place(path: Path, text: str, field: str) -> str:
    match = re.search(rf"^[^#\n]*\b{field}\s*[:{{]", text, re.MULTILINE)
    return f"{path}:{text.count(chr(10), 0, match.end()) + 1}" if match else str(path)


def _trusted(certificates: Sequence[Certificate], now: datetime.datetime) -> Iterator[Finding]:
    for certificate in certificates:
        name, end = certificate.subject.rfc4514_string(), certificate.not_valid_after_utc
        if end < now:
            yield failed("trusted", f"{name} expired at {end:%Y-%m-%d %H:%M} UTC", _NEW_AUTHORITY)
        elif end - now < EXPIRY_WARNING:
            yield warning("trusted", f"{name} expires at {end:%Y-%m-%d %H:%M} UTC", _NEW_AUTHORITY)
        else:
            yield ok("trusted", f"{name}, until {end:%Y-%m-%d}")


_NEW_AUTHORITY = (
    "make a new authority, add its certificate to the trusted ones of all clients, and only then give the servers "
    "certificates by it"
)


def examine_services(settings: ClientSettings) -> list[Finding]:
    """Read the service configurations as the client would, but make no service."""
    check = "services"
    if settings.configuration_directory is None:
        return [skipped(check, "there is no configuration directory")]
    complaints: list[str] = []

    @implementer(ILogObserver)
    def listen(event: dict[str, Any]) -> None:
        if "error" in event and "service not installed" in str(event.get("log_format")):
            complaints.append(str(event["error"]))

    globalLogPublisher.addObserver(listen)
    try:
        loaded = load_services(
            settings.configuration_directory, settings.deployment_keys, settings.trust, settings.fixed_services
        )
    finally:
        globalLogPublisher.removeObserver(listen)
    factories = PLUG_INS.by_name(IClientServiceFactory)
    complaints += [problem for file in loaded.files if (problem := _problem_of(file, factories))]
    findings = [failed(check, complaint, "correct the file, or remove it") for complaint in complaints]
    usable = [file.config.name for file in loaded.files if not _problem_of(file, factories)]
    return [*findings, ok(check, f"usable: {', '.join(usable) or 'none configured'}")]


def _problem_of(file: ServiceFile, factories: dict[str, Any]) -> str:
    factory = factories.get(file.config.factory)
    if factory is None:
        known = ", ".join(sorted(factories))
        return f'{file.where("factory")}: there is no factory "{file.config.factory}"; expected one of {known}'
    packed = file.config.config
    if not packed.type_url or factory.config_type is None:
        return ""
    config = factory.config_type()
    try:
        if packed.Unpack(config):
            return ""
    except DecodeError:
        return f"{file.where('config')}: the bytes of its config cannot be parsed"
    expected = config.DESCRIPTOR.full_name
    return f"{file.where('config')}: config is of type {packed.TypeName()}, expected {expected}"
