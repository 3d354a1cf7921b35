"""What may import what, as doc/architecture.md says: the arrows of the house, read from the source."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

TOP = Path(__file__).resolve().parents[1]
STANDARD = sys.stdlib_module_names

BASE = {
    "fleetspeak.ids",
    "fleetspeak.errors",
    "fleetspeak.pb",
    "fleetspeak.records",
    "fleetspeak.listings",
    "google.protobuf",
}
BELOW = BASE | {"fleetspeak.wire", "fleetspeak.core", "fleetspeak.interfaces", "cryptography", "zope.interface"}
FINDING = {"fleetspeak.lookup", "fleetspeak.plugins"}
SETTINGS = BELOW | {"fleetspeak.security", "fleetspeak.config"}
SERVER_ONLY = {"fleetspeak.rpc", "grpc", "grpc_health", "grpc_reflection", "google.rpc", "absl", "pymysql"}
"""What only the `server` and `mysql` extras install: no client may need it."""

ALLOWED: dict[str, set[str]] = {
    "fleetspeak": set(),
    "fleetspeak.src": {"fleetspeak.src", "google.protobuf", "grpc"},
    "fleetspeak.pb": {"fleetspeak.src"},
    "fleetspeak.rpc": {"fleetspeak.src"},
    "fleetspeak.ids": set(),
    "fleetspeak.errors": set(),
    "fleetspeak.listings": BASE,
    "fleetspeak.records": {"fleetspeak.ids", "fleetspeak.pb", "google.protobuf"},
    "fleetspeak.wire": BASE | {"fleetspeak.wire", "cryptography"},
    # Installed with the extra `server`; no client makes such calls.
    "fleetspeak.wire.h2calls": BASE | {"fleetspeak.wire", "hpack"},
    "fleetspeak.core": BASE | {"fleetspeak.core", "fleetspeak.wire", "cryptography"},
    "fleetspeak.interfaces": {
        "fleetspeak.interfaces",
        "fleetspeak.ids",
        "fleetspeak.errors",
        "fleetspeak.pb",
        "fleetspeak.records",
        "fleetspeak.listings",
        "twisted.plugin",
        "zope.interface",
    },
    "fleetspeak.lookup": {
        "fleetspeak.errors",
        "fleetspeak.plugins",
        "twisted.logger",
        "twisted.plugin",
        "zope.interface",
    },
    "fleetspeak.security": BELOW | {"fleetspeak.security"},
    "fleetspeak.security.tls": BELOW | {"fleetspeak.security", "OpenSSL", "service_identity", "twisted"},
    "fleetspeak.config": SETTINGS | {"psutil"},
    "fleetspeak.store": BELOW | {"fleetspeak.store", "twisted", "pymysql"},
    "fleetspeak.program": {"fleetspeak.errors", "fleetspeak.program", "twisted"},
    "fleetspeak.server": SETTINGS
    | SERVER_ONLY
    | {"fleetspeak.server", "fleetspeak.program", "fleetspeak.store", "OpenSSL", "twisted"}
    | FINDING,
    # Installed with the extra `metrics` only; whoever needs it finds out by importing stats.endpoint.
    "fleetspeak.server.stats.exposition": {"fleetspeak.core", "fleetspeak.server", "prometheus_client", "twisted"},
    "fleetspeak.server.stats.gauges": {"fleetspeak.__version__", "fleetspeak.interfaces", "fleetspeak.server"},
    "fleetspeak.client": SETTINGS
    | {"fleetspeak.client", "fleetspeak.program", "twisted", "psutil", "OpenSSL"}
    | FINDING,
    # Installed with the extra `http2` only; whoever needs it finds out by importing h2pool.
    "fleetspeak.client.comms.h2connection": SETTINGS | {"fleetspeak.client", "twisted", "h2"},
    "fleetspeak.plugins": {"fleetspeak.interfaces", "twisted"},
    "fleetspeak.plugins.server_builtins": {"fleetspeak.server", "fleetspeak.interfaces"},
    "fleetspeak.plugins.stores": {"fleetspeak.store", "fleetspeak.interfaces"},
    "fleetspeak.plugins.client_builtins": {"fleetspeak.client", "fleetspeak.interfaces"},
    "fleetspeak.plugins.communicators": {"fleetspeak.client", "fleetspeak.interfaces"},
    "fleetspeak.plugins.dialers": {"fleetspeak.client", "fleetspeak.interfaces"},
    "fleetspeak.client_connector": BASE | {"fleetspeak.client_connector", "fleetspeak.wire"},
    "fleetspeak.client_connector.tx": BASE
    | {"fleetspeak.client_connector", "fleetspeak.wire", "twisted", "zope.interface"},
    "fleetspeak.server_connector": BASE | SERVER_ONLY | {"fleetspeak.server_connector"},
    "fleetspeak.cli": SETTINGS | SERVER_ONLY | {"fleetspeak.cli", "twisted"},
    "fleetspeak.cli.admin": (SETTINGS | SERVER_ONLY | {"fleetspeak.cli", "rich"}) - {"pymysql"},
    "fleetspeak.cli.demo": SETTINGS
    | SERVER_ONLY
    | {"fleetspeak.cli", "fleetspeak.client_connector", "fleetspeak.server_connector", "twisted"},
    "fleetspeak.cli.plugins": {"fleetspeak.lookup"},
    "fleetspeak.cli.retention": SETTINGS
    | {"fleetspeak.program", "fleetspeak.server.choices", "fleetspeak.server.retention", "twisted"},
    "fleetspeak.cli.doctor": {"fleetspeak.client.doctor", "fleetspeak.program"},
    "fleetspeak.testing": SETTINGS
    | {
        "fleetspeak.client",
        "fleetspeak.program",
        "fleetspeak.server",
        "fleetspeak.store",
        "fleetspeak.testing",
        "OpenSSL",
        "twisted",
    },
    "twisted.plugins": {"twisted.application.service"},
}
"""For each module or package, by the longest name that fits, what it may import beside the standard library."""

SANS_IO = ("fleetspeak.wire", "fleetspeak.core")
SIDE_EFFECTS = {"time", "random", "secrets", "socket", "ssl", "threading", "subprocess", "asyncio", "select"}
"""Clock, randomness and I/O: passed in, never fetched."""


@dataclass(frozen=True)
class Import:
    """One arrow."""

    importer: str
    imported: str
    line: int

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Every module of ours by its dotted name."""
    for folder in ("fleetspeak", "twisted"):
        for path in sorted((TOP / folder).rglob("*.py")):
            parts = path.relative_to(TOP).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            yield name, ast.parse(path.read_text("utf-8"), str(path))


