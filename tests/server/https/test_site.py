from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.server.https.wire import Response, Server


class RoutingTests(SynchronousTestCase):
    def ask(self, path: str, method: str = "GET") -> Response:
        connection = Server().connect()
        connection.post(path, method=method)
        return connection.response()

    def test_other_paths(self) -> None:
        for path in ("/", "/messages", "/message/", "/Message", "//message", "/streaming-message/x", "*"):
            response = self.ask(path)
            self.assertEqual((response.status, response.body), (404, b"404 page not found\n"), path)

    def test_files_are_not_there(self) -> None:
        response = self.ask("/files/system/RevokedCertificates")
        self.assertEqual((response.status, response.body), (404, b"file not found\n"))

    def test_a_query_is_passed_over(self) -> None:
        self.assertEqual(self.ask("/message?x=y", "POST").status, 200)

    def test_the_connection_stays_open_after_a_404(self) -> None:
        connection = Server().connect()
        connection.post("/nothing", method="GET")
        connection.post("/message")
        self.assertEqual([one.status for one in connection.responses()], [404, 200])

    def test_a_404_with_a_body_to_come_closes(self) -> None:
        connection = Server().connect()
        connection.send(b"POST /nothing HTTP/1.1\r\nContent-Length: 100000000000\r\nExpect: 100-continue\r\n\r\n")
        self.assertEqual(connection.response().status, 404)
        self.assertFalse(connection.said_continue)
        self.assertTrue(connection.is_closed)
        connection.send(bytes(1000))
