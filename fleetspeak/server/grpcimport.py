"""What must be so before grpc is imported.

gRPC starts threads and does not survive a fork, so nothing may import it before twistd has daemonized: whoever
needs it calls `ensure_grpc` when it starts, and imports it there, in the function.  Thus
``twistd fleetspeak-server --help`` works where it is not installed, too.
"""

from __future__ import annotations

import os

from fleetspeak.errors import ConfigError


def ensure_grpc() -> None:
    """Make ``import grpc`` safe.  Raises ConfigError if it is not installed."""
    # The reactor starts child processes by fork and exec, which gRPC's own fork handlers only get in the way of.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    # What it would write to stderr past our log (an address in use, a target that is away) we report ourselves.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        import grpc  # noqa: F401
        import grpc_health.v1.health  # noqa: F401
        import grpc_reflection.v1alpha.reflection  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"the server needs grpcio, which cannot be imported ({error}): pip install 'fleetspeak-twisted[server]'"
        ) from error
