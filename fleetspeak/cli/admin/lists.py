"""Long lists, page by page, and the options that say which part of them."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any

from fleetspeak.cli.admin import times
from fleetspeak.cli.admin.command import Arguments
from fleetspeak.cli.admin.failure import CommandFailed
from fleetspeak.cli.admin.link import Link
from fleetspeak.pb import common, operator

PAGE = 1000
"""Entries asked for at a time: the most that a server gives."""


def declare_limit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", type=_count, default=0, metavar="N", help="show no more than these")


def declare_span(parser: argparse.ArgumentParser, what: str) -> None:
    """For `span`."""
    how = "a time such as 2026-11-28T14:30:00Z, or how long ago, such as 2h"
    parser.add_argument("--since", metavar="TIME", help=f"only with {what} then or later: {how}")
    parser.add_argument("--until", metavar="TIME", help=f"only with {what} before that")


def declare_window(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--window", default="1d", metavar="DURATION", help="how far to look back [default: 1d]")


def declare_labels(parser: argparse.ArgumentParser, help: str) -> None:
    parser.add_argument("--label", action="append", default=[], metavar="[SERVICE:]LABEL", help=help)


def span(arguments: Arguments) -> operator.TimeSpan:
    """From `since` to `until`.  Raises CommandFailed."""
    now = time.time()
    return operator.TimeSpan(
        start=times.parse(arguments.since, now) if arguments.since else None,
        end=times.parse(arguments.until, now) if arguments.until else None,
    )


def labels(texts: list[str]) -> list[common.Label]:
    """Those of clients unless they name another service."""
    made = []
    for text in texts:
        service, colon, label = text.rpartition(":")
        made.append(common.Label(service_name=service if colon else "client", label=label))
    return made


def declare_state(parser: argparse.ArgumentParser, enum: Any) -> None:
    """For `state`, of a protobuf enum."""
    names = [name.lower() for name in enum.keys() if not name.startswith("ANY_")]  # noqa: SIM118  (no mapping)
    parser.add_argument("--state", choices=names, type=str.lower, help="only those in this state")


def state(enum: Any, name: str | None) -> Any:
    """The value for a name; None for None."""
    return None if name is None else enum.Value(name.upper())


def state_name(enum: Any, value: int) -> str:
    """A value's name as `choice` takes it; a newer server may have more."""
    return str(enum.Name(value)).lower() if value in enum.values() else str(value)


def paged(
    link: Link, name: str, method: Callable[..., Any], request: Any, field: str, limit: int, instead: str
) -> Iterator[Any]:
    """The entries in `field` of the replies, at most `limit` of them if that is not 0.  Fetches as it goes.

    Raises CommandFailed.
    """
    left = limit
    while True:
        request.page_size = min(left, PAGE) if limit else PAGE
        reply = link.call(name, method, request, instead)
        entries = getattr(reply, field)
        yield from entries[:left] if limit else entries
        left -= len(entries)
        if not reply.next_page_token or (limit and left <= 0):
            return
        if reply.next_page_token == request.page_token:
            raise CommandFailed(f"{name}: the server sends the same page again")
        request.page_token = reply.next_page_token


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError("expected 0 or more")
    return number
