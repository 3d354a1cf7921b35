"""What the command line says about notifications."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from fleetspeak.config.secretfile import read_secret
from fleetspeak.config.server import ServerSettings
from fleetspeak.errors import ConfigError
from fleetspeak.interfaces import IListener, INotifier, INotifierFactory
from fleetspeak.lookup import made_of
from fleetspeak.server.notify.pair import Notifications

MIN_SECRET = 16
"""Bytes: whoever overhears a notification can try secrets at leisure."""


def with_secret(
    settings: ServerSettings, path: str | None, accept_unsigned: bool, at_least: int = MIN_SECRET
) -> ServerSettings:
    """`settings` with the content of ``--notification-secret-file``.  Raises ConfigError.

    @param at_least: bytes.
    """
    if path is None:
        if accept_unsigned:
            raise ConfigError("--notification-accept-unsigned says nothing without --notification-secret-file")
        return settings
    try:
        secret = read_secret(Path(path), at_least)
    except ConfigError as error:
        raise ConfigError(f"--notification-secret-file: {error}") from None
    return replace(settings, notification_secret=secret, notification_accept_unsigned=accept_unsigned)


def plugged_in(option: str | None, settings: ServerSettings, reactor: Any) -> Notifications | None:
    """The notifier and listener of ``--notifier NAME:ARGUMENT``; None without it.  Raises ConfigError."""
    if option is None:
        return None
    if settings.notification_address is not None or settings.notification_use_http:
        raise ConfigError("--notifier and notification_... of the components file are two ways to notify; choose one")
    made: Notifications = made_of(
        "--notifier", INotifierFactory, (INotifier, IListener), option, settings.notification_secret, reactor
    )
    return made
