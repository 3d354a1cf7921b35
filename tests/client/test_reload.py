"""A reload of a running client: what has changed is changed, and nothing else is touched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs, formatEvent

from fleetspeak.client.reload import READ_LIMIT
from fleetspeak.client.service import SWITCH_LIMIT, ClientService
from fleetspeak.client.services.loader import ServiceFile
from fleetspeak.client.services.manager import START_LIMIT
from fleetspeak.config.client import NOT_THE_CONNECTIONS, RESTART_NEEDED, ClientSettings
from fleetspeak.errors import ConfigError
from fleetspeak.ids import NO_CLIENT
from fleetspeak.pb import common, system
from fleetspeak.program.systemd import Notifier
from fleetspeak.testing.clientside import client_settings
from tests.client.wholeclient import Puppet, WholeClientCase, acks_of, info_of, unpack


class ReloadCase(WholeClientCase):
    def setUp(self) -> None:
        super().setUp()
        self.install("A", "B")

    def begin(self, **options: Any) -> ClientService:
        options.setdefault("read_settings", self.read)
        self.client = self.start(**options)
        self.server.exchange()
        return self.client

    def read(self) -> ClientSettings:
        return client_settings(**self.settings)

    def reload(self) -> list[str]:
        """Reload; what the client logs about it."""
        with capturedLogs() as logged:
            self.client.reload()
        return [formatEvent(event) or "" for event in logged]

    def change(self, name: str, extra: str = 'required_labels { service_name: "other" label: "x" }') -> None:
        self.install(name, extra=extra)

    def instances(self, name: str) -> list[Puppet]:
        return [puppet for puppet in self.factory.made if puppet.context.service_name == name]

    def announced(self) -> list[str] | None:
        """The services of the ClientInfo that came, if one came."""
        infos = [message for message in self.server.exchange(first=False) if message.message_type == "ClientInfo"]
        return info_of(infos[-1]) if infos else None


class ServicesTests(ReloadCase):
    def test_nothing_has_changed(self) -> None:
        self.begin()
        self.reload()
        self.assertEqual([puppet.calls for puppet in self.factory.made], [["start"], ["start"]])
        self.assertIsNone(self.announced())
        self.assertEqual((self.server.resets, self.server.stopped), (0, False))

    def test_only_what_has_changed_is_touched(self) -> None:
        self.begin()
        self.change("B")
        self.install("C")
        self.install("D")
        self.reload()
        (a,) = self.instances("A")
        first, second = self.instances("B")
        self.assertEqual((a.calls, first.calls, second.calls), (["start"], ["start", "stop"], ["start"]))
        self.assertEqual(self.announced(), ["A", "B", "C", "D"])
        (self.folder / "textservices" / "C").unlink()
        self.reload()
        self.assertEqual(self.puppet("C").calls, ["start", "stop"])
        self.assertEqual(self.announced(), ["A", "B", "D"])
        self.assertEqual(sorted(self.server.contacts[-1].AllowedMessages), ["A", "B", "D", "system"])
        self.assertEqual((self.server.resets, self.server.stopped), (0, False), "the connection stays")

    def test_a_comment_or_another_file_name_is_no_change(self) -> None:
        self.begin()
        path = self.folder / "textservices" / "A"
        path.write_text("# the first one\n" + path.read_text())
        path.rename(path.with_name("renamed"))
        self.reload()
        self.assertEqual(self.puppet("A").calls, ["start"])
        path.with_name("renamed").unlink()
        self.reload()
        self.assertEqual(self.puppet("A").calls, ["start", "stop"])

    def test_a_new_signature_restarts_nothing_and_is_announced(self) -> None:
        path = self.folder / "services" / "S"
        config = system.ClientServiceConfig(name="S", factory="Puppet")
        signed = system.SignedClientServiceConfig(service_config=config.SerializeToString(), signature=b"1")
        path.write_bytes(signed.SerializeToString())
        self.begin()
        config.signed_time.seconds = 1
        signed.service_config = config.SerializeToString()
        signed.signature = b"2"
        path.write_bytes(signed.SerializeToString())
        self.reload()
        self.assertEqual(self.puppet("S").calls, ["start"])
        (info,) = self.server.exchange(first=False)
        services = unpack(info, system.ClientInfoData()).services
        self.assertEqual([service.signature for service in services if service.name == "S"], [b"2"])

    def test_what_is_queued_goes_to_the_next_instance(self) -> None:
        self.begin()
        self.server.exchange(self.message("A", 1, "hang"), self.message("A", 2), first=False)
        self.change("A")
        self.reload()
        self.assertEqual([message.message_id for message in self.puppet("A").messages], [b"%032d" % 2])
        self.assertEqual(acks_of(self.sent()["MessageAck"]), [b"%032d" % 2])

    def test_a_file_that_is_broken_leaves_its_service_as_it_is(self) -> None:
        self.begin()
        path = self.folder / "textservices" / "A"
        content = path.read_text()
        path.write_text('name: "A"\nfactory: [')
        lines = self.reload()
        self.assertTrue(any(f"{path}:2:" in line for line in lines), lines)
        self.assertIn("service A goes on with the configuration it has", lines)
        self.assertEqual(self.puppet("A").calls, ["start"])
        path.write_text(content)
        self.reload()
        self.assertEqual(self.puppet("A").calls, ["start"])

    def test_a_folder_that_cannot_be_read_leaves_all_its_services_as_they_are(self) -> None:
        self.begin()
        folder = self.folder / "textservices"
        folder.rename(self.folder / "elsewhere")
        folder.write_text("not a folder")
        self.reload()
        self.assertEqual([puppet.calls for puppet in self.factory.made], [["start"], ["start"]])
        folder.unlink()
        self.reload()
        self.assertEqual([puppet.calls for puppet in self.factory.made], [["start", "stop"], ["start", "stop"]])
        self.assertEqual(self.announced(), [])

    def test_a_configuration_that_cannot_work_leaves_the_service_as_it_is(self) -> None:
        self.begin()
        (self.folder / "textservices" / "A").write_text('name: "A"\nfactory: "Pupet"')
        lines = self.reload()
        self.assertTrue(any(":2: factory not found" in line and "goes on with" in line for line in lines), lines)
        self.assertEqual(self.puppet("A").calls, ["start"])

    def test_one_that_does_not_start_with_the_new_configuration_comes_back_with_the_old_one(self) -> None:
        self.begin()
        self.change("A")
        Puppet.start, start = fail_once(Puppet.start), Puppet.start  # type: ignore[method-assign]
        self.addCleanup(setattr, Puppet, "start", start)
        lines = self.reload()
        self.assertTrue(any("failed to start: not with this" in line for line in lines), lines)
        first, second, third = self.instances("A")
        self.assertEqual((first.calls, second.calls, third.calls), (["start", "stop"], [], ["start"]))
        self.reload()
        self.assertEqual(len(self.instances("A")), 4, "the new one is tried again")

    def test_one_that_does_not_come_back_at_all_is_gone_and_the_server_hears_of_it(self) -> None:
        self.begin()
        self.change("A")
        start = Puppet.start
        self.addCleanup(setattr, Puppet, "start", start)
        Puppet.start = lambda _: 1 / 0  # type: ignore[method-assign, assignment, return-value]
        self.reload()
        self.assertEqual(self.announced(), ["B"])
        self.assertNotIn("A", self.server.contacts[-1].AllowedMessages)

    def test_a_service_that_was_refused_before_is_tried_again(self) -> None:
        self.factory.broken = True
        self.begin()
        self.factory.broken = False
        self.reload()
        self.assertEqual(self.announced(), ["A", "B"])


class SettingsTests(ReloadCase):
    def test_every_setting_is_one_of_the_connection_unless_it_is_named(self) -> None:
        names = {field.name for field in fields(ClientSettings)}
        self.assertLessEqual(NOT_THE_CONNECTIONS | RESTART_NEEDED, names)
        self.assertLessEqual({"servers", "trusted_certs", "proxy", "labels", "communicator", "server_name"},
                             names - NOT_THE_CONNECTIONS - RESTART_NEEDED)  # fmt: skip

    def test_a_setting_of_the_connection_replaces_the_communicator_and_no_service(self) -> None:
        self.begin()
        first = self.server
        self.successResultOf(self.puppet("A").context.send(to_server("words")))
        self.settings["servers"] = (("elsewhere", 1),)
        lines = self.reload()
        self.assertIn("connecting anew, as changed: servers", lines)
        self.assertIsNot(self.server, first)
        self.assertTrue(first.stopped and self.server.started)
        self.assertEqual([message.message_type for message in first.contacts[-1].messages], ["words"])
        self.assertEqual([puppet.calls for puppet in self.factory.made], [["start"], ["start"]])
        self.assertIsNone(self.announced())

    def test_new_labels_are_told_everywhere_and_decide_anew_which_services_there_are(self) -> None:
        self.install("Lab", extra='required_labels { service_name: "client" label: "lab" }')
        self.install("Office", extra='required_labels { service_name: "client" label: "office" }')
        self.settings["labels"] = ("amd64", "linux", "office")
        self.begin()
        self.settings["labels"] = ("amd64", "linux", "lab")
        self.reload()
        (info,) = self.server.exchange()
        self.assertEqual(info_of(info), ["A", "B", "Lab"])
        data = unpack(info, system.ClientInfoData())
        self.assertEqual([label.label for label in data.labels], ["amd64", "linux", "lab"])
        self.assertEqual(self.puppet("A").context.labels, ("amd64", "linux", "lab"))
        self.assertEqual(self.puppet("A").calls, ["start"])

    def test_what_only_a_restart_changes_is_named_and_stays(self) -> None:
        self.begin()
        first = self.server
        self.settings["state_file"] = self.folder / "other"
        for _ in range(2):
            lines = self.reload()
            self.assertIn("state_file has changed: restart the client, until then the old one is used", lines)
        self.assertIs(self.server, first)

    def test_an_unusable_configuration_changes_nothing(self) -> None:
        def read() -> ClientSettings:
            raise ConfigError("client.config:4:1: no field servers; did you mean server?")

        self.begin(read_settings=read)
        self.change("A")
        lines = self.reload()
        self.assertTrue(any("goes on with the one it has: client.config:4:1: no field" in line for line in lines))
        self.assertEqual(self.puppet("A").calls, ["start"])
        self.assertEqual(self.ending.ended, [])

    def test_a_transport_that_cannot_be_set_up_changes_nothing(self) -> None:
        self.begin()
        first = self.server
        self.communicators.make = refuse  # type: ignore[method-assign, assignment]
        self.settings["proxy"] = "strange"
        self.settings["labels"] = ("other",)
        self.change("A")
        self.reload()
        self.assertEqual((first.stopped, self.puppet("A").calls), (False, ["start"]))
        self.assertEqual(self.puppet("A").context.labels, ("amd64", "linux"))

    def test_a_mistake_of_ours_is_logged_and_the_next_reload_works(self) -> None:
        self.begin(read_settings=lambda: 1 / 0)
        self.reload()
        self.reload()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)


class TimingTests(ReloadCase):
    def slow(self, call: Callable[..., Any], argument: Any) -> Deferred[Any]:
        self.reading.append(Deferred())
        return self.reading[-1].addCallback(lambda _: call(argument))

    def setUp(self) -> None:
        super().setUp()
        self.reading: list[Deferred[Any]] = []

    def test_what_is_asked_for_during_a_reload_is_done_after_it_once(self) -> None:
        self.begin(in_thread=self.slow)
        for _ in range(5):
            self.reload()
        self.assertEqual(len(self.reading), 1)
        self.reading[0].callback(None)
        self.assertEqual(len(self.reading), 2)
        self.reading[1].callback(None)
        self.assertEqual(len(self.reading), 2)

    def test_systemd_hears_of_each_reload_also_of_one_that_changes_nothing(self) -> None:
        heard: list[str] = []
        notifier = Notifier()
        notifier.reloading = lambda: heard.append("reloading")  # type: ignore[method-assign]
        notifier.ready = lambda: heard.append("ready")  # type: ignore[method-assign]
        self.begin(notifier=notifier, in_thread=self.slow)
        self.reload()
        self.assertEqual(heard, ["ready", "reloading"])
        self.reading.pop().errback(ConfigError("a mistake"))
        self.assertEqual(heard, ["ready", "reloading", "ready"])

    def test_what_is_asked_for_before_the_start_is_complete_is_done_then(self) -> None:
        self.install("Endless")
        self.client = self.start(read_settings=self.read)
        self.install("C")
        self.reload()
        self.assertEqual(self.instances("C"), [])
        self.clock.advance(START_LIMIT)
        self.assertEqual(self.puppet("C").calls, ["start"])

    def test_a_stop_while_the_files_are_read_touches_nothing_more(self) -> None:
        client = self.begin(in_thread=self.slow)
        self.install("C")
        self.reload()
        reading = self.reading[0]
        stopping = client.stopService()
        for written in self.reading[1:]:
            written.callback(None)
        self.successResultOf(stopping)
        self.assertTrue(reading.called, "nobody waits for it")
        self.assertEqual(self.instances("C"), [])
        self.assertEqual(self.ending.ended, [])

    def test_a_stop_while_a_service_is_replaced_stops_each_instance_once_and_starts_none(self) -> None:
        self.install("Clinging")
        client = self.begin()
        self.change("Clinging")
        self.reload()
        stopping = client.stopService()
        self.clock.advance(5)
        self.successResultOf(stopping)
        self.assertEqual([puppet.calls for puppet in self.instances("Clinging")], [["start", "stop"], []])
        self.assertEqual(self.ending.ended, [])

    def test_a_stop_while_a_new_service_starts_stops_it(self) -> None:
        client = self.begin()
        starting: list[Deferred[None]] = []
        start = Puppet.start
        self.addCleanup(setattr, Puppet, "start", start)

        def slow_start(puppet: Puppet) -> Deferred[None]:
            puppet.calls.append("start")
            starting.append(Deferred())
            return starting[-1]

        Puppet.start = slow_start  # type: ignore[method-assign, assignment]
        self.install("C")
        self.reload()
        stopping = client.stopService()
        starting[0].callback(None)
        self.successResultOf(stopping)
        self.assertEqual(self.puppet("C").calls, ["start", "stop"])

    def test_files_that_cannot_be_read_in_time_change_nothing(self) -> None:
        self.begin(in_thread=self.slow)
        self.install("C")
        self.reload()
        with capturedLogs() as logged:
            self.clock.advance(READ_LIMIT)
        self.assertIn("could not be read within 60 s", formatEvent(logged[0]) or "")
        self.assertEqual(self.instances("C"), [])
        self.reload()
        self.reading[-1].callback(None)
        self.assertEqual(self.puppet("C").calls, ["start"])

    def test_a_communicator_that_does_not_end_is_left_behind(self) -> None:
        self.begin()
        first = self.server
        first.stop = Deferred  # type: ignore[method-assign, assignment]
        self.settings["servers"] = (("elsewhere", 1),)
        self.reload()
        self.assertFalse(self.server.started)
        with capturedLogs() as logged:
            self.clock.advance(SWITCH_LIMIT)
        self.assertIn("did not stop cleanly", formatEvent(logged[0]) or "")
        self.assertTrue(self.server.started)

    def test_a_rekey_while_the_communicator_is_replaced_is_seen_by_the_new_one(self) -> None:
        self.begin()
        old, first = self.client_id, self.server
        closing: Deferred[None] = Deferred()
        first.stop = lambda: closing  # type: ignore[method-assign]
        self.settings["servers"] = (("elsewhere", 1),)
        self.reload()
        first.exchange(self.message("system", 1, "RekeyRequest"), first=False)
        self.assertFalse(self.server.started)
        closing.callback(None)
        self.assertTrue(self.server.started)
        self.assertNotIn(self.server.link.identity.client_id, (old, NO_CLIENT))


class ServiceFileTests(ReloadCase):
    def test_the_fingerprint_tells_configurations_apart(self) -> None:
        one = system.ClientServiceConfig(name="A", factory="Puppet")
        other = system.ClientServiceConfig(name="A", factory="Puppet")
        other.required_labels.add(service_name="client", label="x")
        prints = {ServiceFile(config, self.folder).fingerprint for config in (one, other, one)}
        self.assertEqual(len(prints), 2)


def to_server(message_type: str) -> common.Message:
    return common.Message(destination=common.Address(service_name="Last"), message_type=message_type)


def refuse(*_: object) -> None:
    raise ConfigError("proxy: not that one")


def fail_once(start: Callable[[Puppet], Any]) -> Callable[[Puppet], Any]:
    """A start that fails the first time."""
    failures = [RuntimeError("not with this")]

    def failing(puppet: Puppet) -> Any:
        if failures:
            raise failures.pop()
        return start(puppet)

    return failing
