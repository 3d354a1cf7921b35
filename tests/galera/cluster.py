"""A Galera cluster of three MariaDB nodes on this machine, which tests kill, cut off and bring back.

Installing the system's tables takes longest, so it is done once, and copied.  The first node begins the cluster; the
others get everything from it by rsync.  Nodes run as Debian's user ``mysql``: as root the transfer of the state fails.
"""

from __future__ import annotations

import atexit
import functools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pymysql

from tests.programs import Program, eventually, free_port, require, require_on_path

REMEDY = "install the Debian packages mariadb-server, galera-4 and rsync"
PROVIDER = "/usr/lib/galera/libgalera_smm.so"
PATIENCE = 60.0
"""Seconds for a node to join."""


class Node:
    """One node: its folder and ports stay, its process comes and goes."""

    def __init__(self, cluster: Cluster, number: int) -> None:
        self.number = number
        self.port, self.group_port, self.state_port = free_port(), free_port(), free_port()
        self.increments_port = free_port()
        self._cluster = cluster
        self._folder = cluster.folder / f"node{number}"
        self._temporary = cluster.folder / f"temporary{number}"
        """Of its own: a server that starts removes the temporary tables of all others in the folder."""
        self._program: Program | None = None

    def prepare(self, template: Path) -> None:
        """Give it a copy of the system's tables."""
        subprocess.run(["cp", "-a", template, self._folder], check=True)
        self._cluster.make_folder(self._temporary)

    def start(self, *, new_cluster: bool = False) -> None:
        """Start it, and let it join; `until_synced` waits for that."""
        peers = "" if new_cluster else ",".join(f"127.0.0.1:{node.group_port}" for node in self._cluster.nodes)
        options = ";".join(
            [
                f"base_port={self.group_port}",
                f"gmcast.listen_addr=tcp://127.0.0.1:{self.group_port}",
                f"ist.recv_addr=127.0.0.1:{self.increments_port}",
                "gcache.size=32M",
                # A node that is gone is noticed in seconds, since there is no network in between.
                "evs.keepalive_period=PT0.3S;evs.suspect_timeout=PT2S;evs.inactive_timeout=PT4S",
                "evs.inactive_check_period=PT0.3S",
            ]
        )
        argv = [
            require_on_path("mariadbd", REMEDY),
            "--no-defaults",
            "--user=mysql",
            f"--datadir={self._folder}",
            f"--tmpdir={self._temporary}",
            f"--socket={self._folder}.sock",
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            f"--pid-file={self._folder}.pid",
            "--skip-log-bin",
            "--binlog-format=ROW",
            "--default-storage-engine=InnoDB",
            "--innodb-autoinc-lock-mode=2",
            "--innodb-buffer-pool-size=32M",
            "--innodb-log-file-size=16M",
            "--innodb-flush-log-at-trx-commit=0",  # the others have it
            "--skip-name-resolve",
            "--wsrep-on=ON",
            f"--wsrep-provider={PROVIDER}",
            "--wsrep-cluster-name=test",
            f"--wsrep-cluster-address=gcomm://{peers}",
            f"--wsrep-node-address=127.0.0.1:{self.group_port}",
            f"--wsrep-node-name=node{self.number}",
            f"--wsrep-provider-options={options}",
            f"--wsrep-sst-receive-address=127.0.0.1:{self.state_port}",
            "--wsrep-sst-method=rsync",
            *self._cluster.options,
            *(["--wsrep-new-cluster"] if new_cluster else []),
        ]
        self._program = Program(f"node{self.number}", argv)

    def until_synced(self, timeout: float = PATIENCE) -> None:
        """Wait until it takes part."""
        eventually(self.is_synced, f"node{self.number} is synced", timeout)

    def is_synced(self) -> bool:
        """Does it take transactions?"""
        with suppress(pymysql.Error, OSError):
            return self.status("wsrep_local_state_comment") == "Synced" and self.status("wsrep_ready") == "ON"
        return False

    def status(self, name: str) -> str:
        """One of its SHOW STATUS."""
        [(_, value)] = self.query(None, f"SHOW GLOBAL STATUS LIKE '{name}'")
        return str(value)

    def query(self, database: str | None, statement: str) -> list[tuple[Any, ...]]:
        """Run one statement on it; gives its rows."""
        connection = pymysql.connect(
            host="127.0.0.1", port=self.port, user="root", database=database, autocommit=True, connect_timeout=5
        )
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())

    def dsn(self, database: str) -> str:
        """Where the Go MySQL driver finds it."""
        return f"root@tcp(127.0.0.1:{self.port})/{database}"

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._program is not None
        os.kill(self._program.pid, number)

    def begin_to_kill(self) -> None:
        """The same as `kill`, without waiting for it."""
        if self._program is not None and self._program.running:
            self.signal(signal.SIGKILL)

    def kill(self) -> None:
        """End it at once."""
        if self._program is not None:
            self._program.kill()

    def stop(self) -> None:
        """End it in good order: it takes leave of the others."""
        if self._program is not None:
            self._program.terminate(60)


class Cluster:
    """Three nodes."""

    SIZE = 3

    def __init__(self, *options: str) -> None:
        """Make its folders; `start` it then.

        @param options: more of each node's command line.
        """
        require(PROVIDER, "Galera", REMEDY)
        for program in ("wsrep_sst_rsync", "rsync", "mariadb-install-db"):
            require_on_path(program, REMEDY)
        self.options = options
        self.folder = Path(tempfile.mkdtemp(prefix="fleetspeak-galera-"))
        self.folder.chmod(0o755)
        self.nodes = [Node(self, number) for number in range(1, self.SIZE + 1)]

    def start(self) -> None:
        """Start all nodes, and wait until they are one cluster."""
        template = self.folder / "template"
        self._install(template)
        for node in self.nodes:
            node.prepare(template)
        first, *others = self.nodes
        first.start(new_cluster=True)
        first.until_synced()
        for node in others:  # one after the other: only one can get its state at a time
            node.start()
            node.until_synced()
        eventually(self.is_whole, "the cluster is whole", PATIENCE)

    def is_whole(self) -> bool:
        """Do all nodes see all?"""
        with suppress(pymysql.Error, OSError):
            return all(node.is_synced() and node.status("wsrep_cluster_size") == str(self.SIZE) for node in self.nodes)
        return False

    def new_database(self, name: str) -> None:
        """Make an empty database."""
        self.nodes[0].query(None, f"CREATE DATABASE {name} CHARACTER SET utf8mb4")

    def clean_up(self) -> None:
        """End all, and remove everything."""
        for node in self.nodes:  # at once, so that none has anything to say about the others
            node.begin_to_kill()
        for node in self.nodes:
            node.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def make_folder(self, path: Path) -> Path:
        """One that the nodes may use."""
        user = pwd.getpwnam("mysql")
        path.mkdir(exist_ok=True)
        os.chown(path, user.pw_uid, user.pw_gid)
        return path

    def _install(self, template: Path) -> None:
        self.make_folder(self.folder)
        done = subprocess.run(
            [
                require_on_path("mariadb-install-db", REMEDY),
                "--no-defaults",
                f"--datadir={template}",
                f"--tmpdir={self.make_folder(self.folder / 'temporary')}",
                "--user=mysql",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
            ],
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            raise AssertionError(f"mariadb-install-db fails: {done.stdout}")


@functools.cache
def the_cluster() -> Cluster:
    """The one cluster of this test process; who takes a node away brings it back."""
    cluster = Cluster()
    atexit.register(cluster.clean_up)
    cluster.start()
    return cluster
