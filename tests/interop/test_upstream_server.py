"""Our client on the upstream server, whose files and theirs our configurator wrote.

Polling with deflate is left out: the upstream server cannot read it (see `test_reference`).
"""

from __future__ import annotations

from tests.client.comms.proxies import Tinyproxy
from tests.programs import Program

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
from .peer import our_program


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

    def test_item_49_through_a_proxy(self) -> None:
        """The server is on a loopback address, and the proxy is configured."""
        for transport in (POLLING, STREAMING):
            client = self.fleet.client(OURS, f"proxied-{transport}".replace(" ", "-"), transport)
            proxy = Tinyproxy(client.folder, "BasicAuth user sesame")
            self.addCleanup(proxy.stop)
            client.configure("proxy", f'"http://user:sesame@127.0.0.1:{proxy.port}"')
            client.start()
            self.await_enrolment(client)
            self.assert_greets(client)
            client.stop()
            self.assertGreaterEqual(len(proxy.connects), 1)

    def test_the_doctor_says_that_an_upstream_client_is_well(self) -> None:
        """On the Go client's own files, while it runs."""
        client = self.fleet.client(UPSTREAM, "patient", STREAMING)
        client.start()
        self.await_enrolment(client)
        doctor = Program("doctor", [our_program("fleetspeak"), "doctor", "--client", client.configuration])
        self.assertEqual(doctor.wait(), 0, "\n".join(doctor.lines))
        self.assertTrue(doctor.lines_matching(f"ok +state .*client {client.client_id.hex()}"))
        self.assertTrue(doctor.lines_matching("ok +request .*no list of revoked certificates"))
        self.assertTrue(doctor.lines_matching("ok +clock"))
        client.stop()

    def test_upstream_programs_load_what_our_configurator_wrote(self) -> None:
        """The server runs on it anyway; so does upstream's client."""
        self.converse(UPSTREAM, STREAMING)
