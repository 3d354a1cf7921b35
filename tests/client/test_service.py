"""A whole client over a fake transport: what happens in which order at start, at stop, and in between."""

from __future__ import annotations

import os
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs, formatEvent

from fleetspeak.client.identity import load_identity
from fleetspeak.client.service import STOP_LIMIT
from fleetspeak.client.services.manager import START_LIMIT
from fleetspeak.errors import ConfigError
from fleetspeak.ids import show
from fleetspeak.pb import client, common, monitoring, stdin_config, system
from tests.client.wholeclient import WholeClientCase, acks_of, errors_of, info_of, unpack


class StartTests(WholeClientCase):
    def test_item_134_the_first_contact_lists_every_service_and_carries_the_client_info(self) -> None:
        self.install("A", "B")
        self.start()
        sent = self.server.exchange()
        self.assertEqual(dict(self.server.contacts[0].AllowedMessages), {"system": 100, "A": 100, "B": 100})
        self.assertEqual([message.message_type for message in sent], ["ClientInfo"])

    def test_item_30_the_client_info_lists_labels_and_what_was_installed(self) -> None:
        self.install("A", "Broken", "Refused")
        self.start()
        (message,) = self.server.exchange()
        self.assertEqual((message.priority, message.background), (common.Message.HIGH, True))
        self.assertEqual(message.destination, common.Address(service_name="system"))
        data = unpack(message, system.ClientInfoData())
        self.assertEqual(
            [(label.service_name, label.label) for label in data.labels], [("client", "amd64"), ("client", "linux")]
        )
        self.assertEqual(info_of(message), ["A"])
        self.assertNotIn("Broken", self.server.contacts[0].AllowedMessages)

    def test_item_11_the_state_is_written_before_the_first_contact(self) -> None:
        self.start()
        self.assertTrue(self.persistence.state.client_key)
        self.assertEqual(self.server.contacts, [])

    def test_ids_are_logged_at_start_and_at_the_first_contact(self) -> None:
        with capturedLogs() as logged:
            self.start()
            self.server.exchange()
            self.server.exchange()
        lines = [formatEvent(event) for event in logged]
        client_id = show(self.client_id)
        self.assertIn(f"client {client_id} starting", lines)
        self.assertEqual(lines.count(f"contact with memory:0 established as client {client_id}"), 1)

    def test_a_service_that_never_gets_ready_is_given_up(self) -> None:
        self.install("Endless", "Z")
        self.start()
        self.assertIsNone(self.communicators.made)
        self.clock.advance(START_LIMIT)
        self.assertEqual(info_of(self.server.exchange()[0]), ["Z"])

    def test_a_state_that_cannot_be_kept_ends_the_client_with_one_line_and_status_1(self) -> None:
        self.persistence.load = refuse  # type: ignore[method-assign]
        with capturedLogs() as logged:
            service = self.start()
        self.assertEqual(self.ending.ended, [1])
        self.assertEqual(
            [formatEvent(event) for event in logged], ["Stopped due to unrecoverable error: no room on the disk"]
        )
        self.successResultOf(service.stopService())

    def test_a_failure_nobody_thought_of_ends_it_too(self) -> None:
        self.communicators.make = lambda *_: 1 / 0  # type: ignore[method-assign, assignment]
        self.start()
        self.assertEqual(self.ending.ended, [1])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_warnings_about_the_settings_are_logged(self) -> None:
        self.settings["warnings"] = ("communicator.txt is not used",)
        with capturedLogs() as logged:
            self.start()
        self.assertEqual(formatEvent(logged[0]), "communicator.txt is not used")


class OwnUsageTests(WholeClientCase):
    def test_the_client_reports_what_it_uses_from_start_to_stop(self) -> None:
        service = self.start()
        self.server.exchange()
        for _ in range(601):
            self.clock.advance(1)
        (report,) = self.sent()["ResourceUsage"]
        data = unpack(report, monitoring.ResourceUsageData())
        self.assertEqual((data.scope, data.pid), ("system", os.getpid()))
        self.assertEqual(data.resource_usage.max_resident_memory, 4096)
        self.successResultOf(service.stopService())
        self.assertEqual(self.clock.getDelayedCalls(), [])


