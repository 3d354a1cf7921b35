"""The Stdin service with real commands (client-tests.md K)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from fleetspeak.client.assembly import service_factories
from fleetspeak.client.outbox import MAX_MESSAGE
from fleetspeak.client.services.noop import NoopFactory
from fleetspeak.client.services.stdin import (
    MAX_OUTPUT,
    Limits,
    StdinFactory,
    StdinProblem,
    StdinService,
    limits_of,
)
from fleetspeak.errors import ConfigError
from fleetspeak.interfaces import IClientService, IClientServiceFactory
from fleetspeak.pb import common, stdin, stdin_config
from fleetspeak.testing.clientside import RecordingContext, client_settings
from tests.client.process.children import alive, context, message, python, until

NOW = 1_700_000_000_000_000_000


def request(data: bytes = b"", *args: str) -> common.Message:
    """What the server sends to have the command run."""
    sent = message("StdinServiceInputMessage")
    sent.data.Pack(stdin.InputMessage(input=data, args=args))
    return sent


def content(path: str) -> str:
    """Of a small file."""
    return Path(path).read_text()


class StdinCase(TestCase):
    def setUp(self) -> None:
        self.context = context("Echo")

    def service(self, *argv: str, limits: Limits | None = None, **config: Any) -> StdinService:
        factory = StdinFactory(limits, lambda: NOW)
        service = factory.make(stdin_config.Config(cmd=argv[0], args=argv[1:], **config), self.context)
        assert isinstance(service, StdinService)
        service.start()
        self.addCleanup(service.stop)
        return service

    def output(self) -> stdin.OutputMessage:
        (sent,) = self.context.sent
        output = stdin.OutputMessage()
        self.assertTrue(sent.data.Unpack(output))
        return output

    async def problem(self, service: StdinService, sent: common.Message) -> str:
        """The text that the server gets, after nothing else was sent."""
        error = await self.assertFailure(Deferred.fromCoroutine(service.process(sent)), StdinProblem)
        self.assertEqual([], self.context.sent)
        return str(error)


class Commands(StdinCase):
    async def test_item_106_arguments_of_the_configuration_then_of_the_message(self) -> None:
        service = self.service(*python("import sys; print(' '.join(sys.argv[1:]), end='')", "a"))
        await service.process(request(b"", "b"))
        self.assertEqual(b"a b", self.output().stdout)

    async def test_item_107_the_input_reaches_the_command(self) -> None:
        await self.service("/bin/cat").process(request(b"foo bar"))
        self.assertEqual(b"foo bar", self.output().stdout)
        self.assertEqual(NOW, self.output().timestamp.ToNanoseconds())

    async def test_item_110_the_answer_goes_to_the_server_service_of_the_same_name(self) -> None:
        await self.service("cat").process(request(b"hello stdin"))
        (sent,) = self.context.sent
        self.assertEqual("StdinServiceOutputMessage", sent.message_type)
        self.assertEqual(common.Address(service_name="Echo"), sent.destination)
        self.assertEqual((common.Message.MEDIUM, False), (sent.priority, sent.background))
        self.assertEqual(b"hello stdin", self.output().stdout)

    async def test_both_streams_and_much_of_them(self) -> None:
        code = "import sys; d = sys.stdin.buffer.read(); sys.stdout.buffer.write(d); sys.stderr.buffer.write(d[::-1])"
        data = os.urandom(1_000_000)
        await self.service(*python(code)).process(request(data))
        self.assertEqual((data, data[::-1]), (self.output().stdout, self.output().stderr))

    async def test_a_command_that_does_not_read_its_input(self) -> None:
        await self.service("/bin/echo", "done").process(request(bytes(1_000_000)))
        self.assertEqual(b"done\n", self.output().stdout)

    async def test_no_shell(self) -> None:
        await self.service("/bin/echo").process(request(b"", "$HOME; true"))
        self.assertEqual(b"$HOME; true\n", self.output().stdout)

    async def test_a_background_process_does_not_keep_the_answer(self) -> None:
        await self.service("/bin/sh", "-c", "sleep 60 & echo $!").process(request())
        await until(lambda: not alive(int(self.output().stdout)))


class Failures(StdinCase):
    """One clear text for each way to fail."""

    async def test_item_110_exit_status(self) -> None:
        self.assertEqual("command failed: exit status 1", await self.problem(self.service("/bin/false"), request()))

    async def test_killed(self) -> None:
        service = self.service("/bin/sh", "-c", "echo lost; kill -9 $$")
        self.assertEqual("command failed: signal: killed", await self.problem(service, request()))

    async def test_item_110_wrong_type(self) -> None:
        text = 'unrecognized common.Message.message_type: "badtype"'
        self.assertEqual(text, await self.problem(self.service("/bin/cat"), message("badtype")))

    async def test_wrong_data(self) -> None:
        sent = message("StdinServiceInputMessage")
        text = await self.problem(self.service("/bin/cat"), sent)
        self.assertIn("error while unmarshalling common.Message.data: expected fleetspeak.stdinservice.Input", text)
        sent.data.Pack(stdin.InputMessage())
        sent.data.value = b"\xff\xff"
        text = await self.problem(self.service("/bin/cat"), sent)
        self.assertTrue(text.startswith("error while unmarshalling common.Message.data: "), text)

    async def test_a_command_that_is_not_there(self) -> None:
        text = await self.problem(self.service("/no/such/command"), request())
        self.assertEqual("command failed: no such file or directory: /no/such/command", text)

    async def test_a_command_that_may_not_be_run(self) -> None:
        text = await self.problem(self.service("/etc/passwd"), request())
        self.assertEqual("command failed: permission denied: /etc/passwd", text)

    async def test_an_argument_that_cannot_be_one(self) -> None:
        text = await self.problem(self.service("/bin/echo"), request(b"", "\0"))
        self.assertTrue(text.startswith("command failed: "), text)

    async def test_sending_failed(self) -> None:
        self.patch(self.context, "send", lambda *_: fail(ValueError("no way")))
        text = await self.problem(self.service("/bin/cat"), request())
        self.assertEqual("error while trying to send a response to the requesting server: no way", text)


class Limited(StdinCase):
    """Item 111: limits of time and output; what runs is ended with its children when the client stops."""

    async def test_item_111_time(self) -> None:
        service = self.service("/bin/sleep", "60", limits=Limits(seconds=0.2))
        self.assertEqual("command failed: not finished after 0.2 s", await self.problem(service, request()))

    async def test_item_111_output(self) -> None:
        service = self.service("/usr/bin/yes", limits=Limits(output_bytes=100_000))
        self.assertEqual("command failed: more than 100000 bytes of output", await self.problem(service, request()))

    async def test_exactly_as_much_output_as_is_allowed(self) -> None:
        await self.service("/bin/cat", limits=Limits(output_bytes=100_000)).process(request(bytes(100_000)))
        self.assertEqual(100_000, len(self.output().stdout))

    async def test_item_108_cancelled(self) -> None:
        name = self.mktemp()
        service = self.service("/bin/sh", "-c", f"sleep 60 & echo $! > {name}.new; mv {name}.new {name}; wait")
        processing = Deferred.fromCoroutine(service.process(request()))
        await until(lambda: os.path.exists(name))
        processing.cancel()
        await self.assertFailure(processing, CancelledError)
        await service.stop()
        self.assertEqual([], self.context.sent)
        await until(lambda: not alive(int(content(name))))

    async def test_item_111_stop_ends_a_running_command_with_its_children(self) -> None:
        name = self.mktemp()
        code = f"trap '' INT TERM; sleep 60 & echo $! > {name}.new; mv {name}.new {name}; wait"
        service = self.service("/bin/sh", "-c", code)
        processing = Deferred.fromCoroutine(service.process(request()))
        await until(lambda: os.path.exists(name))
        processing.cancel()  # as the inbox does before a service is stopped
        await service.stop()
        await self.assertFailure(processing, CancelledError)
        await until(lambda: not alive(int(content(name))))
        self.assertEqual([], self.context.sent)

    async def test_item_111_the_options_of_the_client_set_the_limits(self) -> None:
        settings = client_settings(stdin_time_limit=0.3, stdin_output_limit=10)
        factory = service_factories(settings)["Stdin"]
        for code, expected in (("sleep 60", "not finished after 0.3 s"), ("yes", "more than 10 bytes of output")):
            service = factory.make(stdin_config.Config(cmd="/bin/sh", args=["-c", code]), self.context)
            assert isinstance(service, StdinService)
            self.assertEqual(f"command failed: {expected}", await self.problem(service, request()))

    def test_limits_that_are_not_possible_are_refused(self) -> None:
        for changes in (
            {"stdin_time_limit": 0.0},
            {"stdin_time_limit": float("nan")},
            {"stdin_time_limit": float("inf")},
            {"stdin_output_limit": 0},
            {"stdin_output_limit": MAX_OUTPUT + 1},
        ):
            (name,) = changes
            error = self.assertRaises(ConfigError, limits_of, client_settings(**changes))
            self.assertIn(name.replace("_", "-"), str(error))
        self.assertEqual(Limits(), limits_of(client_settings()))

    async def test_the_most_output_there_can_be_is_sent(self) -> None:
        """One that the outbox refused would be reported as what it is not: a failure to send."""
        await self.service("/bin/cat").process(request(bytes(MAX_OUTPUT)))
        (sent,) = self.context.sent
        self.assertLessEqual(sent.ByteSize() + 4096, MAX_MESSAGE)

    async def test_children_have_the_variables_of_the_client(self) -> None:
        self.context.child_variables["FLEETSPEAK_CLIENT_MARK"] = "1:2:/state"
        await self.service("/bin/sh", "-c", "echo $FLEETSPEAK_CLIENT_MARK").process(request())
        self.assertEqual(b"1:2:/state\n", self.output().stdout)


class Logging(StdinCase):
    """Item 109: what is logged of the output."""

    CODE = (
        "import sys\n"
        "for stream in (sys.stdout, sys.stderr, sys.stdout):\n"
        "  stream.write(stream.name[1:-1] + '_')\n"
        "  stream.flush()\n"
    )

    async def logged(self, level: stdin_config.LogLevel.ValueType, *argv: str) -> list[str]:
        service = self.service(*(argv or python(self.CODE)), log_level=level)
        with capturedLogs() as logs:
            await service.process(request())
        return [f"{event['output']}{event['cut']}" for event in logs if "output" in event]

    async def test_item_109_levels(self) -> None:
        self.assertEqual([], await self.logged(stdin_config.LOG_LEVEL_NONE))
        self.assertEqual(["stderr_"], await self.logged(stdin_config.LOG_LEVEL_STDERR))
        self.assertEqual(["stderr_", "stdout_stdout_"], await self.logged(stdin_config.LOG_LEVEL_ALL))

    async def test_nothing_is_not_logged(self) -> None:
        self.assertEqual([], await self.logged(stdin_config.LOG_LEVEL_ALL, "/bin/true"))

    async def test_much_is_cut(self) -> None:
        (text,) = await self.logged(stdin_config.LOG_LEVEL_ALL, *python("print('x' * 5000)"))
        self.assertEqual("x" * 4096 + "\n[truncated]", text)


class Configuration(SynchronousTestCase):
    def test_interfaces(self) -> None:
        for factory, config in ((StdinFactory(), stdin_config.Config(cmd="cat")), (NoopFactory(), None)):
            verifyObject(IClientServiceFactory, factory)
            verifyObject(IClientService, factory.make(config, RecordingContext()))

    def test_a_command_is_needed(self) -> None:
        for config in (None, stdin_config.Config()):
            self.assertIn("cmd", str(self.assertRaises(ConfigError, StdinFactory().make, config, RecordingContext())))

    def test_noop_takes_everything(self) -> None:
        service = NoopFactory().make(None, RecordingContext())
        for outcome in (service.start(), service.process(message("anything")), service.stop()):
            self.assertIsNone(outcome)
