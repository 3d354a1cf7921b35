"""Makes the parts of a server that its settings choose among plug-ins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fleetspeak.config.server import ServerSettings
from fleetspeak.interfaces import IAuthorizer, IAuthorizerFactory, IStore, IStoreFactory
from fleetspeak.lookup import made_of
from fleetspeak.program.lock import ProcessLock
from fleetspeak.server.authorizers import AllowAll, Guarded, RequiredLabel
from fleetspeak.store.factories import mysql_store, sqlite_store


def make_store(
    settings: ServerSettings, reactor: Any, now_ns: Callable[[], int], uniform: Callable[[], float]
) -> IStore:
    """The store that the settings ask for, not open yet.  Raises ConfigError."""
    made: IStore
    if settings.store:
        made = made_of("--store", IStoreFactory, IStore, settings.store, reactor, now_ns, uniform)
    elif settings.mysql is not None:
        made = mysql_store(settings.mysql, reactor, now_ns, uniform)
    else:
        assert settings.database_path is not None, "made by the functions of fleetspeak.config.server"
        made = sqlite_store(settings.database_path, reactor, now_ns, uniform)
    return made


def database_lock(settings: ServerSettings) -> ProcessLock | None:
    """What keeps a second server from an SQLite database; None where several servers may share theirs.

    SQLite itself would let it in, and the two would know nothing of each other's streams.
    """
    plug_in, _, argument = settings.store.partition(":")
    path = Path(argument).absolute() if plug_in == "sqlite" and argument else settings.database_path
    if plug_in not in ("", "sqlite") or settings.mysql is not None or path is None:
        return None
    return ProcessLock(
        path.with_name(f"{path.name}.lock"),
        f"server works on the database {path}",
        "an SQLite database is for one process; several servers, or one for the admin API alone, need MySQL: "
        "mysql_data_source_name in the components file",
    )


def make_authorizer(settings: ServerSettings, reactor: Any) -> IAuthorizer:
    """Who decides which clients may make contact.  Raises ConfigError."""
    if settings.authorizer:
        made = made_of("--authorizer", IAuthorizerFactory, IAuthorizer, settings.authorizer, reactor)
        return Guarded(made, reactor)
    return RequiredLabel(settings.required_label) if settings.required_label else AllowAll()
