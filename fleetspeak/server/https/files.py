"""``/files/<service>/<name>``: a file of the store."""

from __future__ import annotations

import mimetypes
import os.path
from collections.abc import Callable

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from fleetspeak.core.authorization import Claimed
from fleetspeak.errors import FleetspeakError, NotFound, NotReady, ProtocolError
from fleetspeak.interfaces import IAuthorizer, IOpenFile
from fleetspeak.server.contact.identify import Identity
from fleetspeak.server.files import Files
from fleetspeak.server.https.refusals import Refusals
from fleetspeak.server.https.running import Running
from fleetspeak.server.https.streamrequest import REQUEST_LIMIT, StreamedRequest, show_address
from fleetspeak.server.stats import NO_STATS, ServerStats
from fleetspeak.wire import fileanswer

PREFIX = b"/files/"

PIECE = 64 * 1024
"""Bytes handed to the transport at a time."""

MAX_BODY = 64 * 1024
"""Bytes of a request's body that are passed over."""

REFUSAL_INTERVAL = 60.0
"""Seconds between two lines about clients that may not read files."""

LABELS = b"X-Fleetspeak-Labels"

_TYPES = mimetypes.MimeTypes()
_log = Logger()


class FileServer:
    """Answers requests for files."""

    def __init__(
        self,
        files: Files,
        running: Running,
        clock: IReactorTime,
        authorizer: IAuthorizer | None,
        identity_of: Callable[[StreamedRequest], Identity],
        stats: ServerStats = NO_STATS,
    ) -> None:
        """
        @param authorizer: whom to ask; None: everyone who can connect may read.
        @param identity_of: gives the client of a request.  Raises ProtocolError: it has none.
        """
        self.files = files
        self.running = running
        self.refusals = Refusals(clock)
        self._unauthorized = Refusals(clock, REFUSAL_INTERVAL)
        self._authorizer = authorizer
        self._identity_of = identity_of
        self._stats = stats

    def route(self, request: StreamedRequest) -> Download | None:
        """Make the handler of a request; None if it is answered already."""
        length = request.content_length
        if request.method not in (b"GET", b"HEAD"):
            request.responseHeaders.setRawHeaders(b"Allow", [b"GET, HEAD"])
            self.refusals.refuse(request, None, 405, f"{request.method.decode('ascii', 'replace')} not supported")
        elif length is None or length > MAX_BODY:
            self.refusals.refuse(request, None, 413, "a request for a file has no body")
        elif self._is_allowed(request):
            try:
                service, name = fileanswer.parse_path(request.path)
                return Download(self, request, service, name)
            except ProtocolError as error:
                self.refusals.refuse(request, None, 400, str(error))
        return None

    def _is_allowed(self, request: StreamedRequest) -> bool:
        if self._authorizer is None:
            return True
        try:
            identity = self._identity_of(request)
        except ProtocolError as error:
            self._unauthorized.refuse(request, None, 401, "unauthorized", error)
            return False
        labels = request.requestHeaders.getRawHeaders(LABELS) or ()
        claim = Claimed(identity.client_id, 0, tuple(label.decode("utf-8", "replace") for label in labels))
        address = show_address(request.client)
        if self._authorizer.allow_connection(address) and self._authorizer.allow_contact(address, claim):
            return True
        self._stats.contact_refused("file")
        self._unauthorized.refuse(request, identity, 401, "unauthorized")
        return False


