"""Claims: due messages are taken for a client, oldest first, and put off until it is time to send them again."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from fleetspeak.ids import ClientId
from fleetspeak.pb import common
from fleetspeak.records import Claim
from fleetspeak.store.allotment import Allotment
from fleetspeak.store.sql.dialect import Connection
from fleetspeak.store.sql.messages import mark_processed, read_pending
from fleetspeak.store.sql.statements import marks, rows_in, run_in
from fleetspeak.store.timing import Timing

CLAIM_BYTES = 32 * 1024
"""What a claim counts for in a batch, since nobody knows before what it will take: so at most 128 are in one."""

MAX_LOOKS = 32
"""Most clients that one statement looks for."""

# In this order: the index of what is pending for a client gives the order, so the LIMIT ends the scan.
# Without payloads: only those of the messages that are taken are read.
_LOOK = """
    SELECT m.destination_client_id, m.message_id, m.creation_time_seconds, m.creation_time_nanos,
        m.destination_service_name, m.message_type, LENGTH(p.data_value)
    FROM messages AS m {in_order} pending_messages AS p ON p.for_server = 0 AND p.message_id = m.message_id
    WHERE m.destination_client_id = ? AND m.processed_time_seconds IS NULL AND p.scheduled_time <= ?{more}
    ORDER BY m.creation_time_seconds, m.creation_time_nanos, m.message_id LIMIT ?"""


class Due(NamedTuple):
    """A message that is due: a row of a look."""

    client_id: bytes
    message_id: bytes
    seconds: int
    nanos: int
    service: str
    message_type: str | None
    size: int | None

    @property
    def is_die(self) -> bool:
        """A client that is told to die cannot confirm it."""
        return self.message_type == "Die" and self.service == "system"


def client_messages_for_processing(
    db: Connection, claims: Sequence[Claim], *, timing: Timing
) -> list[list[common.Message]]:
    """Carry out claims."""
    return claim(db, claims, timing, timing.now_ns())


def claim(db: Connection, claims: Sequence[Claim], timing: Timing, now_ns: int) -> list[list[common.Message]]:
    """Take what is due; for each claim its messages, oldest first.

    Claims of one client are carried out one after the other, since what one took is not due for the next.
    """
    taken: list[list[common.Message]] = [[] for _ in claims]
    for turn in _turns(claims):
        due = _look(db, [claims[index] for index in turn], now_ns // 1000)
        if not due:
            continue
        underway = [
            _Underway(index, claims[index], due[claims[index].client_id])
            for index in turn
            if claims[index].client_id in due
        ]
        while underway:
            for one in underway:
                one.allot(db, now_ns // 1000)
            messages = _take(db, [due for one in underway for due in one.allotted], timing, now_ns)
            for one in underway:
                taken[one.index] += one.receive(messages)
            underway = [one for one in underway if one.lost]
    return taken


def _turns(claims: Sequence[Claim]) -> list[list[int]]:
    """Indices of claims, gathered so that no client comes twice in one turn."""
    turns: list[list[int]] = []
    seen: dict[ClientId, int] = {}
    for index, wanted in enumerate(claims):
        if wanted.limit <= 0 or (wanted.tokens is not None and not any(wanted.tokens.values())):
            continue
        turn = seen[wanted.client_id] = seen.get(wanted.client_id, -1) + 1
        if turn == len(turns):
            turns.append([])
        turns[turn].append(index)
    return turns


def _look(db: Connection, claims: Sequence[Claim], now_us: int) -> dict[bytes, list[Due]]:
    """The oldest due messages of each client, as many as its claim asks for."""
    found: dict[bytes, list[Due]] = {}
    if len(claims) > 1 and not db.dialect.prepared:
        claims = _with_pending(db, claims)
    for start in range(0, len(claims), MAX_LOOKS):
        part = claims[start : start + MAX_LOOKS]
        parameters: list[bytes | int] = []
        for wanted in part:
            parameters += (wanted.client_id, now_us, wanted.limit)
        looks = 1 << (len(part) - 1).bit_length() if db.dialect.prepared else len(part)
        parameters += (b"", now_us, 0) * (looks - len(part))
        for row in db.rows(db.dialect.union_all(_look_text(db.dialect.in_order), looks), parameters):
            found.setdefault(row[0], []).append(Due(*row))
    return found


def _with_pending(db: Connection, claims: Sequence[Claim]) -> list[Claim]:
    """Those claims for whose clients anything waits; few, most of the time, so that the rest costs nothing more."""
    rows = rows_in(
        db,
        "SELECT DISTINCT destination_client_id FROM messages"
        " WHERE processed_time_seconds IS NULL AND destination_client_id IN ({keys})",
        (),
        [wanted.client_id for wanted in claims],
    )
    found = {client_id for (client_id,) in rows}
    return [wanted for wanted in claims if wanted.client_id in found]


@cache
def _look_text(in_order: str, more: str = "") -> str:
    return _LOOK.format(in_order=in_order, more=more)


class _Underway:
    """A claim that is being carried out: what it may still take, and how far it has looked."""

    def __init__(self, index: int, wanted: Claim, first: list[Due]) -> None:
        self.index = index
        self.allotted: list[Due] = []
        """What it shall get next."""
        self.lost = False
        """Some of that has gone to another server meanwhile, so there is room for more."""
        self._wanted = wanted
        self._allotment = Allotment(wanted)
        self._page = first
        self._next = 0

    def allot(self, db: Connection, now_us: int) -> None:
        """Choose, of what is due, the oldest that the claim has tokens and room for."""
        self.allotted = []
        while self._allotment.has_room and self._has_next(db, now_us):
            due = self._page[self._next]
            if self._allotment.take(due.service, due.size or 0):
                self.allotted.append(due)
            elif not self._allotment.has_room:
                return  # too large for what is left; the first to be taken if room is given back
            self._next += 1

    def _has_next(self, db: Connection, now_us: int) -> bool:
        if self._next == len(self._page) == self._wanted.limit:
            # A full page of which some were passed over, or lost: others may be behind it.
            self._page = _look_behind(db, self._wanted, self._page[-1], sorted(self._allotment.refused), now_us)
            self._next = 0
        return self._next < len(self._page)

    def receive(self, messages: dict[bytes, common.Message]) -> list[common.Message]:
        """Of what was allotted, what was taken."""
        lost = [due for due in self.allotted if due.message_id not in messages]
        for due in lost:
            self._allotment.give_back(due.service, due.size or 0)
        self.lost = bool(lost)
        return [messages[due.message_id] for due in self.allotted if due.message_id in messages]


def _look_behind(db: Connection, wanted: Claim, last: Due, without: list[str], now_us: int) -> list[Due]:
    """The next due messages behind `last`, without those for services that get none any more."""
    more = " AND (m.creation_time_seconds, m.creation_time_nanos, m.message_id) > (?, ?, ?)"
    if without:
        more += f" AND {db.dialect.exact('m.destination_service_name')} NOT IN ({marks(len(without))})"
    parameters = (
        wanted.client_id,
        now_us,
        last.seconds,
        last.nanos,
        last.message_id,
        *without,
        wanted.limit,
    )
    return [Due(*row) for row in db.rows(_look_text(db.dialect.in_order, more), parameters)]


def _take(db: Connection, taken: list[Due], timing: Timing, now_ns: int) -> dict[bytes, common.Message]:
    """Read messages, and put them off; those that another server took since the look are left out."""
    message_ids = sorted(due.message_id for due in taken)
    if db.dialect.lock:
        message_ids = _lock(db, message_ids, now_ns // 1000)
    messages = read_pending(db, message_ids)
    run_in(
        db,
        "UPDATE pending_messages SET retry_count = retry_count + 1, scheduled_time = ? WHERE message_id IN ({keys})",
        (timing.client_due(now_ns),),
        message_ids,
    )
    mark_processed(db, [due.message_id for due in taken if due.is_die and due.message_id in messages], now_ns)
    return messages


def _lock(db: Connection, message_ids: list[bytes], now_us: int) -> list[bytes]:
    """Those that are still due, and that nobody else is about to take or to end.

    They are locked one by one, by their keys: a look that locks would keep others from whatever it passed.
    """
    rows = rows_in(
        db,
        "SELECT message_id FROM pending_messages WHERE for_server = 0 AND scheduled_time <= ?"
        " AND message_id IN ({keys})" + db.dialect.lock,
        (now_us,),
        message_ids,
    )
    return [message_id for (message_id,) in rows]
