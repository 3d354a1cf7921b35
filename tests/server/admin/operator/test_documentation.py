"""The example of doc/operating.md runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from twisted.internet.threads import deferToThread

from fleetspeak.ids import ClientId
from fleetspeak.records import ClientData, Label
from tests.server.admin.case import C1, C2, AdminCase

OPERATING = Path(__file__).resolve().parents[4] / "doc" / "operating.md"


class ExampleTests(AdminCase):
    async def test_the_example_lists_all_clients_with_the_label(self) -> None:
        section = OPERATING.read_text("utf-8").partition("### The API for operators")[2]
        found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
        assert found is not None
        more = [ClientId((1000 + number).to_bytes(8, "big")) for number in range(120)]
        for client_id in more:
            await self.store.add_client(client_id, ClientData(b"k", frozenset({Label("client", "linux")})))
        printed: list[Any] = []
        code = found[1].replace("localhost:6061", self.server.address)
        self.assertIn(self.server.address, code)
        await deferToThread(exec, code, {"print": lambda *words: printed.append(words[0])})
        self.assertEqual(printed, [client_id.hex() for client_id in (C1, C2, *more)])
