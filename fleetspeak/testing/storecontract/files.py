"""Files for clients."""

from __future__ import annotations

from twisted.internet.defer import gatherResults

from fleetspeak.errors import InvalidRecord, NotFound
from fleetspeak.records import FileStat, StoredFile
from fleetspeak.store.checks import MAX_FILE, MAX_NAME
from fleetspeak.testing.storecontract.base import SECOND, StoreCase

SERVICE = "testService"
NAME = "testFile"
CONTENT = b"The quick sly fox jumped over the lazy dogs."
T = 84


class FilesContract(StoreCase):
    """Behaviour 38, and ours."""

    async def assert_missing(self, name: str = NAME, service: str = SERVICE) -> None:
        """There is no such file."""
        with self.assertRaises(NotFound):
            await self.store.stat_file(service, name)
        with self.assertRaises(NotFound):
            await self.store.read_file(service, name)

    async def test_38_files(self) -> None:
        """Stored, read with its exact time, deleted, and deleted again."""
        assert len(CONTENT) == 44
        self.clock.set(T)
        await self.store.store_file(SERVICE, NAME, CONTENT)
        self.assertEqual(await self.store.stat_file(SERVICE, NAME), FileStat(T * SECOND, 44))
        self.assertEqual(await self.store.read_file(SERVICE, NAME), StoredFile(T * SECOND, CONTENT))
        await self.assert_missing("missingFile")
        await self.store.delete_file(SERVICE, NAME)
        await self.assert_missing()
        await self.store.delete_file(SERVICE, NAME)
        await self.store.delete_file(SERVICE, "missingFile")

    async def test_a_file_is_replaced(self) -> None:
        """With its time; each service has names of its own."""
        self.clock.set(T)
        await self.store.store_file(SERVICE, NAME, CONTENT)
        await self.store.store_file("other", NAME, b"of another service")
        self.clock.advance(2.5)
        await self.store.store_file(SERVICE, NAME, b"new")
        self.assertEqual(await self.store.read_file(SERVICE, NAME), StoredFile(T * SECOND + 5 * SECOND // 2, b"new"))
        self.assertEqual((await self.store.read_file("other", NAME)).data, b"of another service")

    async def test_a_replaced_file_is_of_a_later_second(self) -> None:
        """HTTP tells them apart by it, whatever the clock does."""
        self.clock.set(T)
        for number, advance in enumerate((0.3, 0.3, -50)):
            await self.store.store_file(SERVICE, NAME, b"%d" % number)
            stat = await self.store.stat_file(SERVICE, NAME)
            self.assertEqual(stat.modified_ns // SECOND, T + number)
            self.clock.advance(advance)

    async def test_any_bytes(self) -> None:
        """Content is bytes; an empty file is a file."""
        for content in (b"", bytes(range(256)) * 300, b"\0" * 100, b"%s?'\\\""):
            await self.store.store_file(SERVICE, NAME, content)
            self.assertEqual((await self.store.read_file(SERVICE, NAME)).data, content)
            self.assertEqual((await self.store.stat_file(SERVICE, NAME)).size, len(content))

    async def test_any_name(self) -> None:
        """A name is text, not a path; the longest one fits."""
        for name in ("a/b", "..", "/etc/passwd", "a b", "%2F", "ä€", "'; --", "n" * MAX_NAME):
            await self.store.store_file(SERVICE, name, name.encode())
            self.assertEqual((await self.store.read_file(SERVICE, name)).data, name.encode())

    async def test_a_large_file(self) -> None:
        """As large as a request of the admin API."""
        content = bytes(range(256)) * (4 * 1024 * 4)
        await self.store.store_file(SERVICE, NAME, content)
        self.assertEqual((await self.store.read_file(SERVICE, NAME)).data, content)

    async def test_what_does_not_fit(self) -> None:
        """It is refused, and what was there stays."""
        await self.store.store_file(SERVICE, NAME, CONTENT)
        for service, name, size in (("s" * (MAX_NAME + 1), NAME, 1), (SERVICE, "n" * (MAX_NAME + 1), 1)):
            with self.assertRaises(InvalidRecord):
                await self.store.store_file(service, name, bytes(size))
        with self.assertRaises(InvalidRecord):
            await self.store.store_file(SERVICE, NAME, bytes(MAX_FILE + 1))
        self.assertEqual((await self.store.read_file(SERVICE, NAME)).data, CONTENT)

    async def test_files_stored_at_a_time(self) -> None:
        """Whoever is last decides, and nothing is half of each."""
        contents = [bytes([number]) * 5000 for number in range(8)]
        await gatherResults([self.store.store_file(SERVICE, NAME, content) for content in contents])
        self.assertIn((await self.store.read_file(SERVICE, NAME)).data, contents)