class ServiceInstallTests(WholeClientCase):
    def lines(self) -> list[str]:
        with capturedLogs() as logged:
            self.start()
        return [formatEvent(event) or "" for event in logged]

    def place(self, name: str, line: int | None = None) -> str:
        return f"{self.folder / 'textservices' / name}" + (f":{line}" if line else "")

    def test_item_14_a_required_label_decides(self) -> None:
        self.install("Linux", extra='required_labels { service_name: "client" label: "linux" }')
        self.install("Windows", extra='required_labels { service_name: "client" label: "windows" }')
        self.install("Other", extra='required_labels { service_name: "other" label: "windows" }')
        lines = self.lines()
        self.assertEqual(info_of(self.server.exchange()[0]), ["Linux", "Other"])
        self.assertEqual(len(self.factory.made), 2)
        self.assertIn(
            f"service not installed: {self.place('Windows', 2)}: service config [Windows] requires label "
            "client:windows, this client has amd64, linux",
            lines,
        )

    def test_item_14_signed_files_without_a_signature_install_if_their_label_is_here(self) -> None:
        for name, label in (("Linux", "linux"), ("Windows", "windows")):
            config = system.ClientServiceConfig(name=name, factory="Puppet")
            config.required_labels.add(service_name="client", label=label)
            signed = system.SignedClientServiceConfig(service_config=config.SerializeToString())
            (self.folder / "services" / name).write_bytes(signed.SerializeToString())
        self.start()
        self.assertEqual(info_of(self.server.exchange()[0]), ["Linux"])
        self.assertEqual([puppet.context.service_name for puppet in self.factory.made], ["Linux"])

    def test_item_15_a_text_service_installs_and_receives_messages(self) -> None:
        self.install("A")
        self.start()
        self.server.exchange(self.message("A", 1))
        self.assertEqual([message.message_id for message in self.puppet("A").messages], [b"%032d" % 1])

    def test_item_16_an_unknown_factory_is_named_with_the_known_ones(self) -> None:
        (self.folder / "textservices" / "x").write_text('name: "X"\nfactory: "Pupet"')
        said = f'service not installed: {self.place("x", 2)}: factory not found: "Pupet", expected one of Puppet. '
        self.assertTrue(any(line.startswith(said) for line in self.lines()))

    def test_reserved_names_are_refused(self) -> None:
        for name in ("", "system", "client"):
            (self.folder / "textservices" / f"x{name}").write_text(f'name: "{name}" factory: "Puppet"')
        self.assertEqual(sum("illegal service name" in line for line in self.lines()), 3)

    def test_what_the_factory_refuses_is_said_with_the_place(self) -> None:
        config = 'config { [type.googleapis.com/fleetspeak.stdinservice.Config] { cmd: "/bin/cat" } }'
        self.install("Refused", "Fine", extra=config)
        self.assertIn(
            f"service not installed: {self.place('Refused', 2)}: service 'Refused': cmd is missing, expected a program",
            self.lines(),
        )
        self.assertEqual(self.factory.configs, [stdin_config.Config(cmd="/bin/cat")])

    def test_a_config_of_another_type_is_refused(self) -> None:
        self.install("A", extra="config { [type.googleapis.com/fleetspeak.DieRequest] { force: true } }")
        self.install("B", extra='config { type_url: "x/fleetspeak.stdinservice.Config" value: "\\377" }')
        lines = self.lines()
        self.assertTrue(any("expected fleetspeak.stdinservice.Config" in line for line in lines))
        self.assertTrue(any("cannot be parsed" in line for line in lines))
        self.assertEqual(self.factory.made, [])

    def test_of_two_with_one_name_the_later_wins(self) -> None:
        self.install("A")
        (self.folder / "textservices" / "z").write_text('name: "A" factory: "Puppet"')
        self.start()
        first, second = self.factory.made
        self.assertEqual((first.calls, second.calls), (["start", "stop"], ["start"]))
        self.server.exchange(self.message("A", 1))
        self.assertEqual((len(first.messages), len(second.messages)), (0, 1))

    def test_item_18_local_info(self) -> None:
        self.install("A", "B")
        self.start(std_forward=True)
        context = self.puppet("A").context
        self.assertEqual(context.client_id, self.client_id)
        self.assertEqual(context.service_names(), ["A", "B"])
        self.assertEqual(context.labels, ("amd64", "linux"))
        self.assertTrue(context.std_forward)


