"""``fleetspeak plugins``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from twisted.trial.unittest import SynchronousTestCase

from tests.test_lookup import CLASS_ONLY, GOOD, MISSING

PROGRAM = Path(sys.executable).parent / "fleetspeak"


class PluginsTests(SynchronousTestCase):
    def setUp(self) -> None:
        scratch = TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.top = Path(scratch.name)
        self.folder = self.top / "fleetspeak" / "plugins"
        self.folder.mkdir(parents=True)

    def run_it(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {"PYTHONPATH": str(self.top)}
        return subprocess.run(
            [PROGRAM, "plugins", *words], env=environment, capture_output=True, text=True, check=False
        )

    def test_what_comes_with_it(self) -> None:
        ended = self.run_it()
        self.assertEqual((ended.returncode, ended.stderr), (0, ""))
        self.assertRegex(
            ended.stdout, r"(?m)^IStoreFactory +sqlite +fleetspeak-twisted [0-9.]+ +fleetspeak.plugins.stores$"
        )

    def test_others_and_what_is_wrong_with_them(self) -> None:
        (self.folder / "well.py").write_text(GOOD)
        (self.folder / "ill.py").write_text(MISSING)
        (self.folder / "classes.py").write_text(CLASS_ONLY)
        ended = self.run_it()
        self.assertEqual(ended.returncode, 1)
        self.assertRegex(ended.stdout, r"(?m)^IAuthorizerFactory +mine +\? +fleetspeak.plugins.well$")
        self.assertRegex(ended.stderr, "cannot be used: fleetspeak.plugins.ill .*no_such_module_anywhere")
        self.assertRegex(ended.stderr, "no plug-in is in fleetspeak.plugins.classes .*not their classes")

    def test_for_programs(self) -> None:
        (self.folder / "ill.py").write_text(MISSING)
        ended = self.run_it("--json")
        described = json.loads(ended.stdout)
        [sqlite] = [one for one in described["plugins"] if one["name"] == "sqlite"]
        self.assertEqual((sqlite["kind"], sqlite["package"]), ("IStoreFactory", "fleetspeak-twisted"))
        self.assertEqual([one["module"] for one in described["broken"]], ["fleetspeak.plugins.ill"])
