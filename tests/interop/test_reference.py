"""Upstream with upstream: shows that the tests' own machinery is right, and how the reference behaves.

Polling with deflate is left out against the upstream server everywhere: it reads a compressed request only up
to its Content-Length in *decompressed* bytes and then answers 400, so that no client can poll it compressed.
"""

from __future__ import annotations

from .conversation import Conversation
from .fleet import POLLING, STREAMING_DEFLATE, UPSTREAM


class UpstreamWithUpstream(Conversation):
    server_kind = UPSTREAM
    configurator = UPSTREAM
    connectors = (UPSTREAM,)

    def test_polling(self) -> None:
        self.converse(UPSTREAM, POLLING)

    def test_streaming_with_deflate(self) -> None:
        self.converse(UPSTREAM, STREAMING_DEFLATE)
