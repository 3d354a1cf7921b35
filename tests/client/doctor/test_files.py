"""What is wrong with a client's files; nothing is changed by looking."""

from __future__ import annotations

import time
from pathlib import Path

from twisted.internet import reactor

from fleetspeak.client.doctor.configuration import Patient
from fleetspeak.client.doctor.examination import examine
from fleetspeak.client.doctor.findings import Status
from fleetspeak.pb import client
from fleetspeak.security import certificates
from tests.client.doctor.patients import DAY, DoctorTestCase


class ConfigurationTests(DoctorTestCase):
    async def examine_text(self, text: str) -> list[tuple[str, str, str]]:
        path = self.folder / "client.config"
        path.write_text(text)
        report = await examine(Patient(path), reactor)
        self.assertFalse(report.holds)
        self.assertEqual({finding.check for finding in report.findings}, {"configuration"}, "it ends there")
        return self.failures(report)

    async def test_a_missing_file(self) -> None:
        report = await examine(Patient(self.folder / "none"), reactor)
        self.assertIn("unable to read configuration file", self.only_failure(report)[1])

    async def test_a_syntax_error_has_its_line_and_a_hint(self) -> None:
        [(_, found, _)] = await self.examine_text('server: "a:1"\nstreming: true\n')
        self.assertIn("client.config:2:", found)
        self.assertIn("did you mean streaming?", found)

    async def test_every_error_is_told_with_its_line(self) -> None:
        problems = await self.examine_text(
            'trusted_certs: "nothing"\n'
            'server: "one"\n'
            "# server: too\n"
            "filesystem_handler {\n"
            '  configuration_directory: "/no/such/folder"\n'
            '  state_file: "/nor/this/state"\n'
            "}\n"
            'proxy: "ftp://user:sesame@x"\n'
        )
        places = [found.split("client.config:", 1)[1].split(":")[:2] for _, found, _ in problems if "config:" in found]
        for expected in (["1", " trusted_certs"], ["2", " server"], ["5", " configuration_directory"]):
            self.assertIn(expected, places)
        for expected in (["6", " state_file"], ["8", " proxy"]):
            self.assertIn(expected, places)
        self.assertNotIn("sesame", str(problems))

    async def test_an_unknown_dialer(self) -> None:
        report = await self.examine(("localhost", 1), dialer="pigeon")
        self.assertIn('no dialer is called "pigeon"', self.only_failure(report)[1])

    async def test_a_broken_communicator_file_is_a_failure(self) -> None:
        """The client goes on without it, but surely that is not what was meant."""
        (self.folder / "communicator.txt").write_text("max_poll_delay_seconds: often")
        report = await self.examine(self.listen())
        check, found, _ = self.only_failure(report)
        self.assertEqual(check, "configuration")
        self.assertIn("communicator.txt:1:", found)

    async def test_trusted_certificates_that_expire(self) -> None:
        for issued, status in ((-3640 * DAY, Status.WARNING), (-3660 * DAY, Status.FAILED)):
            authority, _ = certificates.make_authority("Old", time.time() + issued)
            pem = (certificates.to_pem(self.listening.authority) + certificates.to_pem(authority)).replace("\n", "\\n")
            report = await self.examine(self.listen(), trusted_certs=f'"{pem}"')
            [finding] = [finding for finding in report.findings if "CN=Old" in finding.found]
            self.assertIs(finding.status, status)
            self.assertEqual(report.holds, status is not Status.FAILED)

    async def test_the_small_set_up(self) -> None:
        authority = self.folder / "ca.pem"
        authority.write_text(certificates.to_pem(self.listening.authority))
        host, port = self.listen()
        patient = Patient(trusted_cert_file=authority, servers=[f"{host}:{port}"], config_path=self.folder)
        report = await examine(patient, reactor)
        self.assertTrue(report.holds, report.as_text())

    async def test_the_small_set_up_before_its_first_start(self) -> None:
        authority = self.folder / "ca.pem"
        authority.write_text(certificates.to_pem(self.listening.authority))
        folder = self.folder / "not-there"
        patient = Patient(trusted_cert_file=authority, servers=["localhost:1"], config_path=folder)
        self.assertIn("start it once", self.only_failure(await examine(patient, reactor))[1])
        self.assertFalse(folder.exists())


class ServicesTests(DoctorTestCase):
    def service(self, name: str, text: str) -> Path:
        path = self.folder / "textservices" / name
        path.write_text(text)
        return path

    async def test_each_broken_file_is_told_and_the_others_are_named(self) -> None:
        self.service("good", 'name: "Good" factory: "NOOP"')
        self.service("syntax", 'name: "Bad"\nfactory NOOP')
        self.service("factory", 'name: "Bad"\nfactory: "Nope"')
        self.service("type", 'name: "Bad" factory: "Stdin"\nconfig { [type.googleapis.com/fleetspeak.Message] {} }')
        (self.folder / "services" / "signed").write_bytes(b"\xff\xff")
        report = await self.examine(self.listen())
        failures = self.failures(report)
        self.assertEqual({check for check, _, _ in failures}, {"services"})
        text = "\n".join(found for _, found, _ in failures)
        for expected in ("syntax:2:", 'factory:2: there is no factory "Nope"', "type:2: config is of type", "signed: "):
            self.assertIn(expected, text)
        self.assertEqual(len(failures), 4)
        self.assertIn("usable: Good", [finding.found for finding in report.findings if finding.check == "services"])


class StateTests(DoctorTestCase):
    async def test_a_key_that_others_can_read(self) -> None:
        self.state.chmod(0o644)
        check, found, step = self.only_failure(await self.examine(self.listen()))
        self.assertEqual(check, "state")
        self.assertIn("(mode 0644)", found)
        self.assertIn(f"chmod 600 {self.state}", step)

    async def test_broken_states_are_told_and_left_where_they_are(self) -> None:
        for content in (b"\xff\xff", client.ClientState(client_key=b"no key").SerializeToString()):
            self.state.write_bytes(content)
            check, found, _ = self.only_failure(await self.examine(self.listen()))
            self.assertEqual(check, "state")
            self.assertIn("holds no usable state", found)
            self.assertEqual(self.state.read_bytes(), content)

    async def test_an_empty_state_is_that_of_a_client_that_never_started(self) -> None:
        self.state.write_bytes(b"")
        report = await self.examine(self.listen())
        self.assertIs(self.found(report, "state").status, Status.WARNING)
        self.assertTrue(report.holds)

    async def test_no_state_file_at_all(self) -> None:
        handler = f'{{ configuration_directory: "{self.folder}" }}'
        report = await self.examine(self.listen(), filesystem_handler=handler)
        self.assertIn("somebody else after each start", self.found(report, "state").found)

    async def test_a_state_that_may_not_be_read(self) -> None:
        self.state.unlink()
        self.state.mkdir()
        check, _, _ = self.only_failure(await self.examine(self.listen()))
        self.assertIn(check, ("state", "configuration"))
