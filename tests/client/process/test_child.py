"""Child processes: their descriptors, their pipes, their end, and that of their own children."""

from __future__ import annotations

import os
import signal
import time

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from fleetspeak.client.process.child import Child, ChildGone, ExitStatus
from tests.client.process.children import alive, python, until


class Owner:
    """Notes what a child does."""

    def __init__(self) -> None:
        self.wrote: dict[int, bytes] = {}
        self.closed: list[int] = []
        self.events: list[str] = []

    def child_wrote(self, descriptor: int, data: bytes) -> None:
        self.wrote[descriptor] = self.wrote.get(descriptor, b"") + data

    def child_closed(self, descriptor: int) -> None:
        self.closed.append(descriptor)

    def child_exited(self, status: ExitStatus) -> None:
        self.events.append(str(status))

    def child_ended(self) -> None:
        self.events.append("ended")


class ChildCase(TestCase):
    def child(self, *argv: str, descriptors: dict[int, int | str] | None = None, own_group: bool = True) -> Child:
        self.owner = Owner()
        child = Child(self.owner)
        child.start(reactor, argv, os.environ, descriptors or {0: "w", 1: "r", 2: "r"}, own_group=own_group)
        self.addCleanup(self.clean_up, child)
        return child

    async def clean_up(self, child: Child) -> None:
        child.kill()
        await until(lambda: "ended" in self.owner.events)

    async def line(self, count: int = 1) -> list[str]:
        """The first lines of the child's standard output."""
        await until(lambda: self.owner.wrote.get(1, b"").count(b"\n") >= count)
        return self.owner.wrote[1].decode().splitlines()


class Starting(ChildCase):
    async def test_it_has_the_descriptors_it_was_given_and_no_others(self) -> None:
        read, write = os.pipe()
        os.set_inheritable(read, True)
        self.addCleanup(os.close, read)
        self.addCleanup(os.close, write)
        null = os.open(os.devnull, os.O_RDWR)
        self.child(
            *python("import os; print([fd for fd in range(64) if os.path.exists(f'/proc/self/fd/{fd}')])"),
            descriptors={0: null, 1: "r", 2: null, 3: "w", 4: "r"},
        )
        os.close(null)
        self.assertEqual(["[0, 1, 2, 3, 4]"], await self.line())

    async def test_it_leads_a_process_group_of_its_own(self) -> None:
        """Fails if Twisted's own way of starting processes changes, on which `spawn` relies."""
        child = self.child(*python("import os; print(os.getpid() == os.getpgrp(), os.getsid(0))"))
        self.assertEqual([f"True {os.getsid(0)}"], await self.line())
        self.assertNotEqual(os.getpid(), child.pid)

    async def test_it_can_stay_in_ours(self) -> None:
        self.child(*python("import os; print(os.getpgrp())"), own_group=False)
        self.assertEqual([str(os.getpgrp())], await self.line())

    async def test_signals_that_we_ignore_are_not_ignored_by_it(self) -> None:
        self.assertEqual(signal.SIG_IGN, signal.getsignal(signal.SIGPIPE))
        self.child("/bin/sh", "-c", "grep SigIgn /proc/self/status")
        (line,) = await self.line()
        self.assertFalse(int(line.split()[1], 16) & (1 << (signal.SIGPIPE - 1)))

    def test_a_program_that_is_not_there(self) -> None:
        error = self.assertRaises(FileNotFoundError, Child(Owner()).start, reactor, ["/no/such"], {}, {0: "w"})
        self.assertEqual("/no/such", error.filename)

    def test_an_argument_that_cannot_be_one(self) -> None:
        self.assertRaises(ValueError, Child(Owner()).start, reactor, ["/bin/true", "\0"], {}, {0: "w"})


class Writing(ChildCase):
    async def test_the_write_ends_when_the_pipe_has_taken_everything(self) -> None:
        child = self.child(*python("import sys, time; sys.stdin.buffer.read(70_000); print('go'); time.sleep(60)"))
        assert child.input is not None
        await child.input.write(b"1" * 60_000)
        self.assertEqual(60_000, child.input.written)
        await child.input.write(b"2" * 60_000)
        await child.input.write(b"")
        self.assertEqual(120_000, child.input.written)
        waiting = Deferred.fromCoroutine(child.input.write(b"3" * 60_000))
        await until(lambda: child.input is not None and child.input.written > 130_000)
        self.assertNoResult(waiting)
        child.kill()
        await self.assertFailure(waiting, ChildGone)
        self.assertTrue(70_000 <= child.input.consumed <= 120_000, child.input.consumed)
        await self.assertFailure(Deferred.fromCoroutine(child.input.write(b"4")), ChildGone)

    async def test_one_that_waits_for_its_turn_can_be_taken_back(self) -> None:
        child = self.child(*python("import sys; input(); print(len(sys.stdin.read()))"))
        assert child.input is not None
        first = Deferred.fromCoroutine(child.input.write(b"1" * 100_000))
        second = Deferred.fromCoroutine(child.input.write(b"2" * 100_000))
        third = Deferred.fromCoroutine(child.input.write(b"\n" + b"3" * 100_000))
        second.cancel()
        await self.assertFailure(second, Exception)
        await first
        await third
        child.input.close()
        self.assertEqual(["100000"], await self.line())

    async def test_one_that_was_cancelled_too_late_is_written_to_its_end(self) -> None:
        child = self.child(*python("import sys, time; time.sleep(.2); print(len(sys.stdin.read()))"))
        assert child.input is not None
        first = Deferred.fromCoroutine(child.input.write(b"1" * 100_000))
        await until(lambda: child.input is not None and child.input.written > 0)
        first.cancel()
        await self.assertFailure(first, Exception)
        await child.input.write(b"2")
        child.input.close()
        self.assertEqual(["100001"], await self.line())


