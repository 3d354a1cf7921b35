"""Lets the person at the terminal be the operator: one line, one question to a client."""

from __future__ import annotations

import select
import sys
from collections.abc import Callable

from google.protobuf.wrappers_pb2 import StringValue

from fleetspeak.cli.demo.operator import Answer, NoAnswer, Operator
from fleetspeak.pb import stdin

STDIN_MESSAGE = "StdinServiceInputMessage"
"""The message type that a Stdin service takes."""

HELP = """\
  hello CLIENT NAME       ask the daemon service for a greeting
  ls CLIENT [WORD ...]    run ls there, and cat likewise
  fleet                   list the clients
  quit                    stop everything, as Ctrl-C does
CLIENT is polling or streaming."""

_LOOK = 0.5
"""Seconds between two checks."""


def greet(operator: Operator, client_id: str, name: str) -> tuple[str, Answer]:
    """Ask the daemon service `hello`.  Raises NoAnswer."""
    answer = operator.ask(client_id, "hello", "Greeting", StringValue(value=name))
    greeting = StringValue()
    answer.message.data.Unpack(greeting)
    return greeting.value, answer


def run_command(operator: Operator, client_id: str, name: str, *words: str, data: bytes = b"") -> tuple[str, Answer]:
    """Have a Stdin service run its command.  Raises NoAnswer, also if the command fails."""
    answer = operator.ask(client_id, name, STDIN_MESSAGE, stdin.InputMessage(args=words, input=data))
    output = stdin.OutputMessage()
    answer.message.data.Unpack(output)
    return output.stdout.decode("utf-8", "replace").strip(), answer


class Console:
    """Reads commands from standard input until there are no more."""

    def __init__(self, operator: Operator, clients: dict[str, str], list_fleet: Callable[[], None]) -> None:
        """@param clients: client ids by name."""
        self._operator = operator
        self._clients = clients
        self._list_fleet = list_fleet

    def run(self, check: Callable[[], None]) -> None:
        """Carry out line after line; `check` is called again and again meanwhile."""
        _prompt()
        while True:
            check()
            if not select.select([sys.stdin], [], [], _LOOK)[0]:
                continue
            line = sys.stdin.readline()
            words = line.split()
            if not line or words in (["quit"], ["exit"]):
                return
            if words == ["fleet"]:
                self._list_fleet()
            elif words:
                print(self._answer(words))
            _prompt()

    def _answer(self, words: list[str]) -> str:
        if len(words) < 2 or words[0] not in ("hello", "ls", "cat") or words[1] not in self._clients:
            return HELP
        service, client_id = words[0], self._clients[words[1]]
        try:
            if service == "hello":
                text, answer = greet(self._operator, client_id, " ".join(words[2:]) or "operator")
            else:
                text, answer = run_command(self._operator, client_id, service, *words[2:])
        except NoAnswer as error:
            return str(error)
        return f"{text}\n({answer.milliseconds:.0f} ms)"


def _prompt() -> None:
    print("> ", end="", flush=True)
