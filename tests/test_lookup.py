"""Plug-ins are found by kind and name; what is wrong with one is told, and hides no other."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

import fleetspeak.plugins
from fleetspeak.errors import ConfigError
from fleetspeak.interfaces import IAuthorizer, IAuthorizerFactory, IFactory, IStoreFactory
from fleetspeak.lookup import Broken, PlugIns, made_of, make, origin_of
from fleetspeak.server.authorizers import AllowAll, AllowAllFactory

HEAD = """
from zope.interface import implementer
from fleetspeak.errors import ConfigError
from fleetspeak.interfaces import IAuthorizerFactory
from fleetspeak.server.authorizers import AllowAll

@implementer(IAuthorizerFactory)
class Factory:
    def __init__(self, name="mine", made=AllowAll):
        self.name, self.help, self.made = name, "A test's.", made
    def make(self, argument, reactor):
        return self.made()
"""
GOOD = HEAD + "mine = Factory()\n"
MISSING = "import no_such_module_anywhere\n" + GOOD
EXITS = "raise SystemExit('I am a script')\n"
NAMELESS = HEAD + "nameless = Factory(None)\ngood = Factory('good')\n"
CLASS_ONLY = HEAD
SHORT = """
from zope.interface import implementer
from fleetspeak.interfaces import IAuthorizerFactory

@implementer(IAuthorizerFactory)
class Factory:
    name, help = "short", "Has a make of another version."
    def make(self): ...

short = Factory()
"""


class FolderCase(SynchronousTestCase):
    """Plug-ins in a package of the test's own, in a folder or two."""

    def setUp(self) -> None:
        self.said: list[dict[str, Any]] = []
        globalLogPublisher.addObserver(self.said.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.said.append)
        self.top = Path(self.mktemp()).absolute()
        self.name = f"plugs_of_test_{abs(hash(self.id()))}"
        self.folder = self.top / self.name
        self.folder.mkdir(parents=True)
        (self.folder / "a_file").touch()  # of the path, some entries may not be there, or lie below a file
        missing = [str(self.folder / name / "plugins") for name in ("no_such_folder", "a_file")]
        (self.folder / "__init__.py").write_text(f"__path__.extend({missing!r})")
        sys.path.insert(0, str(self.top))
        self.addCleanup(sys.path.remove, str(self.top))
        self.addCleanup(self._forget)

    def _forget(self) -> None:
        for name in [name for name in sys.modules if name.startswith(self.name)]:
            del sys.modules[name]

    def write(self, **modules: str) -> None:
        for name, text in modules.items():
            (self.folder / f"{name}.py").write_text(text)

    def look(self) -> PlugIns:
        self._forget()
        importlib.invalidate_caches()
        return PlugIns(importlib.import_module(self.name))

    def names(self, plug_ins: PlugIns) -> list[str]:
        return sorted(plugin.name for plugin in plug_ins.all(IAuthorizerFactory))

    def complaints(self) -> list[str]:
        return [event["why"] for event in self.said if "are left out" in str(event.get("log_format"))]