def imports_of(name: str, tree: ast.Module) -> Iterator[Import]:
    """What a module imports anywhere in it, but for what it needs for type checking only."""
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(name, alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name}:{node.lineno}: imports are written with their full name"
            for alias in node.names:
                # `from fleetspeak import ids` and `from fleetspeak.ids import show` alike name fleetspeak.ids.
                yield Import(name, f"{node.module}.{alias.name}", node.lineno)


def rule_for(name: str) -> set[str]:
    fitting = [package for package in ALLOWED if within(name, package)]
    return ALLOWED[max(fitting, key=len)]


IMPORTS = [arrow for name, tree in modules() for arrow in imports_of(name, tree)]


class LayeringTests(SynchronousTestCase):
    def assert_none(self, wrong: Iterator[Import]) -> None:
        self.assertEqual([str(arrow) for arrow in wrong], [])

    def test_every_arrow_is_one_of_the_architecture(self) -> None:
        self.assert_none(
            arrow
            for arrow in IMPORTS
            if arrow.imported.partition(".")[0] not in STANDARD
            and not any(within(arrow.imported, allowed) for allowed in rule_for(arrow.importer))
            and not (within(arrow.importer, "fleetspeak.src") or arrow.importer == "fleetspeak.rpc")
        )

    def test_server_and_client_do_not_know_each_other(self) -> None:
        self.assert_none(
            arrow
            for arrow in IMPORTS
            for one, other in (("fleetspeak.server", "fleetspeak.client"), ("fleetspeak.client", "fleetspeak.server"))
            if within(arrow.importer, one) and within(arrow.imported, other)
        )

    def test_the_sans_io_parts_fetch_neither_time_nor_chance_nor_bytes(self) -> None:
        self.assert_none(
            arrow
            for arrow in IMPORTS
            if any(within(arrow.importer, package) for package in SANS_IO)
            and arrow.imported.partition(".")[0] in SIDE_EFFECTS
        )

    def test_generated_code_is_reached_through_pb_and_rpc_only(self) -> None:
        self.assert_none(
            arrow
            for arrow in IMPORTS
            if within(arrow.imported, "fleetspeak.src")
            and not within(arrow.importer, "fleetspeak.src")
            and arrow.importer not in ("fleetspeak.pb", "fleetspeak.rpc")
        )

    def test_only_tap_and_testing_know_the_assemblies(self) -> None:
        self.assert_none(
            arrow
            for arrow in IMPORTS
            for side in ("server", "client")
            if within(arrow.imported, f"fleetspeak.{side}.assembly")
            and arrow.importer != f"fleetspeak.{side}.tap"
            and not within(arrow.importer, "fleetspeak.testing")
        )

    def test_nothing_that_runs_needs_the_test_doubles(self) -> None:
        self.assert_none(
            arrow
            for arrow in IMPORTS
            if within(arrow.imported, "fleetspeak.testing") and not within(arrow.importer, "fleetspeak.testing")
        )

    def test_the_client_needs_nothing_that_only_the_server_installs(self) -> None:
        sides = ("fleetspeak.client", "fleetspeak.client_connector", "fleetspeak.plugins.client_builtins")
        self.assert_none(
            arrow
            for arrow in IMPORTS
            if any(within(arrow.importer, side) for side in sides)
            and any(within(arrow.imported, package) for package in SERVER_ONLY)
        )

    def test_the_architecture_names_every_package(self) -> None:
        text = (TOP / "doc" / "architecture.md").read_text()
        packages = {
            path.parent.name
            for path in (TOP / "fleetspeak").glob("*/__init__.py")
            if path.parent.name not in ("src", "__pycache__")
        }
        self.assertEqual([name for name in sorted(packages) if f"{name}/" not in text], [])
