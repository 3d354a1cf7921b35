"""doc/plug-ins.md: its examples, built and installed in an environment of their own, and all its commands."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
import unittest
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc

from fleetspeak import rpc
from fleetspeak.pb import common
from fleetspeak.security.certificates import make_authority, to_pem
from fleetspeak.testing.wireclient import Connection, Identity, Stream
from tests.mariadb import the_server
from tests.programs import Program, eventually, free_port

TOP = Path(__file__).resolve().parents[2]
PAGE = TOP / "doc" / "plug-ins.md"
NAMES = ("jsonlines", "facts", "admission", "resultlog", "neighbours")
BLOCK = re.compile(r"^( *)```(\w+) (\S+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)

STORE = """
from zope.interface import implementer
from fleetspeak.interfaces import IStoreFactory
from fleetspeak.store.memory import MemoryStore

class Leaky(MemoryStore):
    def open(self):
        1 / 0

@implementer(IStoreFactory)
class Factory:
    name, help = "leaky", "Fails."
    def make(self, argument, reactor, now_ns, uniform):
        return Leaky(now_ns=now_ns, uniform=uniform)

leaky = Factory()
"""

CLUMSY = """
from zope.interface import implementer
from fleetspeak.interfaces import IClientServiceFactory

@implementer(IClientServiceFactory)
class Factory:
    name, help, config_type = "Clumsy", "Fails.", None
    def make(self, config, context):
        return {}["no such key"]

