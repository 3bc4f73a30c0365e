"""The gRPC server of a scheduler: it listens from the start on, and answers while the scheduler leads."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from cascade_dist import wire
from cascade_dist.errors import ConfigError
from cascade_dist.v1 import client_pb2, worker_pb2
from cascade_scheduler.direct import DirectServer

__all__ = ["Front", "StartError"]

PREFIX = "/cascade_dist.v1."
FIRST_MESSAGE_SECONDS = 2.0
READY_SERVICES = ("ready", "cascade.Scheduler")
"""Whether new runs are taken. "live" and, while it leads, "" say that the process answers at all."""


class StartError(Exception):
    """The scheduler cannot start; the text is one line that names the thing and the remedy."""


class _Services(grpc.GenericRpcHandler):
    """What answers calls: the services that were added, or a refusal."""

    def __init__(self) -> None:
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self.refusal: str | None = "this scheduler is starting: call again"

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Called by generated code, beside the next one, with the same."""

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """Called by generated code."""
        for name, handler in handlers.items():
            self._handlers[f"/{service}/{name}"] = handler

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The handler of a call; None: not one of ours."""
        return self.find(handler_call_details.method)

    def find(self, method: str) -> Any:
        """The handler of a method; None: not one of ours."""
        if self.refusal is not None and method.startswith(PREFIX):
            return _refusing(self.refusal)
        return self._handlers.get(method)


def _refusing(text: str) -> Any:
    """A handler that refuses a call of any kind."""

    async def refuse(requests: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        # A client that is still writing when its call ends would report that its write failed, and not why.
        with contextlib.suppress(Exception):
            await asyncio.wait_for(anext(aiter(requests)), FIRST_MESSAGE_SECONDS)
        await context.abort(grpc.StatusCode.UNAVAILABLE, text)

    return grpc.stream_stream_rpc_method_handler(refuse)


class Front:
    """The server.

    Args:
        host: to listen on.
        port: the same; 0: any free one.
        token: that calls have to carry; None: none.
        credentials: for TLS; None: without.
        unix_socket: path of a unix socket to listen on as well; empty: none.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        token: str | None,
        credentials: grpc.ServerCredentials | None,
        unix_socket: str = "",
    ) -> None:
        self._host = host
        self._port = port
        self._token = token
        self._credentials = credentials
        self._unix_socket = unix_socket
        self._services = _Services()
        self._health: Any
        self._server: grpc.aio.Server | None = None
        self._direct: DirectServer | None = None
        self._ready: bool | None = None

    async def open(self) -> str:
        """Listens; returns the address. Calls are refused, with UNAVAILABLE, until `serve`.

        Raises:
            StartError: the address cannot be bound.
        """
        check_free(self._host, self._port)
        if self._unix_socket:
            check_unused(self._unix_socket)
        auth = wire.TokenAuth(self._token)
        self._server = server = grpc.aio.server(
            interceptors=auth.server_interceptors, options=wire.server_options()
        )
        target = wire.Address(self._host, self._port).target
        try:
            if self._credentials is None:
                port = server.add_insecure_port(target)
            else:
                port = server.add_secure_port(target, self._credentials)
            if self._unix_socket:
                server.add_insecure_port(f"unix:{self._unix_socket}")
        except RuntimeError as error:
            raise StartError(f"cannot listen on {target}: {error}") from None
        server.add_generic_rpc_handlers((self._services,))
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = [
            client_pb2.DESCRIPTOR.services_by_name["ClientService"].full_name,
            client_pb2.DESCRIPTOR.services_by_name["BlobService"].full_name,
            worker_pb2.DESCRIPTOR.services_by_name["WorkerService"].full_name,
            health.SERVICE_NAME,
            reflection.SERVICE_NAME,
        ]
        reflection.enable_server_reflection(names, server)
        await self._set("live", True)
        for name in ("", *READY_SERVICES):
            await self._set(name, False)
        await server.start()
        if self._unix_socket:
            path = wire.Address(self._host, port, socket=self._unix_socket).direct
            self._direct = DirectServer(path, self._services.find, auth)
            try:
                await self._direct.open()
            except OSError as error:
                raise StartError(f"cannot listen on {path}: {error}") from None
        return wire.Address(self._host, port).target

    def refuse(self, text: str) -> None:
        """What calls are told until `serve`."""
        self._services.refusal = text

    async def serve(self, add: Callable[[Any], None]) -> None:
        """Answers calls from now on. `add` adds services, as to a gRPC server."""
        add(self._services)
        self._services.refusal = None
        await self._set("", True)

    async def ready(self, ready: bool) -> None:
        """Says by the health service whether new runs are taken."""
        if ready != self._ready:
            self._ready = ready
            for name in READY_SERVICES:
                await self._set(name, ready)

    async def close(self, grace: float) -> None:
        """Stops answering; calls under way get `grace` seconds."""
        closing = [] if self._direct is None else [self._direct.close(grace)]
        if self._server is not None:
            await asyncio.gather(self._server.stop(grace), *closing)

    async def _set(self, name: str, serving: bool) -> None:
        states = health_pb2.HealthCheckResponse
        await self._health.set(name, states.SERVING if serving else states.NOT_SERVING)


def check_free(host: str, port: int) -> None:
    """Says in one line why an address cannot be bound; gRPC would say it in many.

    Raises:
        StartError: names the address and the remedy.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise StartError(f"--host {host!r} is no address of this machine: {error.strerror}") from None
    family, kind, protocol, _, address = found[0]
    with socket.socket(family, kind, protocol) as probe:
        if sys.platform != "win32":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            probe.listen(1)
        except OSError as error:
            where = wire.Address(host, port).target
            if error.errno == errno.EADDRINUSE:
                remedy = "another process listens there; choose another port with --port (0: any free one)"
            else:
                remedy = f"{error.strerror}; choose another address with --host and --port"
            raise StartError(f"cannot listen on {where}: {remedy}") from None
        except OverflowError:
            raise ConfigError(f"--port {port} is not a port; it must be from 0 to 65535") from None


def check_unused(path: str) -> None:
    """Refuses the path of a unix socket at which somebody listens, and would not notice that it is gone.

    Raises:
        StartError: names the path and the remedy.
    """
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except BlockingIOError:
            pass  # many wait there to be let in
        except OSError:
            return  # nobody is there; or it cannot be a socket, as who binds it finds out
    raise StartError(
        f"cannot listen on {path}: another process listens there; choose another path with --socket"
    )
