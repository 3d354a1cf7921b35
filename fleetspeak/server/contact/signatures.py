"""The extra signatures of a contact, made by modules of the client that hold keys of their own."""

from __future__ import annotations

from collections.abc import Sequence

from fleetspeak.core.authorization import CheckedSignature
from fleetspeak.core.signatures import check
from fleetspeak.errors import TooLarge
from fleetspeak.pb import common

MAX_SIGNATURES = 64
"""Ours: far more than any client has modules, and few enough to be verified without holding others up."""


def check_signatures(wrapped: common.WrappedContactData) -> Sequence[CheckedSignature]:
    """Check them all; an invalid one is for the authorizer to judge.  Raises TooLarge, ProtocolError."""
    if not wrapped.signatures:
        return ()
    if len(wrapped.signatures) > MAX_SIGNATURES:
        raise TooLarge(f"{len(wrapped.signatures)} signatures, only {MAX_SIGNATURES} allowed")
    return check(wrapped)
