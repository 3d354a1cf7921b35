"""By which address other servers reach a listener of this one."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable

from fleetspeak.config.addresses import show
from fleetspeak.errors import ConfigError

ANYWHERE = ("", "::", "0.0.0.0")  # noqa: S104  (recognized, not bound)
"""Hosts to listen on that say nothing of how to get there."""

FAR_AWAY = "192.0.2.1"
"""An address of nobody (RFC 5737): the way to it is the default route."""


def source_towards(destination: str) -> str:
    """The address of this machine on the way to an IP address; empty if there is no way.  Sends nothing."""
    family = socket.AF_INET6 if ":" in destination else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((destination, 9))
            return str(probe.getsockname()[0])
    except OSError:
        return ""


def public_address(host: str, port: int, database_host: str = "", source: Callable[[str], str] = source_towards) -> str:
    """What to give to other servers, when nobody has said it.

    A listener for all addresses of a machine is reached by the one on its way to the database, which all servers share,
    or else by the one on its way to anywhere.

    @param host: where it listens.
    @param port: that is bound.
    @param database_host: name or address; names are not looked up.
    @raise ConfigError: there is no address that other machines could use.
    """
    if host not in ANYWHERE:
        return show(host, port)
    for destination in (database_host, FAR_AWAY):
        if _is_ip(destination):
            own = source(destination)
            if own and not ipaddress.ip_address(own).is_loopback:
                return show(own, port)
    raise ConfigError(
        "notification_listen_address names no host, and this machine has no address that other servers could use; "
        f'give one there, or set notification_public_address, such as "server1.example:{port}"'
    )


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