class Ending(ChildCase):
    async def test_end_of_file_is_enough_for_one_that_obeys(self) -> None:
        child = self.child(*python("import sys; sys.stdin.read(); print('bye')"))
        await child.shut_down()
        await until(lambda: "ended" in self.owner.events)
        self.assertEqual(b"bye\n", self.owner.wrote[1])
        self.assertEqual(["exit status 0", "ended"], self.owner.events)

    async def test_item_101_end_of_file_then_interrupt_then_kill(self) -> None:
        code = (
            "import signal, time\n"
            "signal.signal(2, lambda *_: print('interrupted', flush=True))\n"
            "print('up', flush=True)\n"
            "while 1: time.sleep(9)"
        )
        child = self.child(*python(code))
        await self.line()
        started = time.monotonic()
        ending = Deferred.fromCoroutine(child.shut_down())
        self.assertEqual(["up", "interrupted"], await self.line(2))
        self.assertTrue(0.9 < time.monotonic() - started < 1.8)
        await ending
        self.assertTrue(1.9 < time.monotonic() - started < 3.5)
        self.assertEqual("signal: killed", str(child.status))

    async def test_item_103_a_grandchild_that_holds_the_pipes_hides_nothing_and_ends_too(self) -> None:
        code = "import subprocess, sys; print(subprocess.Popen(['sleep', '60']).pid, flush=True); sys.exit(42)"
        self.child(*python(code))
        (grandchild,) = await self.line()
        await until(lambda: "ended" in self.owner.events, 5)
        self.assertEqual(["exit status 42", "ended"], self.owner.events)
        await until(lambda: not alive(int(grandchild)))

    async def test_nor_does_one_that_has_left_the_group(self) -> None:
        code = (
            "import subprocess, sys; "
            "print(subprocess.Popen(['sleep', '60'], start_new_session=True).pid, flush=True); sys.exit(42)"
        )
        self.child(*python(code))
        (grandchild,) = await self.line()
        self.addCleanup(os.kill, int(grandchild), signal.SIGKILL)
        await until(lambda: "ended" in self.owner.events, 5)
        self.assertEqual({0, 1, 2}, set(self.owner.closed))
        self.assertTrue(alive(int(grandchild)))

    async def test_no_descriptor_is_closed_in_the_turn_of_the_exit(self) -> None:
        """Its number could be another pipe's when the reactor tells of an event that it has already got for it."""
        child = self.child(*python("import time; time.sleep(60)"))
        open_then: list[set[int]] = []
        exited = child.processExited

        def look(reason: Failure) -> None:
            before = set(child._process.pipes)
            exited(reason)
            open_then.append(before - set(child._process.pipes))

        self.patch(child, "processExited", look)
        child.kill()
        await until(lambda: "ended" in self.owner.events)
        self.assertEqual([set()], open_then)

    async def test_what_it_wrote_before_it_ended_is_read_even_if_we_were_slow(self) -> None:
        child = self.child(*python("import sys; sys.stdout.write('x' * 60_000)"))
        child.pause(1)
        await until(lambda: child.status is not None)
        self.assertEqual(["exit status 0"], self.owner.events)
        child.resume(1)
        await until(lambda: "ended" in self.owner.events)
        self.assertEqual(60_000, len(self.owner.wrote[1]))


class Statuses(TestCase):
    def test_they_read_as_those_of_the_go_programs(self) -> None:
        self.assertEqual("exit status 1", str(ExitStatus(1, None)))
        self.assertEqual("signal: killed", str(ExitStatus(None, signal.SIGKILL)))
        self.assertEqual("signal: interrupt", str(ExitStatus(None, signal.SIGINT)))
        self.assertEqual("signal: segmentation fault", str(ExitStatus(None, signal.SIGSEGV)))
        self.assertTrue(ExitStatus(0, None).ok)
        self.assertFalse(ExitStatus(None, signal.SIGKILL).ok)
