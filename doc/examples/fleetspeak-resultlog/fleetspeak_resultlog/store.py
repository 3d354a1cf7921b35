"""The store, and its factory."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.threads import deferToThreadPool
from zope.interface import directlyProvides, implementer, providedBy

from fleetspeak import ids
from fleetspeak.errors import ConfigError, StoreError
from fleetspeak.interfaces import IStore, IStoreFactory
from fleetspeak.lookup import made_of
from fleetspeak.pb import common
from fleetspeak.records import Exchange, Exchanged, ResultUpdate


class ResultLogStore:
    """Another store, and a file to which the results that services give are appended.

    Whatever the other one provides, this one does; what is not here is passed on, also what later versions add.  The
    three operations that bring results are carried out first, and then the results are written down.  A result that
    cannot be written down fails its call, although the store has it: whoever made the call tries again, and the store
    takes that for a repeat.  So each result is in the file at least once when anybody is told of it.
    """

    def __init__(self, original: IStore, path: Path, reactor: Any) -> None:
        directlyProvides(self, providedBy(original))
        self.original = original
        self._path = path
        self._reactor = reactor
        self._lock = DeferredLock()

    def __getattr__(self, name: str) -> Any:
        """What is not here."""
        return getattr(self.original, name)

    def open(self) -> Deferred[None]:
        """Open both."""
        return Deferred.fromCoroutine(self._open())

    def close(self) -> Deferred[None]:
        """Close both, when what was accepted is written."""
        return self._lock.run(self.original.close)

    # Further arguments, of later versions too, are none of this store's business, and passed on.

    def exchange(
        self, exchanges: Sequence[Exchange], *more: Any, **named: Any
    ) -> Deferred[list[Exchanged | StoreError]]:
        """One transaction each; the messages have the results that services gave them on arrival."""
        return Deferred.fromCoroutine(self._exchange(exchanges, *more, **named))

    def store_messages(self, messages: Sequence[common.Message], *more: Any, **named: Any) -> Deferred[None]:
        """Messages of services, and results of those that are known."""
        lines = of_messages(messages)
        return Deferred.fromCoroutine(self._then_append(self.original.store_messages(messages, *more, **named), lines))

    def set_message_results(self, updates: Sequence[ResultUpdate], *more: Any, **named: Any) -> Deferred[None]:
        """Results of what was processed later."""
        lines = [line_of(update.message_id, update.result) for update in updates]
        return Deferred.fromCoroutine(
            self._then_append(self.original.set_message_results(updates, *more, **named), lines)
        )

    async def _open(self) -> None:
        await self.original.open()
        try:
            await self._write([])  # or say at once that it cannot be written to
        except StoreError as error:
            await self.original.close()
            raise ConfigError(str(error)) from error

    async def _exchange(self, exchanges: Sequence[Exchange], *more: Any, **named: Any) -> list[Exchanged | StoreError]:
        lines = [of_messages(exchange.messages) for exchange in exchanges]
        outcomes: list[Exchanged | StoreError] = await self.original.exchange(exchanges, *more, **named)
        done = zip(lines, outcomes, strict=True)
        await self._append([line for of_one, outcome in done if isinstance(outcome, Exchanged) for line in of_one])
        return outcomes

    async def _then_append(self, call: Deferred[None], lines: Sequence[str]) -> None:
        await call
        await self._append(lines)

    async def _append(self, lines: Sequence[str]) -> None:
        if lines:
            await self._write(lines)

    def _write(self, lines: Sequence[str]) -> Deferred[None]:
        """In a thread, and one call after the other, so that lines stay whole."""
        pool = self._reactor.getThreadPool()
        return self._lock.run(deferToThreadPool, self._reactor, pool, append, self._path, lines)


def of_messages(messages: Iterable[common.Message]) -> list[str]:
    """Lines for those that have a result."""
    return [line_of(message.message_id, message.result) for message in messages if message.HasField("result")]


def line_of(message_id: bytes, result: common.MessageResult) -> str:
    """A result as a line of JSON."""
    described = {"message_id": ids.show(message_id), "time": result.processed_time.ToJsonString()}
    if result.failed:
        described["failed"] = result.failed_reason
    return json.dumps(described, sort_keys=True) + "\n"


def append(path: Path, lines: Sequence[str]) -> None:
    """In a thread.  Raises StoreError, which callers of a store expect."""
    try:
        with path.open("ab") as file:
            file.write("".join(lines).encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StoreError(f"cannot write to {path}: {error.strerror}") from error


@implementer(IStoreFactory)
class ResultLogFactory:
    """Makes the store of ``--store resultlog:FILE,NAME:ARGUMENT``."""

    name = "resultlog"
    help = "Another store that also appends results to a file: resultlog:FILE,NAME:ARGUMENT."

    def make(self, argument: str, reactor: Any, now_ns: Callable[[], int], uniform: Callable[[], float]) -> IStore:
        """The other store is looked for as the server itself does, so it may be anybody's."""
        path, comma, other = argument.partition(",")
        if not path or not comma:
            raise ConfigError("resultlog takes a file and another store, such as resultlog:/r.jsonl,sqlite:/f.sqlite")
        original = made_of("resultlog", IStoreFactory, IStore, other, reactor, now_ns, uniform)
        store: Any = ResultLogStore(original, Path(path).absolute(), reactor)
        return cast(IStore, store)  # which it provides by passing on
