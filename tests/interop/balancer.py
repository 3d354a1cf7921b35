"""HAProxy as a TCP balancer that tells the servers behind it who connects (PROXY protocol, version 1)."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

from tests.programs import Program, eventually, require_on_path

CONFIGURATION = """
global
  log stdout format raw local0 info
defaults
  mode tcp
  log global
  option tcplog
  timeout connect 5s
  timeout client 1h
  timeout server 1h
frontend clients
  bind 127.0.0.1:{port}
  default_backend servers
backend servers
  balance roundrobin
"""


def start_balancer(folder: Path, port: int, servers: Sequence[int]) -> Program:
    """Start it on `port`, in front of servers on those ports; each connection is a line in its log."""
    haproxy = require_on_path("haproxy", "install the Debian package haproxy")
    lines = [f"  server server{number} 127.0.0.1:{one} send-proxy" for number, one in enumerate(servers)]
    configuration = folder / "haproxy.cfg"
    configuration.write_text(CONFIGURATION.format(port=port) + "\n".join(lines) + "\n")
    program = Program("haproxy", [haproxy, "-db", "-f", configuration], folder=folder)
    eventually(lambda: _listens(port), "the balancer listens")
    return program


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True
