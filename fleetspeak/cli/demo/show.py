"""What the demo does, step by step, and what it prints."""

from __future__ import annotations

import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fleetspeak import ids
from fleetspeak.cli.admin.clients import row_of
from fleetspeak.cli.admin.output import Column, Listing, show
from fleetspeak.cli.demo.console import HELP, Console, greet, run_command
from fleetspeak.cli.demo.fleet import CLIENTS, Fleet
from fleetspeak.cli.demo.interruption import Interruption
from fleetspeak.cli.demo.operator import Operator

LOOK = 0.5
"""Seconds between two looks at whether all programs still run."""

_FLEET_COLUMNS = (
    Column("client_id", "Client ID", 16, whole=True),
    Column("last_contact", "Last contact", 24),
    Column("how", "How", 10),
    Column("labels", "Labels"),
)

GREETINGS = 5
"""Times that each client is greeted, for the round-trip times."""


def run(interruption: Interruption, *, once: bool) -> int:
    """The whole demo.  Returns an exit status; raises FleetspeakError if something does not work."""
    answered = False
    try:
        with Fleet(interruption) as fleet, Operator() as operator:
            _start(fleet, operator)
            _greet(fleet, operator)
            _run_commands(fleet, operator)
            _list_fleet(fleet, operator)
            answered = True
            if not once:
                _stay(fleet, operator)
            _say("\nStopping everything ...")
    except KeyboardInterrupt:
        _say("\nInterrupted; everything is stopped.")
        return 0 if answered else 1
    _say("Done: every answer came, every process is gone, and so is the folder.")
    return 0


def _start(fleet: Fleet, operator: Operator) -> None:
    _say(f"A fleet in {fleet.path}, with certificates made for it\n")
    with _timed("server, on SQLite") as tell:
        fleet.start_server(operator.listen())
        operator.connect(fleet.admin_address)
        tell(f"clients at {fleet.https_address}, operators at {fleet.admin_address}")
    for name in CLIENTS:
        with _timed(f"{name} client") as tell:
            fleet.start_client(name)
            tell(f"client {fleet.clients[name]}")


def _greet(fleet: Fleet, operator: Operator) -> None:
    _say("\nThe operator greets the daemon service `hello` on each client")
    for name, client_id in fleet.clients.items():
        times = []
        for _ in range(GREETINGS):
            text, answer = greet(operator, client_id, f"{name} client")
            times.append(answer.milliseconds)
        shown = ", ".join(f"{milliseconds:.0f}" for milliseconds in times)
        _say(f"  {name:<10} {text}   there and back in {shown} ms")


def _run_commands(fleet: Fleet, operator: Operator) -> None:
    _say("\nand runs commands by the Stdin service")
    for name, client_id in fleet.clients.items():
        listing, answer = run_command(operator, client_id, "ls", "-a", str(fleet.path / name))
        _say(f"  {name:<10} ls -a: {' '.join(listing.split())}   ({answer.milliseconds:.0f} ms)")
        content, answer = run_command(operator, client_id, "cat", data=b"what goes in comes out")
        _say(f"  {name:<10} cat:   {content}   ({answer.milliseconds:.0f} ms)")


def _list_fleet(fleet: Fleet, operator: Operator) -> None:
    _say("\nThe fleet, as the server knows it, and `fleetspeak-admin clients list` tells it\n")
    names = {client_id: name for name, client_id in fleet.clients.items()}
    rows = ({**row_of(client), "how": names.get(ids.show(client.client_id))} for client in operator.clients())
    show(Listing(_FLEET_COLUMNS, rows, "No clients."), as_json=False, local=False)


def _stay(fleet: Fleet, operator: Operator) -> None:
    """Let the person at the terminal, if there is one, ask the clients; until Ctrl-C or the end of the fleet."""
    scripts = sysconfig.get_path("scripts")
    _say(f"""
The fleet goes on until Ctrl-C. Meanwhile, in another terminal:
  tail -f {fleet.path}/server.log
  {scripts}/fleetspeak-admin --admin-addr {fleet.admin_address} --watch 2 clients list
  cat {fleet.path}/streaming/textservices/hello
  {scripts}/fleetspeak-client --trusted-cert-file {fleet.path}/fleet-ca.pem \\
    --server {fleet.https_address} --config-path {fleet.path}/third""")
    if sys.stdin.isatty():
        _say(f"\nand here:\n{HELP}")
        Console(operator, fleet.clients, lambda: _list_fleet(fleet, operator)).run(fleet.check)
        return
    while True:
        fleet.check()
        time.sleep(LOOK)


@contextmanager
def _timed(what: str) -> Iterator[Callable[[str], None]]:
    """Says what starts, and then how long that took and whatever it is told."""
    print(f"Starting the {what} ... ", end="", flush=True)
    began = time.monotonic()
    told: list[str] = []
    yield told.append
    _say(f"{time.monotonic() - began:.1f} s   {' '.join(told)}")


def _say(text: str) -> None:
    print(text, flush=True)