class Download:
    """The handler of one request."""

    def __init__(self, server: FileServer, request: StreamedRequest, service: str, name: str) -> None:
        self._server = server
        self._request = request
        self._service = service
        self._name = name
        self._work: Deferred[None] | None = None
        self._is_paused = False
        self._resumed: Deferred[None] | None = None
        request.set_deadline(REQUEST_LIMIT)

    # -- what the request tells

    def body_received(self, data: bytes) -> None:
        """Nobody wants it."""

    def body_failed(self, error: ProtocolError) -> None:
        """Answer that it cannot be read."""
        self._request.refuse(400, f"error reading body: {error}")

    def body_ended(self) -> None:
        """Answer."""
        self._work = Deferred.fromCoroutine(self._serve())
        self._server.running.track(self._work)
        self._work.addErrback(self._failed)

    def connection_lost(self) -> None:
        """Nobody reads the rest."""
        if self._work is not None:
            self._work.cancel()

    def deadline_passed(self) -> None:
        """Let the peer ask for the rest, if it still wants it."""
        if self._work is not None:
            self._work.cancel()
        self._request.channel.abort()

    def writing_paused(self) -> None:
        """Wait."""
        self._is_paused = True

    def writing_resumed(self) -> None:
        """Go on."""
        self._is_paused = False
        resumed, self._resumed = self._resumed, None
        if resumed is not None:
            resumed.callback(None)

    def drain(self) -> None:
        """The server stops: the file is sent, if it takes no longer than the stop does."""

    # -- the answer

    async def _serve(self) -> None:
        request = self._request
        asked = self._asked()
        file = await self._server.files.open(self._service, self._name)
        try:
            answer = fileanswer.answer(asked, *file.stat)
            if answer.length and request.method != b"HEAD":
                await self._send(file, asked, answer)
            else:
                self._begin(answer)
        finally:
            file.close()
        request.finish_reply()

    async def _send(self, file: IOpenFile, asked: fileanswer.Asked, answer: fileanswer.Answer) -> None:
        # The first piece tells whether it is still the file that was looked at.
        stat, piece = file.stat, await file.read(answer.first, min(PIECE, answer.length))
        if file.stat != stat:
            answer = fileanswer.answer(asked, *file.stat)
            piece = await file.read(answer.first, min(PIECE, answer.length))
        self._begin(answer)
        self._request.send(piece)
        end = answer.first + answer.length
        for start in range(answer.first + PIECE, end, PIECE):
            piece = await file.read(start, min(PIECE, end - start))
            if self._is_paused:
                self._resumed = Deferred()
                await self._resumed
            self._request.send(piece)

    def _asked(self) -> fileanswer.Asked:
        header = self._request.header
        return fileanswer.Asked(
            range=header("Range") if self._request.method == b"GET" else "",
            if_range=header("If-Range"),
            if_match=header("If-Match"),
            if_none_match=header("If-None-Match"),
            if_modified_since=header("If-Modified-Since"),
            if_unmodified_since=header("If-Unmodified-Since"),
        )

    def _begin(self, answer: fileanswer.Answer) -> None:
        headers = list(answer.headers)
        if answer.status != fileanswer.NOT_MODIFIED:
            headers.append(("Content-Length", str(answer.length)))
        if answer.status in (fileanswer.OK, fileanswer.PARTIAL):
            headers += [("Content-Type", _type_of(self._name)), ("X-Content-Type-Options", "nosniff")]
        self._request.begin_reply(answer.status, headers)

    def _failed(self, failure: Failure) -> None:
        error = failure.value
        if isinstance(error, CancelledError):
            return
        request = self._request
        if isinstance(error, NotFound):  # nothing to log: clients ask for a list that few servers have
            request.refuse(404, "file not found")
        elif isinstance(error, NotReady):
            self._server.refusals.refuse(request, None, 503, str(error))
        elif isinstance(error, FleetspeakError):
            self._server.refusals.refuse(request, None, 500, "internal error: the file cannot be read now", error)
        else:
            _log.failure("sending a file of service {service} failed", failure=failure, service=self._service)
            request.refuse(500, "internal error")
        if not request.is_over:  # a part of it is on its way: the peer must see that the rest is missing
            request.channel.abort()


def _type_of(name: str) -> str:
    # By its ending only: what the standard library guesses takes names for URLs.
    ending = os.path.splitext(name)[1].lower()
    return _TYPES.types_map[True].get(ending, "application/octet-stream")
