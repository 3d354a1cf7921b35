"""Why a call failed, in words that help."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fleetspeak.cli.admin.failure import CommandFailed, NotReached
from fleetspeak.cli.admin.settings import Settings

if TYPE_CHECKING:
    import grpc

_NOT_SENT = "failed to connect to all addresses"
_CLOSED = ("socket closed", "connection reset", "broken pipe", "end of tcp stream")
_HANDSHAKE = ("handshake failed", "ssl_error", "certificate_verify_failed", "wrong_version_number", "tsi_")


def nobody_listens(error: grpc.RpcError) -> bool:
    """Whether the call cannot have reached a server, and another one may if a server is starting."""
    code, details = _told(error)
    return code == "UNAVAILABLE" and _NOT_SENT in details and "onnection refused" in details


def explain(name: str, error: grpc.RpcError, settings: Settings, instead: str = "") -> CommandFailed:
    """What to tell of a failed call of the RPC `name`; begins as upstream's tool does."""
    code, details = _told(error)
    problem = f"{name} RPC failed: rpc error: code = {_go_name(code)} desc = {details}"
    match code:
        case "UNAVAILABLE":
            return NotReached(problem, *_unreachable(details, settings))
        case "DEADLINE_EXCEEDED":
            return NotReached(
                problem, f"no answer of {settings.admin_addr} within {settings.timeout:g} s; -timeout 2m waits longer"
            )
        case "UNAUTHENTICATED":
            return CommandFailed(problem, *_unknown_caller(settings))
        case "PERMISSION_DENIED":
            return CommandFailed(
                problem,
                "viewers may read; operators may send messages and broadcasts, and store files, too; admins may do all",
                "`fleetspeak-admin whoami` says in which role you are",
            )
        case "UNIMPLEMENTED":
            return CommandFailed(
                problem,
                f"the server at {settings.admin_addr} does not have this call: it is a Go server, or an older one",
                *([instead] if instead else []),
            )
        case "RESOURCE_EXHAUSTED" if "larger than max" in details:
            return CommandFailed(problem, _smaller(name))
        case _:
            return CommandFailed(problem)


def _unreachable(details: str, settings: Settings) -> list[str]:
    address, lower = settings.admin_addr, details.lower()
    if "certificate_verify_failed" in lower or "hostname verification" in lower or "peer name" in lower:
        return [
            f"the certificate of {address} is not by an authority of -tls_ca, has expired, or is for another name",
            "-tls_server_name says which name it has, if that is not the host's",
        ]
    if settings.tls and any(word in lower for word in _HANDSHAKE):
        return [
            f"{address} does not speak TLS, or it wants a client certificate: -tls_cert and -tls_key",
            "-tls=false asks without encryption",
        ]
    if any(word in lower for word in _CLOSED):
        if settings.tls:
            return [f"{address} closes the connection: does it want a client certificate? -tls_cert and -tls_key"]
        return [f"does the server at {address} want TLS? -tls_ca FILE, with the authority that its certificate is by"]
    if _NOT_SENT in lower and ("refused" in lower or "no such file" in lower):
        return [
            f"nobody listens at {address}: does the server run, and is that its admin_config.listen_address "
            "(or --admin-addr)?",
            "-admin_addr host:port, or FLEETSPEAK_ADMIN_ADDR, names another one",
        ]
    if _NOT_SENT in lower or "name resolution" in lower or "dns" in lower:
        return [f"{address} cannot be reached from here: is the name right, and does a firewall let this through?"]
    return []


def _smaller(name: str) -> str:
    if name == "StoreFile":
        return "`fleetspeak-admin files upload` sends files of any size"
    return "`fleetspeak-admin clients list` and `clients contacts` fetch long lists page by page"


def _unknown_caller(settings: Settings) -> list[str]:
    given = [f"-{name}" for name in ("token_file", "tls_cert") if getattr(settings, name) is not None]
    if given:
        return [f"the server does not know what {' and '.join(given)} presented"]
    return ["the server wants to know who asks: -token_file FILE, or -tls_cert FILE and -tls_key FILE"]


def code_of(error: grpc.RpcError) -> str:
    """Name of the status."""
    return _told(error)[0]


def _told(error: grpc.RpcError) -> tuple[str, str]:
    """Name of the status, and its text."""
    code, details = getattr(error, "code", None), getattr(error, "details", None)
    if code is None or details is None:
        return "UNKNOWN", str(error)
    return code().name, details() or ""


def _go_name(code: str) -> str:
    """``INVALID_ARGUMENT`` is InvalidArgument for Go."""
    return {"OK": "OK", "CANCELLED": "Canceled"}.get(code) or code.title().replace("_", "")
