"""Finds plug-ins by kind and name, and says which package is to be mended when one cannot be used.

What a module of plug-ins does wrong stays with it: one that cannot be imported is named in the log and left out, and
all others are found.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from twisted.logger import Logger
from twisted.plugin import CachedDropin, getCache
from zope.interface.exceptions import Invalid
from zope.interface.interface import InterfaceClass
from zope.interface.verify import verifyObject

import fleetspeak.plugins
from fleetspeak.errors import ConfigError

if TYPE_CHECKING:
    from importlib.metadata import Distribution

CACHE = "dropin.cache"
"""Twisted's name for its notes in each folder of plug-ins."""

log = Logger()


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a plug-in comes from, for people."""

    module: str
    """Of which it is a value, such as ``fleetspeak.plugins.somebodys``."""
    path: str = ""
    package: str = ""
    """The distribution that was installed, if that can be told."""
    version: str = ""

    def __str__(self) -> str:
        if self.package:
            return f"{self.module} of the package {self.package} {self.version}"
        return f"{self.module} ({self.path})" if self.path else self.module


@dataclass(frozen=True, slots=True)
class Found:
    """A plug-in."""

    plugin: Any
    kinds: tuple[str, ...]
    """The names of the interfaces of `fleetspeak.interfaces` that it provides, IPlugin and IFactory aside."""
    module: str


@dataclass(frozen=True, slots=True)
class Broken:
    """A module of plug-ins, or one of the plug-ins in it, that cannot be used."""

    module: str
    path: str
    why: str
    """One line."""

    @property
    def origin(self) -> Origin:
        """The package that it is of."""
        return origin_of_file(self.module, self.path)


class PlugIns:
    """The plug-ins of one plug-in package, looked for once."""

    def __init__(self, package: ModuleType = fleetspeak.plugins) -> None:
        self._package = package
        self._dropins: Sequence[CachedDropin] | None = None
        self._broken: dict[str, Broken] = {}

    def all(self, kind: InterfaceClass) -> list[Any]:
        """The plug-ins that provide this interface.  Those that cannot be loaded are logged, and left out."""
        return [plugin for _, plugin in self._load(kind)]

    def by_name(self, kind: InterfaceClass) -> dict[str, Any]:
        """The same by their names.  Of several with one name the first counts, which is logged."""
        found: dict[str, Any] = {}
        for module, plugin in self._load(kind):
            if plugin.name in found:
                log.error(
                    "{name} of {origin} is left out: {first} offers the same; uninstall one of them",
                    name=plugin.name,
                    origin=str(self.origin(module)),
                    first=str(origin_of(found[plugin.name])),
                )
            else:
                found[plugin.name] = plugin
        return found

    def named(self, kind: InterfaceClass, name: str) -> Any:
        """The one plug-in of this kind and name.

        @raise ConfigError: there is none, or more than one, or it is not what it says; tells what to do.
        """
        plugins = self._load(kind)
        found = [(module, plugin) for module, plugin in plugins if plugin.name == name]
        if not found:
            raise ConfigError(f"there is no {name}; {self.instead([plugin.name for _, plugin in plugins])}")
        if len(found) > 1:
            origins = " and ".join(str(self.origin(module)) for module, _ in found)
            raise ConfigError(f"{name} is offered by several plug-ins, {origins}; uninstall all but one")
        [(module, plugin)] = found
        must_provide(kind, plugin, lambda: str(self.origin(module)))
        return plugin

    def instead(self, known: Sequence[str]) -> str:
        """What to say when there is no plug-in of some name, only these: what there is, and what to do."""
        return f"there are: {', '.join(sorted(known))}{self.blame()}"

    def blame(self) -> str:
        """The end of a text about something that is missing: where it may be, and what to do."""
        broken = self.broken()
        if broken:
            reasons = "; ".join(f"{one.origin} ({one.why})" for one in broken)
            return f". Perhaps it is in what cannot be used: {reasons}"
        return ". If it comes with a package, install that where this runs; fleetspeak plugins lists what is found"

    def broken(self) -> list[Broken]:
        """What was left out so far."""
        self._scan()
        return list(self._broken.values())

    def every(self) -> list[Found]:
        """All of them, loaded."""
        return [
            Found(plugin, kinds, dropin.moduleName)
            for dropin in self._scan()
            for cached in dropin.plugins
            if (kinds := _kinds(cached.provided)) and (plugin := self._value(dropin, cached.name, False)) is not None
        ]

    def empty(self) -> list[Origin]:
        """Modules without any plug-in in them."""
        return [self.origin(dropin.moduleName) for dropin in self._scan() if not dropin.plugins]

    def forget(self) -> None:
        """Remove what Twisted has noted in its caches, so that every module is looked at again.

        @raise ConfigError: this user may not.
        """
        for folder in filter(Path.is_dir, map(Path, self._package.__path__)):
            try:
                (folder / CACHE).unlink(missing_ok=True)
            except OSError as error:
                raise ConfigError(f"cannot remove {folder / CACHE}: {error.strerror}; do it as its owner") from None
        self._dropins = None
        self._broken.clear()

    def origin(self, module: str) -> Origin:
        """The package that a module of plug-ins is of."""
        return origin_of_file(module, self._files().get(module, [""])[0])

    def _load(self, kind: InterfaceClass) -> list[tuple[str, Any]]:
        is_named = "name" in kind.names(all=True)
        return [
            (dropin.moduleName, plugin)
            for dropin in self._scan()
            for cached in dropin.plugins
            if any(provided.isOrExtends(kind) for provided in cached.provided)
            and (plugin := self._value(dropin, cached.name, is_named)) is not None
        ]

    def _value(self, dropin: CachedDropin, name: str, is_named: bool) -> Any:
        module = dropin.moduleName
        try:
            plugin = getattr(importlib.import_module(module), name)
            if is_named and not isinstance(plugin.name, str):
                raise TypeError(f"the name of {name} is {plugin.name!r}, not a text")
        except Exception as error:
            self._leave_out(module, self._files().get(module, [""])[0], error)
            return None
        return plugin

    def _scan(self) -> Sequence[CachedDropin]:
        """Have Twisted look, which imports what is not in its caches."""
        if self._dropins is None:
            found = getCache(self._package)  # type: ignore[no-untyped-call]
            self._dropins = list(found.values())
            for module, paths in self._files().items():
                if module.rpartition(".")[2] not in found:
                    self._leave_out(module, paths[0], _import_error(module))
                for hidden in paths[1:]:
                    self._leave_out(f"{module} in {hidden}", hidden, _Hidden(f"{paths[0]} has the same module name"))
        return self._dropins

    def _files(self) -> dict[str, list[str]]:
        """The files of the modules, by dotted name, in the order of the path."""
        files: dict[str, list[str]] = {}
        for folder in map(Path, self._package.__path__):
            for path in (*sorted(folder.glob("*.py")), *sorted(folder.glob("*/__init__.py"))):
                name = path.parent.name if path.parent != folder else path.stem
                if name != "__init__":
                    files.setdefault(f"{self._package.__name__}.{name}", []).append(str(path))
        return files

    def _leave_out(self, module: str, path: str, error: BaseException) -> None:
        if module in self._broken:
            return
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"
        broken = self._broken[module] = Broken(module, path, why)
        log.error(
            "plug-ins in {origin} are left out: {why}; {remedy}",
            origin=str(broken.origin),
            why=why,
            remedy=_remedy(error, broken.origin),
        )


class _Hidden(Exception):
    """Another module of the same name comes first."""


PLUG_INS = PlugIns()
"""Those of `fleetspeak.plugins`."""


Product = InterfaceClass | tuple[InterfaceClass, ...]
"""What a factory makes: an object that provides an interface, or a tuple of such."""


def make(factory: Any, product: Product, *arguments: object) -> Any:
    """Have a factory make what it is for.

    @param product: the interface of that.
    @raise ConfigError: as raised by the factory; or it failed otherwise, or made something else, which is logged with
        its traceback and told with the package's name.
    """
    try:
        made = factory.make(*arguments)
    except ConfigError:
        raise
    except Exception as error:
        origin = origin_of(factory)
        log.failure("{factory} of {origin} failed", factory=type(factory).__name__, origin=str(origin))
        raise ConfigError(
            f"{type(factory).__name__} of {origin} failed with {type(error).__name__}: {error}; the log has its "
            "traceback, for the author of the package"
        ) from error
    whose = f"what {type(factory).__name__} of {{}} made".format
    if isinstance(product, tuple):
        if not isinstance(made, tuple) or len(made) != len(product):
            names = ", ".join(kind.__name__ for kind in product)
            raise ConfigError(f"{whose(origin_of(factory))} is not a tuple of {names}")
        parts = list(zip(product, made, strict=True))
    else:
        parts = [(product, made)]
    for kind, part in parts:
        must_provide(kind, part, lambda: whose(origin_of(factory)))
    return made


def must_provide(kind: InterfaceClass, thing: Any, what: Callable[[], str]) -> None:
    """Make sure that something has the methods and attributes of an interface, with parameters that fit.

    @param what: says for people what it is; asked only if it is wrong.
    @raise ConfigError: it has not.
    """
    try:
        verifyObject(kind, thing, tentative=True)
    except Invalid as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{what()} does not keep {kind.__name__}: {reason}; it is probably for another version: install one that "
            "goes with this Fleetspeak, or tell its author"
        ) from None


def made_of(option: str, kind: InterfaceClass, product: Product, choice: str, *arguments: object) -> Any:
    """What an option such as ``--store NAME:ARGUMENT`` asks for.

    @param option: for people.
    @param kind: the interface of the factories; their `make` takes the argument, and `arguments`.
    @param choice: ``NAME:ARGUMENT``, or ``NAME`` for an empty argument.
    @raise ConfigError: it cannot be had; begins with the option.
    """
    name, _, argument = choice.partition(":")
    try:
        return make(PLUG_INS.named(kind, name), product, argument, *arguments)
    except ConfigError as error:
        raise ConfigError(f"{option}: {error}") from None


# -- whose is it?


def origin_of(thing: Any) -> Origin:
    """The package that an object's class is of."""
    module = type(thing).__module__
    return origin_of_file(module, getattr(sys.modules.get(module), "__file__", None) or "")


