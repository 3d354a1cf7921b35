"""WhoAmI: who a caller is, in the words of the audit trail."""

from __future__ import annotations

from fleetspeak.pb import common
from tests.server.admin.case import AdminCase


class CallersTests(AdminCase):
    async def test_without_an_access_file_everybody_is_an_admin(self) -> None:
        found = await self.call("operator.WhoAmI", common.EmptyMessage())
        self.assertEqual((found.name, found.role), ("anonymous", "admin"))
        self.assertRegex(found.address, r"127\.0\.0\.1:[0-9]+")
