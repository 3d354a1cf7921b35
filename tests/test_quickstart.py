"""doc/quickstart.md, done as it says: its files, its commands, in its order."""

from __future__ import annotations

import os
import re
import sys
import unittest
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.programs import PATIENCE, Program, free_port

PAGE = Path(__file__).resolve().parents[1] / "doc" / "quickstart.md"
BLOCK = re.compile(r"^```(\w+) (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class QuickstartTests(unittest.TestCase):
    def setUp(self) -> None:
        scratch = TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)
        text = PAGE.read_text()
        for port in ("4443", "6061", "6062"):
            text = text.replace(port, str(free_port()))
        self.commands = {}
        for language, name, content in BLOCK.findall(text):
            if language == "sh":
                self.commands[name] = content
            else:
                (self.folder / name).write_text(content)

    def run_command(self, name: str) -> Program:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        words = ["bash", "-c", f"exec {self.commands[name]}" if name != "setup" else self.commands[name]]
        program = Program(name, words, folder=self.folder, environment={"PATH": path})
        self.addCleanup(program.make_sure_it_ended)
        return program

    def test_the_walk_through(self) -> None:
        server = self.run_command("server")
        server.wait_for_line("Fleetspeak server started")
        self.assertEqual(self.run_command("setup").wait(), 0)
        client = self.run_command("client")
        client.wait_for_line("contact with .* established")
        operator = self.run_command("operator")
        operator.wait_for_line("[0-9a-f]{16} says: Hello operator!", PATIENCE)
        self.assertEqual(operator.wait(), 0)
        self.assertEqual(client.terminate(), 0)
        self.assertEqual(server.terminate(), 0)
