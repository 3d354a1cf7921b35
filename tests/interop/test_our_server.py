"""Both clients on our server, whose files and theirs upstream's configurator wrote.

Our programs are the console scripts, started with the Go programs' command lines.
"""

from __future__ import annotations

from .conversation import Conversation
from .fleet import OURS, POLLING, POLLING_DEFLATE, STREAMING, STREAMING_DEFLATE, UPSTREAM


class OurServer(Conversation):
    server_kind = OURS
    configurator = UPSTREAM


class UpstreamClientWithOurServer(OurServer):
    """Issue 2, interoperability: upstream client -> our server; connectors of both kinds on both ends."""

    def test_polling(self) -> None:
        self.converse(UPSTREAM, POLLING)

    def test_polling_with_deflate(self) -> None:
        self.converse(UPSTREAM, POLLING_DEFLATE)

    def test_streaming(self) -> None:
        self.converse(UPSTREAM, STREAMING)

    def test_streaming_with_deflate(self) -> None:
        self.converse(UPSTREAM, STREAMING_DEFLATE)


class OurClientWithOurServer(OurServer):
    """Issue 2, interoperability: our client -> our server; connectors of both kinds on both ends."""

    def test_item_130_polling(self) -> None:
        self.converse(OURS, POLLING)

    def test_item_130_polling_with_deflate(self) -> None:
        self.converse(OURS, POLLING_DEFLATE)

    def test_item_130_streaming(self) -> None:
        self.converse(OURS, STREAMING)

    def test_item_130_streaming_with_deflate(self) -> None:
        self.converse(OURS, STREAMING_DEFLATE)
