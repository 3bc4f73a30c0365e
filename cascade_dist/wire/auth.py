"""The cluster's token: where it is read from, how calls carry it, how servers check it."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import os
import stat
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from cascade_dist.errors import AuthenticationError

__all__ = ["TokenAuth", "read_token"]

TOKEN_CHARS_MAX = 4_096
_FIRST_MESSAGE_SECONDS = 2.0
_KEY = "authorization"
_PREFIX = "Bearer "
_OPEN_METHODS = "/grpc.health.v1.Health/"
"""Health has to answer whoever watches over the process, and tells nothing else."""

_WHERE = "pass token_file=… (--token-file FILE), or set CASCADE_TOKEN_FILE or CASCADE_TOKEN"

log = logging.getLogger("cascade.wire")


def read_token(
    token: str | None = None,
    token_file: str | os.PathLike[str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> str | None:
    """The cluster's token, or None where nobody gives one.

    First match wins: the arguments, CASCADE_TOKEN, CASCADE_TOKEN_FILE. A file that is named and cannot be
    used is an error: going on without a token would only move the failure elsewhere.

    Raises:
        AuthenticationError: both arguments are given; a file is unreadable or empty; the token has characters
            that no call can carry.
    """
    if token is not None and token_file is not None:
        raise AuthenticationError("both token and token_file are given: give one of them")
    if token is not None:
        return _checked(token, "the argument token")
    if token_file is not None:
        return _from_file(token_file, "token_file")
    environ = os.environ if environ is None else environ
    if environ.get("CASCADE_TOKEN"):
        return _checked(environ["CASCADE_TOKEN"], "CASCADE_TOKEN")
    if environ.get("CASCADE_TOKEN_FILE"):
        return _from_file(environ["CASCADE_TOKEN_FILE"], "CASCADE_TOKEN_FILE")
    return None


def _from_file(name: str | os.PathLike[str], origin: str) -> str:
    path = Path(name).expanduser()
    try:
        with path.open("rb") as file:
            text = file.read(TOKEN_CHARS_MAX + 2).decode("utf-8", "replace")
            mode = os.fstat(file.fileno()).st_mode
    except OSError as error:
        reason = error.strerror or str(error)
        raise AuthenticationError(f"the token file {path} ({origin}) cannot be read: {reason}") from error
    if os.name == "posix" and stat.S_IMODE(mode) & (stat.S_IROTH | stat.S_IWOTH):
        log.warning("the token file %s is open to every user of this machine; chmod 600 %s", path, path)
    if not text.strip():
        raise AuthenticationError(
            f"the token file {path} ({origin}) is empty: it should hold the token alone"
        )
    return _checked(text, f"the token file {path}")


def _checked(token: str, origin: str) -> str:
    token = token.strip()
    if not token:
        raise AuthenticationError(f"{origin} is empty: give the cluster's token")
    if len(token) > TOKEN_CHARS_MAX or not all("!" <= char <= "~" for char in token):
        raise AuthenticationError(
            f"{origin} holds no usable token: it is one line of at most {TOKEN_CHARS_MAX} printable ASCII "
            "characters without spaces, such as `openssl rand -hex 32` prints"
        )
    return token


class TokenAuth:
    """Both ends of a token. Without one, calls carry nothing and servers let all in."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call carries: pass it as ``metadata=``."""
        return ((_KEY, _PREFIX + self._token),) if self._token else ()

    def refusal(self, metadata: Iterable[tuple[str, str | bytes]]) -> str | None:
        """Why a call with this metadata is not let in; None: it is."""
        return None if self._token is None else _refused(self._token, metadata)

    @property
    def server_interceptors(self) -> list[grpc.aio.ServerInterceptor]:
        """What a server checks calls with."""
        return [_TokenCheck(self._token)] if self._token else []


class _TokenCheck(grpc.aio.ServerInterceptor):
    """Answers UNAUTHENTICATED to calls without the token; looks at each call once, not at its messages."""

    def __init__(self, token: str) -> None:
        self._token = token

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Lets a call through or puts a refusal in its handler's place."""
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method.startswith(_OPEN_METHODS):
            return handler
        refused = _refused(self._token, handler_call_details.invocation_metadata or ())
        return handler if refused is None else _refusal(handler, refused)


def _refused(token: str, metadata: Iterable[tuple[str, str | bytes]]) -> str | None:
    """Why a call does not show the token; None: it does."""
    given = dict(metadata).get(_KEY)
    if given is None:
        return f"this cluster wants a token: {_WHERE}"
    raw = given.encode("utf-8", "replace") if isinstance(given, str) else bytes(given)
    if not hmac.compare_digest(raw, (_PREFIX + token).encode()):
        return f"the token is not this cluster's: {_WHERE}"
    return None


def _refusal(handler: grpc.RpcMethodHandler[Any, Any], text: str) -> grpc.RpcMethodHandler[Any, Any]:
    """A handler of the same kind that refuses."""

    async def refuse(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        if handler.request_streaming:
            # A client that is still writing its first message when the call ends would report that its write
            # failed, and not why.
            with contextlib.suppress(Exception):
                await asyncio.wait_for(anext(aiter(request)), _FIRST_MESSAGE_SECONDS)
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, text)

    makers: dict[tuple[bool, bool], Any] = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    maker = makers[bool(handler.request_streaming), bool(handler.response_streaming)]
    made: grpc.RpcMethodHandler[Any, Any] = maker(
        refuse,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )
    return made
