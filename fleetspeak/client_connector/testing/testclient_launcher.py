"""Starts the program `testclient` as its child, so that the service's process is not the one that the client started.

Takes the options of `testclient`, and ends as it does.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """Run it with the descriptors of the channel; returns its exit status."""
    channel = [int(os.environ[f"FLEETSPEAK_COMMS_CHANNEL_{end}"]) for end in ("INFD", "OUTFD")]
    command = [sys.executable, "-m", "fleetspeak.client_connector.testing.testclient", *argv]
    return subprocess.run(command, pass_fds=channel, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
