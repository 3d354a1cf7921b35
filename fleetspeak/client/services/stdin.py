"""The factory ``Stdin``: runs a command for each message, with the message as its standard input."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from google.protobuf.message import DecodeError
from google.protobuf.message import Message as ProtobufMessage
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.plugin import IPlugin
from zope.interface import implementer

from fleetspeak.client.process.command import Command, CommandFailed, Result
from fleetspeak.config.client import ClientSettings
from fleetspeak.errors import ConfigError, FleetspeakError
from fleetspeak.interfaces import IClientService, IClientServiceContext, IClientServiceFactory
from fleetspeak.pb import common, stdin, stdin_config

INPUT_TYPE = "StdinServiceInputMessage"
OUTPUT_TYPE = "StdinServiceOutputMessage"

MAX_LOGGED = 4096
"""Bytes of one stream that are logged (as in the Go client)."""


MAX_SECONDS = 365 * 24 * 3600

MAX_OUTPUT = 15 * 1024 * 1024 - 64 * 1024
"""Bytes: as much as a contact carries (client-side limit of the polling communicator), with room for what is around."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a command may take; more ends it, and the server is told."""

    seconds: float = 3600.0
    """One command runs at a time, so that one that hangs would keep all others waiting for ever."""
    output_bytes: int = MAX_OUTPUT


def limits_of(settings: ClientSettings) -> Limits:
    """The limits that the client's options set.  Raises ConfigError."""
    seconds, size = settings.stdin_time_limit, settings.stdin_output_limit
    if seconds is not None and not 0 < seconds < MAX_SECONDS:
        raise ConfigError(f"stdin-time-limit is {seconds:g}, expected seconds, more than 0 and less than {MAX_SECONDS}")
    if size is not None and not 0 < size <= MAX_OUTPUT:
        raise ConfigError(
            f"stdin-output-limit is {size}, expected bytes, from 1 to {MAX_OUTPUT}, which is what a contact carries"
        )
    default = Limits()
    return Limits(default.seconds if seconds is None else seconds, default.output_bytes if size is None else size)


class StdinProblem(FleetspeakError):
    """A message could not be processed; the text goes to the server."""


@implementer(IPlugin, IClientServiceFactory)
class StdinFactory:
    """Makes `StdinService`s."""

    name = "Stdin"
    help = "runs a command for each message and sends back its output"
    config_type = stdin_config.Config

    def __init__(self, limits: Limits | None = None, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._limits = limits or Limits()
        self._now_ns = now_ns

    def make(self, config: ProtobufMessage | None, context: IClientServiceContext) -> IClientService:
        """Raises ConfigError if the configuration names no command."""
        if not isinstance(config, stdin_config.Config) or not config.cmd:
            raise ConfigError('cmd must name the command, for instance cmd: "/bin/ls"')
        return StdinService(config, context, self._limits, self._now_ns)


@implementer(IClientService)
class StdinService:
    """Takes an `InputMessage`, runs the command, and sends an `OutputMessage` to the server service of its own name."""

    _log = Logger()

    def __init__(
        self,
        config: stdin_config.Config,
        context: IClientServiceContext,
        limits: Limits,
        now_ns: Callable[[], int],
    ) -> None:
        self._config = config
        self._context = context
        self._limits = limits
        self._now_ns = now_ns
        self._command: Command | None = None

    def start(self) -> None:
        """There is nothing to get ready."""

    def stop(self) -> Deferred[None] | None:
        """Kill the command that runs, with all it has started."""
        return None if self._command is None else self._command.kill()

    async def process(self, message: common.Message) -> None:
        """Done when the output is on its way.  Raises StdinProblem, with a text for each way to fail."""
        request = _parse(message)
        result = await self._run(request)
        if not result.status.ok:
            raise StdinProblem(f"command failed: {result.status}")
        await self._send(result)

    async def _run(self, request: stdin.InputMessage) -> Result:
        command = Command(
            self._context.reactor,
            time_limit=self._limits.seconds,
            output_limit=self._limits.output_bytes,
            variables=self._context.child_variables,
        )
        self._command = command
        try:
            result = await command.run([self._config.cmd, *self._config.args, *request.args], request.input)
        except CommandFailed as error:
            raise StdinProblem(f"command failed: {error}") from error
        finally:
            if command.ended:
                self._command = None
        if self._config.log_level >= stdin_config.LOG_LEVEL_STDERR:
            self._log_output("stderr", result.stderr)
        if self._config.log_level >= stdin_config.LOG_LEVEL_ALL:
            self._log_output("stdout", result.stdout)
        return result

    async def _send(self, result: Result) -> None:
        output = stdin.OutputMessage(stdout=result.stdout, stderr=result.stderr)
        output.timestamp.FromNanoseconds(self._now_ns())
        message = common.Message(
            message_type=OUTPUT_TYPE,
            destination=common.Address(service_name=self._context.service_name),
            priority=common.Message.MEDIUM,
        )
        message.data.Pack(output)
        try:
            await self._context.send(message)
        except Exception as error:
            text = f"error while trying to send a response to the requesting server: {error}"
            raise StdinProblem(text) from error

    def _log_output(self, stream: str, data: bytes) -> None:
        if data:
            self._log.info(
                "service {service}: {stream} of {command}: {output}{cut}",
                service=self._context.service_name,
                stream=stream,
                command=self._config.cmd,
                output=data[:MAX_LOGGED].decode(errors="replace"),
                cut="\n[truncated]" if len(data) > MAX_LOGGED else "",
            )


def _parse(message: common.Message) -> stdin.InputMessage:
    if message.message_type != INPUT_TYPE:
        raise StdinProblem(f'unrecognized common.Message.message_type: "{message.message_type}"')
    request = stdin.InputMessage()
    try:
        if message.data.Unpack(request):
            return request
    except DecodeError as error:
        raise StdinProblem(f"error while unmarshalling common.Message.data: {error}") from None
    raise StdinProblem(
        "error while unmarshalling common.Message.data: "
        f"expected {request.DESCRIPTOR.full_name}, got {message.data.TypeName() or 'nothing'}"
    )
