"""Outboxes with a spool on a real folder, on a clock, and with disks that fail."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.client.outbox import ClientOutbox
from fleetspeak.client.spool.files import Files
from fleetspeak.client.spool.folder import SpoolFolder
from fleetspeak.client.spool.spool import Spool
from fleetspeak.client.stats import Stats
from fleetspeak.core.outbox import Entry
from fleetspeak.core.spool import segment_size
from fleetspeak.ids import ClientId
from fleetspeak.pb import common
from fleetspeak.testing.spool import SameThread

HIGH, MEDIUM, LOW = common.Message.HIGH, common.Message.MEDIUM, common.Message.LOW
PLENTY = 1 << 40
MIB = 1 << 20
ID = ClientId(bytes.fromhex("0102030405060708"))


def message(label: str, priority: int = MEDIUM, size: int = 0) -> common.Message:
    """A message of a service, as the router stamps it."""
    made = common.Message(
        message_type=label,
        priority=common.Message.Priority.ValueType(priority),
        source_message_id=label.encode().ljust(16, b"\0"),
        source=common.Address(client_id=ID, service_name="S"),
        destination=common.Address(service_name="S"),
    )
    if size:
        made.data.value = bytes(size - made.ByteSize() - 8) if size > 200 else bytes(size)
    return made


def labels(entries: list[Entry]) -> list[str]:
    return [entry.message.message_type for entry in entries]


class FaultyFiles(Files):
    """Fails as long as it is told to, and notes what is done."""

    def __init__(self) -> None:
        self.failing = False
        self.failing_syncs = False
        self.failing_truncates = False
        self.failing_reads = False
        self.torn = 0
        """Bytes that a write that fails leaves behind."""
        self.log: list[str] = []
        self.synced: dict[int, int] = {}
        """Bytes of each file, by inode, that are on the disk for sure."""
        self.paths: dict[int, Path] = {}

    def create(self, path: Path) -> int:
        self.log.append("create")
        if self.failing and not self.torn:
            raise OSError(errno.ENOSPC, "No space left on device")
        descriptor = super().create(path)
        self.paths[os.fstat(descriptor).st_ino] = path
        return descriptor

    def write(self, descriptor: int, data: bytes) -> None:
        self.log.append("write")
        if self.failing:
            os.write(descriptor, data[: self.torn])
            raise OSError(errno.ENOSPC, "No space left on device")
        super().write(descriptor, data)

    def sync(self, descriptor: int) -> None:
        self.log.append("sync")
        if self.failing_syncs:
            raise OSError(errno.EIO, "Input/output error")
        stat = os.fstat(descriptor)
        self.synced[stat.st_ino] = stat.st_size

    def sync_folder(self, path: Path) -> None:
        self.log.append("sync folder")

    def truncate(self, path: Path, size: int) -> None:
        if self.failing_truncates:
            raise OSError(errno.EIO, "Input/output error")
        super().truncate(path, size)

    def read(self, path: Path, start: int, size: int) -> bytes:
        if self.failing_reads and path.suffix == ".segment":
            raise OSError(errno.EIO, "Input/output error")
        return super().read(path, start, size)


class SpoolCase(SynchronousTestCase):
    limit = 16 * MIB

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "state.spool"
        self.clock = Clock()
        self.clock.advance(1_700_000_000)
        self.files = FaultyFiles()
        self.client_id = ID
        self.start()

    def start(self, stats: Stats | None = None) -> None:
        """A client starts; the one before it, if any, was killed."""
        self.disk = SameThread()
        self.folder = SpoolFolder(self.path, segment_size(self.limit), self.files, self.clock.seconds)
        self.spool = Spool(self.folder, self.limit, self.disk, self.clock)
        self.outbox = ClientOutbox(spool=self.spool, stats=stats, client_id=lambda: self.client_id)
        self.outbox.open()

    def restart(self) -> None:
        """Kill the client, and start it again."""
        self.folder.close()
        self.start()

    def send(self, label: str, priority: int = MEDIUM, size: int = 0, on_ack: Callable[[], None] | None = None) -> None:
        """Send, and see it accepted."""
        self.successResultOf(self.outbox.submit(message(label, priority, size), on_ack, spool=True))

    def everything(self) -> list[str]:
        """Take and ack all there is."""
        out: list[str] = []
        while taken := self.outbox.take(100, PLENTY):
            out += labels(taken)
            self.outbox.ack(taken)
        return out

    def segments(self) -> list[Path]:
        return sorted(self.path.glob("*.segment"))

    def size(self) -> int:
        return sum(path.stat().st_size for path in self.segments())
