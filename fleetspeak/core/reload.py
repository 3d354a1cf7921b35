"""What a running client does about a configuration that has changed: which services are touched, and what else."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """What happens to each service, by name; no name is in two of them."""

    stop: tuple[str, ...]
    """Installed, and no longer wanted."""
    replace: tuple[str, ...]
    """Installed with another configuration than the one that is wanted now; in the order that is wanted."""
    start: tuple[str, ...]
    """Wanted, and not installed; in the order that is wanted."""
    keep: tuple[str, ...]
    """Not touched."""


def plan_services(
    installed: Mapping[str, bytes], wanted: Iterable[tuple[str, bytes]], spared: Collection[str] = ()
) -> ServicePlan:
    """Compare what runs with what is to run.

    @param installed: what tells configurations apart, by the name of the service.
    @param wanted: name and the same of each configuration there is now; of two with one name the later counts.
    @param spared: names of services whose configuration cannot be read now; they stay as they are, unless there is
        another one for them.
    """
    last = dict(wanted)
    return ServicePlan(
        stop=tuple(name for name in installed if name not in last and name not in spared),
        replace=tuple(name for name, one in last.items() if name in installed and installed[name] != one),
        start=tuple(name for name in last if name not in installed),
        keep=tuple(name for name, one in installed.items() if last.get(name, one if name in spared else None) == one),
    )


@dataclass(frozen=True, slots=True)
class SettingsPlan:
    """The names of the settings that have changed, by what that takes."""

    connection: tuple[str, ...]
    """The communicator is replaced by one with the new values."""
    restart: tuple[str, ...]
    """Nothing but a restart of the client changes these."""


def plan_settings(
    old: Mapping[str, object], new: Mapping[str, object], *, elsewhere: Collection[str], restart: Collection[str]
) -> SettingsPlan:
    """Compare the settings by name.

    @param elsewhere: names of those that concern neither the connection nor anything that lasts.
    @param restart: names of those that a running client cannot change.
    """
    changed = [name for name in new if old.get(name) != new[name]]
    return SettingsPlan(
        connection=tuple(name for name in changed if name not in elsewhere and name not in restart),
        restart=tuple(name for name in changed if name in restart),
    )
