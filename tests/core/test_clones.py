"""When a state looks like a copy, and when it was only moved, renamed or rekeyed."""

from __future__ import annotations

from dataclasses import fields, replace

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.core.clones import Note, parse, suspicion, updated

HERE = Note(client_id="01", machine="m", hardware="h", hostname="alpha", path="/var/state")
NOTES = st.builds(Note, **{field.name: st.sampled_from(["", "x", "y"]) for field in fields(Note)})


class SuspicionTests(SynchronousTestCase):
    def suspicion(self, *, is_still_there: bool = False, **changes: str) -> str:
        return suspicion(replace(HERE, **changes), HERE, is_still_there=is_still_there)

    def test_the_same_place_another_name_and_a_state_that_was_moved_are_none(self) -> None:
        self.assertEqual(self.suspicion(), "")
        self.assertEqual(self.suspicion(hostname="beta"), "")
        self.assertEqual(self.suspicion(path="/old/state"), "")
        self.assertEqual(suspicion(Note(), HERE, is_still_there=True), "")

    def test_another_machine_or_other_hardware(self) -> None:
        for changes in ({"machine": "n"}, {"hardware": "i"}):
            reason = self.suspicion(hostname="beta", **changes)
            self.assertEqual(reason, "it was used before on another machine, beta")

    def test_what_is_not_known_proves_nothing(self) -> None:
        self.assertEqual(self.suspicion(machine="", hardware=""), "")
        self.assertEqual(suspicion(HERE, replace(HERE, machine="", hardware=""), is_still_there=False), "")

    def test_the_same_identity_at_the_old_path(self) -> None:
        self.assertEqual(self.suspicion(path="/old", is_still_there=True), "the same identity is in /old")

    def test_another_identity_was_not_copied(self) -> None:
        self.assertEqual(self.suspicion(client_id="02", machine="n", path="/old", is_still_there=True), "")

    @given(NOTES, NOTES)
    def test_once_noted_there_is_no_suspicion(self, noted: Note, here: Note) -> None:
        if not suspicion(noted, here, is_still_there=False):
            note = updated(noted, here)
            self.assertEqual(suspicion(note, here, is_still_there=False), "")
            self.assertEqual(updated(note, here), note)

    @given(NOTES)
    def test_notes_are_read_as_they_were_written(self, note: Note) -> None:
        self.assertEqual(parse(note.dump()), note)

    @given(st.binary() | st.sampled_from([b"[]", b"{}", b'{"client_id": 1}', b"[" * 100_000]))
    def test_anything_else_is_an_empty_note(self, data: bytes) -> None:
        self.assertEqual(parse(data), Note())
