"""The authorizer, the list, and the factory."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from fleetspeak import ids
from fleetspeak.core.authorization import CheckedSignature, Claimed
from fleetspeak.errors import ConfigError
from fleetspeak.ids import ClientId
from fleetspeak.interfaces import IAuthorizer, IAuthorizerFactory
from fleetspeak.records import ClientData

LOOK_INTERVAL = 5.0
"""Seconds between two looks at the file."""


@dataclass(frozen=True)
class Admitted:
    """What a list says."""

    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()
    """From which clients may connect; none: from all."""
    clients: frozenset[ClientId] = frozenset()
    """Who may enrol."""


def read(path: Path) -> Admitted:
    """Read a list: lines of ``network ADDRESS/BITS``, ``client ID``, and comments after ``#``.

    @raise ConfigError: it cannot be read; says where and what was expected.
    """
    networks, clients = [], []
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    for number, text in enumerate(lines, 1):
        words = text.partition("#")[0].split()
        try:
            if len(words) == 2 and words[0] == "network":
                networks.append(ipaddress.ip_network(words[1]))
            elif len(words) == 2 and words[0] == "client":
                clients.append(ids.parse_client_id(words[1]))
            elif words:
                raise ValueError('expected "network ADDRESS/BITS" or "client ID"')
        except ValueError as error:
            raise ConfigError(f"{path}:{number}: {error}") from error
    return Admitted(tuple(networks), frozenset(clients))


@implementer(IAuthorizer)
class Admission:
    """Lets connect who is in a listed network, and enrol who is a listed client.  Who has enrolled stays.

    Each stage answers at once, from memory.  The file is looked at again in a thread, when somebody connects.
    """

    _log = Logger()

    def __init__(self, path: Path, reactor: Any) -> None:
        self._path = path
        self._reactor = reactor
        self._admitted = read(path)
        self._looked = reactor.seconds()
        self._looking = False

    def allow_connection(self, address: str) -> bool:
        """The first stage: nothing is known but the address."""
        self._look_again()
        if not self._admitted.networks:
            return True
        peer = ipaddress.ip_address(address.rpartition(":")[0].strip("[]"))
        peer = getattr(peer, "ipv4_mapped", None) or peer
        return any(peer in network for network in self._admitted.networks)

    def allow_contact(self, address: str, claim: Claimed) -> bool:
        """The second stage: the client has proved that it has the key of its id; the labels are only what it says."""
        return True

    def allow_client(self, address: str, claim: Claimed, client: ClientData | None) -> bool:
        """The third stage: the store was asked for the client; None is one that it does not know yet."""
        return client is not None or claim.client_id in self._admitted.clients

    def validate(
        self, address: str, claim: Claimed, client: ClientData | None, signatures: Sequence[CheckedSignature]
    ) -> Mapping[str, str] | None:
        """The fourth stage, also for each further record of a stream: what to note on the messages; None refuses."""
        return {"admission": "listed" if claim.client_id in self._admitted.clients else "enrolled before"}

    def _look_again(self) -> None:
        now = self._reactor.seconds()
        if self._looking or now - self._looked < LOOK_INTERVAL:
            return
        self._looking, self._looked = True, now
        looking = deferToThreadPool(self._reactor, self._reactor.getThreadPool(), read, self._path)
        # Nobody waits for this Deferred, so it must not end with an error.
        looking.addCallbacks(self._use, self._keep)

    def _use(self, admitted: Admitted) -> None:
        self._looking = False
        self._admitted = admitted

    def _keep(self, failure: Failure) -> None:
        self._looking = False
        self._log.error("the list as it was stays in force: {why}", why=failure.getErrorMessage())


@implementer(IAuthorizerFactory)
class AdmissionFactory:
    """Makes the authorizer of ``--authorizer admission:FILE``."""

    name = "admission"
    help = "Admits who is on the list in the file that is the argument: networks, and clients that may enrol."

    def make(self, argument: str, reactor: Any) -> Admission:
        """Called before the reactor runs, so this may read the file; a wrong one keeps the server from starting."""
        if not argument:
            raise ConfigError("admission takes the file with the list, such as admission:/etc/fleet/admission")
        return Admission(Path(argument).absolute(), reactor)
