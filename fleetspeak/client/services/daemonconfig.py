"""Reads the configuration of a Daemon service: what is run, and what its process is watched for."""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration
from twisted.logger import Logger

from fleetspeak.client.process.child import GRACE
from fleetspeak.client.process.program import Program
from fleetspeak.client.process.stdoutput import flush_rules
from fleetspeak.client.process.supervisor import STARTUP_WAIT, SupervisionRules
from fleetspeak.core.supervision import FIRST_DELAY, LONGEST_DELAY, HeartbeatRules
from fleetspeak.core.usage import sampling_rules
from fleetspeak.errors import ConfigError
from fleetspeak.interfaces import IClientServiceContext
from fleetspeak.pb import daemon_config
from fleetspeak.wire.channelreader import READ_LIMIT

_log = Logger()


@dataclass(frozen=True, slots=True)
class Limits:
    """Times, in seconds, that tests shorten."""

    respawn_delay: float = FIRST_DELAY
    """After the first short life of a process."""
    longest_respawn_delay: float = LONGEST_DELAY
    read_limit: float = READ_LIMIT
    grace: float = GRACE
    startup_wait: float = STARTUP_WAIT


def program_of(config: daemon_config.Config, context: IClientServiceContext, limits: Limits) -> Program:
    """What a configuration says is to be run.  Raises ConfigError."""
    if not config.argv or not config.argv[0]:
        raise ConfigError('argv must name the program, for instance argv: "/usr/bin/python3" argv: "hello.py"')
    timeout = _seconds(config.inactivity_timeout)
    if config.HasField("std_params") and not config.std_params.service_name:
        _log.error(
            "service {service}: std_params is ignored, because it has no service_name", service=context.service_name
        )
    return Program(
        service=context.service_name,
        argv=tuple(config.argv),
        inactivity_timeout=timeout if timeout > 0 else None,
        output_to=config.std_params.service_name,
        flush_rules=flush_rules(config.std_params),
        std_forward=context.std_forward,
        read_limit=limits.read_limit,
        grace=limits.grace,
        variables=context.child_variables,
        supervision=_supervision(config, limits.startup_wait),
    )


def _supervision(config: daemon_config.Config, startup_wait: float) -> SupervisionRules:
    period = _either(config.resource_monitoring_sample_period, config.resource_monitoring_sample_period_seconds)
    return SupervisionRules(
        report_usage=not config.disable_resource_monitoring,
        sampling=sampling_rules(config.resource_monitoring_sample_size, period),
        memory_limit=config.memory_limit,
        heartbeats=_heartbeats(config) if config.monitor_heartbeats else None,
        startup_wait=startup_wait,
    )


def _heartbeats(config: daemon_config.Config) -> HeartbeatRules:
    grace = _either(config.heartbeat_unresponsive_grace_period, config.heartbeat_unresponsive_grace_period_seconds)
    kill = _either(config.heartbeat_unresponsive_kill_period, config.heartbeat_unresponsive_kill_period_seconds)
    if kill <= 0:
        raise ConfigError(
            "monitor_heartbeats needs heartbeat_unresponsive_kill_period, the time that the process may be silent, "
            "for instance heartbeat_unresponsive_kill_period { seconds: 60 }"
        )
    return HeartbeatRules(max(0.0, grace), kill)


def _either(duration: Duration, seconds: int) -> float:
    """A duration, or where it is not positive the deprecated field that it replaced."""
    value = _seconds(duration)
    return value if value > 0 else float(seconds)


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9
