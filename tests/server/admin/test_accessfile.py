"""What is changed in the access file, or in a certificate, counts without a restart."""

from __future__ import annotations

import os
import shutil
from unittest.mock import patch

from twisted.internet.defer import Deferred

from fleetspeak.core.adminaccess import token_hash
from fleetspeak.server.admin.accessfile import AccessFile
from tests.server.admin.authority import Authority
from tests.server.admin.test_access import TOKENS, AccessCase, access_text


class ReloadTests(AccessCase):
    async def look(self) -> None:
        file = self.server._file
        assert isinstance(file, AccessFile)
        await Deferred.fromCoroutine(file.look())

    def write(self, text: str) -> None:
        new = self.path.with_name("new")
        new.write_text(text)
        os.replace(new, self.path)

    async def test_a_new_caller_and_one_that_is_gone(self) -> None:
        """Also on connections that are open."""
        channel = self.token_channel()
        self.assertEqual(await self.keep_alive(channel, TOKENS["viewer"]), "OK")
        self.write(
            access_text(f'caller {{ name: "new" role: ADMIN token_sha256: "{token_hash("new").hex()}" }}').replace(
                token_hash(TOKENS["viewer"]).hex(), token_hash("other").hex()
            )
        )
        await self.look()
        self.assertEqual(await self.keep_alive(channel, "new"), "OK")
        self.assertTrue((await self.keep_alive(channel, TOKENS["viewer"])).startswith("UNAUTHENTICATED"))

    async def test_what_cannot_be_used_changes_nothing(self) -> None:
        for broken in ("caller {", "", access_text().replace("ADMIN", "NOBODY")):
            self.write(broken)
            await self.look()
            self.assertEqual(await self.keep_alive(self.token_channel(), TOKENS["admin"]), "OK")
        self.path.unlink()
        await self.look()
        self.assertEqual(await self.keep_alive(self.token_channel(), TOKENS["admin"]), "OK")

    async def test_what_is_mended_later_counts_then(self) -> None:
        """Also in a file that was not read before; until then there is one complaint, and not one every 5 seconds."""
        self.write(access_text().replace("operators-ca.pem", "other-ca.pem"))
        with patch("fleetspeak.server.admin.accessfile.log.error") as error:
            for _ in range(3):
                await self.look()
        self.assertEqual(error.call_count, 1)
        later = Authority(self.folder, "other")
        await self.look()
        self.assertEqual(await self.keep_alive(self.channel(later.client("viewer"))), "OK")

    async def test_nothing_is_said_when_nothing_changes(self) -> None:
        with patch("fleetspeak.server.admin.accessfile.log.info") as info:
            await self.look()
            os.utime(self.path)
            await self.look()
        self.assertEqual(info.call_count, 0)

    async def test_tls_does_not_go_away(self) -> None:
        """Who takes it out by mistake does not open the port."""
        without = "\n".join(
            f'caller {{ name: "{role}" role: {role.upper()} token_sha256: "{token_hash(token).hex()}" }}'
            for role, token in TOKENS.items()
        )
        self.write(without)
        await self.look()
        certificate = self.authority.client("viewer")
        self.assertEqual(await self.keep_alive(self.channel(certificate)), "OK")
        self.assertTrue((await self.keep_alive(self.channel())).startswith("UNAVAILABLE"))

    async def test_a_new_server_certificate(self) -> None:
        """For connections that are made from then on."""
        other = Authority(self.folder, "other")
        certificate, key = other.write_server("next")
        open_channel = self.token_channel()
        self.assertEqual(await self.keep_alive(open_channel, TOKENS["admin"]), "OK")
        shutil.copyfile(certificate, self.folder / "server.pem")  # it does not belong to the key yet
        await self.look()
        self.assertEqual(await self.keep_alive(self.token_channel(), TOKENS["admin"]), "OK")
        shutil.copyfile(key, self.folder / "server-key.pem")
        await self.look()
        address = self.server.addresses[1]
        changed = self.channel(address=address, trusted=other.pem)
        self.assertEqual(await self.keep_alive(changed, TOKENS["admin"]), "OK")
        stale = self.channel(address=address)
        self.assertTrue((await self.keep_alive(stale, TOKENS["admin"])).startswith("UNAVAILABLE"))
        self.assertEqual(await self.keep_alive(open_channel, TOKENS["admin"]), "OK")

    async def test_another_authority_of_callers(self) -> None:
        other = Authority(self.folder, "other")
        self.write(access_text().replace("operators-ca.pem", "other-ca.pem"))
        await self.look()
        self.assertEqual(await self.keep_alive(self.channel(other.client("viewer"))), "OK")
        self.assertTrue(
            (await self.keep_alive(self.channel(self.authority.client("viewer")))).startswith("UNAVAILABLE")
        )

    async def test_addresses_count_from_the_next_start_on(self) -> None:
        before = list(self.server.addresses)
        self.write(access_text('local_plaintext { role: ADMIN address: "localhost:0" }'))
        await self.look()
        self.assertEqual(self.server.addresses, before)
