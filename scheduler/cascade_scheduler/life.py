"""One life of a leading scheduler: what there is from the beginning of an epoch to its end."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from cascade_dist.v1 import client_pb2_grpc, worker_pb2_grpc
from cascade_scheduler.blobs.base import BlobStore
from cascade_scheduler.blobs.collecting import GRACE_SECONDS, collect_idle
from cascade_scheduler.core.events import ConstraintsLoaded, Event
from cascade_scheduler.core.state import Core, Settings
from cascade_scheduler.functions import FunctionStore
from cascade_scheduler.hub import Bounds, Hub, Times
from cascade_scheduler.leading import LEASE_SECONDS
from cascade_scheduler.recovery import recover
from cascade_scheduler.services.blobs import BlobService
from cascade_scheduler.services.client import ClientService
from cascade_scheduler.services.worker import WorkerService
from cascade_scheduler.solving import SolverProcess
from cascade_scheduler.store.base import RunStore, StoreFenced
from cascade_scheduler.store.cache import CacheStore
from cascade_scheduler.store.keeper import KeeperStore
from cascade_scheduler.store.mending import Memory
from cascade_scheduler.store.shared import SharedStore
from cascade_scheduler.store.writer import StoreWriter
from cascade_scheduler.turn import Turn

__all__ = ["Life", "SchedulerOptions"]

FLUSH_SECONDS = 10.0

logger = logging.getLogger("cascade.scheduler")


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
    recovery_grace: float = 10.0
    """How long runs of an earlier life wait for the workers of then."""
    blob_grace: float = GRACE_SECONDS
    """How long a blob stays that nothing names."""
    functions_bytes_max: int = 256 << 20
    backlog_bytes_max: int = 256 << 20
    solver: str = "native"
    solver_timeout: float = 5.0
    store_wait: float = 0.0
    """How long a shared store that is not there is waited for at the start."""
    standby: bool = True
    """Wait while another scheduler leads the same state; else that is an error."""
    lease: float = LEASE_SECONDS
    """How long others wait for a leader that says nothing."""
    seal_key: bytes = field(default=b"", repr=False)
    """What workers seal with; empty: each uses its own key."""
    story_dir: Path | None = None
    """Where the story of a bug is written; None: nowhere."""


class Life:
    """The core, and the shell around it, of one epoch.

    Args:
        options: what the operator chose.
        store: where runs are remembered; this scheduler leads it.
        blobs: the blob store.
        cache: of pure tasks.
        epoch: which life this is.
        solver: who orders new shapes; None: the native one.
        on_fenced: another scheduler leads the store now.
        on_bug: the core failed; its state is worth nothing.
    """

    def __init__(
        self,
        options: SchedulerOptions,
        store: RunStore,
        blobs: BlobStore,
        cache: CacheStore,
        *,
        epoch: int,
        solver: SolverProcess | None,
        on_fenced: Callable[[StoreFenced], None],
        on_bug: Callable[[BaseException, Sequence[tuple[float, Sequence[Event]]]], None],
    ) -> None:
        self._options = options
        self._store = store
        self._cache = cache
        self.writer = StoreWriter(store, on_fenced=on_fenced, backlog_max=options.backlog_bytes_max)
        self._keeper = store if isinstance(store, KeeperStore) else None
        settings = options.core._replace(saves=not store.immediate, publishes=self._keeper is not None)
        core = Core(settings, epoch=epoch, dice=random.random)
        self.hub = hub = Hub(
            core,
            self.writer,
            blobs,
            FunctionStore(options.functions_bytes_max),
            epoch=epoch,
            bounds=options.bounds,
            times=options.times,
            cache=cache,
        )
        hub.solver = solver
        hub.seal_key = options.seal_key
        if isinstance(store, SharedStore):
            hub.epochs_grow = True
            self.writer.memory = Memory(store, hub.chronicle.standing, hub.chronicle.retell)
        self.turn = hub.turn = Turn(core, self.writer, hub, bell=hub.bell, clock=hub.now, on_bug=on_bug)
        self.writer.on_bug = self.turn.bug

    async def open(self) -> None:
        """Takes up what the last leader left; calls are answered only afterwards.

        Raises:
            StoreError: the store cannot be read.
        """
        constraints = tuple(await self._store.constraints())
        if constraints:
            self.turn.post(ConstraintsLoaded(constraints))
            logger.info("%d constraints hold on from before", len(constraints))
        await recover(self.hub, self._store, self._options.recovery_grace)
        self.hub.start()
        self.hub.spawn(collect_idle(self.hub.blobs, self._cache.blobs, self._options.blob_grace))

    def add_services(self, server: Any, address: str) -> None:
        """Adds what answers calls to a gRPC server, or to what takes its place."""
        hub = self.hub
        client = ClientService(hub, address=address, state=self._store.url, keeper=self._keeper)
        client_pb2_grpc.add_ClientServiceServicer_to_server(client, server)
        client_pb2_grpc.add_BlobServiceServicer_to_server(BlobService(hub), server)
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(WorkerService(hub), server)

    @property
    def ready(self) -> bool:
        """New runs are taken."""
        return not self.hub.draining and not self.writer.away

    async def drain(self) -> None:
        """Takes no new runs, and waits for those that there are, within the bound."""
        hub, timeout = self.hub, self._options.drain_timeout
        hub.draining = True
        live = len(hub.runs.live())
        if live:
            logger.info("draining: %d runs may go on for %g s; new ones are refused", live, timeout)
        if not await hub.idle(timeout):
            logger.warning("%d runs did not end in time; they are left", len(hub.runs.live()))

    async def say_goodbye(self, reason: str, *, flush: bool) -> bool:
        """Ends the turns, tells workers and clients, writes what waits; False when that took too long."""
        hub = self.hub
        hub.draining = True
        self.turn.stop()
        hub.stop()
        for worker in list(hub.workers.values()):
            worker.goodbye(reason, reconnect=True)
        written = not flush or await self.writer.flush(FLUSH_SECONDS)
        if not written:
            logger.error("the store did not take everything within %g s; that is lost", FLUSH_SECONDS)
        await self.writer.close()
        for worker in list(hub.workers.values()):
            worker.end(reason, grpc.StatusCode.UNAVAILABLE)
        for client in list(hub.clients):
            client.end(reason)
        return written

    async def close(self) -> None:
        """Lets go of the rest, when no call is under way any more."""
        await self.hub.close()