def origin_of_file(module: str, path: str) -> Origin:
    """The package that a module is of, by its file.  Reads the lists of files of all that is installed."""
    if path:
        from importlib import metadata  # not for clients whose plug-ins are all well

        for distribution in metadata.distributions():
            if _holds(distribution, Path(path)):
                return Origin(module, path, distribution.metadata["Name"], distribution.version)
    return Origin(module, path)


def _holds(distribution: Distribution, path: Path) -> bool:
    import json
    from urllib.parse import unquote, urlsplit

    for file in distribution.files or ():
        if file.name == path.name and Path(str(distribution.locate_file(file))) == path:
            return True
    source = distribution.read_text("direct_url.json")  # of an editable installation, whose files are not listed
    if source is None:
        return False
    described = json.loads(source)
    if not described.get("dir_info", {}).get("editable"):
        return False
    return Path(unquote(urlsplit(described["url"]).path)) in path.parents


def _kinds(provided: Sequence[InterfaceClass]) -> tuple[str, ...]:
    def of(kinds: Sequence[InterfaceClass]) -> Iterator[InterfaceClass]:
        return (kind for kind in kinds if kind.__module__.partition(".")[0] == "fleetspeak")

    return tuple(kind.__name__ for kind in of(provided) if not any(other.extends(kind) for other in of(provided)))


def _import_error(module: str) -> BaseException:
    """Why a module cannot be imported."""
    try:
        importlib.import_module(module)
    except BaseException as error:  # as Twisted takes it: a module that exits is as broken
        return error
    return ImportError("it can be imported now, but could not a moment ago")


def _remedy(error: BaseException, origin: Origin) -> str:
    whose = origin.package or "that package"
    if isinstance(error, ModuleNotFoundError):
        return f"install what is missing beside {whose}, or uninstall {whose}"
    if isinstance(error, _Hidden):
        return "rename one of the two"
    return f"install a version of {whose} that goes with this Fleetspeak, or uninstall it"
