"""``fleetspeak-admin files``."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path

import grpc

from fleetspeak.pb import operator

from .doubles import ToolTestCase, refuse


class FilesTests(ToolTestCase):
    def file(self, content: bytes) -> str:
        path = Path(self.mktemp())
        path.write_bytes(content)
        return str(path)

    def stored(self) -> operator.FileEntry:
        return operator.FileEntry(service_name="svc", file_name="name", size=3)

    def test_upload(self) -> None:
        content = bytes(range(256)) * 4096 * 5  # 5 MiB
        entry = operator.FileEntry(service_name="svc", file_name="name", size=len(content))
        self.server.replies["UploadFile"] = entry
        self.assertEqual(
            self.succeed("files", "upload", "svc", "name", self.file(content)),
            f"Stored file svc/name, {len(content)} bytes.\n",
        )
        head, *parts = self.server.last.request
        self.assertEqual((head.head.service_name, head.head.file_name), ("svc", "name"))
        self.assertEqual((head.head.size, head.head.sha256), (len(content), hashlib.sha256(content).digest()))
        self.assertEqual(b"".join(part.data for part in parts), content)
        self.assertLessEqual(max(len(part.data) for part in parts), 1 << 20)

    def test_upload_of_nothing(self) -> None:
        self.server.replies["UploadFile"] = self.stored()
        self.succeed("files", "upload", "svc", "name", self.file(b""))
        self.assertEqual(len(self.server.last.request), 1)

    def test_a_progress_bar_for_people(self) -> None:
        self.server.replies["UploadFile"] = self.stored()
        words = ("files", "upload", "svc", "[name]", self.file(b"abc"))
        err = self.run_tool(*words, terminal=True).err
        self.assertIn("svc/[name]", err)
        self.assertIn("3/3 bytes", err)
        self.assertEqual(self.run_tool(*words).err, "")

    def test_a_refused_upload(self) -> None:
        self.server.replies["UploadFile"] = refuse(grpc.StatusCode.INVALID_ARGUMENT, "the file is too large")
        err = self.fail_to("files", "upload", "svc", "name", self.file(b"x" * 3_000_000))
        self.assertIn("UploadFile RPC failed: rpc error: code = InvalidArgument desc = the file is too large", err)

    def test_a_server_that_takes_nothing_is_not_waited_for(self) -> None:
        gone = threading.Event()
        self.addCleanup(gone.set)

        def never(request: object, context: grpc.ServicerContext) -> operator.FileEntry:
            context.add_callback(gone.set)
            gone.wait(30)
            return operator.FileEntry()

        self.server.replies["UploadFile"] = never
        err = self.fail_to("files", "upload", "svc", "name", self.file(b"x"), "--timeout", "0.5")
        self.assertIn("nothing went on for 0.5 s", err)
        self.assertTrue(gone.wait(30))

    def test_what_cannot_be_uploaded(self) -> None:
        self.assertIn("unable to read /nowhere: No such file", self.fail_to("files", "upload", "s", "f", "/nowhere"))
        self.assertIn("unable to read /: Is a directory", self.fail_to("files", "upload", "s", "f", "/"))
        self.assertIn("is no regular file", self.fail_to("files", "upload", "s", "f", "/dev/null"))
        self.assertEqual(self.server.calls, [])

    def test_list(self) -> None:
        self.server.replies["ListFiles"] = operator.ListFilesResponse(files=[self.stored()])
        self.assertEqual(
            json.loads(self.succeed("files", "list", "svc", "--json")),
            {"service": "svc", "file": "name", "size": 3, "modified": None},
        )
        self.assertEqual(self.server.last.request.service_name, "svc")

    def test_delete(self) -> None:
        self.assertEqual(self.succeed("files", "delete", "svc", "name"), "Deleted file svc/name from server.\n")
