"""Who a caller is."""

from __future__ import annotations

from fleetspeak.pb import common, operator
from fleetspeak.server.admin.access import Caller


class CallerOperations:
    """The operation on the caller himself."""

    async def who_am_i(self, request: common.EmptyMessage, caller: Caller) -> operator.WhoAmIResponse:
        """What was found at the door."""
        return operator.WhoAmIResponse(name=caller.name, role=str(caller.role), address=caller.address)