class MessageTests(WholeClientCase):
    def setUp(self) -> None:
        super().setUp()
        self.install("A", "B")
        self.start()
        self.server.exchange()

    def test_item_18_a_message_arrives_and_is_acked(self) -> None:
        sent = self.sent(self.message("A", 1), self.message("A", 2, "bad"))
        self.assertEqual([message.message_id for message in self.puppet("A").messages], [b"%032d" % 1, b"%032d" % 2])
        self.assertEqual(acks_of(sent["MessageAck"]), [b"%032d" % 1])
        self.assertEqual(errors_of(sent["MessageError"]), [(b"%032d" % 2, "a terrible test error")])

    def test_item_139_a_local_message_arrives_and_is_not_acked(self) -> None:
        address = common.Address(service_name="B", client_id=self.client_id)
        self.successResultOf(self.puppet("A").context.send(common.Message(destination=address)))
        self.assertEqual(len(self.puppet("B").messages), 1)
        self.assertEqual(self.sent(), {})

    def test_a_service_that_hangs_holds_up_nobody_else(self) -> None:
        sent = self.sent(self.message("A", 1, "hang"), self.message("A", 2), self.message("B", 3))
        self.assertEqual(acks_of(sent["MessageAck"]), [b"%032d" % 3])
        self.assertEqual(dict(self.server.contacts[-1].AllowedMessages), {"system": 100, "A": 99, "B": 100})

    def test_the_nonce_is_stored_only_from_first_contacts(self) -> None:
        self.server.exchange(nonce=42)
        self.server.exchange(nonce=43, first=False)
        self.server.exchange()
        self.assertEqual([contact.sequencing_nonce for contact in self.server.contacts], [0, 1, 42, 42])

    def test_later_records_of_a_stream_say_what_was_freed(self) -> None:
        self.server.exchange(*(self.message("A", number) for number in range(7)), first=False)
        self.server.exchange(first=False)
        self.assertEqual(dict(self.server.contacts[-1].AllowedMessages), {"system": 0, "A": 7, "B": 0})


