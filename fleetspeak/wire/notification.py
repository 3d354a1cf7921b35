"""What one server tells another over HTTP: that there is something for a client whose stream it holds.

Sans-I/O: the path of a request, what a request means, and the proof that it comes from a server that has the secret.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import NamedTuple

from fleetspeak import ids
from fleetspeak.ids import ClientId

AUTHORIZATION = b"Authorization"
SCHEME = b"Fleetspeak-HMAC-SHA256"
"""Of the header that carries the proof; servers that know nothing of it pass it over."""

_MAX_SHOWN = 100
"""Characters of a wrong id that go into an answer."""


class Refused(NamedTuple):
    """An answer that is not 200."""

    status: int
    text: str


def path_of(client_id: ClientId) -> bytes:
    """Where to POST."""
    return b"/client/" + client_id.hex().encode()


def client_of(method: bytes, path: bytes) -> ClientId | Refused:
    """Whom a request is about.  In upstream's words: the path is looked at first, the method last.

    @param path: as it came, without the query; escapes are not read.
    """
    parts = path.split(b"/")
    if len(parts) != 3 or parts[0] or parts[1] != b"client":
        return Refused(404, "not found")
    text = parts[2].decode("utf-8", "replace")
    try:
        client_id = ids.parse_client_id(text)
    except ValueError as error:
        return Refused(400, f"Failed to parse client id [{text[:_MAX_SHOWN]}]: {error}")
    if not client_id:
        return Refused(400, "Client id is required.")
    if method != b"POST":
        return Refused(400, f"Unexpected method: {method.decode('ascii', 'replace')[:_MAX_SHOWN]}")
    return client_id


def proof(secret: bytes, client_id: ClientId) -> bytes:
    """The value of `AUTHORIZATION`.  Whoever overhears it can repeat this notification, and make no other."""
    return SCHEME + b" " + hmac.new(secret, path_of(client_id), hashlib.sha256).hexdigest().encode()


def is_proven(secret: bytes, client_id: ClientId, value: bytes | None) -> bool:
    """Whether `value` of the header, None without one, is the proof; a wrong one takes as long as a right one."""
    return hmac.compare_digest(value or b"", proof(secret, client_id))
