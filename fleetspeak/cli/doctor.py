"""``fleetspeak doctor``: why a client does not connect, and what to do about it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fleetspeak.client.doctor.configuration import Patient
from fleetspeak.client.doctor.examination import examine
from fleetspeak.program.once import run_once


def main(words: Sequence[str]) -> int:
    """Examine, and print what was found.  0: all checks hold; 1: not all do."""
    chosen = _read(words)
    patient = Patient(
        config=chosen.client,
        trusted_cert_file=chosen.trusted_cert_file,
        servers=chosen.server,
        config_path=chosen.config_path,
        deployment_key_files=chosen.deployment_key_file,
        dialer=chosen.dialer,
        insecure=chosen.insecure_config,
        contact=chosen.contact,
    )

    async def run(reactor: Any) -> int:
        report = await examine(patient, reactor)
        print(report.as_json() if chosen.json else report.as_text())
        return 0 if report.holds else 1

    return run_once(run)


def _read(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="fleetspeak doctor",
        description="Checks a client's configuration, services and state, and the way to each of its servers step by "
        "step. The client may run meanwhile; it is not disturbed without --contact.",
        epilog="Exit status: 0 if all checks hold, 1 if not, 2 if the command line cannot be read.",
    )
    which = parser.add_argument_group("which client", "either its configuration file, or the options it runs with")
    which.add_argument("--client", "--config", type=Path, metavar="CONFIG", help="its configuration file")
    which.add_argument("--trusted-cert-file", type=Path, metavar="FILE", help="PEM file of the servers' authority")
    which.add_argument("--server", action="append", default=[], metavar="HOST:PORT", help="may be repeated")
    which.add_argument("--config-path", type=Path, default=Path("fleetspeak-client"), metavar="FOLDER")
    which.add_argument("--deployment-key-file", type=Path, action="append", default=[], metavar="FILE")
    which.add_argument("--dialer", default="", metavar="NAME", help="if it runs with one")
    which.add_argument("--insecure-config", action="store_true", help="if it runs with that")
    parser.add_argument(
        "--contact",
        action="store_true",
        help="make contact with each server even if the client runs; it may then get messages late for some minutes",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    chosen = parser.parse_args(words)
    small = chosen.trusted_cert_file is not None or bool(chosen.server)
    if chosen.client is not None and small:
        parser.error("give either --client CONFIG, or --trusted-cert-file FILE and --server HOST:PORT")
    return chosen
