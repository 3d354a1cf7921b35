"""A wheel, installed in an empty environment, gives working programs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import unittest
import zipfile
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]


def run(*words: str | Path, cwd: Path) -> str:
    """What a program prints, both ways; its failure fails the test with all of that."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    ended = subprocess.run(
        words, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert ended.returncode == 0, f"{words} ended with {ended.returncode}:\n{ended.stdout}"
    return ended.stdout


class WheelTests(unittest.TestCase):
    """One wheel and one environment for all of it: they take their time."""

    @classmethod
    def setUpClass(cls) -> None:
        scratch = tempfile.TemporaryDirectory(prefix="fleetspeak-wheel-")
        cls.addClassCleanup(scratch.cleanup)
        cls.folder = Path(scratch.name)
        run(sys.executable, "-m", "build", "--wheel", "--outdir", cls.folder / "dist", cls.source(), cwd=cls.folder)
        (cls.wheel,) = (cls.folder / "dist").glob("*.whl")
        run(sys.executable, "-m", "venv", cls.folder / "venv", cwd=cls.folder)
        cls.bin = cls.folder / "venv" / "bin"
        run(cls.bin / "pip", "install", "-q", "--disable-pip-version-check", cls.wheel, cwd=cls.folder)

    @classmethod
    def source(cls) -> Path:
        """A copy of what the wheel is made from: building leaves things behind, and finds what builds before left."""
        copy = cls.folder / "source"
        for name in ("fleetspeak", "twisted"):
            shutil.copytree(TOP / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "dropin.cache"))
        for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(TOP / name, copy / name)
        return copy

    def test_the_wheel_holds_the_plug_ins_and_the_types_but_no_package_of_twisteds(self) -> None:
        names = set(zipfile.ZipFile(self.wheel).namelist())
        for needed in (
            "twisted/plugins/fleetspeak_server.py",
            "twisted/plugins/fleetspeak_client.py",
            "fleetspeak/py.typed",
            "fleetspeak/src/common/proto/fleetspeak/common_pb2.py",
            "fleetspeak/src/common/proto/fleetspeak/common_pb2.pyi",
        ):
            self.assertIn(needed, names)
        for harmful in ("twisted/__init__.py", "twisted/plugins/__init__.py", "twisted/plugins/dropin.cache"):
            self.assertNotIn(harmful, names)
        self.assertEqual([name for name in names if name.startswith("tests/")], [])

    def test_twistd_knows_both_programs_without_the_server_extra(self) -> None:
        for name, option in (("fleetspeak-server", "--database-path"), ("fleetspeak-client", "--trusted-cert-file")):
            printed = run(self.bin / "twistd", name, "--help", cwd=self.folder)
            self.assertIn(option, printed)
            self.assertNotIn("Traceback", printed)

    def test_the_console_scripts_start(self) -> None:
        for name in ("fleetspeak-server", "fleetspeak-client", "fleetspeak-config", "fleetspeak"):
            self.assertIn("sage", run(self.bin / name, "--help", cwd=self.folder))

    def test_the_client_installs_no_grpc(self) -> None:
        installed = run(self.bin / "pip", "list", "--format=freeze", "--disable-pip-version-check", cwd=self.folder)
        self.assertNotIn("grpcio", installed)
        self.assertNotIn("PyMySQL", installed)

    def test_all_plug_ins_can_be_used_without_the_extras(self) -> None:
        """Clients look through all of them."""
        printed = run(self.bin / "fleetspeak", "plugins", cwd=self.folder)
        self.assertRegex(printed, "(?m)^IStoreFactory +mysql +fleetspeak-twisted ")
        self.assertNotIn("cannot be used", printed)

    def test_looking_for_plug_ins_raises_nothing_without_grpc(self) -> None:
        """Twisted logs a plug-in module that cannot be imported, at every start."""
        program = (
            "from twisted.python import log; import sys; log.startLogging(sys.stdout); "
            "from twisted.plugin import getPlugins; import fleetspeak.plugins; "
            "from fleetspeak.interfaces import IClientServiceFactory as I; "
            "print('found', sorted(factory.name for factory in getPlugins(I, fleetspeak.plugins)))"
        )
        printed = run(self.bin / "python", "-c", program, cwd=self.folder)
        self.assertNotIn("Traceback", printed)
        self.assertIn("'NOOP'", printed)
