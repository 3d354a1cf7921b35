"""``fleetspeak-config -config FILE``: makes the certificates and configuration files of a fleet from one description.

The description is a text-format ``fleetspeak.config.Config``.  Certificates that exist are kept, so that it can be run
again.  What it writes is for the Go programs as well as for ours.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from google.protobuf import text_format
from google.protobuf.message import Message

from fleetspeak.cli import glog
from fleetspeak.cli.goflags import FlagSet
from fleetspeak.config import certificatefiles, textproto
from fleetspeak.config.addresses import parse_host_port
from fleetspeak.config.certificatefiles import Credentials
from fleetspeak.errors import ConfigError
from fleetspeak.pb import client_config, components, configurator
from fleetspeak.security import files

_LINUX = client_config.FilesystemHandler(
    configuration_directory="/etc/fleetspeak-client", state_file="/var/lib/misc/fleetspeak-client.state"
)
_DARWIN = client_config.FilesystemHandler(
    configuration_directory="/etc/fleetspeak-client", state_file="/etc/fleetspeak-client/state"
)
_WINDOWS = client_config.RegistryHandler(configuration_key="HKEY_LOCAL_MACHINE\\SOFTWARE\\FleetspeakClient")


def main() -> None:
    """Entry point of ``fleetspeak-config``."""
    flags = FlagSet("fleetspeak-config", "makes the certificates and configuration files of a fleet")
    flags.string("config", "", "description of the fleet, a text-format fleetspeak.config.Config")
    glog.declare(flags)
    values = flags.parse(sys.argv[1:])
    try:
        configure(Path(values["config"]), time.time())
    except ConfigError as error:
        sys.exit(f"fleetspeak-config: {error}")


def configure(path: Path, now: float) -> None:
    """Make what the description in that file asks for.  Raises ConfigError; what was written before then stays.

    @param now: seconds since the epoch, for the certificates.
    """
    try:
        config = textproto.read(path, configurator.Config)
    except OSError as error:
        raise ConfigError(f"Unable to read configurator file [{path}]: {error.strerror}") from None
    except ConfigError as error:
        raise ConfigError(f"Unable to parse configurator file [{path}]: {error}") from None
    if not config.configuration_name:
        raise ConfigError(f"configuration_name required, not found in [{path}]")
    trusted_pem, authority = _authority(config, now)
    server = _server_certificate(config, authority, now)
    _write_components(config, server)
    _write_clients(config, trusted_pem)


def _authority(config: configurator.Config, now: float) -> tuple[str, Credentials | None]:
    """What clients shall trust, and the authority that can issue a certificate, if its key is here."""
    if not config.trusted_cert_file:
        raise ConfigError("trusted_cert_file not set")
    path, key_path = Path(config.trusted_cert_file), Path(config.trusted_cert_key_file)
    has_key = bool(config.trusted_cert_key_file)
    if not path.exists():
        if not has_key:
            raise ConfigError("unable to create a CA certificate: trusted_cert_key_file not set")
        made = certificatefiles.make_authority(path, key_path, f"{config.configuration_name} Fleetspeak CA", now)
        return made.pem, made
    if has_key and os.access(key_path, os.R_OK):
        read = certificatefiles.read(path, key_path)
        return read.pem, read
    _say(f"{config.trusted_cert_key_file or 'trusted_cert_key_file'} is not here: server certificates cannot be made")
    return certificatefiles.read_certificate(path)[0], None


def _server_certificate(config: configurator.Config, authority: Credentials | None, now: float) -> Credentials:
    if not config.server_cert_file:
        raise ConfigError("server_cert_file not set")
    if not config.server_cert_key_file:
        raise ConfigError("server_cert_key_file not set")
    path, key_path = Path(config.server_cert_file), Path(config.server_cert_key_file)
    if path.exists():
        return certificatefiles.read(path, key_path)
    if authority is None:
        raise ConfigError("unable to create server certificate: CA key not loaded")
    name = f"{config.configuration_name} Fleetspeak Server"
    return certificatefiles.issue_server(authority, path, key_path, name, _hosts(config), now)


def _hosts(config: configurator.Config) -> list[str]:
    """By what names clients will know the server."""
    try:
        hosts = [parse_host_port(text)[0] for text in config.public_host_port]
    except ConfigError as error:
        raise ConfigError(f"public_host_port: unable to parse host-port: {error}") from None
    return [*hosts, *([config.server_name] if config.server_name else [])]


def _write_components(config: configurator.Config, server: Credentials) -> None:
    if not config.server_component_configuration_file:
        raise ConfigError("server_component_configuration_file is required")
    if not config.HasField("components_config"):
        raise ConfigError("components_config is required")
    if not config.components_config.HasField("https_config"):
        raise ConfigError("components_config.https_config is required")
    if not config.components_config.https_config.listen_address:
        raise ConfigError("components_config.https_config.listen_address is required")
    made = components.Config()
    made.CopyFrom(config.components_config)
    made.https_config.certificates = server.pem
    made.https_config.key = server.key_pem
    _write(Path(config.server_component_configuration_file), made, files.PRIVATE)


def _write_clients(config: configurator.Config, trusted_pem: str) -> None:
    """One file for each system whose path is set."""
    for path, handler in (
        (config.linux_client_configuration_file, {"filesystem_handler": _LINUX}),
        (config.darwin_client_configuration_file, {"filesystem_handler": _DARWIN}),
        (config.windows_client_configuration_file, {"registry_handler": _WINDOWS}),
    ):
        if path:
            made = _client(config, trusted_pem)
            made.MergeFrom(client_config.Config(**handler))
            _write(Path(path), made, files.PUBLIC)


def _client(config: configurator.Config, trusted_pem: str) -> client_config.Config:
    server = config.components_config
    return client_config.Config(
        trusted_certs=trusted_pem,
        server=config.public_host_port,
        server_name=config.server_name,
        proxy=config.proxy,
        client_label=[server.required_label] if server.required_label else [],
        streaming=not server.https_config.disable_streaming,
        client_certificate_header=_client_header(server.https_config.frontend_config),
    )


def _client_header(frontend: components.FrontendConfig) -> str:
    """The header that the client itself must fill: that of the modes where a proxy adds only a checksum."""
    mode = frontend.WhichOneof("frontend_mode")
    if mode == "https_header_checksum_config":
        return frontend.https_header_checksum_config.client_certificate_header
    if mode == "cleartext_header_checksum_config":
        return frontend.cleartext_header_checksum_config.client_certificate_header
    return ""


def _write(path: Path, message: Message, mode: int) -> None:
    try:
        files.write_atomically(path, text_format.MessageToString(message).encode(), mode)
    except OSError as error:
        raise ConfigError(f"unable to write {path}: {error.strerror}") from None
    _say(f"wrote {path}")


def _say(text: str) -> None:
    print(text, file=sys.stderr)
