"""What else a caller is told of an error: details of the kinds that gRPC's libraries know, beside code and text."""

from __future__ import annotations

from typing import Any

from fleetspeak.errors import InvalidRecord, NotReady, StoreError

KEY = "grpc-status-details-bin"
"""The trailer that carries them."""

RETRY_SECONDS = 1
"""What a caller is told to wait when the server, or its database, cannot serve him now."""


def details_of(code: int, text: str, error: Exception) -> bytes | None:
    """A serialized ``google.rpc.Status``; None if there is nothing to add to code and text.

    A field that is to blame is named in a ``BadRequest``, and what may be tried again has a ``RetryInfo``.
    """
    if isinstance(error, InvalidRecord):
        return _status(code, text, _bad_request(error.field, text)) if error.field else None
    if code == _UNAVAILABLE and isinstance(error, (StoreError, NotReady)):
        return _status(code, text, _retry_info())
    return None


_UNAVAILABLE = 14
"""``grpc.StatusCode.UNAVAILABLE``."""


def _bad_request(field: str, text: str) -> Any:
    from google.rpc import error_details_pb2  # type: ignore[import-untyped]

    detail = error_details_pb2.BadRequest()
    detail.field_violations.add(field=field, description=text)
    return detail


def _retry_info() -> Any:
    from google.rpc import error_details_pb2

    detail = error_details_pb2.RetryInfo()
    detail.retry_delay.seconds = RETRY_SECONDS
    return detail


def _status(code: int, text: str, detail: Any) -> bytes:
    from google.rpc import status_pb2

    status = status_pb2.Status(code=code, message=text)
    status.details.add().Pack(detail)
    return bytes(status.SerializeToString())
