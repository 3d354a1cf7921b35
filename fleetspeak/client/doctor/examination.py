"""The whole examination: configuration, services, state, and then each server by itself."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from typing import Any

from fleetspeak.client.comms.servers import Server
from fleetspeak.client.doctor.configuration import Patient, examine_configuration, examine_services
from fleetspeak.client.doctor.contact import examine_contact
from fleetspeak.client.doctor.findings import Report, Status
from fleetspeak.client.doctor.identity import Known, examine_state
from fleetspeak.client.doctor.path import Way
from fleetspeak.client.doctor.request import examine_request
from fleetspeak.client.doctor.tls import Handshake
from fleetspeak.config.client import ClientSettings


async def examine(patient: Patient, reactor: Any, now: Callable[[], float] = time.time) -> Report:
    """Examine a client without disturbing it, whether it runs or not, unless a contact is wanted in any case.

    @param now: seconds since the Unix epoch, by this machine's clock.
    """
    report = Report()
    findings, settings = examine_configuration(patient, _date(now()))
    report.add(*findings)
    if settings is None:
        return report
    report.add(*examine_services(settings))
    findings, known = examine_state(settings, now())
    report.add(*findings)
    for host, port in settings.servers:
        await _examine_server(Server(host, port), settings, known, reactor, now, report, wanted=patient.contact)
    return report


async def _examine_server(
    server: Server,
    settings: ClientSettings,
    known: Known,
    reactor: Any,
    now: Callable[[], float],
    report: Report,
    *,
    wanted: bool,
) -> None:
    way = Way(server, settings, reactor)
    is_open = await way.examine()
    report.add(*way.findings)
    if not is_open:
        return
    findings = await Handshake(server, settings, known, reactor).examine(_date(now()))
    report.add(*findings)
    if not any(finding.status is Status.FAILED for finding in findings):
        findings = await examine_request(server, settings, known, reactor, now())
        report.add(*findings)
        if findings[0].status is not Status.FAILED:
            report.add(await examine_contact(server, settings, known, reactor, now(), wanted=wanted))


def _date(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)
