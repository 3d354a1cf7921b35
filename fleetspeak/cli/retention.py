"""``fleetspeak retention``: deletes what is old from the servers' database, or counts it; servers may run meanwhile."""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import LoopingCall, deferLater

from fleetspeak.config.server import ServerSettings, read_database
from fleetspeak.core import retention
from fleetspeak.core.retention import Keep
from fleetspeak.errors import ConfigError, FleetspeakError
from fleetspeak.interfaces import IStore
from fleetspeak.program.awaiting import when_done
from fleetspeak.program.once import run_once
from fleetspeak.records import Prunable
from fleetspeak.server.choices import make_store
from fleetspeak.server.retention import Pruner

_HELP = {
    Prunable.MESSAGES: "messages with a result that are older",
    Prunable.CONTACTS: "contacts that are older",
    Prunable.RESOURCE_USAGE: "resource usage records that are older",
    Prunable.BROADCASTS: "broadcasts that ended or expired longer ago",
    Prunable.CLIENTS: "clients whose last contact is longer ago, with their messages that have a result",
    Prunable.PENDING_MESSAGES: "messages WITHOUT a result that are older: nobody gets them any more",
    Prunable.AUDIT: "entries of the audit trail that are older",
}
ASK_AGAIN = 5.0
PROGRESS = 10.0
"""Seconds."""


def main(words: Sequence[str]) -> int:
    """Entry point.  0: all is deleted, or counted; 1: it was broken off, or failed."""
    chosen = _read(words)
    settings = read_database(chosen.components_config, chosen.database_path, chosen.store)
    _refuse_a_new_database(settings)

    async def run(reactor: Any) -> int:
        try:
            return await _Command(chosen, settings, reactor).run()
        except FleetspeakError as error:
            print(f"fleetspeak retention: {error}", file=sys.stderr)
            return 1

    return run_once(run)


def _read(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="fleetspeak retention",
        description="Deletes what is older than the ages given, in short transactions with pauses, once. Servers may "
        "run meanwhile, and take turns with it. It may be broken off, and goes on when it is started again.",
        epilog="An AGE is a number with h, d or w, such as 36h, 7d or 4w. Exit status: 0 if it has come to the end, "
        "1 if not, 2 if the command line is wrong.",
    )
    which = parser.add_argument_group("which database")
    which.add_argument("--components-config", type=Path, metavar="FILE", help="the servers' components file")
    which.add_argument("--database-path", type=Path, metavar="FILE", help="the SQLite database of the server")
    which.add_argument("--store", default="", metavar="NAME:ARGUMENT", help="the plug-in that the servers run with")
    what = parser.add_argument_group("what to delete")
    for kind, text in _HELP.items():
        what.add_argument(f"--{kind}", metavar="AGE", help=text)
    parser.add_argument("--dry-run", action="store_true", help="count, and delete nothing")
    parser.add_argument(
        "--create-indexes",
        action="store_true",
        help="first make the indexes by time with which this is quicker on large tables; that may take long",
    )
    parser.add_argument("--fast", action="store_true", help="without pauses: servers get slower meanwhile")
    parser.add_argument(
        "--wait", type=float, default=600.0, metavar="SECONDS", help="for another process that prunes [default: 600]"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    chosen = parser.parse_args(words)
    ages = {kind: getattr(chosen, kind.replace("-", "_")) for kind in _HELP}
    try:
        chosen.keep = retention.parse_keep(f"{kind}={age}" for kind, age in ages.items() if age is not None)
    except ConfigError as error:
        parser.error(f"--{error}")
    if not chosen.keep and not chosen.create_indexes:
        parser.error("nothing to do: give an age, such as --messages 7d, or --create-indexes")
    return chosen


def _refuse_a_new_database(settings: ServerSettings) -> None:
    path = settings.database_path
    if path is not None and not path.exists():
        raise ConfigError(f"there is no database {path}")


class _Command:
    """One run."""

    def __init__(self, chosen: argparse.Namespace, settings: ServerSettings, reactor: Any) -> None:
        self._chosen = chosen
        self._keep: Keep = chosen.keep
        self._reactor = reactor
        self._store: IStore = make_store(settings, reactor, time.time_ns, random.random)
        share = 1.0 if chosen.fast else retention.SHARE
        self._pruner = Pruner(self._store, self._keep, reactor, time.time_ns, share=share)

    async def run(self) -> int:
        """Returns the exit status."""
        work = Deferred.fromCoroutine(self._run())
        # Ctrl-C and SIGTERM end it after the part that is just being carried out.
        self._reactor.addSystemEventTrigger("before", "shutdown", self._break_off, work)
        return await work

    def _break_off(self, work: Deferred[int]) -> Deferred[None]:
        self._pruner.going = False
        self._pruner.wake()
        return Deferred.fromCoroutine(when_done(work))

    async def _run(self) -> int:
        await self._store.open()
        try:
            if self._chosen.create_indexes:
                await self._create_indexes()
            if not self._keep:
                return 0
            if self._chosen.dry_run:
                self._print_counts(await self._pruner.count())
                return 0 if self._pruner.going else 1
            return await self._prune()
        finally:
            await self._store.close()

    async def _create_indexes(self) -> None:
        if self._chosen.dry_run:
            _note("no indexes are made in a dry run")
            return
        for statement in await self._store.create_time_indexes() or ["all indexes are there already"]:
            _note(statement)

    async def _prune(self) -> int:
        state = await self._begin()
        if state is None:
            if self._pruner.going:
                _note("another process prunes this database; try again later, or wait for longer with --wait")
            return 1
        progress = LoopingCall(lambda: _note(f"{self._pruner.rows.total()} rows so far"))
        progress.clock = self._reactor
        running = maybeDeferred(progress.start, PROGRESS, now=False)
        try:
            finished = await self._pruner.finish_pass(state)
        finally:
            progress.stop()
            await running
        self._print_rows(self._pruner.rows)
        if not finished:
            _note("broken off; the next run goes on from here")
        return 0 if finished else 1

    async def _begin(self) -> str | None:
        end = self._reactor.seconds() + self._chosen.wait
        while self._pruner.going:
            state = await self._pruner.begin()
            if state is not None or self._reactor.seconds() + ASK_AGAIN > end:
                return state
            await deferLater(self._reactor, ASK_AGAIN)
        return None

    def _print_rows(self, rows: Mapping[str, int]) -> None:
        if self._chosen.json:
            print(json.dumps({"deleted": dict(sorted(rows.items()))}))
            return
        for table, count in sorted(rows.items()):
            print(f"{table:<32}{count:>12}")
        print(f"{sum(rows.values())} rows deleted")

    def _print_counts(self, counts: Mapping[str, Counter[str]]) -> None:
        if self._chosen.json:
            print(json.dumps({"would_delete": {kind: dict(sorted(rows.items())) for kind, rows in counts.items()}}))
            return
        for kind, rows in counts.items():
            for table, count in sorted(rows.items()):
                print(f"{kind:<22}{table:<32}{count:>12}")
        print(f"{sum(rows.total() for rows in counts.values())} rows would be deleted")


def _note(text: str) -> None:
    print(f"fleetspeak retention: {text}", file=sys.stderr)
