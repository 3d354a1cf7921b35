"""Which server, how it is reached, and how results are shown: options, environment, and a configuration file.

An option on the command line counts first, then the environment, then the file, then the default.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from fleetspeak.cli import glogflags
from fleetspeak.cli.admin.failure import CommandFailed
from fleetspeak.cli.goflags import FlagSet

DEFAULT_ADDRESS = "localhost:6061"
DEFAULT_TIMEOUT = 30.0
SHORTEST_WATCH = 0.1

_ENVIRONMENT = "FLEETSPEAK_"
_CONFIG = "FLEETSPEAK_ADMIN_CONFIG"


@dataclass(frozen=True, slots=True)
class Option:
    """One setting that any command takes."""

    name: str
    read: Callable[[str], Any] | None
    """The value for a text; None for booleans.  Raises ValueError or CommandFailed."""
    help: str
    persistent: bool = True
    """It may also be in the environment or the configuration file."""

    @property
    def variable(self) -> str:
        """Of the environment."""
        prefix = _ENVIRONMENT if self.name.startswith("admin_") else f"{_ENVIRONMENT}ADMIN_"
        return prefix + self.name.upper()


def _seconds(text: str) -> float:
    from fleetspeak.cli.admin.times import parse_duration

    try:
        return parse_duration(text)
    except CommandFailed as error:
        raise ValueError(error.advice[0]) from None


OPTIONS = (
    Option("admin_addr", str, f"host:port of the server's admin API (default {DEFAULT_ADDRESS})"),
    Option("tls", None, "encrypt, and trust the system's authorities; -tls=false for plaintext in spite of the rest"),
    Option("tls_ca", Path, "PEM file of the authorities that the server's certificate is by; implies -tls"),
    Option("tls_cert", Path, "PEM file of a client certificate, its chain included; implies -tls"),
    Option("tls_key", Path, "PEM file of its key"),
    Option("tls_server_name", str, "name in the server's certificate, if it is not the host of -admin_addr"),
    Option("token_file", Path, "file whose first line is a token to be known by"),
    Option(
        "timeout", _seconds, f"how long the server may take for an answer, such as 10s (default {DEFAULT_TIMEOUT:g}s)"
    ),
    Option("local", None, "show times in this machine's time zone instead of UTC"),
    Option("json", None, "print JSON, one object a line", persistent=False),
    Option("watch", _seconds, "show again every so many seconds, until Ctrl-C", persistent=False),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the options say; each field is the option of its name."""

    admin_addr: str = DEFAULT_ADDRESS
    tls: bool = False
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_server_name: str = ""
    token_file: Path | None = None
    timeout: float = DEFAULT_TIMEOUT
    """Seconds."""
    local: bool = False
    json: bool = False
    watch: float | None = None
    """Seconds."""


def flags(epilog: str) -> FlagSet:
    """The options as flags; None stands for what was not given."""
    made = FlagSet("fleetspeak-admin", "asks, and tells, a Fleetspeak server", epilog)
    made.string("config", None, f"file with these settings (default {_default_path()}, if it is there)")
    for option in OPTIONS:
        if option.read is None:
            made.boolean(option.name, option.help, default=None)
        else:
            made.value(option.name, None, option.read, option.help)
    glogflags.declare(made)
    return made


def settle(given: Sequence[Mapping[str, Any]], environment: Mapping[str, str]) -> Settings:
    """What counts of the flags (the last of `given` first), the environment and the file.  Raises CommandFailed."""
    values: dict[str, Any] = {}
    config = next((each["config"] for each in reversed(given) if each["config"]), None)
    values.update(_from_file(config or environment.get(_CONFIG), environment))
    values.update(_from_environment(environment))
    for each in given:
        values.update((option.name, each[option.name]) for option in OPTIONS if each[option.name] is not None)
    if "tls" not in values:
        values["tls"] = any(values.get(name) for name in ("tls_ca", "tls_cert", "tls_key", "tls_server_name"))
    settings = Settings(**values)
    _check(settings)
    return settings


def _check(settings: Settings) -> None:
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise CommandFailed("a client certificate needs its key: give -tls_cert and -tls_key, or neither")
    if settings.timeout <= 0:
        raise CommandFailed("-timeout must be more than 0")
    if settings.watch is not None and settings.watch < SHORTEST_WATCH:
        raise CommandFailed(f"-watch must be at least {SHORTEST_WATCH:g} seconds")


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    found = {}
    for option in OPTIONS:
        text = environment.get(option.variable)
        if option.persistent and text:
            found[option.name] = _read(option, text, f"environment variable {option.variable}")
    return found


def _from_file(named: str | None, environment: Mapping[str, str]) -> dict[str, Any]:
    path = Path(named) if named else _default_path(environment)
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        if named:
            raise CommandFailed(f"unable to read {path}: there is no such file") from None
        return {}
    except OSError as error:
        raise CommandFailed(f"unable to read {path}: {error.strerror}") from None
    import tomllib  # only now: few have the file

    try:
        content = tomllib.loads(raw.decode("utf-8"))
    except ValueError as error:
        raise CommandFailed(f"{path} is not TOML: {error}") from None
    options = {option.name: option for option in OPTIONS if option.persistent}
    found = {}
    for name, value in content.items():
        if name not in options:
            raise CommandFailed(f"{path}: no such setting: {name}; expected one of {', '.join(options)}")
        found[name] = _read(options[name], value, f"{path}: {name}")
        if isinstance(found[name], Path):
            found[name] = path.parent / found[name].expanduser()
    return found


def _read(option: Option, value: object, where: str) -> Any:
    if option.read is None:
        if isinstance(value, bool):
            return value
        if value in ("true", "false", "1", "0"):
            return value in ("true", "1")
        raise CommandFailed(f"{where}: expected true or false")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise CommandFailed(f"{where}: expected a text")
    try:
        return option.read(str(value))
    except ValueError as error:
        raise CommandFailed(f"{where}: {error}") from None


def _default_path(environment: Mapping[str, str] = os.environ) -> Path:
    folder = environment.get("XDG_CONFIG_HOME") or os.path.join(environment.get("HOME", ""), ".config")
    return Path(folder) / "fleetspeak" / "admin.toml"


assert [field.name for field in fields(Settings)] == [option.name for option in OPTIONS]
