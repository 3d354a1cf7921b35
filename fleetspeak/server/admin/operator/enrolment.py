"""Enrolment: which machines may become clients."""

from __future__ import annotations

from collections.abc import Callable

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_public_key

from fleetspeak import ids
from fleetspeak.errors import InvalidRecord, ProtocolError
from fleetspeak.ids import ClientId
from fleetspeak.interfaces import IOperatorStore, IStore
from fleetspeak.pb import common, operator
from fleetspeak.records import ClientData, Label
from fleetspeak.server.admin.operator.paging import choice
from fleetspeak.server.contact.handler import CLIENT
from fleetspeak.server.contact.identify import der_of
from fleetspeak.server.enrolment import SETTING, Mode

DAY_NS = 24 * 60 * 60 * 10**9

MAX_KEY = 16 * 1024
"""Bytes of a public key: far more than any has."""

MAX_LABELS = 100


class EnrolmentOperations:
    """The operations on enrolment."""

    def __init__(
        self,
        store: IStore,
        operators: IOperatorStore,
        enrolment_changed: Callable[[], object],
        client_changed: Callable[[ClientId], object],
        now_ns: Callable[[], int],
    ) -> None:
        """`enrolment_changed` makes this server look at once; `client_changed` drops what it remembers of a client."""
        self._store = store
        self._operators = operators
        self._enrolment_changed = enrolment_changed
        self._client_changed = client_changed
        self._now_ns = now_ns

    async def get_enrolment(self, request: operator.GetEnrolmentRequest) -> operator.GetEnrolmentResponse:
        """The mode, and how many clients there are."""
        window_ns = request.window.ToNanoseconds() if request.HasField("window") else DAY_NS
        if not 0 < window_ns < 2**62:
            raise InvalidRecord("window must be a time that has passed", "window")
        mode = Mode.of(await self._operators.settings())
        counts = await self._operators.client_counts(self._now_ns() - window_ns)
        return operator.GetEnrolmentResponse(
            enrolment=operator.Enrolment(mode=operator.Enrolment.Mode.ValueType(mode.value)),
            clients=counts.known,
            blacklisted=counts.blacklisted,
            in_contact=counts.in_contact,
        )

    async def set_enrolment(self, request: operator.Enrolment) -> common.EmptyMessage:
        """Set the mode; servers see it within seconds."""
        mode = choice("mode", request.mode, Mode)
        await self._operators.set_setting(SETTING, mode.name)
        self._enrolment_changed()
        return common.EmptyMessage()

    async def enrol_client(self, request: operator.EnrolClientRequest) -> operator.EnrolClientResponse:
        """Make a client known before its first contact.  Raises AlreadyExists."""
        key = _checked_key(request.public_key)
        if len(request.labels) > MAX_LABELS:
            raise InvalidRecord(f"{len(request.labels)} labels, only {MAX_LABELS} allowed", "labels")
        client_id = ids.client_id_of_key(key)
        labels = frozenset(Label(CLIENT, label) for label in request.labels if label)
        await self._store.add_client(client_id, ClientData(key, labels))
        self._client_changed(client_id)
        return operator.EnrolClientResponse(client_id=client_id)


def _checked_key(given: bytes) -> bytes:
    """The key as clients' certificates have it.  Raises InvalidRecord."""
    if not given:
        raise InvalidRecord("public_key is required", "public_key")
    try:
        if len(given) > MAX_KEY:
            raise ValueError("it is too long")
        return der_of(load_der_public_key(given))
    except (ValueError, UnsupportedAlgorithm, ProtocolError) as error:
        raise InvalidRecord(f"public_key is no DER SubjectPublicKeyInfo of a client: {error}", "public_key") from None
