"""Makes the parts of a server that its settings choose among plug-ins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fleetspeak.config.server import ServerSettings
from fleetspeak.interfaces import IAuthorizer, IAuthorizerFactory, IStore, IStoreFactory
from fleetspeak.lookup import made_of
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


def make_authorizer(settings: ServerSettings, reactor: Any) -> IAuthorizer:
    """Who decides which clients may make contact.  Raises ConfigError."""
    if settings.authorizer:
        made = made_of("--authorizer", IAuthorizerFactory, IAuthorizer, settings.authorizer, reactor)
        return Guarded(made, reactor)
    return RequiredLabel(settings.required_label) if settings.required_label else AllowAll()
