from __future__ import annotations

from urllib.parse import quote_plus

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.errors import ConfigError
from fleetspeak.wire.dsn import DataSource, parse, parse_duration

names = st.text(st.characters(codec="utf-8", exclude_characters="/@:?()\0"), min_size=1, max_size=12)
passwords = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
hosts = st.sampled_from(["db", "192.0.2.1", "2001:db8::1", "db.example", "::1"])


class AddressTests(SynchronousTestCase):
    def test_everything(self) -> None:
        source = parse(
            "fs:pw@tcp(db.example:3307)/fleetspeak?charset=utf8mb4,utf8&collation=utf8mb4_bin&timeout=5s"
            "&readTimeout=1m30s&writeTimeout=250ms&tls=skip-verify&maxAllowedPacket=1048576&parseTime=true&loc=UTC"
            "&interpolateParams=true&multiStatements=false&allowNativePasswords=true&allowCleartextPasswords=1"
            "&clientFoundRows=false&sql_mode=%27TRADITIONAL%27&innodb_lock_wait_timeout=7"
        )
        self.assertEqual(
            source,
            DataSource(
                database="fleetspeak",
                user="fs",
                password="pw",
                host="db.example",
                port=3307,
                charset="utf8mb4",
                collation="utf8mb4_bin",
                timeout=5.0,
                read_timeout=90.0,
                write_timeout=0.25,
                tls="skip-verify",
                max_allowed_packet=1048576,
                allow_cleartext_passwords=True,
                variables=(("sql_mode", "'TRADITIONAL'"), ("innodb_lock_wait_timeout", "7")),
            ),
        )

    def test_defaults(self) -> None:
        self.assertEqual(parse("/db"), DataSource(database="db"))
        self.assertEqual(parse("fs@/db"), DataSource(database="db", user="fs"))
        self.assertEqual(parse("tcp/db"), DataSource(database="db"))
        self.assertEqual(parse("fs@(db)/db"), DataSource(database="db", user="fs", host="db"))
        self.assertEqual(parse("tcp(:3307)/db"), DataSource(database="db", port=3307))
        self.assertEqual(parse("unix/db"), DataSource(database="db", socket="/tmp/mysql.sock"))
        self.assertEqual(parse("fs@tcp(db)/db?"), DataSource(database="db", user="fs", host="db"))

    def test_addresses(self) -> None:
        self.assertEqual(parse("root@unix(/run/my/sql.sock)/db").socket, "/run/my/sql.sock")
        self.assertEqual(str(parse("root:pw@unix(/run/my/sql.sock)/db")), "/run/my/sql.sock/db")
        for text, host, port in [("[::1]", "::1", 3306), ("[2001:db8::1]:3307", "2001:db8::1", 3307)]:
            source = parse(f"fs@tcp({text})/db")
            self.assertEqual((source.host, source.port), (host, port))
        self.assertEqual(str(parse("fs@tcp([::1])/db")), "[::1]:3306/db")

    def test_a_password_may_hold_what_separates(self) -> None:
        source = parse("fs:a@b/c:d(e)@tcp(db:1)/fleetspeak")
        self.assertEqual((source.user, source.password, source.host), ("fs", "a@b/c:d(e)", "db"))

    def test_no_password_is_shown(self) -> None:
        source = parse("fs:SECRET@tcp(db)/fleetspeak?init_connect=OTHER")
        self.assertNotIn("SECRET", repr(source) + str(source))
        self.assertNotIn("OTHER", repr(source) + str(source))

    @given(names, passwords, hosts, st.integers(1, 65535), names)
    def test_what_is_put_together_is_taken_apart(
        self, user: str, password: str, host: str, port: int, database: str
    ) -> None:
        address = f"[{host}]" if ":" in host else host
        source = parse(f"{user}:{password}@tcp({address}:{port})/{database}")
        self.assertEqual(source, DataSource(database, user, password, host, port))

    @given(st.text(max_size=40))
    def test_anything_gives_a_source_or_one_clear_error(self, text: str) -> None:
        try:
            self.assertTrue(parse(text).database)
        except ConfigError as error:
            self.assertIn("invalid DSN", str(error))

    def test_the_wrong_ones(self) -> None:
        for text, expected in [
            ("", "missing the slash separating the database name"),
            ("fs:SECRET@tcp(db:3306)", "missing the slash separating the database name"),
            ("fs:SECRET@tcp(db:3306)/", "names no database"),
            ("fs:SECRET@tcp(db:3306)/?tls=true", "names no database"),
            ("fs:SECRET@tcp(db:3306/fleetspeak", "closing parenthesis"),
            ("fs:SECRET@udp(db:3306)/fleetspeak", "neither tcp nor unix"),
            ("fs:SECRET@db:3306/fleetspeak", "neither tcp nor unix"),
            ("fs:SECRET@tcp(db:0)/fleetspeak", "port"),
            ("fs:SECRET@tcp(db:65536)/fleetspeak", "port"),
            ("fs:SECRET@tcp(db:x)/fleetspeak", "port"),
            ("fs:SECRET@tcp(::1)/fleetspeak", "in brackets"),
            ("fs:SECRET@tcp([::1)/fleetspeak", "brackets"),
            ("fs:SECRET@tcp(db)/fleetspeak?timeout=5", "timeout=5: expected a duration such as 30s"),
            ("fs:SECRET@tcp(db)/fleetspeak?tls=custom", "tls=custom: expected one of true, false"),
            ("fs:SECRET@tcp(db)/fleetspeak?parseTime=maybe", "parseTime=maybe: expected true or false"),
            ("fs:SECRET@tcp(db)/fleetspeak?maxAllowedPacket=-1", "expected a number of bytes"),
            ("fs:SECRET@tcp(db)/fleetspeak?charset=a;b", "expected the name of a character set"),
            ("fs:SECRET@tcp(db)/fleetspeak?collation='", "expected the name of a collation"),
            ("fs:SECRET@tcp(db)/fleetspeak?sql_mode=%zz", "not URL-encoded"),
            ("fs:SECRET@tcp(db)/fleetspeak?sql_mode=%ff", "not UTF-8"),
            ("fs:SECRET@tcp(db)/fleetspeak?sql_mode=", "has no value"),
            ("fs:SECRET@tcp(db)/fleetspeak?a b=1", "is no parameter"),
            ("fs:SECRET@tcp(db)/fleetspeak?serverPubKey=k", "use tls=true"),
        ]:
            with self.assertRaises(ConfigError, msg=text) as raised:
                parse(text)
            self.assertIn(expected, str(raised.exception))
            self.assertNotIn("SECRET", str(raised.exception))


class ParameterTests(SynchronousTestCase):
    def test_durations(self) -> None:
        for text, seconds in [("0", 0), ("30s", 30), ("1h2m3s", 3723), ("1.5s", 1.5), ("250ms", 0.25), (".5m", 30)]:
            self.assertEqual(parse_duration(text), seconds)
        self.assertAlmostEqual(parse_duration("3µs"), 3e-6)
        for text in ("", "5", "s", "5 s", "-5s", "5d", "٣s"):
            self.assertRaises(ValueError, parse_duration, text)

    def test_no_limit(self) -> None:
        self.assertIsNone(parse("/db?timeout=0").timeout)

    def test_a_name_without_a_value_is_passed_over(self) -> None:
        self.assertEqual(parse("/db?tls&&x"), DataSource("db"))

    @given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).filter(str.strip))
    def test_values_are_decoded(self, value: str) -> None:
        self.assertEqual(parse(f"/db?sql_mode={quote_plus(value)}").variables, (("sql_mode", value),))

    def test_tls(self) -> None:
        for value, mode in [("1", "true"), ("FALSE", "false"), ("Skip-Verify", "skip-verify"), ("preferred",) * 2]:
            self.assertEqual(parse(f"/db?tls={value}").tls, mode)
