"""What a client service may use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from fleetspeak.client.files import MAX_FILE, PATIENCE, Files
from fleetspeak.client.labels import Labels
from fleetspeak.client.process.leftover import LeftOver
from fleetspeak.client.router import Router
from fleetspeak.client.stats import Stats
from fleetspeak.ids import ClientId
from fleetspeak.interfaces import IClientServiceContext
from fleetspeak.pb import common
from fleetspeak.records import FetchedFile


@implementer(IClientServiceContext)
class ServiceContext:
    """See `IClientServiceContext`."""

    def __init__(
        self,
        service_name: str,
        reactor: Any,
        labels: Labels,
        *,
        router: Router,
        files: Files,
        client_id: Callable[[], ClientId],
        service_names: Callable[[], list[str]],
        stats: Stats,
        std_forward: bool,
        child_variables: Mapping[str, str],
        left_over: LeftOver,
    ) -> None:
        self.service_name = service_name
        self.reactor = reactor
        self._labels = labels
        self.service_names = service_names
        self.stats = stats
        self.std_forward = std_forward
        """Attach children to the client's own stdin, stdout and stderr; an aid for testing."""
        self.child_variables = child_variables
        """By which the client finds its children after it was killed."""
        self.left_over = left_over
        """Messages that an earlier process of this service has not dealt with."""
        self._router = router
        self._files = files
        self._client_id = client_id

    @property
    def spooled(self) -> bool:
        """Is an accepted message on the disk?"""
        return self._router.spooled

    @property
    def labels(self) -> tuple[str, ...]:
        """The current ones; a reload of the configuration may change them."""
        return self._labels.all

    @property
    def client_id(self) -> ClientId:
        """The current one; a rekey changes it."""
        return self._client_id()

    def send(self, message: common.Message, on_ack: Callable[[], None] | None = None) -> Deferred[None]:
        """See `IClientServiceContext.send`."""
        return self._router.send(self.service_name, message, on_ack)

    def get_file(
        self,
        name: str,
        path: Path,
        *,
        since: float | None = None,
        max_bytes: int = MAX_FILE,
        timeout: float = PATIENCE,
    ) -> Deferred[FetchedFile | None]:
        """See `IClientServiceContext.get_file`."""
        return self._files.fetch(self.service_name, name, path, since=since, max_bytes=max_bytes, timeout=timeout)
