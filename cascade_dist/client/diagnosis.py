"""What to tell people when a scheduler cannot be reached or refuses, from what gRPC says."""

from __future__ import annotations

import grpc
import grpc.aio

from cascade_dist.errors import (
    AuthenticationError,
    CascadeError,
    ConfigError,
    ConnectionFailedError,
    RunNotFoundError,
    RunRefusedError,
    VersionMismatchError,
)

__all__ = ["NotLeadingError", "connect_error", "is_transient", "no_answer", "rpc_error"]

_TRANSIENT = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}
)

_START = "start one with `cascade up` or `cascade-scheduler`, or correct the address (CASCADE_ADDRESS)"
_OTHER = "give the address of a cascade-scheduler"
_WRONG_TLS = (
    "the two sides do not agree on TLS: give tls_ca (CASCADE_TLS_CA) or write cascades://host:port when the "
    "scheduler uses TLS, and leave it out when it does not"
)


class NotLeadingError(ConnectionFailedError):
    """A scheduler listens there and does not lead (yet)."""


def is_transient(error: BaseException) -> bool:
    """Whether trying again may help."""
    if isinstance(error, grpc.aio.AioRpcError):
        return error.code() in _TRANSIENT
    return isinstance(error, (TimeoutError, grpc.aio.UsageError, ConnectionError))


def no_answer(address: str) -> ConnectionFailedError:
    """Something took the connection and then kept silent, or packets are lost on the way."""
    return ConnectionFailedError(
        f"what listens at {address} did not answer in time: it is another service, or a host or firewall on "
        f"the way drops packets; {_OTHER}"
    )


def connect_error(address: str, error: grpc.aio.AioRpcError) -> CascadeError:
    """The error of a connection attempt that failed."""
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return AuthenticationError(f"the scheduler at {address} refused: {details}")
    if code is grpc.StatusCode.FAILED_PRECONDITION:
        return VersionMismatchError(f"the scheduler at {address} refused: {details}")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return ConnectionFailedError(
            f"at {address} listens a gRPC service that is no cascade-scheduler; {_OTHER}"
        )
    if code is grpc.StatusCode.UNAVAILABLE and details.startswith("this scheduler is "):
        return NotLeadingError(f"no leader at {address}: {details}")
    if code is grpc.StatusCode.UNAVAILABLE:
        return ConnectionFailedError(_unavailable(address, details))
    return ConnectionFailedError(f"the scheduler at {address} refused the session ({code.name}): {details}")


def _unavailable(address: str, details: str) -> str:
    if "Connection refused" in details:
        return f"no scheduler listens at {address}; {_START}"
    if "Domain name not found" in details or "address lookup failed" in details:
        return f"the host name of {address} is not known; {_START}"
    if "http1.x server" in details:
        return f"at {address} listens a web server, not a cascade-scheduler; {_OTHER}"
    if "CERTIFICATE_VERIFY_FAILED" in details or "Cannot check peer" in details or "Hostname" in details:
        return (
            f"the certificate of {address} was not accepted ({_last(details)}); give the authority that "
            "signed it as tls_ca (CASCADE_TLS_CA), and use a host name that it covers"
        )
    if "handshake failed" in details:
        return f"the TLS handshake with {address} failed ({_last(details)}); {_WRONG_TLS}"
    if "parsing HTTP/2" in details:
        return f"at {address} listens a service that does not speak gRPC; {_OTHER}"
    if "timed out" in details:
        return str(no_answer(address))
    if "closed" in details.lower() or "reset" in details.lower():
        return (
            f"what listens at {address} closed the connection at once: it is another service, or {_WRONG_TLS}"
        )
    return f"no connection to {address}: {_last(details)}; {_START}"


def _last(details: str) -> str:
    return details.rpartition("last error: ")[2][:300]


def rpc_error(address: str, error: grpc.aio.AioRpcError) -> CascadeError:
    """The error of a call on a connection that stood."""
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.NOT_FOUND:
        return RunNotFoundError(details or "the scheduler does not know it")
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return AuthenticationError(f"the scheduler at {address} refused: {details}")
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return ConfigError(f"the scheduler at {address} refused: {details}")
    if code in _TRANSIENT:
        return ConnectionFailedError(f"the scheduler at {address} did not answer: {_last(details)}")
    if code is grpc.StatusCode.FAILED_PRECONDITION:
        return RunRefusedError(f"the scheduler at {address} refused: {details}")
    return RunRefusedError(f"the scheduler at {address} refused ({code.name}): {details}")
