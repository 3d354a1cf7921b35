"""Exceptions that cross the borders between packages.  Each text is written for the one who must act on it."""

from __future__ import annotations


class FleetspeakError(Exception):
    """Base of all of them."""


class ConfigError(FleetspeakError):
    """A configuration cannot be used.  The text names the file, the place in it, and what was expected."""


class ProtocolError(FleetspeakError):
    """A peer sent bytes that are not the protocol.  At most its connection is lost."""


class TooLarge(ProtocolError):
    """A peer announced or sent more than a limit allows; raised before memory is taken for it."""


class ProxyRefused(FleetspeakError):
    """A proxy does not make the connection.  The text has what it said and what to do, never a password."""


class NotProcessed(FleetspeakError):
    """A server did not begin with a request; it may be made again."""


class NotAuthorized(FleetspeakError):
    """An authorizer refused this contact."""

    def __init__(self, text: str, stage: str = "") -> None:
        """@param stage: at which this was, as `IServerStats.contact_refused` has it."""
        super().__init__(text)
        self.stage = stage


class NotReady(FleetspeakError):
    """The server is starting or stopping; the client shall come again."""


class StoreError(FleetspeakError):
    """The store failed.  Nothing of the call was kept; it may be tried again."""


class NotFound(StoreError):
    """There is no such record."""


class AlreadyExists(StoreError):
    """There is such a record already."""


class InvalidRecord(StoreError):
    """This record can never be stored as it is; trying again does not help."""

    def __init__(self, text: str = "", field: str = "") -> None:
        """@param field: of the record or request that is to blame, by its path, such as ``filter.created``."""
        super().__init__(text)
        self.field = field


class TookTooLong(StoreError):
    """The store gave up looking for something: it would have to look at too much."""


class NotSent(StoreError):
    """A broadcast takes no more clients: it is disabled, or this server's share of it is used up or has expired."""


class TemporaryError(FleetspeakError):
    """A service could not process a message now; the message stays pending and is tried again later."""


class PermanentError(FleetspeakError):
    """A service will never be able to process this message; the text is stored as the reason."""


class FileUnavailable(FleetspeakError):
    """No server gave a file."""

    def __init__(self, text: str, status: int | None = None) -> None:
        """@param status: the HTTP status of the last answer; None if there was none."""
        super().__init__(text)
        self.status = status
