"""GOAWAY is taken out of a stream of frames, and everything else stays as it is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.errors import ProtocolError
from fleetspeak.wire.h2frames import FrameFilter, GoAway
from tests.wire.pieces import CUTS, cut


def frame(kind: int, payload: bytes, stream: int = 0) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, 0]) + stream.to_bytes(4, "big") + payload


def goaway(last: int, code: int, debug: bytes = b"") -> bytes:
    return frame(7, last.to_bytes(4, "big") + code.to_bytes(4, "big") + debug)


ITEMS = st.lists(
    st.tuples(st.integers(0, 6) | st.integers(8, 255), st.binary(max_size=40), st.integers(0, 9))
    | st.builds(GoAway, st.integers(0, 2**31 - 1), st.integers(0, 2**32 - 1)),
    max_size=8,
)


class FrameFilterTests(SynchronousTestCase):
    @given(ITEMS, CUTS)
    def test_whatever_the_cuts_frames_pass_and_notices_come_in_order(
        self, items: list[tuple[int, bytes, int] | GoAway], cuts: list[int]
    ) -> None:
        sent, expected = b"", []
        for item in items:
            if isinstance(item, GoAway):
                sent += goaway(item.last_stream_id, item.error_code, b"debug")
                expected.append(item)
            else:
                sent += frame(*item)
                expected.append(frame(*item))
        sorter, out = FrameFilter(), list[bytes | GoAway]()
        for piece in cut(sent, cuts):
            out += sorter.feed(piece)
        self.assertEqual(_joined(out), _joined(expected))

    def test_notices_that_are_none(self) -> None:
        for wrong in (frame(7, b"short"), frame(7, bytes(8), stream=1), frame(7, bytes(20000))):
            self.assertRaises(ProtocolError, lambda wrong=wrong: list(FrameFilter().feed(wrong)))

    @given(st.binary(max_size=200))
    def test_any_bytes_pass_or_are_refused(self, data: bytes) -> None:
        try:
            list(FrameFilter().feed(data))
        except ProtocolError:
            return


def _joined(items: list[bytes | GoAway]) -> list[bytes | GoAway]:
    """With neighbouring bytes in one piece."""
    joined: list[bytes | GoAway] = []
    for item in items:
        if isinstance(item, bytes) and joined and isinstance(joined[-1], bytes):
            joined[-1] += item
        elif item != b"":
            joined.append(item)
    return joined
