"""The command line of the server."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from unittest import mock

from twisted.plugin import IPlugin, getPlugins
from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

import fleetspeak.plugins
from fleetspeak.config.server import ServerSettings
from fleetspeak.core.adminaccess import Role
from fleetspeak.errors import ConfigError
from fleetspeak.interfaces import IFileStore, IServerServiceFactory
from fleetspeak.records import RetryLimits
from fleetspeak.server import tap

COMPONENTS = """
https_config { listen_address: "127.0.0.1:0" certificates: "c" key: "k" }
admin_config { listen_address: "localhost:0" }
"""

SERVICES = """
services { name: "sink" factory: "NOOP" }
services {
  name: "keep" factory: "MessageSaver"
  config { [type.googleapis.com/google.protobuf.StringValue] { value: "/tmp/x" } }
}
"""


class OptionsTests(SynchronousTestCase):
    def parse(self, *arguments: str) -> tap.Options:
        options = tap.Options()
        options.parseOptions(arguments)
        return options

    def test_upstreams_names_and_ours_mean_the_same(self) -> None:
        for first, second in (
            ("--components_config", "--services_config"),
            ("--components-config", "--services-config"),
        ):
            options = self.parse(first, "a", f"{second}=b_c")
            self.assertEqual((options["components-config"], options["services-config"]), ("a", "b_c"))

    def test_a_value_keeps_its_underscores(self) -> None:
        options = self.parse("--database-path=--x_y", "--https_addr=:1")
        self.assertEqual((options["database-path"], options["https-addr"]), ("--x_y", ":1"))

    def test_how_long_to_keep_what_only_grows(self) -> None:
        self.assertEqual(self.parse().keep, [])
        options = self.parse("--keep", "messages=7d", "--keep=pending-messages=52w")
        self.assertEqual(options.keep, ["messages=7d", "pending-messages=52w"])
        for wrong in ("messages=7", "files=7d", "messages=1h"):
            error = self.assertRaises(UsageError, self.parse, "--keep=messages=7d", f"--keep={wrong}")
            self.assertIn(wrong, str(error))
        self.assertIn("--keep", str(options))

    def test_what_does_not_go_together_is_refused(self) -> None:
        self.assertRaises(UsageError, self.parse, "--components-config=a")
        for name in ("https-addr", "admin-addr"):
            error = self.assertRaises(
                UsageError, self.parse, "--components-config=a", "--services-config=b", f"--{name}=:1"
            )
            self.assertIn(name, str(error))
        self.assertRaises(UsageError, self.parse, "--unknown=a")
        self.assertRaises(UsageError, self.parse, "leftover")

    def test_how_long_messages_are_tried(self) -> None:
        """By default for ever, and once a day at least."""
        for arguments, limits in (
            ((), RetryLimits(86_400 * 10**9, None, None)),
            (("--retry-max-delay=3600", "--retry_max_age=0.5"), RetryLimits(3600 * 10**9, 5 * 10**8, None)),
            (("--retry-max-attempts", "2"), RetryLimits(86_400 * 10**9, None, 2)),
        ):
            self.assertEqual(tap.settings_of_retries(self.parse(*arguments)), limits)
        for wrong in ("delay=119", "delay=nan", "delay=x", "age=0", "age=-1", "age=inf", "attempts=1", "attempts=2.5"):
            self.assertRaises(UsageError, self.parse, f"--retry-max-{wrong}")

    def test_stores_of_files(self) -> None:
        options = self.parse("--file-store", "a=directory:/x=y:z", "--file_store=b=other:")
        self.assertEqual(options.file_stores, {"a": ("directory", "/x=y:z"), "b": ("other", "")})
        for wrong in ("a", "a=directory", "=directory:/x"):
            self.assertRaises(UsageError, self.parse, "--file-store", wrong)
        self.assertRaises(UsageError, self.parse, "--file-store=a=directory:/", "--file-store=a=directory:/")
        self.assertIn("--file-store", str(options))

    def test_stores_of_files_are_made(self) -> None:
        found = tap.file_stores_of(self.parse("--file-store=a=directory:/"), object())
        verifyObject(IFileStore, found["a"])
        for store, said in (("directory:/no/such/folder", "does not exist"), ("cupboard:/", "there is no cupboard")):
            error = self.assertRaises(ConfigError, tap.file_stores_of, self.parse(f"--file-store=a={store}"), object())
            self.assertIn(said, str(error))
            self.assertIn("--file-store a", str(error))

    def test_one_database(self) -> None:
        error = self.assertRaises(UsageError, self.parse, "--store=sqlite:a", "--database-path=b")
        self.assertIn("two databases", str(error))

    def test_help_is_the_reference(self) -> None:
        text = str(tap.Options())
        for words in ("--components-config=", "--database-path=", "fleetspeak.sqlite", "localhost:6061", ":4443"):
            self.assertIn(words, text)


class SettingsTests(SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        (self.folder / "components").write_text(COMPONENTS)
        (self.folder / "services").write_text(SERVICES)

    def options(self, **given: str) -> tap.Options:
        options = tap.Options()
        options.parseOptions([f"--{name.replace('_', '-')}={value}" for name, value in given.items()])
        return options

    def test_without_files(self) -> None:
        settings = tap.settings_of(self.options(database_path=str(self.folder / "x.sqlite")))
        self.assertEqual(settings.https_address, ("", 4443))
        self.assertEqual(settings.admin_address, ("localhost", 6061))
        self.assertIn("fleetspeak-client --trusted-cert-file", settings.announcement)
        self.assertTrue((self.folder / "x-ca.pem").exists())

    def test_plug_ins_are_chosen(self) -> None:
        """The certificates are then where they are by default: in the working folder."""
        before = Path.cwd()
        os.chdir(self.folder)
        self.addCleanup(os.chdir, before)
        settings = tap.settings_of(self.options(store="sqlite:elsewhere.sqlite", authorizer="label:corp"))
        self.assertEqual((settings.store, settings.authorizer), ("sqlite:elsewhere.sqlite", "label:corp"))
        self.assertIsNone(settings.database_path)
        self.assertTrue((self.folder / "fleetspeak-ca.pem").exists())
        components = {"components_config": str(self.folder / "components")}
        services = {"services_config": str(self.folder / "services")}
        settings = tap.settings_of(self.options(store="mysql:x", authorizer="all", **components, **services))
        self.assertEqual((settings.store, settings.authorizer), ("mysql:x", "all"))

    def test_without_an_admin_api(self) -> None:
        path = str(self.folder / "x.sqlite")
        self.assertIsNone(tap.settings_of(self.options(database_path=path, admin_addr="")).admin_address)

    def test_services_without_a_components_file(self) -> None:
        options = self.options(
            database_path=str(self.folder / "x.sqlite"), services_config=str(self.folder / "services")
        )
        list(getPlugins(IServerServiceFactory, fleetspeak.plugins))
        self.assertEqual([service.name for service in tap.settings_of(options).services], ["sink", "keep"])

    def test_with_upstreams_two_files(self) -> None:
        options = self.options(
            components_config=str(self.folder / "components"),
            services_config=str(self.folder / "services"),
            database_path=str(self.folder / "y.sqlite"),
        )
        settings = tap.settings_of(options)
        self.assertEqual(settings.database_path, self.folder / "y.sqlite")
        self.assertEqual(len(settings.services), 2)

    def test_a_configuration_that_cannot_work_is_one_line_and_status_1(self) -> None:
        options = self.options(database_path=str(self.folder / "no" / "x.sqlite"))
        error = self.assertRaises(SystemExit, tap.makeService, options)
        self.assertIsInstance(error.code, str, "which Python prints to stderr, with status 1")
        self.assertTrue(str(error.code).startswith("fleetspeak-server: "))
        self.assertNotIn("\n", str(error.code))
        with mock.patch.object(tap, "make_server", side_effect=ConfigError("bad service")):
            options = self.options(database_path=str(self.folder / "x.sqlite"))
            error = self.assertRaises(SystemExit, tap.makeService, options)
        self.assertEqual(error.code, "fleetspeak-server: bad service")

    def start(self, *words: str) -> object:
        """What makeService exits with, or the settings of the server that it makes."""
        options = tap.Options()
        options.parseOptions([f"--database-path={self.folder / 'x.sqlite'}", *words])
        with mock.patch.object(tap, "make_server") as make_server:
            try:
                tap.makeService(options)
            except SystemExit as end:
                return end.code
        return make_server.call_args.args[0]

    def test_plaintext_for_others_must_be_said_in_so_many_words(self) -> None:
        """Also with a components file of the Go server, which would have started."""
        components = self.folder / "exposed"
        components.write_text('admin_config { listen_address: "0.0.0.0:6061" }')
        files = [f"--components-config={components}", f"--services-config={self.folder / 'services'}"]
        for words in (["--admin-addr=0.0.0.0:6061"], files):
            said = str(self.start(*words))
            self.assertIn("--admin-plaintext-anywhere", said)
            self.assertIn("let it listen on localhost:6061", said)
            settings = self.start("--admin-plaintext-anywhere", *words)
            assert isinstance(settings, ServerSettings), settings
            self.assertEqual(settings.admin_address, ("0.0.0.0", 6061))

    def test_an_access_file(self) -> None:
        access = self.folder / "admin.access"
        access.write_text("local_plaintext { role: VIEWER }")
        settings = self.start(f"--admin-access={access}")
        assert isinstance(settings, ServerSettings), settings
        assert settings.admin_access is not None
        self.assertEqual(settings.admin_access.local_role, Role.VIEWER)
        self.assertIn("tokens could be read", str(self.start(f"--admin-access={access}", "--admin-addr=:6061")))
        self.assertIn("there is no admin port", str(self.start(f"--admin-access={access}", "--admin-addr=")))
        access.write_text("x {}")
        self.assertIn(f"{access}:1:1: ", str(self.start(f"--admin-access={access}")))


class PluginTests(SynchronousTestCase):
    def test_the_built_in_factories_are_plug_ins(self) -> None:
        found = {factory.name: factory for factory in getPlugins(IServerServiceFactory, fleetspeak.plugins)}
        self.assertLessEqual({"GRPC", "NOOP", "MessageSaver", "CPS"}, set(found))
        for factory in found.values():
            verifyObject(IServerServiceFactory, factory)
            verifyObject(IPlugin, factory)
            self.assertTrue(factory.help)

    def test_cloud_pub_sub_is_refused_clearly(self) -> None:
        [factory] = [f for f in getPlugins(IServerServiceFactory, fleetspeak.plugins) if f.name == "CPS"]
        error = self.assertRaises(ConfigError, factory.make, None, mock.Mock(service_name="cloud"))
        self.assertIn("[CPS] (Cloud Pub/Sub) is not supported", str(error))
