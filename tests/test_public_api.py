"""What authors of plug-ins write against is described: each interface, record, identifier, exception and double."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase
from zope.interface import Attribute
from zope.interface.interface import InterfaceClass, Method

from fleetspeak import interfaces

TOP = Path(__file__).resolve().parents[1] / "fleetspeak"
PUBLIC = [
    *sorted((TOP / "interfaces").glob("*.py")),
    *sorted((TOP / "testing").rglob("*.py")),
    *(TOP / f"{name}.py" for name in ("records", "ids", "errors", "lookup")),
]


def undescribed(node: ast.Module | ast.ClassDef, name: str) -> Iterator[str]:
    """Public classes and functions without a docstring.  Tests of contracts are named by what they test."""
    for child in node.body:
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if child.name.startswith(("_", "test_")):
                continue
            if not ast.get_docstring(child):
                yield f"{name}.{child.name}"
            if isinstance(child, ast.ClassDef):
                yield from undescribed(child, f"{name}.{child.name}")


def interfaces_of_ours() -> Iterator[InterfaceClass]:
    for path in (TOP / "interfaces").glob("*.py"):
        module = importlib.import_module(f"fleetspeak.interfaces.{path.stem}")
        for value in vars(module).values():
            if isinstance(value, InterfaceClass) and value.__module__ == module.__name__:
                yield value


class DocumentationTests(SynchronousTestCase):
    def test_everything_has_a_docstring(self) -> None:
        self.assertGreater(len(PUBLIC), 20)
        for path in PUBLIC:
            tree = ast.parse(path.read_text("utf-8"))
            self.assertTrue(ast.get_docstring(tree), path)
            self.assertEqual(list(undescribed(tree, path.stem)), [])

    def test_every_interface_is_offered_and_everything_in_it_described(self) -> None:
        for interface in interfaces_of_ours():
            self.assertIn(interface.__name__, interfaces.__all__)
            for name, described in interface.namesAndDescriptions():
                if isinstance(described, Method):
                    self.assertTrue(described.getDoc(), f"{interface.__name__}.{name}")
                else:
                    self.assertIsInstance(described, Attribute)
                    self.assertRegex(described.getDoc(), ":|The ", f"{interface.__name__}.{name}")

    def test_what_is_offered_is_there(self) -> None:
        self.assertEqual(sorted(interfaces.__all__), list(interfaces.__all__))
        for name in interfaces.__all__:
            self.assertIsInstance(getattr(interfaces, name), InterfaceClass, name)

    def test_what_a_method_gives_is_said(self) -> None:
        """A method of an interface that returns something has a word on that."""
        missing = []
        for path in (TOP / "interfaces").glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.ClassDef):
                    missing += [
                        f"{node.name}.{method.name}"
                        for method in node.body
                        if isinstance(method, ast.FunctionDef)
                        and method.returns is not None
                        and ast.unparse(method.returns) not in ("None", "bool", "Deferred[None]")
                        and "@return" not in (ast.get_docstring(method) or "")
                    ]
        self.assertEqual(missing, [])
