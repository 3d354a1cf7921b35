"""Signatures of plug-ins over contact data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from twisted.logger import Logger

from fleetspeak.interfaces import IContactSigner
from fleetspeak.pb import common

_log = Logger()


def signatures(signers: Sequence[IContactSigner], contact_data: bytes) -> Iterator[common.Signature]:
    """One of each signer; one that fails is logged, and what its missing means is the server's to say."""
    for signer in signers:
        try:
            yield signer.sign(contact_data)
        except Exception:
            _log.failure("the signer {signer!r} failed; the contact goes without", signer=signer.name)
