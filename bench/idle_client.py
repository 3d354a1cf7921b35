"""What an idle client takes, ours and the Go one side by side: resident memory, and CPU over some minutes.

    .venv/bin/python bench/idle_client.py [--minutes 10]

Both stream to one server of ours, and run one daemon each that waits for messages.  Memory is that of the client's
process alone, without its daemon; CPU is counted from a minute after the start.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
from figures import Server, cpu_seconds, new_server, wait_for, write_client

GO_CLIENT = Path(__file__).resolve().parents[1] / ".cache" / "peer" / "bin" / "fleetspeak-client"
OUR_CLIENT = Path(sys.executable).parent / "fleetspeak-client"
SETTLING = 60.0
"""Seconds after the start that do not count."""


def start(program: Path, server: Server, name: str) -> subprocess.Popen[bytes]:
    """The client, from when its daemon runs."""
    times = server.folder / f"{name}-times"
    write_client(server, times, name)
    log = (server.folder / f"{name}.log").open("wb")
    process = subprocess.Popen(
        [program, f"-config={server.folder / name / 'client.textproto'}", "-logtostderr"],
        cwd=server.folder,
        stdout=log,
        stderr=log,
    )
    wait_for(times.exists)
    return process


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    seconds = parser.parse_args().minutes * 60
    os.environ["PYTHONUNBUFFERED"] = "1"
    with ExitStack() as stack:
        server = stack.enter_context(new_server())
        stack.enter_context(server.running())
        clients = {}
        for name, program in (("ours", OUR_CLIENT), ("Go", GO_CLIENT)):
            process = start(program, server, name)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            clients[name] = psutil.Process(process.pid)
        time.sleep(SETTLING)
        before = {name: cpu_seconds(client) for name, client in clients.items()}
        time.sleep(seconds)
        for name, client in clients.items():
            spent = cpu_seconds(client) - before[name]
            memory = client.memory_full_info()
            print(
                f"{name}: {memory.rss / 2**20:.1f} MiB resident, {memory.uss / 2**20:.1f} MiB of its own; "
                f"{spent:.2f} s of CPU in {seconds / 60:.0f} minutes, {spent / seconds * 1000:.2f} ms per second"
            )


if __name__ == "__main__":
    main()