clumsy = Factory()
"""

PROMPT = 15.0
"""Seconds within which a notified server sends a message; one that was not may look for it after 30 to 90."""

WITHOUT_INDEX = {
    "PIP_NO_INDEX": "1",
    "PIP_NO_DEPS": "1",
    "PIP_NO_BUILD_ISOLATION": "0",  # pip's way of saying that there is no isolation
    "PIP_NO_COMPILE": "1",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_ROOT_USER_ACTION": "ignore",
}
"""pip builds with the setuptools that are here, and asks nobody."""


class Environment:
    """A new virtual environment.  It sees what ours has installed, but for this project."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "venv" / "bin"
        self.run(sys.executable, "-m", "venv", "--without-pip", folder / "venv")
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        site = folder / "venv" / "lib" / version / "site-packages"
        # Lines of paths: the .pth files in there, of our own editable installation, are not looked at.
        (site / "installed_for_tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
        pip = self.bin / "pip"
        pip.write_text(f'#!/bin/sh\nexec {self.bin}/python -m pip "$@"\n')
        pip.chmod(0o755)

    @property
    def variables(self) -> Mapping[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP_"))}
        return {**kept, **WITHOUT_INDEX, "PATH": f"{self.bin}:{os.environ['PATH']}", "COLUMNS": "200"}

    def run(self, *words: str | Path, cwd: Path | None = None, status: int = 0) -> str:
        """What a program prints, both ways."""
        ended = subprocess.run(
            words,
            cwd=cwd or self.folder,
            env=dict(self.variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert ended.returncode == status, f"{words} ended with {ended.returncode}:\n{ended.stdout}"
        return ended.stdout


class PlugInsTests(unittest.TestCase):
    """One environment for all of it."""

    @classmethod
    def setUpClass(cls) -> None:
        scratch = TemporaryDirectory(prefix="fs-plug-ins-")
        cls.addClassCleanup(scratch.cleanup)
        cls.top = Path(scratch.name)
        cls.environment = Environment(cls.top)
        cls._copy_sources()
        text = PAGE.read_text()
        cls.blocks = {name: content for _, _, name, content in BLOCK.findall(text)}
        cls.sh("pip install --ignore-installed ./fleetspeak-twisted", cls.top)
        cls.sh(cls.blocks["install"], cls.top / "examples")

    @classmethod
    def _copy_sources(cls) -> None:
        """Building leaves things behind."""
        ours = cls.top / "fleetspeak-twisted"
        ignore = shutil.ignore_patterns("__pycache__", "dropin.cache", "build", "*.egg-info")
        for name in ("fleetspeak", "twisted"):
            shutil.copytree(TOP / name, ours / name, ignore=ignore)
        for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(TOP / name, ours / name)
        shutil.copytree(TOP / "doc" / "examples", cls.top / "examples", ignore=ignore)

    @classmethod
    def sh(cls, command: str, cwd: Path, status: int = 0) -> str:
        return cls.environment.run("bash", "-euc", command, cwd=cwd, status=status)

    def setUp(self) -> None:
        scratch = TemporaryDirectory(prefix="fs-")
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)

    def start(self, name: str, command: str) -> Program:
        variables = {**self.environment.variables, "PYTHONPATH": ""}
        program = Program(name, ["bash", "-euc", f"exec {command}"], folder=self.folder, environment=variables)
        self.addCleanup(program.make_sure_it_ended)
        return program

    def test_every_block_of_the_page_is_used_here(self) -> None:
        source = Path(__file__).read_text()
        used = set(re.findall(r"""["']([\w./]+)["']""", source))
        self.assertLessEqual(set(self.blocks), used)

    def test_every_example_is_on_the_page_and_tells_in_ten_lines_what_it_is(self) -> None:
        for name in NAMES:
            self.assertIn(f"(examples/fleetspeak-{name})", PAGE.read_text())
            lines = (TOP / "doc" / "examples" / f"fleetspeak-{name}" / "README.md").read_text().splitlines()
            self.assertLessEqual(len(lines), 12, name)

    def test_they_are_installed_and_found(self) -> None:
        listed = self.sh(self.blocks["list"], self.folder)
        for kind, name, package in (
            ("IServerServiceFactory", "JsonLines", "jsonlines"),
            ("IClientServiceFactory", "Facts", "facts"),
            ("IAuthorizerFactory", "admission", "admission"),
            ("IStoreFactory", "resultlog", "resultlog"),
            ("INotifierFactory", "neighbours", "neighbours"),
        ):
            self.assertRegex(
                listed, rf"(?m)^{kind} +{name} +fleetspeak-{package} 1\.0 +fleetspeak\.plugins\.{package}_"
            )
        self.assertEqual(self.sh(self.blocks["refresh"], self.folder), listed)
        self.assertNotIn(str(TOP), self.sh("python -c 'import fleetspeak; print(fleetspeak.__file__)'", self.folder))

    def test_a_plug_in_in_one_file(self) -> None:
        path = self.folder / "fleetspeak/plugins/counting_dropin.py"
        path.parent.mkdir(parents=True)
        path.write_text(self.blocks["fleetspeak/plugins/counting_dropin.py"])
        self.assertRegex(self.sh(self.blocks["look"], self.folder), "(?m)^IServerServiceFactory +Counter ")

    def test_an_editable_installation(self) -> None:
        """Of a package with names of its own, as two that offer the same would be refused."""
        project = self.folder / "fleetspeak-other"
        shutil.copytree(
            self.top / "examples" / "fleetspeak-facts", project, ignore=shutil.ignore_patterns("build", "*.egg-info")
        )
        (project / "fleetspeak/plugins/facts_dropin.py").rename(project / "fleetspeak/plugins/other_dropin.py")
        (project / "fleetspeak_facts").rename(project / "fleetspeak_other")
        for path in project.rglob("*.*"):
            if path.suffix in (".py", ".toml"):
                path.write_text(re.sub("fleetspeak([-_])facts", r"fleetspeak\1other", path.read_text()))
        service = project / "fleetspeak_other" / "service.py"
        service.write_text(service.read_text().replace('name = "Facts"', 'name = "Other"'))
        self.sh("pip install -q --editable ./fleetspeak-other", self.folder)
        self.addCleanup(self.sh, "pip uninstall -q -y fleetspeak-other", self.folder)
        self.assertRegex(
            self.sh("fleetspeak plugins", self.folder), "(?m)^IClientServiceFactory +Other +fleetspeak-other 1.0 "
        )

    def test_their_own_tests_pass(self) -> None:
        programs = []
        for name in NAMES:
            copy = self.folder / f"fleetspeak-{name}"
            shutil.copytree(self.top / "examples" / copy.name, copy)
            programs.append(self.start(name, f"bash -euc 'cd {copy} && {self.blocks['test'].strip()}'"))
        for program in programs:
            self.assertEqual(program.wait(300), 0, f"the tests of {program.name}")
            self.assertRegex("\n".join(program.lines), r"PASSED \(successes=")

    def test_all_five_at_work(self) -> None:
        ports = {port: str(free_port()) for port in ("4443", "6061")}
        blocks = {
            name: re.sub("4443|6061", lambda port: ports[port.group()], content)
            for name, content in self.blocks.items()
        }
        for name in ("services.textproto", "ask.py"):
            (self.folder / name).write_text(blocks[name])
        self.sh(blocks["prepare"] + blocks["setup"], self.folder)
        server = self.start("server", blocks["server"])
        server.wait_for_line("Fleetspeak server started")
        client = self.start("client", blocks["client"])
        client_id = client.wait_for_line("client [0-9a-f]{16} starting").rpartition(" starting")[0][-16:]
        client.wait_for_line("not authorized")
        self.sh(f"ID={client_id}\n{blocks['admit']}", self.folder)
        client = self.admitted(blocks["client"], client)
        self.sh(blocks["ask"], self.folder)
        written = self.folder / "messages.jsonl"
        [answer] = eventually(lambda: [json.loads(line) for line in written.read_text().splitlines()], "an answer")
        self.assertEqual((answer["client_id"], answer["type"]), (client_id, "Answer"))
        self.assertEqual(answer["validation"], {"admission": "listed"})
        self.assertEqual(answer["data"]["value"]["question"], "disk /")
        self.assertGreater(answer["data"]["value"]["size"], 0)
        results = self.folder / "results.jsonl"
        eventually(lambda: answer["message_id"] in results.read_text(), "its result")
        self.assertEqual(len(list((self.folder / "sockets").iterdir())), 1)
        for program in (client, server):
            self.assertEqual(program.terminate(), 0)
            self.assertEqual(program.lines_matching("Traceback|Unhandled"), [])
        self.assertEqual(list((self.folder / "sockets").iterdir()), [], "the notifier has put away its socket")

    def admitted(self, command: str, client: Program) -> Program:
        """Start the client again until the server has seen its new list."""
        for _ in range(30):
            client.terminate()
            client = self.start("client", command)
            if "established" in client.wait_for_line("contact with .* established|not authorized"):
                return client
        raise AssertionError("the list was not read again")

    def test_two_servers_notify_each_other(self) -> None:
        database = the_server().new_database()
        self.addCleanup(database.drop)
        (self.folder / "dsn").write_text(database.dsn)
        (self.folder / "dsn").chmod(0o600)
        (self.folder / "sockets").mkdir(mode=0o700)
        https = [free_port(), free_port()]
        admin = [free_port(), free_port()]
        for one, other in zip(https, admin, strict=True):
            server = self.start(
                f"server {one}",
                f"fleetspeak-server --https-addr 127.0.0.1:{one} --admin-addr 127.0.0.1:{other} "
                "--store resultlog:results.jsonl,mysql:dsn --notifier neighbours:sockets",
            )
            server.wait_for_line("Fleetspeak server started")
        identity = Identity.make()
        trusted = (self.folder / "fleetspeak-ca.pem").read_text()
        connection = Connection(("localhost", https[0]), trusted, identity)
        self.addCleanup(connection.close)
        stream = Stream(connection, common.ContactData())
        channel = grpc.insecure_channel(f"127.0.0.1:{admin[1]}")
        self.addCleanup(channel.close)
        message = common.Message(message_id=os.urandom(32), message_type="Hello")
        message.source.service_name = "operator"
        message.destination.client_id = identity.client_id
        message.destination.service_name = "greeter"
        message.creation_time.GetCurrentTime()
        rpc.admin.AdminStub(channel).InsertMessage(message, timeout=20)
        self.assertTrue(stream.wait(PROMPT), "the other server did not hear of it")
        self.assertEqual([one.message_id for one in stream.receive().messages], [message.message_id])


class BrokenTests(unittest.TestCase):
    """What is wrong with one plug-in is told by a server that starts, or says why it cannot, and costs no other one."""

    def setUp(self) -> None:
        scratch = TemporaryDirectory(prefix="fs-broken-")
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)
        self.plugins = self.folder / "fleetspeak" / "plugins"
        self.plugins.mkdir(parents=True)

    def serve(self, *options: str) -> Program:
        twistd = Path(sys.executable).parent / "twistd"
        arguments = ["--https-addr=127.0.0.1:0", "--admin-addr=", "--services-config=services", *options]
        if not (self.folder / "services").exists():
            (self.folder / "services").touch()
        program = Program(
            "server",
            [twistd, "-n", "--pidfile=", "fleetspeak-server", *arguments],
            folder=self.folder,
            environment={"PYTHONPATH": str(self.folder)},
        )
        self.addCleanup(program.make_sure_it_ended)
        return program

    def counter(self, **replaced: str) -> str:
        [text] = [
            content for _, _, name, content in BLOCK.findall(PAGE.read_text()) if name.endswith("counting_dropin.py")
        ]
        for old, new in replaced.items():
            assert old in text, old
            text = text.replace(old, new)
        return text

    def test_a_broken_one_beside_a_good_one(self) -> None:
        (self.plugins / "a_broken_dropin.py").write_text("import no_such_module\n")
        (self.plugins / "counting_dropin.py").write_text(self.counter())
        (self.folder / "services").write_text('services { name: "n" factory: "Counter" }')
        server = self.serve()
        server.wait_for_line("Fleetspeak server started")
        [line] = server.lines_matching("plug-ins in fleetspeak.plugins.a_broken_dropin")
        self.assertRegex(line, "left out: ModuleNotFoundError: .*no_such_module.*; install what is missing")
        self.assertEqual(server.terminate(), 0)
        self.assertTrue(server.lines_matching("0 messages were counted"))

    def refused(self, text: str, said: str) -> None:
        (self.plugins / "counting_dropin.py").write_text(text)
        (self.folder / "services").write_text('services { name: "n" factory: "Counter" }')
        server = self.serve()
        self.assertEqual(server.wait(), 1)
        self.assertEqual(len(server.lines_matching(said)), 1, server.lines)
        self.assertEqual(server.lines_matching("server started"), [])

    def test_the_selected_one_is_broken(self) -> None:
        self.refused(
            "import no_such_module\n",
            r"unable to find factory \[Counter\]; there are: .*Perhaps it is in what cannot be used: "
            "fleetspeak.plugins.counting_dropin .*no_such_module",
        )

    def test_it_fails_in_make(self) -> None:
        self.refused(
            self.counter(**{"return Counter()": "return {}['no such key']"}),
            "CounterFactory of fleetspeak.plugins.counting_dropin .* failed with KeyError",
        )

    def test_it_makes_something_else(self) -> None:
        self.refused(
            self.counter(**{"def process(self, message)": "def handle(self, message)"}),
            "what CounterFactory of fleetspeak.plugins.counting_dropin .* made does not keep IServerService: .*process",
        )

    def test_it_fails_in_start(self) -> None:
        self.refused(
            self.counter(**{"def start(self):\n        pass": "def start(self):\n        1 / 0"}),
            'Unable to initialize Fleetspeak server: service "n" cannot start: ZeroDivisionError: .*, in Counter of '
            "fleetspeak.plugins.counting_dropin",
        )

    def test_a_store_that_fails_when_it_is_opened(self) -> None:
        (self.plugins / "store_dropin.py").write_text(STORE)
        server = self.serve("--store=leaky:")
        self.assertEqual(server.wait(), 1)
        said = "Unable to initialize Fleetspeak server: the store cannot start: ZeroDivisionError"
        self.assertEqual(len(server.lines_matching(said)), 1, server.lines)
        self.assertTrue(server.lines_matching("store_dropin.py"), "the traceback says where")

    def test_on_a_client(self) -> None:
        """The service is left out, and the client goes on without it."""
        (self.plugins / "broken_dropin.py").write_text("import no_such_module\n")
        (self.plugins / "clumsy_dropin.py").write_text(CLUMSY)
        services = self.folder / "client" / "textservices"
        services.mkdir(parents=True)
        for name, factory in (("missing", "Facts"), ("clumsy", "Clumsy"), ("good", "NOOP")):
            (services / f"{name}.service").write_text(f'name: "{name}" factory: "{factory}"')
        (self.folder / "ca.pem").write_text(to_pem(make_authority("Test", time.time())[0]))
        twistd = Path(sys.executable).parent / "twistd"
        arguments = ["--trusted-cert-file=ca.pem", f"--server=localhost:{free_port()}", "--config-path=client"]
        client = Program(
            "client",
            [twistd, "-n", "--pidfile=", "fleetspeak-client", *arguments],
            folder=self.folder,
            environment={"PYTHONPATH": str(self.folder)},
        )
        self.addCleanup(client.make_sure_it_ended)
        client.wait_for_line("started with 1 services")
        client.wait_for_line('factory not found: "Facts".*fleetspeak.plugins.broken_dropin.*no_such_module')
        client.wait_for_line("service not installed: .*Factory of fleetspeak.plugins.clumsy_dropin .*KeyError")
        self.assertEqual(client.terminate(), 0)