class SystemServiceTests(WholeClientCase):
    def setUp(self) -> None:
        super().setUp()
        self.install("A", "Clinging")
        self.start()
        self.server.exchange()

    def test_item_20_rekey(self) -> None:
        old = self.client_id
        sent = self.sent(self.message("system", 1, "RekeyRequest"))
        self.assertNotEqual(self.client_id, old)
        self.assertEqual(sent["ClientInfo"][0].source.client_id, self.client_id)
        self.assertEqual(sent["MessageAck"][0].source.client_id, self.client_id)
        self.assertEqual(acks_of(sent["MessageAck"]), [b"%032d" % 1])
        self.assertEqual(self.server.resets, 1, "items 60 and 80: the new certificate is used at once")
        self.assertEqual(self.puppet("A").context.client_id, self.client_id)

    def test_a_rekey_that_cannot_be_written_is_an_error_and_the_old_identity_stays(self) -> None:
        old = self.client_id
        self.persistence.save = full  # type: ignore[method-assign]
        sent = self.sent(self.message("system", 1, "RekeyRequest"))
        self.assertEqual(self.client_id, old)
        self.assertIn("No space left", errors_of(sent["MessageError"])[0][1])

    def test_items_21_22_die_ends_the_client_with_7_and_is_never_answered(self) -> None:
        sent = self.sent(
            self.message("system", 1, "RestartService", system.RestartServiceRequest(name="A")),
            self.message("system", 2, "Die", system.DieRequest(force=False)),
        )
        self.assertEqual((self.ending.ended, self.ending.aborted), ([7], []))
        self.assertEqual(acks_of(sent["MessageAck"]), [b"%032d" % 1])
        self.assertNotIn("MessageError", sent)
        self.sent(self.message("system", 3, "Die", system.DieRequest(force=True)))
        self.assertEqual(self.ending.aborted, [7])

    def test_die_with_data_that_is_none_does_nothing(self) -> None:
        broken = self.message("system", 1, "Die", system.DieRequest())
        broken.data.value = b"\xff"
        other = self.message("system", 2, "Die", system.RestartServiceRequest(name="A"))
        self.assertEqual(self.sent(broken, other, self.message("system", 3, "Die")), {})
        self.assertEqual((self.ending.ended, self.ending.aborted), ([], []))

    def test_item_23_restart(self) -> None:
        sent = self.sent(self.restart("A"))
        first, second = (puppet for puppet in self.factory.made if puppet.context.service_name == "A")
        self.assertEqual((first.calls, second.calls), (["start", "stop"], ["start"]))
        self.assertEqual(acks_of(sent["MessageAck"]), [b"%032d" % 9])
        self.assertNotIn("ClientInfo", sent)

    def test_item_23_restart_of_what_is_not_there(self) -> None:
        sent = self.sent(self.restart("Gone"), self.restart("system"))
        self.assertEqual(
            [text for _, text in errors_of(sent["MessageError"])],
            [
                "failed to remove non-existent service: Gone",
                "can't restart service: illegal service name [system]",
            ],
        )

    def test_a_service_that_does_not_come_back_is_gone_and_the_server_hears_of_it(self) -> None:
        self.factory.broken = True
        sent = self.sent(self.restart("A"))
        self.assertIn("can't reinstall service 'A' on restart: ", errors_of(sent["MessageError"])[0][1])
        self.assertEqual(info_of(sent["ClientInfo"][0]), ["Clinging"])
        self.assertNotIn("A", self.server.contacts[-1].AllowedMessages)

    def test_item_136_a_restart_never_grants_more_than_100(self) -> None:
        self.server.exchange(*(self.message("A", number, "hang") for number in range(60)), first=False)
        self.server.exchange(self.restart("A"), first=False)
        self.server.exchange(first=False)
        granted = [contact.AllowedMessages["A"] for contact in self.server.contacts]
        self.assertEqual(granted, [100, 0, 1, 1], "one left the inbox for each instance")
        self.assertEqual(len(self.puppet("A").messages), 1, "what was queued is not lost")

    def test_item_132_nothing_hangs_because_a_service_does(self) -> None:
        self.sent(self.message("Clinging", 1, "hang"), self.message("Clinging", 2))
        restarting = self.sent(self.restart("Clinging"), self.message("system", 3, "Nonsense"))
        self.assertEqual(errors_of(restarting["MessageError"])[0][1], "unable to process message of type: Nonsense")
        self.clock.advance(5)
        self.assertEqual(acks_of(self.sent()["MessageAck"]), [b"%032d" % 2, b"%032d" % 9])
        self.sent(self.message("system", 4, "Die", system.DieRequest(force=True)))
        self.assertEqual(self.ending.aborted, [7])

    def test_item_24_unknown_types(self) -> None:
        sent = self.sent(self.message("system", 1, "RemoveService", system.RemoveServiceData(name="A")))
        self.assertEqual(
            errors_of(sent["MessageError"]),
            [(b"%032d" % 1, "unable to process message of type: RemoveService")],
        )

    def test_a_request_with_garbage_is_an_error(self) -> None:
        request = self.restart("A")
        request.data.value = b"\xff"
        sent = self.sent(request, self.message("system", 8, "RestartService", system.DieRequest()))
        texts = [text for _, text in errors_of(sent["MessageError"])]
        self.assertIn("cannot be parsed", texts[0])
        self.assertIn("expected 'fleetspeak.RestartServiceRequest'", texts[1])

    def test_a_local_request_is_carried_out_and_not_answered(self) -> None:
        old = self.client_id
        request = common.Message(message_type="RekeyRequest")
        request.destination.client_id = old
        request.destination.service_name = "system"
        self.successResultOf(self.puppet("A").context.send(request))
        self.assertNotEqual(self.client_id, old)
        self.assertEqual(list(self.sent()), ["ClientInfo"])

    def restart(self, name: str) -> common.Message:
        return self.message("system", 9, "RestartService", system.RestartServiceRequest(name=name))


