"""``fleetspeak plugins``: what is found in this environment, and what is wrong with the rest."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from fleetspeak.lookup import PLUG_INS, Broken, Found, Origin


@dataclass(frozen=True, slots=True)
class Row:
    """One plug-in, for people."""

    kind: str
    name: str
    package: str
    version: str
    module: str
    help: str


def main(words: Sequence[str]) -> int:
    """Entry point; the status is 1 if there is something that cannot be used."""
    parser = argparse.ArgumentParser(
        prog="fleetspeak plugins",
        description="List the plug-ins that are found in this environment, and those that cannot be used.",
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument(
        "--refresh",
        action="store_true",
        help="first remove Twisted's dropin.cache: after installing packages in any other way than by pip",
    )
    arguments = parser.parse_args(words)
    if arguments.refresh:
        PLUG_INS.forget()
    rows = sorted((row for found in PLUG_INS.every() for row in _rows(found)), key=lambda row: (row.kind, row.name))
    broken, empty = PLUG_INS.broken(), PLUG_INS.empty()
    if arguments.json:
        print(json.dumps({"plugins": [asdict(row) for row in rows], "broken": [_described(one) for one in broken]}))
    else:
        _print(rows)
        _complain(broken, empty)
    return 1 if broken else 0


def _rows(found: Found) -> list[Row]:
    origin = PLUG_INS.origin(found.module)
    name, help = (str(getattr(found.plugin, what, "")) for what in ("name", "help"))
    return [Row(kind, name, origin.package, origin.version, found.module, help) for kind in found.kinds]


def _described(broken: Broken) -> dict[str, str]:
    origin = broken.origin
    return {"module": broken.module, "package": origin.package, "version": origin.version, "why": broken.why}


def _print(rows: Sequence[Row]) -> None:
    columns = [("KIND", "NAME", "PACKAGE", "MODULE")]
    columns += [(row.kind, row.name, f"{row.package} {row.version}".strip() or "?", row.module) for row in rows]
    widths = [max(len(line[column]) for line in columns) for column in range(4)]
    for line in columns:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _complain(broken: Sequence[Broken], empty: Sequence[Origin]) -> None:
    for one in broken:
        print(f"cannot be used: {one.origin}: {one.why}", file=sys.stderr)
    for origin in empty:
        print(
            f"no plug-in is in {origin}; expected are values of the module that provide an interface of "
            "fleetspeak.interfaces: objects, not their classes",
            file=sys.stderr,
        )
