"""Page tokens: what was made is read, and nothing else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.core.pagetokens import MAX_TOKEN, Part, decode, encode, fingerprint

MARK = fingerprint(b"a request")
parts = st.one_of(st.integers(-(2**63), 2**63 - 1), st.binary(max_size=40), st.text(max_size=40))
kinds = st.lists(st.sampled_from([int, bytes, str]), max_size=4)


class TokenTests(SynchronousTestCase):
    @given(st.lists(parts, max_size=5))
    def test_what_was_made_is_read(self, key: list[Part]) -> None:
        self.assertEqual(decode(MARK, encode(MARK, key), [type(part) for part in key]), tuple(key))

    @given(st.lists(parts, max_size=3))
    def test_only_for_the_same_request(self, key: list[Part]) -> None:
        token = encode(MARK, key)
        with self.assertRaisesRegex(ValueError, "another request"):
            decode(fingerprint(b"another request"), token, [type(part) for part in key])

    @given(st.text(), kinds)
    def test_any_text_is_refused(self, token: str, kinds: list[type[Part]]) -> None:
        with self.assertRaises(ValueError):
            decode(MARK, token, kinds)

    @given(st.binary(max_size=100), kinds)
    def test_any_bytes_give_a_key_of_the_kinds_or_a_value_error(self, body: bytes, kinds: list[type[Part]]) -> None:
        import base64

        token = base64.urlsafe_b64encode(MARK + body).decode().rstrip("=")
        try:
            key = decode(MARK, token, kinds)
        except ValueError:
            return
        self.assertEqual([type(part) for part in key], kinds)
        self.assertEqual(encode(MARK, key), token)

    @given(st.lists(parts, min_size=1, max_size=3), st.data())
    def test_one_changed_character(self, key: list[Part], data: st.DataObject) -> None:
        token = encode(MARK, key)
        place = data.draw(st.integers(0, len(token) - 1))
        changed = token[:place] + data.draw(st.characters()) + token[place + 1 :]
        try:
            found = decode(MARK, changed, [type(part) for part in key])
        except ValueError:
            return
        self.assertEqual(encode(MARK, found), changed)

    def test_an_endless_token(self) -> None:
        with self.assertRaisesRegex(ValueError, "too long"):
            decode(MARK, "A" * (MAX_TOKEN + 1), [int])
