"""Known answers, recorded from the released Go programs or made by an independent implementation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def load(name: str) -> Any:
    """The content of ``<name>.json``."""
    return json.loads(Path(__file__).with_name(f"{name}.json").read_text())
