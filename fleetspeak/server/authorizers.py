"""The built-in authorizers, and what is put around those of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twisted.logger import Logger
from zope.interface import implementer

from fleetspeak.core.authorization import CheckedSignature, Claimed
from fleetspeak.errors import ConfigError
from fleetspeak.interfaces import IAuthorizer, IAuthorizerFactory
from fleetspeak.lookup import origin_of
from fleetspeak.records import ClientData
from fleetspeak.server.services.sparselog import SparseLog

LOG_INTERVAL = 30.0
"""Seconds between two lines about an authorizer that fails."""

log = Logger()


@implementer(IAuthorizer)
class AllowAll:
    """Lets everyone in who holds a key."""

    def allow_connection(self, address: str) -> bool:
        """Yes."""
        return True

    def allow_contact(self, address: str, claim: Claimed) -> bool:
        """Yes."""
        return True

    def allow_client(self, address: str, claim: Claimed, client: ClientData | None) -> bool:
        """Yes."""
        return True

    def validate(
        self, address: str, claim: Claimed, client: ClientData | None, signatures: Sequence[CheckedSignature]
    ) -> Mapping[str, str] | None:
        """Yes, and nothing to note."""
        return {}


class RequiredLabel(AllowAll):
    """Lets in who claims a certain label: keeps a misconfigured client out, not a malicious one."""

    def __init__(self, label: str) -> None:
        self._label = label

    def allow_contact(self, address: str, claim: Claimed) -> bool:
        """Only with the label among the claimed ones."""
        return self._label in claim.labels


@implementer(IAuthorizerFactory)
class AllowAllFactory:
    """Makes `AllowAll`s."""

    name = "all"
    help = "Lets everyone in who holds a key. No argument."

    def make(self, argument: str, reactor: Any) -> AllowAll:
        """Raises ConfigError if there is an argument."""
        if argument:
            raise ConfigError(f"all takes no argument, got {argument}")
        return AllowAll()


@implementer(IAuthorizerFactory)
class RequiredLabelFactory:
    """Makes `RequiredLabel`s."""

    name = "label"
    help = "Lets in who claims the label that is the argument, as required_label of the components file does."

    def make(self, argument: str, reactor: Any) -> RequiredLabel:
        """Raises ConfigError if there is no label."""
        if not argument:
            raise ConfigError("label takes the label that clients must claim, such as label:corp")
        return RequiredLabel(argument)


@implementer(IAuthorizer)
class Guarded:
    """An authorizer of somebody else.  When it raises, or returns what it must not, the answer is no.

    That includes a coroutine or a Deferred, which as truth values would let everyone in.
    """

    def __init__(self, authorizer: IAuthorizer, reactor: Any) -> None:
        self._authorizer = authorizer
        self._due = SparseLog(reactor, LOG_INTERVAL)
        self._origin = str(origin_of(authorizer))  # now, since that takes a look at all that is installed

    def allow_connection(self, address: str) -> bool:
        """As the other one says."""
        return self._ask("allow_connection", address)

    def allow_contact(self, address: str, claim: Claimed) -> bool:
        """As the other one says."""
        return self._ask("allow_contact", address, claim)

    def allow_client(self, address: str, claim: Claimed, client: ClientData | None) -> bool:
        """As the other one says."""
        return self._ask("allow_client", address, claim, client)

    def validate(
        self, address: str, claim: Claimed, client: ClientData | None, signatures: Sequence[CheckedSignature]
    ) -> Mapping[str, str] | None:
        """As the other one says."""
        try:
            tags = self._authorizer.validate(address, claim, client, signatures)
            if tags is None:
                return None
            if isinstance(tags, Mapping) and all(isinstance(text, str) for pair in tags.items() for text in pair):
                return tags
            raise TypeError(f"validate returned {type(tags).__name__}, not a dict of str to str")
        except Exception:
            self._tell("validate")
            return None

    def _ask(self, stage: str, *arguments: object) -> bool:
        try:
            allowed = getattr(self._authorizer, stage)(*arguments)
            if isinstance(allowed, bool):
                return allowed
            raise TypeError(f"{stage} returned {type(allowed).__name__}, not a bool")
        except Exception:
            self._tell(stage)
            return False

    def _tell(self, stage: str) -> None:
        if self._due.due():
            log.failure(
                "{stage} of the authorizer {origin} failed, which refuses the client ({more} more since the last line)",
                stage=stage,
                origin=self._origin,
                more=self._due.take_held_back(),
            )
