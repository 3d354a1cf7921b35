"""The client certificate in a request header, for frontends behind a proxy that ends TLS."""

from __future__ import annotations

from urllib.parse import quote

_SAFE = "-_.~$&+=:@"
"""What stays besides letters and digits: the alphabet of Go's url.PathEscape, which upstream's clients use."""


def encode(pem: str) -> str:
    """The header's value for a certificate in PEM form with its final newline."""
    return quote(pem, safe=_SAFE)
