"""The options of ``twistd fleetspeak-client``: what cannot work is one clear line and exit status 1."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from twisted.application.service import IService, IServiceMaker
from twisted.plugin import getPlugins
from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.client.tap import Options, makeService, overridden, settings_of
from fleetspeak.config.hardcoded import parse
from fleetspeak.errors import ConfigError
from fleetspeak.security.certificates import make_authority, to_pem


class OptionsTests(SynchronousTestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.authority = self.folder / "ca.pem"
        self.pem = to_pem(make_authority("test", 1_700_000_000.0)[0])
        self.authority.write_text(self.pem)

    def options(self, *arguments: str) -> Options:
        options = Options()
        options.parseOptions(list(arguments))
        return options

    def refusal(self, *arguments: str) -> str:
        error = self.assertRaises(SystemExit, makeService, self.options(*arguments))
        line = str(error)
        self.assertNotIn("\n", line, "one line")
        prefix = "fleetspeak-client: Stopped due to unrecoverable error: "
        self.assertTrue(line.startswith(prefix), line)
        return line.removeprefix(prefix)

    def refused_file(self, text: str) -> str:
        path = self.folder / "client.config"
        path.write_text(text)
        return self.refusal("--config", str(path))

    def file(self, **changes: str) -> str:
        fields = {
            "trusted_certs": '"{}"'.format(self.pem.replace("\n", "\\n")),
            "server": '"localhost:4443"',
            "filesystem_handler": f'{{ configuration_directory: "{self.folder}" state_file: "{self.folder}/state" }}',
        }
        return "\n".join(f"{name}: {value}" for name, value in (fields | changes).items() if value)

    def test_twistd_knows_the_command(self) -> None:
        makers = {maker.tapname: maker for maker in getPlugins(IServiceMaker)}
        self.assertEqual(makers["fleetspeak-client"].module, "fleetspeak.client.tap")

    def test_the_small_set_up(self) -> None:
        config_path = self.folder / "own"
        options = self.options(
            f"--trusted-cert-file={self.authority}",
            "--server=first:1",
            "--server=second:2",
            f"--config-path={config_path}",
        )
        settings = settings_of(options)
        self.assertEqual(settings.servers, (("first", 1), ("second", 2)))
        self.assertEqual(settings.configuration_directory, config_path)
        self.assertTrue(IService.providedBy(makeService(options)))
        self.assertFalse((config_path / "state").exists(), "nothing is kept before the service starts")

    def test_the_spool(self) -> None:
        given = ("--trusted-cert-file", str(self.authority), "--server=a:1", f"--config-path={self.folder}")
        self.assertEqual(256 << 20, settings_of(self.options(*given)).spool_limit)
        self.assertEqual(64 << 20, settings_of(self.options(*given, "--spool-limit=64MiB")).spool_limit)
        self.assertIsNone(settings_of(self.options(*given, "--no-spool")).spool_limit)
        self.assertIn("at least 1MiB", self.refusal(*given, "--spool-limit=1000"))
        self.assertIn("--spool-limit: no size: 'much'", self.refusal(*given, "--spool-limit=much"))
        self.assertIn("goes without --no-spool", self.refusal(*given, "--spool-limit=64MiB", "--no-spool"))

    def test_the_file_of_the_go_client(self) -> None:
        path = self.folder / "client.config"
        path.write_text(self.file(streaming="true"))
        self.assertTrue(settings_of(self.options("--config", str(path))).streaming)

    def test_item_7_start_errors(self) -> None:
        self.assertIn("give --config FILE, or both", self.refusal())
        self.assertIn("give --config FILE, or both", self.refusal("--server=localhost:1"))
        self.assertIn("--config goes without --server", self.refusal("--config=x", "--server=localhost:1"))
        self.assertIn('unable to read configuration file "/none"', self.refusal("--config=/none"))
        for text, problem in [
            (self.file() + "\nno_such_field: 1", ":4:"),
            (self.file(trusted_certs=""), "unable to parse trusted_certs"),
            (self.file(trusted_certs='"rubbish"'), "unable to parse trusted_certs"),
            (self.file(server=""), "no server provided"),
            (self.file(filesystem_handler=""), "persistence_handler is required"),
            (self.file(filesystem_handler='{ configuration_directory: "/none" }'), '"/none" does not exist'),
            (
                self.file(filesystem_handler=f'{{ configuration_directory: "{self.folder}" state_file: "/none/s" }}'),
                '"/none" does not exist',
            ),
            (self.file(proxy='":bad"'), "unable to parse proxy"),
        ]:
            self.assertIn(problem, self.refused_file(text))

    def test_item_7_an_unknown_flag_is_a_usage_error(self) -> None:
        self.assertRaises(UsageError, self.options, "--no-such-flag")

    def test_deployment_keys_are_read(self) -> None:
        refusal = self.refusal(
            f"--trusted-cert-file={self.authority}",
            "--server=a:1",
            f"--config-path={self.folder}",
            f"--deployment-key-file={self.authority}",
        )
        self.assertIn("BEGIN PUBLIC KEY", refusal)

    def test_insecure_config_lets_through_what_others_could_have_written(self) -> None:
        path = self.folder / "client.config"
        path.write_text(self.file())
        path.chmod(0o666)
        self.assertIn("is not safe to use", self.refusal("--config", str(path)))
        settings = settings_of(self.options("--config", str(path), "--insecure-config"))
        self.assertIn("is not safe to use", settings.warnings[0])

    def test_under_twistd_files_of_the_user_that_it_becomes_are_fine(self) -> None:
        options = self.options("--config", str(self.folder / "client.config"))
        options.parent = {"uid": 12345}
        (self.folder / "client.config").write_text(self.file())
        if os.geteuid() == 0:
            os.chown(self.folder / "client.config", 12345, -1)
            settings_of(options)
            options.parent = {"uid": None}
        self.assertRaises(ConfigError, settings_of, options)

    def test_a_configuration_that_is_read_again_is_found_from_elsewhere(self) -> None:
        (self.folder / "client.config").write_text(self.file())
        self.assertTrue(settings_of(self.options("--config", "client.config"), self.folder).servers)

    def test_hardcoded_options_count_more_than_the_command_line(self) -> None:
        options = self.options("--config=mine", "--deployment-key-file=mine")
        found = parse({"OPTIONS": {"config": "theirs", "deployment_key_file": ["theirs"], "insecure_config": True}})
        overridden(options, found)
        self.assertEqual(
            (options["config"], options["deployment-key-file"], options["insecure-config"]),
            ("theirs", ["theirs"], True),
        )

    def test_hardcoded_options_that_there_are_not(self) -> None:
        for value, problem in (
            ({"confg": "x"}, "confg: there is no such option; did you mean config?"),
            ({"server": "x"}, "server: expected a list"),
            ({"config": ["x"]}, "expected one value"),
        ):
            error = self.assertRaises(ConfigError, overridden, self.options(), parse({"OPTIONS": value}))
            self.assertIn(problem, str(error))

    def test_hardcoded_certificates_and_servers_need_no_flags(self) -> None:
        found = parse({"TRUSTED_CERTS": self.pem, "SERVERS": ["a:1"]})
        settings = settings_of(self.options(), self.folder, found)
        self.assertEqual(settings.state_file, self.folder / "fleetspeak-client" / "state")
        whole = parse({"CONFIG": self.file()})
        self.assertEqual(settings_of(self.options(), self.folder, whole).state_file, self.folder / "state")

    def test_limits_of_stdin_services(self) -> None:
        small = (f"--trusted-cert-file={self.authority}", "--server=a:1", f"--config-path={self.folder / 'own'}")
        settings = settings_of(self.options(*small, "--stdin-time-limit=1.5", "--stdin-output-limit=100"))
        self.assertEqual((settings.stdin_time_limit, settings.stdin_output_limit), (1.5, 100))
        settings = settings_of(self.options(*small))
        self.assertEqual((settings.stdin_time_limit, settings.stdin_output_limit), (None, None))
        self.assertEqual(
            self.refusal(*small, "--stdin-time-limit=soon"), "stdin-time-limit is 'soon', expected a number"
        )
        self.assertIn("stdin-output-limit is 0, expected bytes", self.refusal(*small, "--stdin-output-limit=0"))
