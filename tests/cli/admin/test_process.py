"""The console script as a process: pipes that close, and Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
import threading

import grpc

from fleetspeak.pb import admin
from tests.interop.peer import our_program
from tests.programs import PATIENCE

from .doubles import ToolTestCase


class ProcessTests(ToolTestCase):
    def start(self, *words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [our_program("fleetspeak-admin"), f"-admin_addr={self.server.address}", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(process.kill)
        return process

    def test_a_reader_that_has_enough(self) -> None:
        reply = admin.ListClientsResponse()
        for number in range(50_000):
            reply.clients.add(client_id=number.to_bytes(8, "big")).labels.add(service_name="client", label="linux")
        self.server.replies["ListClients"] = reply
        process = self.start("listclients")
        assert process.stdout is not None
        assert process.stderr is not None
        self.assertIn("Client ID:", process.stdout.readline())
        process.stdout.close()
        self.assertEqual(process.wait(PATIENCE), 1)
        self.assertEqual(process.stderr.read(), "")
        process.stderr.close()

    def test_an_interrupt_ends_a_call(self) -> None:
        came, ended = threading.Event(), threading.Event()
        self.addCleanup(ended.set)

        def wait(request: object, context: grpc.ServicerContext) -> admin.ListClientsResponse:
            context.add_callback(ended.set)
            came.set()
            ended.wait(PATIENCE)
            return admin.ListClientsResponse()

        self.server.replies["ListClients"] = wait
        process = self.start("listclients")
        self.assertTrue(came.wait(PATIENCE))
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.communicate(timeout=PATIENCE), ("", ""))
        self.assertEqual(process.returncode, 130)
        self.assertTrue(ended.wait(PATIENCE))
