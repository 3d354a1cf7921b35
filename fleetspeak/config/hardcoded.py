"""Parameters that are part of a repacked client: a Python module beside the program that files and flags cannot change.

Whoever packs clients for an organisation puts a module ``fleetspeak_hardcoded`` on the path of the interpreter.  All of
its names are optional; `NAMES` lists them.  It is read once, when the program starts.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from google.protobuf.message import Message

from fleetspeak.config import textproto
from fleetspeak.errors import ConfigError
from fleetspeak.pb import client, client_config, system

MODULE = "fleetspeak_hardcoded"

NAMES = {
    "CONFIG": "text of a fleetspeak.client.generic.Config; its fields replace those of the configuration file",
    "TRUSTED_CERTS": "text with the PEM certificates of the authorities to trust",
    "SERVERS": "list of host:port",
    "LABELS": "list of texts, instead of client_label",
    "COMMUNICATOR": "text of a fleetspeak.client.CommunicatorConfig, instead of communicator.txt",
    "SERVICES": "list of texts of fleetspeak.ClientServiceConfig; installed before those of the files",
    "DEPLOYMENT_KEYS": "list of PEM public keys, instead of those of --deployment-key-file",
    "REVOKED_SERIALS": "list of serial numbers of certificates never to be trusted, as integers or hexadecimal texts",
    "OPTIONS": "dict of command line options without dashes and their values, which the command line cannot change",
}
"""What such a module may define.  In place of a text, the message itself will do."""

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Hardcoded:
    """What is hardcoded; where there is nothing, files and flags count."""

    config: client_config.Config = field(default_factory=client_config.Config)
    """Each field that is set here counts."""
    communicator: client.CommunicatorConfig | None = None
    services: tuple[system.ClientServiceConfig, ...] = ()
    deployment_keys: tuple[RSAPublicKey, ...] | None = None
    revoked_serials: frozenset[bytes] = frozenset()
    """Big-endian, without leading zeros."""
    options: Mapping[str, object] = field(default_factory=dict)
    """With ``-`` in their names."""

    @property
    def is_whole(self) -> bool:
        """Can a client start with it alone?"""
        return bool(self.config.trusted_certs and self.config.server and self.config.WhichOneof("persistence_handler"))

    def apply(self, config: client_config.Config) -> None:
        """Put what is hardcoded over what a file said."""
        for descriptor, _ in self.config.ListFields():
            config.ClearField(descriptor.name)  # type: ignore[arg-type]
        config.MergeFrom(self.config)


NOTHING = Hardcoded()


def load(module: str = MODULE) -> Hardcoded:
    """Import the module and check it; nothing is hardcoded if there is none.

    @raise ConfigError: it cannot be imported, or something in it cannot be used; says what was expected.
    """
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name == module:
            return NOTHING
        raise ConfigError(f"{module}: {error}") from error
    except Exception as error:
        raise ConfigError(f"{module} cannot be imported: {type(error).__name__}: {error}") from error
    return parse({name: value for name, value in vars(found).items() if name.isupper() and name[0] != "_"}, module)


def parse(names: Mapping[str, object], module: str = MODULE) -> Hardcoded:
    """Check what such a module defines.  Raises ConfigError."""
    for name in names:
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, 1)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(NAMES)}"
            raise ConfigError(f"{module}.{name}: there is no such parameter; {hint}")

    def value(name: str, check: Callable[[str, Any], Any], default: Any = None) -> Any:
        return check(f"{module}.{name}", names[name]) if name in names else default

    config = client_config.Config()
    config.MergeFrom(value("CONFIG", _message(client_config.Config), client_config.Config()))
    config.trusted_certs = value("TRUSTED_CERTS", _text, config.trusted_certs)
    for name, repeated in (("SERVERS", config.server), ("LABELS", config.client_label)):
        if name in names:
            repeated[:] = value(name, _list_of(_text))
    return Hardcoded(
        config=config,
        communicator=value("COMMUNICATOR", _message(client.CommunicatorConfig)),
        services=value("SERVICES", _list_of(_message(system.ClientServiceConfig)), ()),
        deployment_keys=value("DEPLOYMENT_KEYS", _list_of(_public_key)),
        revoked_serials=frozenset(value("REVOKED_SERIALS", _list_of(_serial), ())),
        options=value("OPTIONS", _options, {}),
    )


def _text(where: str, found: object) -> str:
    if not isinstance(found, str) or not found.strip():
        raise ConfigError(f"{where}: expected a text, got {_what(found)}")
    return found


def _list_of(check: Callable[[str, Any], Any]) -> Callable[[str, object], tuple[Any, ...]]:
    def checked(where: str, found: object) -> tuple[Any, ...]:
        if not isinstance(found, (list, tuple)):
            raise ConfigError(f"{where}: expected a list, got {_what(found)}")
        return tuple(check(f"{where}[{number}]", one) for number, one in enumerate(found))

    return checked


def _message(message_class: type[M]) -> Callable[[str, object], M]:
    def checked(where: str, found: object) -> M:
        if isinstance(found, message_class):
            return found
        if not isinstance(found, str):
            raise ConfigError(
                f"{where}: expected a {message_class.DESCRIPTOR.full_name} or the text of one, got {_what(found)}"
            )
        return textproto.parse(found, where, message_class)

    return checked


def _public_key(where: str, found: object) -> RSAPublicKey:
    try:
        key = load_pem_public_key(_text(where, found).encode())
    except ValueError:
        raise ConfigError(f"{where}: expected a -----BEGIN PUBLIC KEY----- block") from None
    if not isinstance(key, RSAPublicKey):
        raise ConfigError(f"{where}: expected an RSA key")
    return key


def _serial(where: str, found: object) -> bytes:
    if isinstance(found, str):
        try:
            found = int(found.replace(":", ""), 16)
        except ValueError:
            raise ConfigError(f"{where}: expected hexadecimal digits") from None
    if not isinstance(found, int) or isinstance(found, bool) or found <= 0:
        raise ConfigError(f"{where}: expected a serial number greater than 0, got {_what(found)}")
    return found.to_bytes((found.bit_length() + 7) // 8, "big")


def _options(where: str, found: object) -> dict[str, object]:
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise ConfigError(f"{where}: expected a dict of options by name, got {_what(found)}")
    for name, value in found.items():
        texts = isinstance(value, list) and all(isinstance(one, str) for one in value)
        if not texts and not isinstance(value, (bool, int, str)):
            raise ConfigError(f"{where}[{name!r}]: expected True, False, a number, a text or a list of texts")
    return {name.strip("-").replace("_", "-"): value for name, value in found.items()}


def _what(found: object) -> str:
    return f"something of type {type(found).__name__}" if found else repr(found)
