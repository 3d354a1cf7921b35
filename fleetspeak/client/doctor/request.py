"""A request as the client, and what its answer says of the clocks.

It is the one that a client makes every hour: for the list of revoked certificates.  Unlike a poll it leaves no contact
behind, takes no messages from anybody, and gives no new nonce, so a client that runs meanwhile is not disturbed; and
one that was never started is not enrolled.
"""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.web.iweb import IResponse

from fleetspeak.client.comms.bodies import read_body
from fleetspeak.client.comms.http import MAX_REFUSAL, Transport, reason_of
from fleetspeak.client.comms.servers import Server
from fleetspeak.client.doctor.findings import Finding, failed, ok, skipped
from fleetspeak.client.doctor.identity import Known
from fleetspeak.client.link import Link
from fleetspeak.client.revocation import FILE, MAX_LIST
from fleetspeak.config.client import ClientSettings
from fleetspeak.wire import filerequest

LIMIT = 30.0
"""Seconds for request and answer."""

MAX_SKEW = 300
"""Seconds that the clocks may differ; more makes certificates invalid and times in reports useless."""

_CHECK = "request"


async def examine_request(
    server: Server, settings: ClientSettings, known: Known, reactor: Any, now: float
) -> list[Finding]:
    """Make the request."""
    transport = Transport(cast(Link, known), settings, reactor)
    path = filerequest.path("system", FILE)
    labels = [("X-Fleetspeak-Labels", label) for label in settings.labels]
    asking: Deferred[tuple[IResponse, bytes]] = Deferred.fromCoroutine(_ask(transport, server, path, labels))
    asking.addTimeout(LIMIT, reactor, _timed_out)
    try:
        response, body = await asking
    except Exception as error:
        return [failed(_CHECK, f"no answer: {reason_of(error)}", "see the server's log", str(server))]
    finally:
        await transport.close()
    return [_judged(response.code, body, known, str(server)), _clock(response, now, str(server))]


async def _ask(
    transport: Transport, server: Server, path: str, labels: list[tuple[str, str]]
) -> tuple[IResponse, bytes]:
    response = await transport.get(server, path, labels)
    return response, await read_body(response, MAX_LIST)


def _timed_out(result: object, seconds: float) -> None:
    raise TimeoutError(f"the server took the request, and did not answer within {seconds:.0f} s; see whether it hangs")


def _judged(status: int, body: bytes, known: Known, server: str) -> Finding:
    said = f"{status} {body[:MAX_REFUSAL].decode('utf-8', 'replace').strip()}" if status != 200 else "200"
    if status in (200, 304) or (status == 404 and body.strip() == b"file not found"):
        by = "one without an identity (none was made, and nobody enrolled)" if known.is_temporary else "this client"
        what = "its list of revoked certificates" if status == 200 else "that it has no list of revoked certificates"
        return ok(_CHECK, f"the server answers {by}: {what}", server)
    if status in (401, 403):
        step = "the server's authorization refuses this client: see its log, required_label, and the client's labels"
    elif status == 503:
        step = "the server is not ready or refuses this client: see its log"
    elif status == 404:
        step = "this is a web server, but no Fleetspeak server: check host and port"
    else:
        step = "see the log of the server, and of what is in front of it"
    return failed(_CHECK, f"the server said {said}", step, server)


def _clock(response: IResponse, now: float, server: str) -> Finding:
    values = response.headers.getRawHeaders("Date") or []
    there = filerequest.parse_date(values[0]) if values else None
    if there is None:
        return skipped("clock", "the server's answer has no date", server)
    skew = round(now - there)
    if abs(skew) > MAX_SKEW:
        found = f"this machine's clock is {_duration(abs(skew))} {'ahead of' if skew > 0 else 'behind'} the server's"
        return failed("clock", found, "set the clocks by NTP, here or there", server)
    return ok("clock", f"within {max(abs(skew), 1)} s of the server's", server)


def _duration(seconds: int) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} seconds"
