"""The client's settings, checked and in the types the client works with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.x509 import Certificate

from fleetspeak.pb import client


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
    deployment_keys: Sequence[RSAPublicKey] = ()
    """When there are any, a signed service configuration must verify with one of them."""
