"""Our client on the upstream server, whose files and theirs our configurator wrote.

Polling with deflate is left out: the upstream server cannot read it (see `test_reference`).
"""

from __future__ import annotations

from .conversation import Conversation
from .fleet import (
    OURS,
    POLLING,
    POLLING_HTTP2,
    STREAMING,
    STREAMING_DEFLATE,
    STREAMING_DEFLATE_HTTP2,
    STREAMING_HTTP2,
    UPSTREAM,
    Transport,
)


class OurClientWithUpstreamServer(Conversation):
    """Issue 2, interoperability: our client -> upstream server; connectors of both kinds on both ends."""

    server_kind = UPSTREAM
    configurator = OURS

    def test_item_130_polling(self) -> None:
        self.converse(OURS, POLLING)

    def test_item_130_streaming(self) -> None:
        self.converse(OURS, STREAMING)

    def test_item_130_streaming_with_deflate(self) -> None:
        self.converse(OURS, STREAMING_DEFLATE)

    def test_polling_over_http2(self) -> None:
        self.converse_over_http2(POLLING_HTTP2)

    def test_streaming_over_http2(self) -> None:
        self.converse_over_http2(STREAMING_HTTP2)

    def test_streaming_with_deflate_over_http2(self) -> None:
        self.converse_over_http2(STREAMING_DEFLATE_HTTP2)

    def converse_over_http2(self, transport: Transport) -> None:
        """Issue 3, point 5: prefer_http2 when the server offers it."""
        client = self.converse(OURS, transport)
        self.assertTrue(client.program.lines_matching("speaks HTTP/2"))

    def test_upstream_programs_load_what_our_configurator_wrote(self) -> None:
        """The server runs on it anyway; so does upstream's client."""
        self.converse(UPSTREAM, STREAMING)
