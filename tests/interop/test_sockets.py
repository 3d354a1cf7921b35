"""Programs with our connectors at the Socket service of either client, on the page's own examples."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import ClassVar
from unittest import TestCase

from google.protobuf.wrappers_pb2 import StringValue

from tests.programs import Program, eventually

from .fleet import OURS, STREAMING, UPSTREAM, Client, Fleet, Kind, greeter

PAGE = Path(__file__).resolve().parents[2] / "doc" / "client-services.md"
PROGRAMS = dict(re.findall(r"^```python (socket_\w+\.py)\n(.*?)^```$", PAGE.read_text(), re.M | re.S))


NUMBERS = """
import time
from google.protobuf.wrappers_pb2 import StringValue
from fleetspeak.client_connector.sockets import SocketConnection
from fleetspeak.pb import common

with SocketConnection("PATH") as connection:
    for number in range(COUNT):
        message = common.Message(destination=common.Address(service_name="SERVICE"))
        message.data.Pack(StringValue(value=f"NAME number {number}"))
        connection.Send(message, wait=False)
        time.sleep(0.01)
"""
COUNT = 300


class SocketServices(TestCase):
    fleet: ClassVar[Fleet]

    @classmethod
    def setUpClass(cls) -> None:
        cls.fleet = Fleet(OURS, (OURS,))
        cls.addClassCleanup(cls.fleet.clean_up)
        cls.fleet.start_operators()
        cls.fleet.server(OURS).start()

    def client(self, kind: Kind, name: str = "sock") -> Client:
        """A client with a Socket service, not started yet."""
        client = self.fleet.client(kind, f"{kind.value}-{name}", STREAMING)
        (client.folder / "etc" / "textservices" / "sock").write_text(
            'name: "sock" factory: "Socket" config { [type.googleapis.com/fleetspeak.socketservice.Config] {'
            f' api_proxy_path: "{self.path(client)}" }} }}'
        )
        return client

    def path(self, client: Client) -> Path:
        return client.folder / "run" / "socket"

    def start(self, client: Client, name: str) -> Program:
        script = client.folder / name
        script.write_text(PROGRAMS[name].replace("/run/hello/socket", str(self.path(client))))
        program = Program(name, [sys.executable, script])
        self.addCleanup(program.make_sure_it_ended)
        return program

    def assert_greets(self, client: Client, occasion: str) -> None:
        """Twice: the second one is read only when the first answer is acknowledged."""
        for number in range(2):
            greeting = StringValue(value=f"{client.name} {occasion} {number}")
            self.fleet.operator.send(greeter(OURS), client.client_id, "sock", greeting)
            answer = self.fleet.operator.wait_for_text(f"Hello {greeting.value}!")
            self.assertEqual(("sock", client.client_id), (answer.source.service_name, answer.source.client_id))

    def check(self, kind: Kind) -> None:
        client = self.client(kind)
        client.start()
        eventually(lambda: self.fleet.operator.clients([client.client_id]), f"{client.name} enrols")
        self.assertEqual(3, len(PROGRAMS))
        for name in PROGRAMS:
            program = self.start(client, name)
            self.assert_greets(client, name)
            client.stop()
            client.start()
            self.assert_greets(client, f"{name} again")
            program.terminate()
        client.stop()

    def check_kills(self, kind: Kind) -> None:
        """Every number arrives, although the client is killed twice while they are sent."""
        client = self.client(kind, "killed")
        client.start()
        script = client.folder / "sender.py"
        replaced = {"PATH": str(self.path(client)), "COUNT": str(COUNT), "SERVICE": greeter(OURS), "NAME": client.name}
        text = NUMBERS
        for word, value in replaced.items():
            text = text.replace(word, value)
        script.write_text(text)
        program = Program("sender", [sys.executable, script])
        self.addCleanup(program.make_sure_it_ended)
        for number in (50, 200):
            self.fleet.operator.wait_for_text(f"{client.name} number {number}")
            client.program.kill()
            client.start()
        self.assertEqual(0, program.wait(60))
        for number in range(COUNT):
            self.fleet.operator.wait_for_text(f"{client.name} number {number}")
        client.stop()

    def test_go_client_killed(self) -> None:
        self.check_kills(UPSTREAM)

    def test_our_client_killed(self) -> None:
        self.check_kills(OURS)

    def test_go_client(self) -> None:
        self.check(UPSTREAM)

    def test_our_client(self) -> None:
        self.check(OURS)