class StopTests(WholeClientCase):
    def test_acks_and_last_words_go_out_with_the_last_contact_and_the_state_is_written(self) -> None:
        self.install("A")
        service = self.start()
        self.server.exchange()
        self.server.exchange(self.message("A", 1), nonce=42)
        self.successResultOf(service.stopService())
        last = self.server.contacts[-1].messages
        self.assertEqual([message.message_type for message in last], ["MessageAck", "words"])
        self.assertTrue(self.server.stopped)
        self.assertEqual(self.persistence.state.sequencing_nonce, 42)
        self.assertEqual(self.ending.ended, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_what_is_being_processed_is_cancelled_and_not_reported(self) -> None:
        self.install("A")
        service = self.start()
        self.server.exchange(self.message("A", 1, "hang"), self.message("A", 2))
        self.successResultOf(service.stopService())
        self.assertEqual([message.message_type for message in self.server.contacts[-1].messages], ["words"])
        self.assertEqual(self.puppet("A").calls, ["start", "stop"])

    def test_a_service_that_does_not_stop_is_left_behind(self) -> None:
        self.install("A", "Clinging")
        service = self.start()
        stopping = service.stopService()
        self.clock.advance(5)
        self.successResultOf(stopping)
        self.assertEqual(self.puppet("A").calls, ["start", "stop"])
        self.assertEqual(self.ending.ended, [])

    def test_a_stop_during_a_restart_stops_each_service_once_and_starts_none(self) -> None:
        self.install("Clinging")
        service = self.start()
        self.server.exchange()
        data = system.RestartServiceRequest(name="Clinging")
        self.server.exchange(self.message("system", 1, "RestartService", data))
        stopping = service.stopService()
        self.clock.advance(5)
        self.successResultOf(stopping)
        self.assertEqual([puppet.calls for puppet in self.factory.made], [["start", "stop"]])
        sent = [message.message_type for message in self.server.contacts[-1].messages]
        self.assertEqual(sent, ["words"], "not reported, so that the server asks again")
        self.assertEqual(self.ending.ended, [])

    def test_a_stop_during_a_rekey_waits_for_the_key_to_be_written(self) -> None:
        writing: list[Deferred[None]] = []

        def slow(call: Callable[[client.ClientState], None], state: client.ClientState, /) -> Deferred[None]:
            writing.append(Deferred())
            return writing[-1].addCallback(lambda _: call(state))

        service = self.start(in_thread=slow)
        self.server.exchange(self.message("system", 1, "RekeyRequest"))
        stopping = service.stopService()
        self.assertNoResult(stopping)
        for written in writing:
            written.callback(None)
        self.successResultOf(stopping)
        self.assertEqual(
            [message.message_type for message in self.server.contacts[-1].messages], ["ClientInfo", "MessageAck"]
        )
        written_identity = load_identity(self.persistence.state.client_key, self.clock.seconds())
        self.assertEqual(written_identity.client_id, self.client_id)

    def test_what_takes_longer_than_ten_seconds_ends_with_status_1(self) -> None:
        service = self.start()
        self.server.exchange(nonce=42)
        self.server.stop = Deferred  # type: ignore[method-assign, assignment]
        stopping = service.stopService()
        self.clock.advance(STOP_LIMIT)
        self.successResultOf(stopping)
        self.assertEqual(self.ending.ended, [1])
        self.assertEqual(self.ending.complaints, [f"the client did not stop within {STOP_LIMIT} s"])
        self.assertEqual(self.persistence.state.sequencing_nonce, 42, "the state is written nevertheless")

    def test_a_stop_during_the_start(self) -> None:
        self.install("Endless")
        service = self.start()
        self.successResultOf(service.stopService())
        self.assertIsNone(self.communicators.made)
        self.assertEqual(self.ending.ended, [])


class GivingUpTests(WholeClientCase):
    def test_item_82_a_lonely_client_ends_with_the_status_its_communicator_names(self) -> None:
        self.start()
        with capturedLogs() as logged:
            self.server.link.give_up("Too Lonely! Failed to contact server in 1s.", 2)
        self.assertEqual(self.ending.ended, [2])
        self.assertIn("Too Lonely", formatEvent(logged[0]) or "")


class IdentityTests(WholeClientCase):
    def test_item_13_without_persistence_each_start_has_a_new_id(self) -> None:
        self.start()
        first = self.client_id
        self.persistence.state = client.ClientState()
        self.start()
        self.assertNotEqual(self.client_id, first)

    def test_item_10_with_persistence_the_id_stays(self) -> None:
        self.start()
        first = self.client_id
        self.start()
        self.assertEqual(self.client_id, first)


def refuse() -> client.ClientState:
    raise ConfigError("no room on the disk")


def full(state: client.ClientState) -> None:
    raise OSError(28, "No space left on device")