class FindingTests(FolderCase):
    def test_what_is_there(self) -> None:
        self.write(one=GOOD)
        plug_ins = self.look()
        self.assertEqual(plug_ins.named(IAuthorizerFactory, "mine").name, "mine")
        self.assertEqual(self.names(plug_ins), ["mine"])
        self.assertEqual(plug_ins.all(IStoreFactory), [])
        self.assertEqual(list(plug_ins.by_name(IAuthorizerFactory)), ["mine"])
        [found] = plug_ins.every()
        self.assertEqual((found.kinds, found.module), (("IAuthorizerFactory",), f"{self.name}.one"))
        self.assertEqual((plug_ins.broken(), plug_ins.empty(), self.complaints()), ([], [], []))

    def test_a_broken_module_hides_no_other(self) -> None:
        """Whichever comes first."""
        self.write(a=MISSING, b=GOOD, c="def wrong(:\n", d=EXITS)
        plug_ins = self.look()
        self.assertEqual(self.names(plug_ins), ["mine"])
        self.assertEqual(len(self.flushLoggedErrors()), 3, "Twisted logs the tracebacks")
        self.assertEqual({one.module.rpartition(".")[2] for one in plug_ins.broken()}, {"a", "c", "d"})
        whys = "\n".join(self.complaints())
        for expected in (
            "ModuleNotFoundError: No module named 'no_such_module_anywhere'",
            "SyntaxError",
            "I am a script",
        ):
            self.assertIn(expected, whys)
        self.names(plug_ins)
        self.assertEqual(len(self.complaints()), 3, "each is told once")

    def test_what_cannot_be_found_may_be_in_what_is_broken(self) -> None:
        self.write(a=MISSING)
        error = self.assertRaises(ConfigError, self.look().named, IAuthorizerFactory, "mine")
        self.flushLoggedErrors()
        for expected in ("there is no mine", f"{self.name}.a", "no_such_module_anywhere"):
            self.assertIn(expected, str(error))
        self.write(a=GOOD)
        error = self.assertRaises(ConfigError, self.look().named, IAuthorizerFactory, "other")
        self.assertIn("there is no other; there are: mine. ", str(error))
        self.assertIn("fleetspeak plugins lists what is found", str(error))

    def test_a_module_that_no_longer_works_though_twisted_has_it_in_its_cache(self) -> None:
        """What it needs was uninstalled: the module itself is as it was."""
        self.write(a="import needed_by_a\n" + GOOD, b=GOOD.replace('"mine"', '"yours"'))
        (self.top / "needed_by_a.py").write_text("")
        self.addCleanup(sys.modules.pop, "needed_by_a", None)
        self.assertEqual(self.names(self.look()), ["mine", "yours"])
        self.assertTrue((self.folder / "dropin.cache").exists())
        for module in self.folder.glob("*.py"):
            os.utime(module, (1, 1))
        (self.top / "needed_by_a.py").unlink()
        del sys.modules["needed_by_a"]
        self.assertEqual(self.names(self.look()), ["yours"])
        self.assertIn("needed_by_a", self.complaints()[0])

    def test_a_module_that_is_older_than_twisteds_cache_is_seen_after_a_refresh(self) -> None:
        """Package managers give files the times that they had elsewhere."""
        self.write(a=GOOD)
        self.assertEqual(self.names(self.look()), ["mine"])
        self.write(a=HEAD + "renamed = Factory('yours')")
        os.utime(self.folder / "a.py", (1, 1))
        self.assertEqual(self.names(self.look()), [], "what the cache says is not there any more")
        self._forget()
        plug_ins = self.look()
        plug_ins.forget()
        self.assertEqual(self.names(plug_ins), ["yours"])
        (self.folder / "dropin.cache").unlink()
        (self.folder / "dropin.cache").mkdir()
        self.assertIn("dropin.cache", str(self.assertRaises(ConfigError, plug_ins.forget)))

    def test_a_plug_in_without_a_name(self) -> None:
        self.write(a=NAMELESS)
        self.assertEqual(self.names(self.look()), ["good"])
        self.assertIn("not a text", self.complaints()[0])

    def test_a_module_with_the_class_only(self) -> None:
        self.write(a=CLASS_ONLY)
        plug_ins = self.look()
        self.assertEqual([origin.module for origin in plug_ins.empty()], [f"{self.name}.a"])

    def test_two_of_one_name(self) -> None:
        self.write(a=GOOD, b=GOOD)
        plug_ins = self.look()
        error = self.assertRaises(ConfigError, plug_ins.named, IAuthorizerFactory, "mine")
        self.assertIn("is offered by several plug-ins", str(error))
        self.assertEqual(list(plug_ins.by_name(IAuthorizerFactory)), ["mine"])
        self.assertTrue(any("offers the same" in str(event.get("log_format")) for event in self.said))

    def test_two_modules_of_one_name(self) -> None:
        """Python can import only the first one."""
        self.write(a=GOOD)
        other = self.top / "other" / self.name
        other.mkdir(parents=True)
        (other / "a.py").write_text(GOOD.replace('"mine"', '"yours"'))
        (self.folder / "__init__.py").write_text(f"__path__.append({str(other)!r})")
        plug_ins = self.look()
        self.assertEqual(len(self.names(plug_ins)), 1)
        self.assertIn("has the same module name", self.complaints()[0])

    def test_a_factory_of_another_version(self) -> None:
        self.write(a=SHORT)
        error = self.assertRaises(ConfigError, self.look().named, IAuthorizerFactory, "short")
        for expected in (f"{self.name}.a", "does not keep IAuthorizerFactory", "make"):
            self.assertIn(expected, str(error))
        self.assertNotIn("\n", str(error))


