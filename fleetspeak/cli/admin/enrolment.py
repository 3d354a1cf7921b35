"""Enrolment: which machines may become clients."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.x509 import load_pem_x509_certificate
from google.protobuf.message import DecodeError

from fleetspeak.cli.admin import lists, stats
from fleetspeak.cli.admin.command import Arguments, Command
from fleetspeak.cli.admin.failure import CommandFailed
from fleetspeak.cli.admin.link import Link
from fleetspeak.cli.admin.output import Report
from fleetspeak.ids import client_id_of_key, show
from fleetspeak.pb import client, operator

INSTEAD = "a Go server enrols whoever its required_label lets in; with a known client there is nothing to do"
_MAX_FILE = 1 << 20


def _mode(mode: operator.Enrolment.Mode.ValueType) -> str:
    return lists.state_name(operator.Enrolment.Mode, mode)


def _status(link: Link, arguments: Arguments) -> Report:
    found = stats.enrolment(link, arguments.window)
    mode = _mode(found.enrolment.mode)
    return Report(
        lambda times: [
            f"Enrolment is {mode}.",
            f"{found.clients} clients, {found.blacklisted} of them blacklisted; "
            f"{found.in_contact} had a contact within {arguments.window}.",
        ],
        {"enrolment": mode, **stats.client_figures(found)},
    )


def _set(link: Link, mode: operator.Enrolment.Mode.ValueType) -> Report:
    link.call("SetEnrolment", link.operator.SetEnrolment, operator.Enrolment(mode=mode), INSTEAD)
    return Report(lambda times: [f"Enrolment is {_mode(mode)}."], {"enrolment": _mode(mode)})


def _open(link: Link, arguments: Arguments) -> Report:
    return _set(link, operator.Enrolment.OPEN)


def _close(link: Link, arguments: Arguments) -> Report:
    return _set(link, operator.Enrolment.CLOSED)


def _declare_enrol(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key_file", type=Path, help="the client's public key or certificate, PEM, or its state file")
    parser.add_argument("--label", action="append", default=[], metavar="LABEL", help="until it reports its own")


def _enrol(link: Link, arguments: Arguments) -> Report:
    public_key = read_public_key(arguments.key_file)
    request = operator.EnrolClientRequest(public_key=public_key, labels=arguments.label)
    client_id = link.call("EnrolClient", link.operator.EnrolClient, request, INSTEAD).client_id
    if client_id != client_id_of_key(public_key):
        raise CommandFailed(f"the server enrolled {show(client_id)}, which is not the id of this key")
    return Report(lambda times: [show(client_id)], {"client_id": client_id})


def read_public_key(path: Path) -> bytes:
    """DER SubjectPublicKeyInfo of the key in a file; of a state file's private key only this is used.

    Raises CommandFailed.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_FILE)
    except OSError as error:
        raise CommandFailed(f"unable to read {path}: {error.strerror}") from None
    try:
        if b"-----BEGIN CERTIFICATE" in raw:
            key: Any = load_pem_x509_certificate(raw).public_key()
        elif b"-----BEGIN" in raw:
            key = serialization.load_pem_public_key(raw)
        else:
            state = client.ClientState.FromString(raw)
            key = serialization.load_der_private_key(state.client_key, None).public_key()
        der: bytes = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, TypeError, DecodeError, UnsupportedAlgorithm):
        raise CommandFailed(
            f"{path} has no usable public key",
            "expected a PEM public key or certificate, or a client's state file",
        ) from None
    return der


COMMANDS = (
    Command("status", "say whether new clients are taken, and how many there are", _status, lists.declare_window),
    Command("open", "take new clients", _open),
    Command("close", "refuse new clients; known ones go on", _close),
    Command("enrol", "make a client known before its first contact; prints its id", _enrol, _declare_enrol),
)
