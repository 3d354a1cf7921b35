"""Completion in shells, each by itself and in the real shells."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.programs import require_on_path

from .doubles import run_tool

REMEDY = "install the Debian package"


def completed(*words: str) -> list[str]:
    outcome = run_tool("__complete", *words)
    assert (outcome.status, outcome.err) == (0, ""), outcome
    return [line.partition("\t")[0] for line in outcome.out.splitlines()]


class AnswerTests(SynchronousTestCase):
    def test_commands(self) -> None:
        self.assertEqual(completed("list"), ["listclients", "listcontacts", "listactivebroadcasts"])
        self.assertEqual(completed("--json", "-admin_addr", "host:1", "mes"), ["messages"])
        self.assertIn("clients", completed(""))
        self.assertIn("clients", completed())
        self.assertNotIn("__complete", completed("__"))

    def test_commands_of_a_group(self) -> None:
        self.assertEqual(completed("messages", "c"), ["count", "cancel"])
        self.assertEqual(completed("messages", "list", ""), [])
        self.assertEqual(completed("nonsense", ""), [])

    def test_options(self) -> None:
        self.assertEqual(completed("--tls-c"), ["--tls-ca", "--tls-cert"])
        self.assertEqual(completed("messages", "list", "--st"), ["--state"])
        self.assertEqual(completed("listclients", "--js"), ["--json"])

    def test_values_are_left_to_the_shell(self) -> None:
        for words in (("--tls-ca", ""), ("messages", "insert", "--data-file", ""), ("listclients", "--tls-ca", "")):
            self.assertEqual(completed(*words), [])
        self.assertEqual(completed("completion", ""), ["bash", "zsh", "fish"])
        self.assertEqual(completed("messages", "list", "--state", "d"), ["dead"])


class ShellTests(SynchronousTestCase):
    """The scripts, in the shells that they are for."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        (self.folder / "file").touch()

    def run_shell(self, shell: str, *options: str, code: str) -> list[str]:
        program = require_on_path(shell, f"{REMEDY} {shell}")
        script = self.folder / f"script.{shell}"
        script.write_text(run_tool("completion", shell).out)
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            [program, *options, "-c", code.replace("SCRIPT", str(script))],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=self.folder,
            env={"PATH": path, "HOME": str(self.folder)},
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done.stdout.splitlines()

    def test_bash(self) -> None:
        code = (
            "source SCRIPT; COMP_WORDS=(fleetspeak-admin messages ca); COMP_CWORD=2; _fleetspeak_admin; "
            'printf "%s\\n" "${COMPREPLY[@]}"; complete -p fleetspeak-admin'
        )
        self.assertEqual(
            self.run_shell("bash", code=code),
            ["cancel", "complete -o default -F _fleetspeak_admin fleetspeak-admin"],
        )

    def test_zsh(self) -> None:
        code = (
            "compdef() { print compdef $*; }; _describe() { print -l ${(P)2}; }; _files() { print files; }; "
            "source SCRIPT; words=(fleetspeak-admin messages ca); CURRENT=3; _fleetspeak_admin; "
            "words=(fleetspeak-admin --tls-ca ''); _fleetspeak_admin"
        )
        self.assertEqual(
            self.run_shell("zsh", "-f", code=code),
            [
                "compdef _fleetspeak_admin fleetspeak-admin",
                "cancel:end pending messages, as failed",
                "files",
            ],
        )

    def test_fish(self) -> None:
        code = "source SCRIPT; complete -C 'fleetspeak-admin messages ca'; complete -C 'fleetspeak-admin --tls-ca fi'"
        self.assertEqual(
            self.run_shell("fish", "--no-config", code=code),
            ["cancel\tend pending messages, as failed", "file"],
        )
