"""The access file: what is taken, and what is said of what is not."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.config.addresses import is_loopback
from fleetspeak.config.adminaccess import (
    AdminAccess,
    UnixSocket,
    read_access,
    refuse_exposed,
    with_access,
)
from fleetspeak.config.server import ServerSettings
from fleetspeak.core.adminaccess import Known, Role, token_hash
from fleetspeak.errors import ConfigError
from tests.server.admin.authority import Authority

HASH = token_hash("token").hex()
CALLER = f'caller {{ name: "grr" role: OPERATOR token_sha256: "{HASH}" }}\n'


class AccessCase(SynchronousTestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.path = self.folder / "admin.access"

    def read(self, text: str) -> AdminAccess:
        self.path.write_text(text)
        return read_access(self.path)

    def refused(self, text: str) -> str:
        with self.assertRaises(ConfigError) as caught:
            self.read(text)
        return str(caught.exception)

    def assert_refused(self, text: str, line: int | None, words: str) -> None:
        place = f"{self.path}:{f'{line}:' if line else ''} "
        self.assertEqual(self.refused(text), f"{place}{words}")


class ReadTests(AccessCase):
    def test_everything(self) -> None:
        authority = Authority(self.folder)
        certificate, key = authority.write_server()
        access = self.read(
            f"""
            tls {{
              certificate_file: "server.pem"  # beside this file
              key_file: "{key}"
              client_ca_file: "operators-ca.pem"
              token_address: "0.0.0.0:6062"
            }}
            caller {{ name: "alice" role: ADMIN certificate: "CN:alice" certificate: "URI:spiffe://ops/alice" }}
            {CALLER}
            local_plaintext {{ role: VIEWER address: "localhost:6063" }}
            unix_socket {{ path: "/run/fleetspeak/admin.sock" role: ADMIN group: "ops" }}
            """
        )
        assert access.tls is not None
        self.assertEqual(access.tls.client_ca, authority.pem)
        self.assertEqual(access.tls.certificate, certificate.read_bytes())
        self.assertEqual(
            access.callers,
            (
                Known("alice", Role.ADMIN, ("CN:alice", "URI:spiffe://ops/alice")),
                Known("grr", Role.OPERATOR, (), (token_hash("token"),)),
            ),
        )
        self.assertEqual((access.token_address, access.local_address), (("0.0.0.0", 6062), ("localhost", 6063)))
        self.assertEqual(access.local_role, Role.VIEWER)
        self.assertEqual(access.unix_socket, UnixSocket(Path("/run/fleetspeak/admin.sock"), Role.ADMIN, "ops"))
        self.assertEqual(set(access.paths), {self.path, certificate, key, authority.path})

    def test_tokens_alone(self) -> None:
        access = self.read(CALLER)
        self.assertEqual((access.tls, access.local_role), (None, Role.NOBODY))

    def test_it_does_not_show_keys(self) -> None:
        Authority(self.folder).write_server()
        access = self.read(f'tls {{ certificate_file: "server.pem" key_file: "server-key.pem" }}\n{CALLER}')
        self.assertNotIn("PRIVATE", repr(access))


class RefusedTests(AccessCase):
    def test_what_is_no_text_format(self) -> None:
        self.assertIn(
            f"{self.path}:2:1: fleetspeak.operator.AdminAccess has no field callers", self.refused("\ncallers {}")
        )

    def test_nobody(self) -> None:
        for text in ("", 'tls { certificate_file: "server.pem" key_file: "server-key.pem" }'):
            Authority(self.folder).write_server()
            self.assert_refused(
                text, None, 'nobody may do anything; expected caller { name: "..." role: ADMIN ... } at least once'
            )

    def test_callers(self) -> None:
        for caller, words in (
            (f'role: ADMIN token_sha256: "{HASH}"', "caller [0]: name must have 1 to 128 printable characters"),
            (
                f'name: "a\\n" role: ADMIN token_sha256: "{HASH}"',
                'caller "a\n": name must have 1 to 128 printable characters',
            ),
            (
                f'name: "a" token_sha256: "{HASH}"',
                'caller "a": role is missing; expected VIEWER, OPERATOR or ADMIN',
            ),
            ('name: "a" role: ADMIN', 'caller "a": expected certificate or token_sha256 at least once'),
            (
                'name: "a" role: ADMIN token_sha256: "token"',
                'caller "a": token_sha256 is no SHA-256 in hexadecimal; make a token with: fleetspeak admin-token NAME',
            ),
            (
                'name: "a" role: ADMIN certificate: "alice"',
                'caller "a": a certificate is named such as "CN:alice"; kinds are CN:, DNS:, EMAIL:, URI:',
            ),
            (
                'name: "a" role: ADMIN certificate: "CN:alice"',
                'caller "a": callers are asked for certificates only with tls { client_ca_file: ... }',
            ),
        ):
            self.assert_refused(f"# first line\ncaller {{ {caller} }}", 2, words)

    def test_one_name_and_one_token_for_one_caller(self) -> None:
        text = self.refused(CALLER + CALLER)
        self.assertIn('caller "grr": its name is there already, in caller "grr"', text)
        text = self.refused(CALLER + CALLER.replace("grr", "other"))
        self.assertIn(':2: caller "other": one of its tokens is there already, in caller "grr"', text)

    def test_tls(self) -> None:
        authority = Authority(self.folder)
        _, key = authority.write_server()
        Authority(self.folder, "others").write_server("theirs")

        def tls_with(key_file: str, rest: str) -> str:
            return f'tls {{ certificate_file: "server.pem" key_file: "{key_file}" {rest} }}\n{CALLER}'

        self.assert_refused('tls { key_file: "k" }\n' + CALLER, 1, "certificate_file is missing")
        self.assertIn("do not belong together", self.refused(tls_with("theirs-key.pem", "")))
        self.assertIn("unable to read", self.refused(tls_with("gone.pem", "")))
        self.assertIn(
            "it is needed with client_ca_file only: without, all use tokens",
            self.refused(tls_with("server-key.pem", 'token_address: "localhost:1"')),
        )
        self.assertIn(
            "is not an address",
            self.refused(tls_with("server-key.pem", 'client_ca_file: "operators-ca.pem" token_address: "nowhere"')),
        )
        (self.folder / "empty.pem").touch()
        self.assertIn("empty.pem", self.refused(tls_with("server-key.pem", 'client_ca_file: "empty.pem"')))
        key.chmod(0o644)
        self.assertEqual(
            self.refused(tls_with("server-key.pem", "")),
            f"{key} is a key that everybody may read; mend it with: chmod o-rw {key}",
        )

    def test_an_authority_that_others_may_write(self) -> None:
        """Else they could issue themselves any certificate."""
        authority = Authority(self.folder)
        authority.write_server()
        files = 'certificate_file: "server.pem" key_file: "server-key.pem" client_ca_file: "operators-ca.pem"'
        text = f"tls {{ {files} }}\n{CALLER}"
        self.read(text)
        authority.path.chmod(0o666)
        self.assertIn(f"{authority.path} is not safe to use: everybody may write to it", self.refused(text))

    def test_local(self) -> None:
        self.assert_refused("local_plaintext {}", 1, "role is missing; expected VIEWER, OPERATOR or ADMIN")
        self.assert_refused(
            'local_plaintext { role: ADMIN address: "0.0.0.0:1" }',
            1,
            "local_plaintext is for this machine only; expected localhost:PORT",
        )
        self.assert_refused(
            'local_plaintext { role: ADMIN address: "localhost:1" }',
            1,
            "without tls the admin port is in plaintext itself; leave the address out",
        )

    def test_sockets(self) -> None:
        expected = "path: expected an absolute path of at most 100 bytes"
        self.assert_refused('unix_socket { path: "admin.sock" role: ADMIN }', 1, expected)
        self.assert_refused(f'unix_socket {{ path: "/{"s" * 100}" role: ADMIN }}', 1, expected)
        self.assert_refused('unix_socket { path: "/s" }', 1, "role is missing; expected VIEWER, OPERATOR or ADMIN")

    def test_a_file_that_others_may_write(self) -> None:
        self.path.write_text(CALLER)
        self.path.chmod(0o666)
        with self.assertRaises(ConfigError) as caught:
            read_access(self.path)
        text = str(caught.exception)
        self.assertIn("is not safe to use: everybody may write to it", text)
        self.assertTrue(text.endswith(f"mend it with: chmod go-w {self.path}"), text)

    def test_a_folder_that_others_may_write(self) -> None:
        self.path.write_text(CALLER)
        self.folder.chmod(0o777)
        with self.assertRaises(ConfigError):
            read_access(self.path)

    def test_no_file(self) -> None:
        with self.assertRaises(ConfigError) as caught:
            read_access(self.path)
        self.assertEqual(str(caught.exception), f"unable to read the access file {self.path}: {os.strerror(2)}")

    @given(st.text())
    def test_any_text_gives_settings_or_one_clear_error(self, text: str) -> None:
        self.path.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            read_access(self.path)
        except ConfigError as error:
            self.assertIn(str(self.path), str(error))


class ExposureTests(SynchronousTestCase):
    """Plaintext only on loopback, unless told otherwise in so many words."""

    TLS = AdminAccess(tls=object())  # type: ignore[arg-type]

    def test_loopback(self) -> None:
        for host in ("localhost", "127.0.0.1", "127.8.9.1", "::1"):
            self.assertTrue(is_loopback(host), host)
            refuse_exposed((host, 1), None, False)
        for host in ("", "0.0.0.0", "::", "192.0.2.1", "fleet.example", "localhost.example"):
            self.assertFalse(is_loopback(host), host)

    def test_what_others_reach_is_refused_with_what_to_do(self) -> None:
        with self.assertRaises(ConfigError) as caught:
            refuse_exposed(("0.0.0.0", 9000), None, False)
        self.assertEqual(
            str(caught.exception),
            'failed to initialize admin server: the admin port is to listen on "0.0.0.0:9000", which is not only this '
            "machine, in plaintext: everybody who reaches it could do everything. Do one of these: let it listen on "
            "localhost:9000; give --admin-access FILE with tls { certificate_file: ... key_file: ... }; or, if your "
            "network keeps all others away from it, give --admin-plaintext-anywhere",
        )

    def test_tokens_in_plaintext_are_refused_too(self) -> None:
        with self.assertRaises(ConfigError) as caught:
            refuse_exposed(("", 9000), AdminAccess(), False)
        self.assertIn("tokens could be read by everybody on the way", str(caught.exception))
        self.assertIn("in the file of --admin-access tls {", str(caught.exception))

    def test_with_tls_or_in_so_many_words(self) -> None:
        refuse_exposed(("0.0.0.0", 9000), self.TLS, False)
        refuse_exposed(("0.0.0.0", 9000), None, True)

    def test_without_an_admin_port(self) -> None:
        settings = ServerSettings()
        self.assertIs(with_access(settings, None, False), settings)
        with self.assertRaises(ConfigError):
            with_access(settings, "/file", False)
