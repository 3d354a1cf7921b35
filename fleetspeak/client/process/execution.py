"""One run of a daemon's program: from its start until it is gone and all it wrote has been dealt with."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Protocol

from google.protobuf.message import DecodeError
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from fleetspeak.client.process.ackpipe import AckPipe, make_small
from fleetspeak.client.process.child import Child, ChildGone, ExitStatus
from fleetspeak.client.process.handedover import Frame, HandedOver
from fleetspeak.client.process.outflow import Outflow
from fleetspeak.client.process.program import CHILD_READS, CHILD_WRITES, Program
from fleetspeak.client.process.schedule import InactivityWatch
from fleetspeak.client.process.stdoutput import STDERR, STDOUT, OutputGatherer
from fleetspeak.client.process.supervisor import Supervisor
from fleetspeak.errors import FleetspeakError, ProtocolError
from fleetspeak.ids import ClientId
from fleetspeak.pb import channel, common, daemon
from fleetspeak.wire import channelframes
from fleetspeak.wire.channelreader import ChannelReader


class Sender(Protocol):
    """What an execution needs of the service's context (`IClientServiceContext`)."""

    @property
    def client_id(self) -> ClientId: ...
    @property
    def spooled(self) -> bool: ...
    def send(self, message: common.Message) -> Deferred[None]: ...


class ExecutionFailed(FleetspeakError):
    """A process ended that was not meant to, or not in that way; the text says how."""


