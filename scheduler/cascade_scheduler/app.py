"""The scheduler process: puts the rooms together, serves, drains, ends."""

from __future__ import annotations

import asyncio
import errno
import logging
import random
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from cascade_dist import wire
from cascade_dist.errors import ConfigError
from cascade_dist.v1 import client_pb2, client_pb2_grpc, worker_pb2, worker_pb2_grpc
from cascade_scheduler.blobs.base import BlobStore
from cascade_scheduler.core.events import ConstraintsLoaded, Event
from cascade_scheduler.core.state import Core, Settings
from cascade_scheduler.functions import FunctionStore
from cascade_scheduler.hub import Bounds, Hub, Times
from cascade_scheduler.services.blobs import BlobService
from cascade_scheduler.services.client import ClientService
from cascade_scheduler.services.worker import WorkerService
from cascade_scheduler.solving import SolverProcess
from cascade_scheduler.store.base import RunStore, StoreFenced
from cascade_scheduler.store.cache import CacheStore, MemoryCacheStore
from cascade_scheduler.store.keeper import KeeperStore
from cascade_scheduler.store.writer import StoreWriter
from cascade_scheduler.story import write_story
from cascade_scheduler.turn import Turn

__all__ = ["EXIT_BUG", "EXIT_FENCED", "Scheduler", "SchedulerOptions", "StartError"]

EXIT_BUG = 70
"""Exit code after a bug in the core; what it knew is not to be trusted."""
EXIT_FENCED = 75
"""Exit code when another scheduler has taken over the store."""
FLUSH_SECONDS = 10.0
STOP_SECONDS = 2.0
READY_SECONDS = 1.0
"""How often the answer of the health service is looked at."""
HEALTH_SERVICES = ("", "live", "ready", "cascade.Scheduler")

logger = logging.getLogger("cascade.scheduler")


class StartError(Exception):
    """The scheduler cannot start; the text is one line that names the thing and the remedy."""


@dataclass(frozen=True, slots=True)
class SchedulerOptions:
    """What the operator chose. Times in seconds, sizes in bytes."""

    host: str = "127.0.0.1"
    port: int = 0
    socket: str = ""
    """Path of a unix socket to listen on as well; empty: none."""
    token: str | None = None
    credentials: grpc.ServerCredentials | None = None
    core: Settings = field(default_factory=Settings)
    bounds: Bounds = field(default_factory=Bounds)
    times: Times = field(default_factory=Times)
    drain_timeout: float = 30.0
    functions_bytes_max: int = 256 << 20
    backlog_bytes_max: int = 256 << 20
    solver: str = "native"
    solver_timeout: float = 5.0
    story_dir: Path | None = None
    """Where the story of a bug is written; None: nowhere."""


