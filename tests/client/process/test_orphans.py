"""No child outlives its client, but for kill -9; and then only until the next start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.client.process.orphans import MARK, Marked, mark_of, reap, whom_to_kill
from fleetspeak.security.certificates import make_authority, to_pem
from tests.client.process.children import alive, python
from tests.programs import Program, eventually, free_port

SLEEPY = python(
    "import signal, time\nfor n in (2, 15): signal.signal(n, signal.SIG_IGN)\nprint(1, flush=True)\ntime.sleep(600)"
)


class Choosing(SynchronousTestCase):
    def test_groups_that_a_marked_process_leads_go_as_a_whole_and_others_one_by_one(self) -> None:
        marked = [Marked(10, 10), Marked(11, 10), Marked(20, 19)]
        self.assertEqual(({10}, {20}), whom_to_kill(marked, set(), set()))

    _processes = st.lists(
        st.builds(Marked, st.integers(1, 20), st.integers(1, 20)), max_size=20, unique_by=lambda process: process.pid
    )

    @settings(max_examples=100)
    @given(_processes, st.sets(st.integers(1, 20)), st.sets(st.integers(1, 20)))
    def test_all_but_the_spared_are_killed(
        self, marked: list[Marked], spared: set[int], spared_groups: set[int]
    ) -> None:
        spared_groups = spared_groups | {process.group for process in marked if process.pid in spared}
        groups, singles = whom_to_kill(marked, spared, spared_groups)
        self.assertFalse(singles & spared or groups & spared_groups or groups & spared)
        self.assertFalse(groups & {process.group for process in marked if process.pid in spared})
        for process in marked:
            self.assertEqual(process.pid not in spared, process.group in groups or process.pid in singles, process)


class Reaping(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.mark = mark_of(self.folder / "state")

    def child(self, *argv: str, marked: bool = True, session: bool = True) -> subprocess.Popen[str]:
        environment = {**os.environ, **(self.mark if marked else {})}
        child = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=session)
        self.addCleanup(self.end, child)
        assert child.stdout is not None
        child.stdout.readline()
        return child

    def end(self, child: subprocess.Popen[str]) -> None:
        child.kill()
        child.communicate()

    def test_marked_processes_are_ended_and_others_are_not(self) -> None:
        marked, ours, other = self.child(*SLEEPY), self.child(*SLEEPY, session=False), self.child(*SLEEPY, marked=False)
        self.assertEqual({marked.pid, ours.pid}, set(reap(self.mark)))
        self.assertEqual((-signal.SIGKILL, -signal.SIGKILL), (marked.wait(10), ours.wait(10)))
        self.assertIsNone(other.poll())
        self.assertEqual([], reap(self.mark))

    def test_so_is_the_rest_of_the_group_and_one_that_has_left_it(self) -> None:
        code = (
            "import subprocess, sys, time\n"
            f"clean = subprocess.Popen({[*SLEEPY]}, env={{}}, stdout=subprocess.DEVNULL)\n"
            f"left = subprocess.Popen({[*SLEEPY]}, start_new_session=True, stdout=subprocess.DEVNULL)\n"
            "print(clean.pid, left.pid, flush=True)\n"
            "time.sleep(600)\n"
        )
        environment = {**os.environ, **self.mark}
        child = subprocess.Popen(
            python(code), stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
        )
        self.addCleanup(self.end, child)
        assert child.stdout is not None
        clean, left = map(int, child.stdout.readline().split())
        reap(self.mark)
        for pid in (clean, left):
            eventually(lambda pid=pid: not alive(pid) or None, f"{pid} ends")  # type: ignore[misc]

    def test_never_itself_or_what_it_descends_from(self) -> None:
        """Even if all of them have the mark, as when a daemon starts the client anew."""
        code = (
            "import json, os, subprocess, sys\n"
            "if len(sys.argv) > 1:\n"
            "  subprocess.run([sys.executable, *sys.orig_argv[1:-1]])\n"
            "else:\n"
            "  from fleetspeak.client.process.orphans import MARK, reap\n"
            "  print(reap({MARK: os.environ[MARK]}))\n"
        )
        result = subprocess.run(
            [sys.executable, "-c", code, "again"],
            env={**os.environ, **self.mark},
            stdout=subprocess.PIPE,
            start_new_session=True,
            timeout=60,
            check=True,
        )
        self.assertEqual(b"[]\n", result.stdout)

    def test_the_mark_of_another_folder_of_the_same_name_is_another(self) -> None:
        child = self.child(*SLEEPY)
        self.folder.rename(self.folder.with_name("moved"))
        self.folder.mkdir()
        self.assertNotEqual(self.mark, mark_of(self.folder / "state"))
        self.assertEqual([], reap(mark_of(self.folder / "state")))
        self.assertIsNone(child.poll())


class WholeClient(SynchronousTestCase):
    """A client with a daemon that ends for nobody, and no server."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        services = self.folder / "config" / "textservices"
        services.mkdir(parents=True)
        self.pids = self.folder / "pids"
        (self.folder / "ca.pem").write_text(to_pem(make_authority("test", 1_700_000_000.0)[0]))
        self.program = self.folder / "stubborn.py"
        self.program.write_text(
            "import os, signal, sys, time\n"
            "for number in (signal.SIGINT, signal.SIGTERM): signal.signal(number, signal.SIG_IGN)\n"
            f"with open({str(self.pids)!r}, 'a') as pids: pids.write(f'{{os.getpid()}}\\n')\n"
            "time.sleep(600)\n"
        )
        (services / "stubborn").write_text(
            'name: "Stubborn" factory: "Daemon"\n'
            "config { [type.googleapis.com/fleetspeak.daemonservice.Config] {\n"
            f'  argv: "{sys.executable}" argv: "-S" argv: "{self.program}"\n'
            "} }\n"
        )
        self.port = free_port()
        self.addCleanup(self.kill_all)

    def kill_all(self) -> None:
        for pid in self.daemons():
            if alive(pid):
                os.kill(pid, signal.SIGKILL)

    def daemons(self) -> list[int]:
        """The pids of all daemons so far."""
        return [int(line) for line in self.pids.read_text().split()] if self.pids.exists() else []

    def client(self) -> Program:
        code = "from fleetspeak.cli.foreground import client; client()"
        client = Program(
            "client",
            [
                sys.executable,
                "-c",
                code,
                "--logtostderr",
                f"--trusted_cert_file={self.folder / 'ca.pem'}",
                f"--server=127.0.0.1:{self.port}",
                f"--config_path={self.folder / 'config'}",
            ],
        )
        self.addCleanup(client.make_sure_it_ended)
        return client

    def wait_for_daemon(self, number: int) -> int:
        return eventually(lambda: self.daemons()[number] if len(self.daemons()) > number else None, "a daemon starts")

    def test_a_daemon_of_a_client_that_was_killed_is_ended_by_its_next_start(self) -> None:
        client = self.client()
        first = self.wait_for_daemon(0)
        environment = Path(f"/proc/{first}/environ").read_bytes().split(b"\0")
        self.assertTrue(any(variable.startswith(MARK.encode()) for variable in environment))
        client.kill()
        self.assertTrue(alive(first), "this is what the next start is for")
        client = self.client()
        client.wait_for_line(f"ended 1 processes that had outlived this client: {first}")
        self.assertFalse(alive(first))
        second = self.wait_for_daemon(1)
        self.assertEqual(0, client.terminate())
        self.assertFalse(alive(second))

    def test_a_clean_stop_ends_what_has_left_its_group_too(self) -> None:
        left = self.folder / "left"
        escape = f"import subprocess\npid = subprocess.Popen({[*SLEEPY]}, start_new_session=True).pid\n"
        self.program.write_text(escape + f"open({str(left)!r}, 'w').write(str(pid))\n" + self.program.read_text())
        client = self.client()
        self.wait_for_daemon(0)
        pid = int(left.read_text())
        self.assertTrue(alive(pid))
        self.assertEqual(0, client.terminate())
        self.assertFalse(alive(pid))

    def test_a_client_that_exits_without_stopping_takes_its_children_along(self) -> None:
        """As it does on a forced Die, when its watchdog expires, or when its stop takes too long."""
        code = (
            "import sys\n"
            "from twisted.internet import reactor\n"
            "from fleetspeak.client.process.child import Child\n"
            "from fleetspeak.client.process.living import LIVING\n"
            "from fleetspeak.program.ending import ProcessEnd\n"
            "from fleetspeak.program.lastacts import at_the_end\n"
            "at_the_end(LIVING.kill_all)\n"
            "class Owner:\n"
            "  def child_wrote(self, descriptor, data):\n"
            "    print(child.pid, flush=True)\n"
            "    ProcessEnd(reactor).abort(7)\n"
            "child = Child(Owner())\n"
            f"child.start(reactor, {[*SLEEPY]}, {{}}, {{1: 'r'}})\n"
            "reactor.run()\n"
        )
        result = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, timeout=60, check=False)
        self.assertEqual(7, result.returncode)
        pid = int(result.stdout)
        eventually(lambda: not alive(pid) or None, f"{pid} ends")
