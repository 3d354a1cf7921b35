"""Other ways from a server's certificate to a trusted one, for when the first one found has a revoked one in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cryptography.exceptions import InvalidSignature
from cryptography.x509 import Certificate

MAX_STEPS = 100
"""Pairs of certificates that are looked at; a server that sends more of them has no other way."""


def ways_up(
    leaf: Certificate, between: Sequence[Certificate], trusted: Sequence[Certificate]
) -> Iterator[list[Certificate]]:
    """Each way from `leaf` by issuers in `between` to one of `trusted`, both ends included.

    Only names and signatures are looked at: whoever takes a way verifies it.
    """
    steps = 0
    started: list[list[Certificate]] = [[leaf]]
    while started:
        way = started.pop()
        if way[-1] in trusted:
            yield way
            continue
        for issuer in [*between, *trusted]:
            steps += 1
            if steps > MAX_STEPS:
                return
            if issuer not in way and _issued(issuer, way[-1]):
                started.append([*way, issuer])


def _issued(issuer: Certificate, certificate: Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
