"""HAProxy in front of a Galera cluster, as doc/examples/haproxy has it."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pymysql

from tests.programs import Program, eventually, free_port, require_on_path

EXAMPLE = Path(__file__).resolve().parents[2] / "doc" / "examples" / "haproxy"


def start_galera_balancer(folder: Path, ports: Sequence[int]) -> tuple[Program, int]:
    """Start it in front of nodes on these ports; gives it, and its own port."""
    haproxy = require_on_path("haproxy", "install the Debian package haproxy")
    require_on_path("mariadb", "install the Debian package mariadb-client-core")
    port = free_port()
    text = (EXAMPLE / "galera.cfg").read_text()
    text = text.replace("127.0.0.1:3306", f"127.0.0.1:{port}").replace("/etc/haproxy/", f"{EXAMPLE}/")
    for number, one in enumerate(ports, 1):
        text = text.replace(f"10.0.0.{number}:3306", f"127.0.0.1:{one}")
    assert not re.search(r"10\.0\.0|:3306", re.sub("#.*", "", text)), "all addresses are replaced"
    path = os.environ.get("PATH", "")  # HAProxy hands on nothing of its environment to a check
    option = "    option external-check\n"
    text = text.replace(option, f"{option}    external-check path {path}:/usr/bin:/bin\n")
    configuration = folder / "haproxy.cfg"
    configuration.write_text(text)
    program = Program("haproxy", [haproxy, "-db", "-f", configuration], folder=folder)

    def answers() -> bool:
        with suppress(OSError, pymysql.Error), socket.create_connection(("127.0.0.1", port), 2):
            pymysql.connect(host="127.0.0.1", port=port, user="root", connect_timeout=2).close()
            return True
        return False

    eventually(answers, "the balancer has a node")
    return program, port
