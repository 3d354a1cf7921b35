"""Messages, as an operator sees them."""

from __future__ import annotations

from fleetspeak.ids import MessageId
from fleetspeak.pb import operator
from fleetspeak.records import RetryLimits
from tests.server.admin.case import C1, C2, M1, NOW, AdminCase, message

BAD = "INVALID_ARGUMENT"
M = [MessageId(bytes([number]) * 32) for number in range(10)]


class MessageTests(AdminCase):
    async def store_some(self) -> None:
        """Message 0 is the newest one."""
        for number in range(5):
            made = message(M[number], (C1, C2)[number % 2])
            made.creation_time.FromNanoseconds(NOW - number)
            await self.store.store_messages([made])

    async def bury(self, message_id: MessageId) -> None:
        """A message for a service becomes a dead letter."""
        made = message(message_id, b"")
        made.creation_time.FromNanoseconds(NOW)
        await self.store.store_messages([made])
        self.time += 3600 * 10**9
        await self.store.overdue_messages(1, None, RetryLimits(max_attempts=1))

    async def test_a_list_by_pages(self) -> None:
        await self.store_some()
        request = operator.ListMessagesRequest(page_size=2)
        found = []
        while True:
            reply = await self.call("operator.ListMessages", request)
            found += reply.messages
            request.page_token = reply.next_page_token
            if not request.page_token:
                break
        self.assertEqual([one.message_id for one in found], M[:5])
        first = found[0]
        self.assertEqual((first.state, first.attempts, first.payload_size), (operator.WAITING, 0, len(b"payload")))
        self.assertEqual(first.creation_time.ToNanoseconds(), NOW)
        self.assertEqual((first.source.service_name, first.destination.client_id), ("greeter", C1))
        self.assertTrue(first.HasField("due_time"))
        self.assertFalse(first.HasField("result"))

    async def test_a_filter(self) -> None:
        await self.store_some()
        chosen = operator.MessageFilter(client_id=C1, service="greeter", message_type="Greeting", state="WAITING")
        chosen.created.start.FromNanoseconds(NOW - 2)
        reply = await self.call("operator.ListMessages", operator.ListMessagesRequest(filter=chosen))
        self.assertEqual([one.message_id for one in reply.messages], [M[0], M[2]])
        counts = await self.call("operator.CountMessages", operator.CountMessagesRequest(filter=chosen))
        [count] = counts.counts
        self.assertEqual((count.service, count.to_client, count.message_type), ("hello", True, "Greeting"))
        self.assertEqual((count.state, count.count), (operator.WAITING, 2))
        self.assertEqual(count.oldest.seconds, (NOW - 2) // 10**9)

    async def test_what_is_wrong_with_a_filter(self) -> None:
        for words, wrong in (
            ("filter.client_id: ClientID must be 8 bytes", operator.MessageFilter(client_id=b"x")),
            ("filter.state has no value 77", operator.MessageFilter(state=77)),  # type: ignore[arg-type]
        ):
            for name, request in (
                ("ListMessages", operator.ListMessagesRequest(filter=wrong)),
                ("CountMessages", operator.CountMessagesRequest(filter=wrong)),
            ):
                await self.assert_refused(BAD, words, f"operator.{name}", request)

    async def test_a_dead_letter_is_tried_again(self) -> None:
        """At once; others are passed over."""
        await self.bury(M[7])
        dead = operator.ListMessagesRequest(filter=operator.MessageFilter(state="DEAD"))
        [found] = (await self.call("operator.ListMessages", dead)).messages
        self.assertTrue(found.result.failed_reason.startswith("expired: "))
        self.assertEqual((found.message_id, found.payload_size), (M[7], len(b"payload")))
        request = operator.RetryMessagesRequest(message_ids=[M[7], M[8], M[7]])
        self.assertEqual((await self.call("operator.RetryMessages", request)).retried, 1)
        self.assertEqual(self.looks, ["messages"])
        self.assertEqual((await self.call("operator.RetryMessages", request)).retried, 0)
        self.assertEqual(self.looks, ["messages"])
        self.assertEqual(len(await self.store.overdue_messages(5)), 1)

    async def test_cancel(self) -> None:
        await self.store_some()
        request = operator.CancelMessagesRequest(message_ids=[M[0], M[9], M[0]], reason="not needed any more")
        self.assertEqual((await self.call("operator.CancelMessages", request)).cancelled, 1)
        request = operator.CancelMessagesRequest(message_ids=[M[1]])
        self.assertEqual((await self.call("operator.CancelMessages", request)).cancelled, 1)
        [first, second] = await self.store.get_messages(M[:2], want_data=False)
        self.assertEqual(first.result.failed_reason, "not needed any more")
        self.assertEqual(second.result.failed_reason, "Removed by admin action.")
        none = operator.CancelMessagesRequest()
        self.assertEqual((await self.call("operator.CancelMessages", none)).cancelled, 0)

    async def test_what_is_wrong_with_ids(self) -> None:
        for name, kind in (
            ("RetryMessages", operator.RetryMessagesRequest),
            ("CancelMessages", operator.CancelMessagesRequest),
        ):
            for bad, words in ((b"x", "MessageID must be 32 bytes"), (b"", "message_id is required")):
                await self.assert_refused(
                    BAD, f"unable to parse id [1]: {words}", f"operator.{name}", kind(message_ids=[M1, bad])
                )
        long = operator.CancelMessagesRequest(message_ids=[M1], reason="x" * 1001)
        await self.assert_refused(BAD, "reason has more than 1000 characters", "operator.CancelMessages", long)

    async def test_a_search_that_takes_too_long(self) -> None:
        """The caller is told what to do about it."""
        from twisted.internet.defer import fail

        from fleetspeak.errors import TookTooLong

        self.store.message_page = lambda *_: fail(TookTooLong("not found within 20 s"))  # type: ignore[method-assign]
        await self.assert_refused(
            "DEADLINE_EXCEEDED",
            "not found within 20 s; ask for less, such as one client or a shorter time",
            "operator.ListMessages",
            operator.ListMessagesRequest(),
        )
