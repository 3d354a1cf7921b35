"""Routing: to the server, to a service here, or an answer that says why not."""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.client.outbox import ClientOutbox
from fleetspeak.client.reports import Reports
from fleetspeak.client.router import Router
from fleetspeak.ids import ClientId
from fleetspeak.pb import common, system

CLIENT = ClientId(b"\1\2\3\4\5\6\7\x08")
ID = b"0" * 32


class Keeping:
    """An endpoint that keeps what it gets."""

    def __init__(self) -> None:
        self.room = True
        self.got: list[common.Message] = []
        self.local: list[common.Message] = []

    def deliver(self, message: common.Message) -> bool:
        if self.room:
            self.got.append(message)
        return self.room

    def deliver_local(self, message: common.Message) -> Deferred[None]:
        self.local.append(message)
        return succeed(None)


def to(service: str, client_id: bytes = b"", **fields: object) -> common.Message:
    destination = common.Address(service_name=service, client_id=client_id)
    return common.Message(destination=destination, **fields)  # type: ignore[arg-type]


class RouterTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.outbox = ClientOutbox()
        self.router = Router(self.outbox, Reports(self.outbox, Clock(), lambda: CLIENT), lambda: CLIENT)
        self.endpoint = Keeping()
        self.router.add("S", self.endpoint)

    def outgoing(self) -> list[common.Message]:
        return [entry.message for entry in self.outbox.take(100, 1 << 40)]

    def error(self) -> tuple[bytes, str]:
        (message,) = self.outgoing()
        data = system.MessageErrorData()
        self.assertTrue(message.data.Unpack(data))
        return data.message_id, data.error

    # ---- from services

    def test_a_message_without_client_id_goes_to_the_server_with_its_source_filled_in(self) -> None:
        forged = to("Server", source=common.Address(client_id=b"x" * 8, service_name="Other"))
        self.successResultOf(self.router.send("S", forged))
        (message,) = self.outgoing()
        self.assertEqual(message.source, common.Address(client_id=CLIENT, service_name="S"))
        self.assertEqual(len(message.source_message_id), 16)

    def test_a_source_message_id_of_the_service_is_kept(self) -> None:
        self.router.send("S", to("Server", source_message_id=b"mine"))
        self.assertEqual(self.outgoing()[0].source_message_id, b"mine")

    def test_item_19_routing_errors(self) -> None:
        failure = self.failureResultOf(self.router.send("S", common.Message()), ValueError)
        self.assertTrue(str(failure.value).startswith("destination must have ServiceName"))
        failure = self.failureResultOf(self.router.send("S", to("S", bytes.fromhex("abcdef"))), ValueError)
        self.assertTrue(str(failure.value).startswith("cannot send directly to client abcdef"))
        failure = self.failureResultOf(self.router.send("S", to("Gone", CLIENT)), ValueError)
        self.assertEqual(str(failure.value), "no service 'Gone' on this client")

    def test_item_139_services_of_one_client_can_write_to_each_other(self) -> None:
        told: list[bool] = []
        self.successResultOf(self.router.send("T", to("S", CLIENT, message_id=ID), lambda: told.append(True)))
        (message,) = self.endpoint.local
        self.assertEqual(message.source, common.Address(client_id=CLIENT, service_name="T"))
        self.assertEqual(message.message_id, b"", "an id of the server's would be acked to it")
        self.assertEqual(told, [True])
        self.assertEqual(self.outgoing(), [])

    # ---- from the server

    def test_item_18_a_message_for_a_service_here_arrives_unchanged(self) -> None:
        message = to("S", CLIENT, message_id=ID)
        self.router.deliver(message)
        self.assertEqual(self.endpoint.got, [message])
        self.assertEqual(self.outgoing(), [])

    def test_item_138_an_unknown_service_is_answered_with_an_error(self) -> None:
        self.router.deliver(to("Gone", CLIENT, message_id=ID))
        self.assertEqual(self.error(), (ID, "no service 'Gone' on this client"))

    def test_item_138_wrong_destinations_are_answered_with_an_error(self) -> None:
        for message, text in [
            (to("", CLIENT, message_id=ID), "destination must have ServiceName"),
            (to("S", b"another!", message_id=ID), "cannot send directly to client"),
            (to("S", message_id=ID), "must name the client"),
        ]:
            self.router.deliver(message)
            self.assertIn(text, self.error()[1])
        self.assertEqual(self.endpoint.got, [])

    def test_item_28_an_unusable_id_is_dropped(self) -> None:
        self.router.deliver(to("S", CLIENT, message_id=b"1"))
        self.assertEqual((self.endpoint.got, self.outgoing()), ([], []))

    def test_what_there_is_no_room_for_is_dropped_so_that_it_comes_again(self) -> None:
        self.endpoint.room = False
        self.router.deliver(to("S", CLIENT, message_id=ID))
        self.assertEqual(self.outgoing(), [])

    def test_a_removed_service_is_unknown(self) -> None:
        self.router.remove("S")
        self.router.deliver(to("S", CLIENT, message_id=ID))
        self.assertEqual(self.error()[0], ID)

    def test_at_stop_messages_are_left_to_the_next_start(self) -> None:
        self.router.close()
        self.router.deliver(to("S", CLIENT, message_id=ID))
        self.router.deliver(to("Gone", CLIENT, message_id=ID))
        self.assertEqual((self.endpoint.got, self.outgoing()), ([], []))