class Execution:
    """Runs the program, talks to it over its channel, and ends it when there is a reason to."""

    _log = Logger()

    def __init__(self, program: Program, context: Sender, reactor: Any) -> None:
        now = reactor.seconds()
        self._program = program
        self._context = context
        self._clock = reactor
        self._child = Child(self, program.grace)
        self._reader = ChannelReader(now, program.read_limit)
        self._activity = InactivityWatch(program.inactivity_timeout, now)
        self._handed_over = HandedOver()
        self._gatherer = OutputGatherer(program.flush_rules)
        self._messages = Outflow(program.service, context.send, self._child, [CHILD_WRITES])
        self._output = Outflow(program.service, context.send, self._child, [STDOUT, STDERR])
        self._acks = AckPipe(reactor)
        self._supervisor = Supervisor(
            program.service, program.supervision, context.send, self._condemn, lambda: self._messages.waiting, reactor
        )
        self._timer: IDelayedCall | None = None
        self._when_open: list[Deferred[None]] = []
        self._when_over: list[Deferred[None]] = []
        self._reason = ""
        """Why it ends; empty: it does not."""
        self.expected = False
        """It ends because we want it to."""
        self._condemned = False
        """It was killed for what it did, or failed to do."""
        self._heard_all = False
        """Whatever still comes over the channel does not count."""
        self._faulty = False
        """It ends because of something that no process should do."""
        self._hurry = False
        self._dropping: IDelayedCall | None = None
        """When the rest is dropped."""
        self._over = False
        self.startup: channel.StartupData | None = None
        """What the process said of itself, once it has."""

    # ---- for the service

    @property
    def pid(self) -> int:
        """Of the process that was started."""
        return self._child.pid

    @property
    def ending(self) -> bool:
        """It takes no more messages."""
        return bool(self._reason)

    @property
    def reason(self) -> str:
        """Why it has ended, and how; ask when it is over."""
        if self._child.status is None or not self._reason:
            return self._reason or str(self._child.status)
        return f"{self._reason} ({self._child.status})"

    @property
    def problem(self) -> ExecutionFailed | None:
        """The same, unless all is well: it was to end, or did so by itself and successfully."""
        succeeded = self._child.status is not None and self._child.status.ok and not self._faulty
        return None if self.expected or succeeded else ExecutionFailed(self.reason)

    def start(self) -> None:
        """Start the program.  Raises OSError or ValueError if that cannot be done."""
        null = os.open(os.devnull, os.O_RDWR)
        if self._context.spooled:
            self._acks.open()
        try:
            self._child.start(
                self._clock,
                self._program.argv,
                self._program.environment(self._acks.environment(os.environ), self._context.client_id),
                {**self._program.descriptors(null), **self._acks.descriptors()},
                # A process that uses the terminal must be in the group that has it.
                own_group=not self._program.std_forward,
            )
        except BaseException:
            self._acks.close()
            raise
        finally:
            os.close(null)
            self._acks.started()
        make_small(self._child.fileno(CHILD_WRITES))
        self._tell(LogLevel.info, "started process {pid}")
        self._supervisor.launched(self.pid)
        assert self._child.input is not None
        # Should the process end before it took that, it is noticed elsewhere.
        Deferred.fromCoroutine(self._child.input.write(channelframes.MAGIC)).addErrback(_is_gone)
        self._watch()

    async def deliver(self, frame: Frame) -> None:
        """Hand a message over, waiting until the process takes messages and its pipe has taken this one.

        @raise ChildGone: the process has at most a part of it.
        """
        if not self._reader.opened or self._reason:
            await self._open()
        pipe = self._child.input
        assert pipe is not None
        try:
            await pipe.write(frame.data)
        except ChildGone:
            self._end("it closed its input")
            raise
        self._handed_over.add(frame, pipe.written)
        self._activity.active(self._clock.seconds())

    def left_over(self) -> list[Frame]:
        """The messages that were handed over and that the process has not dealt with; ask when it is over.

        If it was killed in the middle of its work, that may hold for some that it has read; they are repeated, too.
        """
        if self._child.input is None:
            return []
        consumed = self._child.input.consumed
        killed = self._condemned or self._child.was_killed
        return self._handed_over.unfinished(consumed) if killed else self._handed_over.unread(consumed)

    def stop(self) -> None:
        """End it; what the client does not accept of its last words within a second is dropped."""
        self._hurry = True
        self._end("the service is stopped", expected=True)

    def over(self) -> Deferred[None]:
        """Fires when the process is gone, and all it wrote was accepted by the client.  Cancellable."""
        if self._over:
            return succeed(None)
        over: Deferred[None] = Deferred(self._when_over.remove)
        self._when_over.append(over)
        return over

    # ---- the start

    def _open(self) -> Deferred[None]:
        """Fires when the process takes messages."""
        if self._reason:
            raise ChildGone(self._reason)
        opened: Deferred[None] = Deferred(self._when_open.remove)
        self._when_open.append(opened)
        return opened

    # ---- from the process

    def child_wrote(self, descriptor: int, data: bytes) -> None:
        """See `ChildOwner`."""
        now = self._clock.seconds()
        self._activity.active(now)
        if descriptor == CHILD_WRITES:
            self._supervisor.heard()
            self._hear(data, now)
        else:
            self._send_output(self._gatherer.add(descriptor, data, now))
        self._watch()

    def child_closed(self, descriptor: int) -> None:
        """See `ChildOwner`."""
        if descriptor == CHILD_READS:
            self._end("it closed its input")
        elif descriptor == CHILD_WRITES and not self._heard_all:
            self._heard_all = True
            try:
                self._reader.finish()
            except ProtocolError as error:
                self._end(str(error))
            else:
                self._end("it closed its output", faulty=False)

    def child_exited(self, status: ExitStatus) -> None:
        """See `ChildOwner`."""
        self._stop_watching()
        self._supervisor.exited(self.pid, status)
        if self._hurry:
            # Not first at the end of its pipes: while they are not read, for want of room, that is never seen.
            self._dropping = self._clock.callLater(self._program.grace, self._drop_output)
        self._reason = self._reason or "it ended by itself"
        self._tell_not_open()

    def child_ended(self) -> None:
        """See `ChildOwner`."""
        self._send_output(self._gatherer.flush())
        if self._hurry and self._dropping is None:
            self._dropping = self._clock.callLater(self._program.grace, self._drop_output)
        finished = self._messages.finish()
        finished.addCallback(lambda _: self._output.finish())
        finished.addCallback(self._finish)

    def _hear(self, data: bytes, now: float) -> None:
        """Take what came over the channel."""
        if self._heard_all:
            return
        was_open = self._reader.opened
        messages: list[common.Message] = []
        try:
            for body in self._reader.feed(data, now):
                message = channelframes.parse(body)
                if message.destination.service_name != "system":
                    messages.append(message)
                elif message.message_type == "WantAcks" and self._acks.offered:
                    self._messages.put(messages, self._reading_again)
                    messages = []
                    self._messages.tell_from_here(self._acks.tell)
                else:
                    self._take(message)
            self._reader.feed(b"", now)  # raises what is wrong behind these messages
        except ProtocolError as error:
            self._heard_all = True
            self._tell(
                LogLevel.warn,
                "process {pid} does not keep to the protocol: {error}. It has to write to descriptor {descriptor} what "
                "fleetspeak.client_connector writes, and nothing else",
                error=error,
                descriptor=CHILD_WRITES,
            )
            self._end(str(error))
        self._messages.put(messages, self._reading_again, self._reader.held)
        if self._reader.opened and not was_open and not self._reason:
            waiting, self._when_open = self._when_open, []
            for opened in waiting:
                opened.callback(None)

    def _take(self, message: common.Message) -> None:
        """Take what is for the client itself, of which only the first StartupData says something."""
        if message.message_type == "StartupData":
            if self.startup is None:
                self.startup = channel.StartupData()
                try:
                    message.data.Unpack(self.startup)
                except DecodeError as error:
                    raise ProtocolError(f"error parsing received StartupData: {error}") from None
                self._supervisor.introduced(self.startup)
        elif message.message_type != "Heartbeat":
            what = message.message_type
            self._tell(
                LogLevel.warn,
                "dropped a message of type {type!r} to the service system: only StartupData and Heartbeat go there",
                type=what,
            )

    def _send_output(self, gathered: Iterable[daemon.StdOutputData]) -> None:
        messages = []
        for data in gathered:
            data.pid = self.pid
            message = common.Message(
                message_type="StdOutput",
                destination=common.Address(service_name=self._program.output_to),
                priority=common.Message.MEDIUM,
            )
            message.data.Pack(data)
            messages.append(message)
        self._output.put(messages)

    def _reading_again(self) -> None:
        """While nothing was read, the process could not be late."""
        self._reader.resumed(self._clock.seconds())
        self._watch()

    # ---- time

    def _watch(self) -> None:
        """See to it that `_check` is called when the next limit is reached, or earlier."""
        if self._reason:
            return
        deadlines = [self._activity.deadline, self._gatherer.deadline]
        if not self._messages.blocked:
            deadlines.append(self._reader.deadline)
        due = min((deadline for deadline in deadlines if deadline is not None), default=None)
        if due is None:
            return
        if self._timer is not None:
            if self._timer.getTime() <= due:
                return
            self._timer.cancel()
        self._timer = self._clock.callLater(max(0.0, due - self._clock.seconds()), self._check)

    def _check(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        if self._gatherer.deadline is not None and now >= self._gatherer.deadline:
            self._send_output(self._gatherer.flush())
        if self._when_open or self._messages.waiting or self._output.waiting:
            # A message waits for it to be ready, or it may be held up because there is no room for its own.
            self._activity.active(now)
        if self._activity.expired(now):
            self._end(f"process inactive after {self._program.inactivity_timeout:g}s", expected=True)
        elif not self._messages.blocked:
            try:
                self._reader.check(now)
            except ProtocolError as error:
                hint = (
                    "" if self._reader.opened else ". A daemon begins with a FleetspeakConnection, or it is no daemon"
                )
                self._end(f"{error}{hint}")
        self._watch()

    def _stop_watching(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # ---- the end

    def _end(self, reason: str, *, expected: bool = False, faulty: bool = True) -> None:
        """End the process, unless it is ending already."""
        if self._reason:
            return
        self._reason = reason
        self.expected = expected
        self._faulty = faulty
        self._supervisor.ending()
        self._tell(LogLevel.info, "ending process {pid}: {reason}", reason=reason)
        self._stop_watching()
        self._tell_not_open()
        Deferred.fromCoroutine(self._shut_down()).addErrback(
            lambda failure: self._log.failure("ending process {pid} failed", failure, pid=self.pid)
        )

    def _condemn(self, reason: str) -> None:
        """Kill it, with its group."""
        self._condemned = True
        self._end(reason)
        self._child.kill()

    def _tell_not_open(self) -> None:
        waiting, self._when_open = self._when_open, []
        for opened in waiting:
            opened.errback(ChildGone(self._reason))

    async def _shut_down(self) -> None:
        await self._child.shut_down()
        if self._child.status is None:
            self.child_ended()

    def _drop_output(self) -> None:
        self._messages.drop()
        self._output.drop()

    def _finish(self, _: object) -> None:
        if self._over:
            return
        self._over = True
        self._acks.close()
        self._stop_watching()
        if self._dropping is not None and self._dropping.active():
            self._dropping.cancel()
        waiting, self._when_over = self._when_over, []
        for over in waiting:
            over.callback(None)

    def _tell(self, level: Any, text: str, **fields: object) -> None:
        self._log.emit(level, "service {service}: " + text, service=self._program.service, pid=self.pid, **fields)


def _is_gone(failure: Failure) -> None:
    failure.trap(ChildGone)  # type: ignore[no-untyped-call]
