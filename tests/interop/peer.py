"""The released upstream programs (Go) and Python connectors.  ``tools/get-peer`` fetches them once."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

from tests.programs import require

TOP = Path(__file__).resolve().parents[2]


def go_program(name: str) -> Path:
    """One of fleetspeak-server, fleetspeak-client, fleetspeak-config, fleetspeak-admin."""
    _fetch()
    return require(TOP / ".cache" / "peer" / "bin" / name, name, "run tools/get-peer")


def upstream_python() -> Path:
    """The interpreter in whose environment ``fleetspeak`` is upstream's package."""
    _fetch()
    return require(TOP / ".venv-upstream" / "bin" / "python", "upstream's Python package", "run tools/get-peer")


def our_python() -> Path:
    """The interpreter in whose environment ``fleetspeak`` is ours: the one that runs the tests."""
    return Path(sys.executable)


def our_program(name: str) -> Path:
    """A console script of ours, as installed beside the interpreter."""
    return require(Path(sys.executable).parent / name, name, "install the project: pip install -e '.[dev]'")


@functools.cache
def _fetch() -> None:
    """Fetch what is missing; without a network the tests that need it say so themselves."""
    subprocess.run([TOP / "tools" / "get-peer"], check=False, env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"})