class Clumsy:
    """A factory that fails."""

    name, help = "clumsy", "Fails."

    def __init__(self, made: Any) -> None:
        self.made = made

    def make(self, argument: str, reactor: object) -> Any:
        if isinstance(self.made, Exception):
            raise self.made
        return self.made


class MakingTests(SynchronousTestCase):
    def test_what_it_makes(self) -> None:
        self.assertIsInstance(make(AllowAllFactory(), IAuthorizer, "", None), AllowAll)

    def test_its_own_config_error_is_its_own(self) -> None:
        error = self.assertRaises(ConfigError, make, Clumsy(ConfigError("say how")), IAuthorizer, "", None)
        self.assertEqual(str(error), "say how")

    def test_another_exception_names_the_package_and_is_logged(self) -> None:
        error = self.assertRaises(ConfigError, make, Clumsy(ValueError("oops")), IAuthorizer, "", None)
        self.assertIn("Clumsy of tests.test_lookup", str(error))
        self.assertIn("ValueError: oops", str(error))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_what_is_not_what_it_should_be(self) -> None:
        for wrong in (None, object(), AllowAllFactory()):
            error = self.assertRaises(ConfigError, make, Clumsy(wrong), IAuthorizer, "", None)
            self.assertIn("does not keep IAuthorizer", str(error))

    def test_two_at_a_time(self) -> None:
        pair = (IAuthorizer, IAuthorizer)
        self.assertEqual(len(make(Clumsy((AllowAll(), AllowAll())), pair, "", None)), 2)
        for wrong, said in (
            (AllowAll(), "is not a tuple of IAuthorizer, IAuthorizer"),
            ((AllowAll(),), "is not a tuple of"),
            ((AllowAll(), 1), "does not keep IAuthorizer"),
        ):
            self.assertIn(said, str(self.assertRaises(ConfigError, make, Clumsy(wrong), pair, "", None)))

    def test_an_option(self) -> None:
        made = made_of("--authorizer", IAuthorizerFactory, IAuthorizer, "label:a:b", None)
        self.assertEqual(made._label, "a:b", "an argument may have colons")
        for choice, said in (
            ("magic", "--authorizer: there is no magic; there are: all, label"),
            ("label", "--authorizer: label takes the label"),
            ("", "--authorizer: there is no ; there are"),
        ):
            error = self.assertRaises(
                ConfigError, made_of, "--authorizer", IAuthorizerFactory, IAuthorizer, choice, None
            )
            self.assertTrue(str(error).startswith(said), str(error))


class OriginTests(SynchronousTestCase):
    def test_ours_are_those_of_our_package(self) -> None:
        origin = origin_of(AllowAllFactory())
        self.assertEqual((origin.package, origin.module), ("fleetspeak-twisted", "fleetspeak.server.authorizers"))
        self.assertRegex(str(origin), r"\Afleetspeak.server.authorizers of the package fleetspeak-twisted [0-9.]+")
        self.assertEqual(PlugIns().origin("fleetspeak.plugins.stores").package, "fleetspeak-twisted")

    def test_what_is_in_no_package(self) -> None:
        self.assertEqual(str(origin_of(1)), "builtins")
        self.assertEqual(str(Broken("m", "/no/such/m.py", "x").origin), "m (/no/such/m.py)")

    def test_everything_built_in_is_listed(self) -> None:
        plug_ins = PlugIns(fleetspeak.plugins)
        every = plug_ins.every()
        self.assertEqual(plug_ins.broken(), [])
        kinds = {kind for found in every for kind in found.kinds}
        self.assertLessEqual({"IServerServiceFactory", "IClientServiceFactory", "IStoreFactory", "IDialer"}, kinds)
        self.assertNotIn(IFactory.__name__, kinds)
