"""Whose files are believed: root's and our own, if nobody else can write them."""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.config import trust as module
from fleetspeak.config.trust import Trust, Unsafe
from fleetspeak.errors import ConfigError

OTHER = 54321
"""A user that is neither root nor us."""
US = pwd.getpwuid(os.geteuid()).pw_name


class TrustCase(SynchronousTestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.top = Path(folder.name)
        self.folder = self.top / "etc"
        self.folder.mkdir()
        self.file = self.folder / "file"
        self.file.write_bytes(b"content")
        self.trust = Trust()

    def give_away(self, path: Path) -> Trust:
        """Whose files are believed when this one belongs to somebody else."""
        if os.geteuid() == 0:
            os.chown(path, OTHER, -1, follow_symlinks=False)
            return Trust()
        return Trust(OTHER)

    def refusal(self, path: Path, trust: Trust | None = None) -> str:
        """Why that path is refused: a file is opened, a folder looked at."""
        trust = trust or self.trust
        with self.assertRaises(Unsafe) as caught:
            trust.check_folder(path) if path.is_dir() else trust.open(path)
        return str(caught.exception)


class FileTests(TrustCase):
    def test_ours_and_readable_by_all_is_fine(self) -> None:
        self.file.chmod(0o644)
        self.assertEqual(self.trust.read(self.file, 100), b"content")

    def test_no_more_is_read_than_asked_for(self) -> None:
        self.assertEqual(self.trust.read(self.file, 3), b"cont")

    def test_one_that_others_may_write_is_refused_with_mode_owner_and_remedy(self) -> None:
        for mode, who in ((0o664, "its group"), (0o646, "everybody"), (0o666, "everybody")):
            self.file.chmod(mode)
            self.assertEqual(
                self.refusal(self.file),
                f"{self.file} is not safe to use: {who} may write to it (mode {mode:04o}, owner {US}); "
                f"mend it with: chmod go-w {self.file}, or give --insecure-config",
            )

    def test_somebody_elses_is_refused(self) -> None:
        refusal = self.refusal(self.file, self.give_away(self.file))
        self.assertIn("it does not belong to root", refusal)
        self.assertIn("mend it with: chown ", refusal)

    def test_a_link_to_somebody_elses_is_refused(self) -> None:
        link = self.folder / "link"
        link.symlink_to(self.file)
        self.assertEqual(self.trust.read(link, 100), b"content")
        self.assertIn("does not belong", self.refusal(link, self.give_away(self.file)))

    def test_what_is_no_file_is_refused_and_never_waited_for(self) -> None:
        os.mkfifo(self.folder / "pipe")
        for path in (self.folder / "pipe", self.folder, Path("/dev/null")):
            with self.assertRaisesRegex(ConfigError, "expected a file"):
                self.trust.open(path)

    def test_insecure_lets_it_through_and_tells_once(self) -> None:
        self.file.chmod(0o666)
        self.folder.chmod(0o777)
        trust = Trust(insecure=True)
        for _ in range(2):
            self.assertEqual(trust.read(self.file, 100), b"content")
            trust.check_folder(self.folder)
        self.assertEqual(
            trust.complaints(),
            [
                f"{self.file} is not safe to use: everybody may write to it (mode 0666, owner {US})",
                f"{self.folder} is not safe to use: everybody may write to it (mode 0777, owner {US})",
            ],
        )
        self.assertEqual(trust.complaints(), [])

    @given(st.integers(0, 0o7777))
    def test_exactly_those_modes_are_refused_by_which_others_may_write(self, mode: int) -> None:
        found = os.stat_result((stat.S_IFREG | mode, 0, 0, 1, os.geteuid(), 0, 0, 0, 0, 0))
        try:
            Trust()._judge(Path("/x"), found)
        except Unsafe:
            self.assertTrue(mode & 0o022)
        else:
            self.assertFalse(mode & 0o022)


class FolderTests(TrustCase):
    def test_what_a_package_leaves_is_fine(self) -> None:
        self.folder.chmod(0o755)
        self.trust.check_folder(self.folder)

    def test_one_that_others_may_write_is_refused_sticky_or_not(self) -> None:
        for mode in (0o775, 0o777, 0o1777):
            self.folder.chmod(mode)
            refusal = self.refusal(self.folder)
            self.assertIn(f"(mode {mode:04o}", refusal)
            # Nobody is to be told to close /tmp to others.
            self.assertIn("folder of its own" if mode & 0o1000 else f"chmod go-w {self.folder}", refusal)

    def test_a_way_through_a_folder_of_everybody_is_refused_unless_that_is_sticky(self) -> None:
        self.top.chmod(0o777)
        self.assertIn(f"{self.top} is not safe to use", self.refusal(self.folder))
        self.top.chmod(0o1777)
        self.trust.check_folder(self.folder)

    def test_a_way_through_a_folder_of_somebody_else_is_refused(self) -> None:
        self.assertIn("does not belong", self.refusal(self.folder, self.give_away(self.top)))

    def test_the_way_of_a_link_counts_too_on_both_sides(self) -> None:
        (self.top / "open").mkdir()
        link = self.top / "open" / "link"
        link.symlink_to(self.folder)
        self.trust.check_folder(link)
        (self.top / "open").chmod(0o777)
        self.assertIn(f"{self.top / 'open'} is not safe", self.refusal(link))
        (self.top / "open").chmod(0o755)
        self.top.chmod(0o777)
        self.assertIn(f"{self.top} is not safe", self.refusal(link))

    def test_a_link_of_somebody_else_is_refused(self) -> None:
        link = self.top / "link"
        link.symlink_to(self.folder)
        self.assertIn("link", self.refusal(link, self.give_away(link)))

    def test_links_without_end(self) -> None:
        (self.top / "a").symlink_to("b")
        (self.top / "b").symlink_to("a")
        self.assertRaises(OSError, self.trust.check_way_to, self.top / "a" / "x")

    def test_relative_links_and_dots_are_followed(self) -> None:
        (self.folder / "deep").mkdir()
        (self.folder / "deep" / "up").symlink_to("../../etc")
        passed = [place for place, _ in module._way_to(self.folder / "deep" / "up" / "file")]
        self.assertEqual(passed[-4:], [self.folder, self.folder / "deep", self.folder / "deep" / "up", self.folder])

    def test_on_the_way_a_group_of_one_user_may_write(self) -> None:
        """As many systems give each user a group, and folders that it may write."""
        user = pwd.struct_passwd(("alice", "x", OTHER, OTHER, "", "/", "/bin/sh"))
        found = os.stat_result((stat.S_IFDIR | 0o775, 0, 0, 1, OTHER, OTHER, 0, 0, 0, 0))
        trust = Trust(OTHER)
        with patch.object(module.pwd, "getpwuid", return_value=user):
            for members, mode, fine in (([], 0o775, True), (["alice"], 0o775, True), (["bob"], 0o775, False),
                                        ([], 0o777, False)):  # fmt: skip
                found = os.stat_result((stat.S_IFDIR | mode, 0, 0, 1, OTHER, OTHER, 0, 0, 0, 0))
                group = module.grp.struct_group(("alice", "x", OTHER, members))
                with patch.object(module.grp, "getgrgid", return_value=group):
                    try:
                        trust._judge(Path("/x"), found, is_on_the_way=True)
                    except Unsafe:
                        self.assertFalse(fine)
                    else:
                        self.assertTrue(fine)
                    self.assertRaises(Unsafe, trust._judge, Path("/x"), found)

    def test_on_the_way_a_group_without_a_name_is_that_of_the_user_with_its_number(self) -> None:
        trust = Trust(OTHER)
        for gid, fine in ((OTHER, True), (OTHER + 1, False)):
            found = os.stat_result((stat.S_IFDIR | 0o775, 0, 0, 1, OTHER, gid, 0, 0, 0, 0))
            try:
                trust._judge(Path("/x"), found, is_on_the_way=True)
            except Unsafe:
                self.assertFalse(fine)
            else:
                self.assertTrue(fine)
