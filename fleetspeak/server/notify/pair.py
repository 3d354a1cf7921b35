"""Which notifier and listener a server has, by its configuration."""

from __future__ import annotations

from typing import Any

from fleetspeak.config.server import ServerSettings
from fleetspeak.errors import ConfigError
from fleetspeak.interfaces import IListener, INotifier
from fleetspeak.server.dispatch import Dispatcher
from fleetspeak.server.notify.httplistener import HttpListener
from fleetspeak.server.notify.httpnotifier import HttpNotifier
from fleetspeak.server.notify.local import LocalListener, LocalNotifier
from fleetspeak.server.stats import NO_STATS, ServerStats

Notifications = tuple[INotifier | None, IListener | None]


def checked_pair(notifier: INotifier | None, listener: IListener | None) -> tuple[INotifier, IListener]:
    """Both of them.  Raises ConfigError: one is missing, so that this server would be deaf, or dumb."""
    if notifier is None or listener is None:
        raise ConfigError(f"expected (Listener, Notifier) to be both set, got ({listener}, {notifier})")
    return notifier, listener


def pair_for(
    settings: ServerSettings, dispatcher: Dispatcher, reactor: Any, stats: ServerStats = NO_STATS
) -> tuple[INotifier, IListener]:
    """As upstream chooses: by HTTP with a listener, by HTTP without one, or within this process only."""
    listener: IListener = LocalListener()
    if settings.notification_address is not None:
        database = settings.mysql
        listener = HttpListener(
            *settings.notification_address,
            reactor,
            public=settings.notification_public_address,
            database_host="" if database is None or database.socket else database.host,
            secret=settings.notification_secret,
            accept_unsigned=settings.notification_accept_unsigned,
        )
    elif not settings.notification_use_http:
        return LocalNotifier(dispatcher, reactor), listener
    heard, secret = listener, settings.notification_secret
    return HttpNotifier(dispatcher.dispatch, lambda: heard.address, reactor, secret, stats), listener