class Scheduler:
    """One life of a scheduler, inside a running event loop."""

    def __init__(
        self, options: SchedulerOptions, store: RunStore, blobs: BlobStore, cache: CacheStore | None = None
    ) -> None:
        self.options = options
        self._store = store
        self._cache = cache or MemoryCacheStore(options.bounds.cluster_cache_bytes_max)
        self._blobs = blobs
        self._stop = asyncio.Event()
        self._now = asyncio.Event()
        self._ready_timer: asyncio.Task[None] | None = None
        self.exit_code = 0
        self.address = ""
        self.hub: Hub
        self.turn: Turn
        self._writer: StoreWriter
        self._server: grpc.aio.Server
        self._health: Any

    async def start(self) -> str:
        """Opens the store, binds, serves; returns the address.

        Raises:
            StoreError: the store cannot be used.
            StartError: the address cannot be bound.
        """
        options = self.options
        _check_free(options.host, options.port)
        epoch = await self._store.open()
        await self._blobs.open()
        constraints = tuple(await self._store.constraints())
        self._writer = StoreWriter(self._store, on_fenced=self._fenced, backlog_max=options.backlog_bytes_max)
        keeper = isinstance(self._store, KeeperStore)
        settings = options.core._replace(saves=not self._store.immediate, publishes=keeper)
        core = Core(settings, epoch=epoch, dice=random.random)
        functions = FunctionStore(options.functions_bytes_max)
        self.hub = hub = Hub(
            core,
            self._writer,
            self._blobs,
            functions,
            epoch=epoch,
            bounds=options.bounds,
            times=options.times,
            cache=self._cache,
        )
        if options.solver != "native":
            hub.solver = SolverProcess(options.solver, options.solver_timeout)
            await self._try_solver(hub.solver)
        self.turn = hub.turn = Turn(core, self._writer, hub, bell=hub.bell, clock=hub.now, on_bug=self._bug)
        if constraints:
            self.turn.post(ConstraintsLoaded(constraints))
            logger.info("%d constraints hold on from before", len(constraints))
        self._server = server = grpc.aio.server(
            interceptors=wire.TokenAuth(options.token).server_interceptors, options=wire.server_options()
        )
        target = wire.Address(options.host, options.port).target
        try:
            if options.credentials is None:
                port = server.add_insecure_port(target)
            else:
                port = server.add_secure_port(target, options.credentials)
            if options.socket:
                server.add_insecure_port(f"unix:{options.socket}")
        except RuntimeError as error:
            raise StartError(f"cannot listen on {target}: {error}") from None
        self.address = wire.Address(options.host, port).target
        self._add_services(server)
        await server.start()
        hub.start()
        self._ready_timer = asyncio.create_task(self._watch_readiness(), name="readiness")
        return self.address

    async def _try_solver(self, solver: SolverProcess) -> None:
        try:
            await solver.open()
        except Exception as error:
            await solver.close()
            await self._store.close()
            raise StartError(f"solver {solver.name!r} cannot be used: {error}") from error

    def _add_services(self, server: grpc.aio.Server) -> None:
        hub = self.hub
        keeper = self._store if isinstance(self._store, KeeperStore) else None
        client = ClientService(hub, address=self.address, state=self._store.url, keeper=keeper)
        client_pb2_grpc.add_ClientServiceServicer_to_server(client, server)
        client_pb2_grpc.add_BlobServiceServicer_to_server(BlobService(hub), server)
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(WorkerService(hub), server)
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

    async def _watch_readiness(self) -> None:
        """`live` is this loop answering at all; the others say whether new runs are taken."""
        serving = health_pb2.HealthCheckResponse.SERVING
        not_serving = health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", "live"):
            await self._health.set(service, serving)
        last = None
        while True:
            ready = not self.hub.draining and not self._writer.away
            if ready != last:
                last = ready
                for service in ("ready", "cascade.Scheduler"):
                    await self._health.set(service, serving if ready else not_serving)
            await asyncio.sleep(READY_SECONDS)

    # --- the end ---------------------------------------------------------------------------------

    def stop(self) -> None:
        """Drains and ends; called again, ends now."""
        if self._stop.is_set():
            self._now.set()
        self._stop.set()

    def stop_now(self) -> None:
        """Ends without a drain."""
        self._now.set()
        self._stop.set()

    async def run(self) -> int:
        """Serves until stopped; returns the exit code."""
        await self._stop.wait()
        if not self._now.is_set():
            drain = asyncio.create_task(self._drain(), name="drain")
            now = asyncio.create_task(self._now.wait(), name="second signal")
            await asyncio.wait((drain, now), return_when=asyncio.FIRST_COMPLETED)
            for task in (drain, now):
                task.cancel()
        await self._end()
        return self.exit_code

    async def _drain(self) -> None:
        hub, timeout = self.hub, self.options.drain_timeout
        hub.draining = True
        live = len(hub.runs.live())
        if live:
            logger.info("draining: %d runs may go on for %g s; new ones are refused", live, timeout)
        if not await hub.idle(timeout):
            logger.warning("%d runs did not end in time; they are left", len(hub.runs.live()))

    async def _end(self) -> None:
        hub = self.hub
        hub.draining = True
        reason = "the scheduler is going away"
        self.turn.stop()
        hub.stop()
        for worker in list(hub.workers.values()):
            worker.goodbye(reason, reconnect=True)
        if not self._now.is_set() and not await self._writer.flush(FLUSH_SECONDS):
            logger.error("the store did not take everything within %g s; that is lost", FLUSH_SECONDS)
            self.exit_code = self.exit_code or 1
        await self._writer.close()
        for worker in list(hub.workers.values()):
            worker.end(reason, grpc.StatusCode.UNAVAILABLE)
        for client in list(hub.clients):
            client.end(reason)
        if self._ready_timer is not None:
            self._ready_timer.cancel()
        await self._server.stop(0 if self._now.is_set() else STOP_SECONDS)
        await hub.close()
        if hub.solver is not None:
            await hub.solver.close()
        await self._cache.close()
        await self._store.close()
        await self._blobs.close()

    def _fenced(self, error: StoreFenced) -> None:
        logger.critical("%s; this scheduler ends, so that two do not give different answers", error)
        self._fail(EXIT_FENCED)

    def _bug(self, error: BaseException, story: Sequence[tuple[float, Sequence[Event]]]) -> None:
        text = "".join(traceback.format_exception(error))
        where = None
        if self.options.story_dir is not None:
            where = write_story(self.options.story_dir, time.time(), text, story)
        logger.critical(
            "a bug in the scheduler: it ends, because what it knows can no longer be trusted. %s\n%s",
            f"The last events are in {where}; please report them." if where else "",
            text,
        )
        self._fail(EXIT_BUG)

    def _fail(self, code: int) -> None:
        self.exit_code = code
        self.stop_now()


def _check_free(host: str, port: int) -> None:
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
