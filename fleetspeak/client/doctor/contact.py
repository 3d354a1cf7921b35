"""A real contact: an empty poll as the client, which grants no tokens, so that the server sends it nothing to do.

The server records it.  Beside a client that runs it would do harm: the server would believe that the client polls, and
a Go server would tell it of new messages late.  So it is made only if the client does not run, or if asked for.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import psutil
from twisted.internet.defer import Deferred

from fleetspeak.client.addressing import SYSTEM
from fleetspeak.client.comms.bodies import WholeBody, read_body
from fleetspeak.client.comms.http import MAX_REFUSAL, SUCCESS, Transport, reason_of
from fleetspeak.client.comms.servers import Server
from fleetspeak.client.doctor.findings import Finding, failed, ok, skipped, warning
from fleetspeak.client.doctor.identity import Known
from fleetspeak.client.link import Link
from fleetspeak.client.persistence.filesystem import LOCK_SUFFIX
from fleetspeak.client.signers import signatures
from fleetspeak.config.client import ClientSettings
from fleetspeak.errors import ProtocolError
from fleetspeak.interfaces import IContactSigner
from fleetspeak.lookup import PLUG_INS
from fleetspeak.pb import common
from fleetspeak.wire import contact as wire_contact
from fleetspeak.wire.streamframes import MAX_SERVER_RECORD

LIMIT = 60.0
"""Seconds for the poll and its answer."""

_CHECK = "contact"
_LOCKS = Path("/proc/locks")


async def examine_contact(
    server: Server, settings: ClientSettings, known: Known, reactor: Any, now: float, *, wanted: bool
) -> Finding:
    """Make contact, if that can do no harm or is `wanted` all the same."""
    if known.is_temporary:
        return skipped(_CHECK, "there is no identity yet, and one made for this would be enrolled", str(server))
    if not wanted and not is_stopped(settings.state_file):
        found = "the client may be running, and would be disturbed; its log tells of its own. To make one: --contact"
        return skipped(_CHECK, found, str(server))
    transport = Transport(cast(Link, known), uncompressed(settings), reactor)
    polling: Deferred[common.ContactData] = Deferred.fromCoroutine(
        _poll(transport, server, _contact(settings, known, now))
    )
    polling.addTimeout(LIMIT, reactor)
    try:
        answer = await polling
    except Exception as error:
        step = "see the server's log: it may not admit this client (required_label, authorizer), or be unable to store"
        return failed(_CHECK, f"no contact: {reason_of(error)}", step, str(server))
    finally:
        await transport.close()
    if any(message.message_type == "RekeyRequest" for message in answer.messages):
        found = "the server has blacklisted this client, and demands a new key of it"
        return warning(_CHECK, found, "start the client: it will rekey, and come back under another id", str(server))
    return ok(_CHECK, "the server takes contact data of this client", str(server))


def is_stopped(state_file: Path | None) -> bool:
    """Does certainly no client run on this state?  Only for one of ours, whose lock file is there.  Locks nothing."""
    if state_file is None:
        return False
    lock = state_file.with_name(state_file.name + LOCK_SUFFIX)
    try:
        inode = os.stat(lock).st_ino
        held = any(line.split()[5].endswith(f":{inode}") for line in _LOCKS.read_text().splitlines())
        holder = lock.read_bytes()[:20].strip()
    except (OSError, IndexError):
        return False
    # The second, because not every file system shows its locks there.
    return not held and not (holder.isdigit() and psutil.pid_exists(int(holder)))


def uncompressed(settings: ClientSettings) -> ClientSettings:
    """The same without compression: polls that are compressed are more than a Go server can read."""
    communicator = type(settings.communicator)()
    communicator.CopyFrom(settings.communicator)
    communicator.compression = common.COMPRESSION_NONE
    return replace(settings, communicator=communicator)


def _contact(settings: ClientSettings, known: Known, now: float) -> bytes:
    contact = common.ContactData(sequencing_nonce=known.nonce, AllowedMessages={SYSTEM: 0})
    contact.client_clock.FromNanoseconds(int(now * 1e9))
    signers = PLUG_INS.all(IContactSigner)
    wrapped = wire_contact.wrap_signed(contact, settings.labels, lambda data: signatures(signers, data))
    return wrapped.SerializeToString()


async def _poll(transport: Transport, server: Server, body: bytes) -> common.ContactData:
    response = await transport.post(server, "/message", WholeBody(body))
    answer = await read_body(response, MAX_SERVER_RECORD)
    if response.code != SUCCESS:
        raise ProtocolError(f"status {response.code}: {answer[:MAX_REFUSAL].decode('utf-8', 'replace').strip()}")
    return wire_contact.parse(answer)
