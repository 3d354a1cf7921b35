"""The factory ``Daemon``: a program that the client keeps running, and exchanges messages with."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message as ProtobufMessage
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater
from twisted.logger import Logger, LogLevel
from twisted.plugin import IPlugin
from zope.interface import implementer

from fleetspeak.client.process.child import ChildGone
from fleetspeak.client.process.execution import Execution
from fleetspeak.client.process.handedover import Frame
from fleetspeak.client.process.program import Program
from fleetspeak.client.services.daemonconfig import Limits, program_of
from fleetspeak.core.supervision import RespawnSchedule
from fleetspeak.interfaces import IClientService, IClientServiceContext, IClientServiceFactory
from fleetspeak.pb import common, daemon_config
from fleetspeak.wire import channelframes

TELL_WHERE_TO_LOOK = 3
"""From so many short lives in a row on, the log tells how to find out why."""


@implementer(IPlugin, IClientServiceFactory)
class DaemonFactory:
    """Makes `DaemonService`s."""

    name = "Daemon"
    help = "keeps a program running and exchanges messages with it"
    config_type = daemon_config.Config

    def __init__(self, limits: Limits | None = None, uniform: Callable[[], float] = random.random) -> None:
        self._limits = limits or Limits()
        self._uniform = uniform

    def make(self, config: ProtobufMessage | None, context: IClientServiceContext) -> IClientService:
        """Raises ConfigError if the configuration names no program, or asks for what cannot be."""
        if not isinstance(config, daemon_config.Config):
            config = daemon_config.Config()
        return DaemonService(
            program_of(config, context, self._limits),
            config.HasField("inactivity_timeout") or config.lazy_start,
            context,
            RespawnSchedule(self._limits.respawn_delay, self._limits.longest_respawn_delay),
            self._uniform,
        )


@implementer(IClientService)
class DaemonService:
    """Runs the program again and again; a message is processed as soon as the pipe to the process has taken it.

    A message that a process did not take before it ended, or that was still in the pipe then, goes to the next one;
    and so do the last ones that it has read, if it was killed.
    """

    _log = Logger()

    def __init__(
        self,
        program: Program,
        lazy: bool,
        context: IClientServiceContext,
        schedule: RespawnSchedule,
        uniform: Callable[[], float],
    ) -> None:
        self._program = program
        self._lazy = lazy
        self._context = context
        self._clock: Any = context.reactor
        self._schedule = schedule
        self._uniform = uniform
        self._execution: Execution | None = None
        self._ready = False
        """The process has everything that earlier ones left over, and takes more."""
        self._left_over = context.left_over
        self._waiting: list[Deferred[Execution]] = []
        self._running: Deferred[None] | None = None
        self._stopping = False
        self._sleeping: Deferred[None] | None = None
        self._alarm: IDelayedCall | None = None

    def start(self) -> None:
        """Begin to run the program, or to wait for a message for it."""
        self._running = Deferred.fromCoroutine(self._run())
        self._running.addErrback(
            lambda failure: self._log.failure("service {service} failed", failure, service=self._program.service)
        )

    async def process(self, message: common.Message) -> None:
        """Done when a process has the message.  Raises TooLarge for one that no channel carries."""
        frame = Frame(channelframes.encode(message.SerializeToString()))
        while True:
            execution = await self._ready_execution()
            try:
                await execution.deliver(frame)
            except ChildGone:
                self._ready = False  # until the next process is: what is left of this one takes nothing
            else:
                return

    def stop(self) -> Deferred[None] | None:
        """End the process: within 2 seconds if it obeys, with a kill otherwise."""
        self._stopping = True
        self._wake()
        if self._execution is not None:
            self._execution.stop()
        return self._running

    # ---- the life cycle

    async def _run(self) -> None:
        await self._left_over.load()
        while not self._stopping:
            if self._lazy and not self._waiting and not self._left_over:
                await self._sleep(None)
            elif (wait := self._schedule.wait(self._clock.seconds())) > 0:
                await self._sleep(wait)
            else:
                await self._execute()
                # Not in the same turn: the reactor may still have to tell of the old pipes, by the numbers that the
                # new ones would get.
                await deferLater(self._clock, 0)

    async def _execute(self) -> None:
        self._schedule.started(self._clock.seconds())
        execution = Execution(self._program, self._context, self._clock)
        try:
            execution.start()
        except (OSError, ValueError) as error:
            self._schedule.ended(self._clock.seconds(), self._uniform())
            self._log.error(
                "service {service}: cannot start {program}: {error}. {next}",
                service=self._program.service,
                program=self._program.argv[0],
                error=error,
                next=self._what_is_next(),
            )
            return
        self._execution = execution
        handing_over = Deferred.fromCoroutine(self._make_ready(execution))
        await execution.over()
        await handing_over
        self._execution = None
        self._ready = False
        await self._left_over.put_back(execution.left_over())
        self._account_for(execution)

    def _account_for(self, execution: Execution) -> None:
        """Say how an execution ended, and what is next."""
        problem = execution.problem
        self._schedule.ended(self._clock.seconds(), self._uniform(), expected=execution.expected)
        self._context.stats.daemon_finished(self._program.service, problem)
        self._log.emit(
            LogLevel.warn if problem else LogLevel.info,
            "service {service}: process {pid} is gone: {reason}. {next}",
            service=self._program.service,
            pid=execution.pid,
            reason=execution.reason,
            next=self._what_is_next(),
        )

    def _what_is_next(self) -> str:
        if self._stopping:
            return "The service is stopped"
        if self._lazy and not self._waiting and not self._left_over:
            return "It is started again when there is a message for it"
        wait = self._schedule.wait(self._clock.seconds())
        if wait <= 0:
            return "It is started again now"
        if self._schedule.short_lives < TELL_WHERE_TO_LOOK:
            return f"It is started again in {wait:.1f} s"
        return (
            f"It is started again in {wait:.0f} s, as it has ended soon after its start "
            f"{self._schedule.short_lives} times in a row. {self._where_to_look()}"
        )

    def _where_to_look(self) -> str:
        program = self._program
        if program.output_to:
            return (
                f"What {program.argv[0]} says is in the StdOutput messages to the server's service {program.output_to}"
            )
        return f"To see what {program.argv[0]} says, set std_params, or run it by hand as the user of the client"

    async def _make_ready(self, execution: Execution) -> None:
        """Hand over what earlier processes did not read, then let in what comes."""
        try:
            while self._left_over:
                await execution.deliver(self._left_over.first)
                await self._left_over.delivered()
        except ChildGone:
            return
        self._ready = True
        waiting, self._waiting = self._waiting, []
        for ready in waiting:
            ready.callback(execution)

    async def _ready_execution(self) -> Execution:
        if self._ready and self._execution is not None and not self._execution.ending:
            return self._execution
        ready: Deferred[Execution] = Deferred(self._waiting.remove)
        self._waiting.append(ready)
        self._wake()
        return await ready

    # ---- sleep

    def _sleep(self, seconds: float | None) -> Deferred[None]:
        """Fires after so many seconds, or when woken."""
        self._sleeping = Deferred()
        if seconds is not None:
            self._alarm = self._clock.callLater(seconds, self._wake)
        return self._sleeping

    def _wake(self) -> None:
        if self._alarm is not None and self._alarm.active():
            self._alarm.cancel()
        self._alarm = None
        sleeping, self._sleeping = self._sleeping, None
        if sleeping is not None:
            sleeping.callback(None)
