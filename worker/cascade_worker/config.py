"""What a worker is told at its start, and where it keeps its files."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import grpc

from cascade_dist.wire import Address, TokenAuth
from cascade_worker.core import Limits
from cascade_worker.directories import Directories
from cascade_worker.session import FatalError

__all__ = ["WorkerConfig", "make_directories"]


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """What a worker is started with. Times in seconds.

    Attributes:
        addresses: of schedulers, tried in turn.
        amounts: what it offers, in micros, cpu among it.
        name: for people.
        executors_max: most sync executors at once.
        object_dir: where large results go first.
        local_dir: where everything else goes, and large results for which there is no room.
        object_memory: most bytes of large results in object_dir; None: as many as there is room for.
        spill_max: the same of local_dir.
        host: address that its object service listens on.
        auth: the cluster's token.
        cancel_grace: from telling user code to stop until it is killed; None: as the scheduler says.
        drain_timeout: how long running tasks may take to end after SIGTERM.
        death_timeout: exit when there was no scheduler for so long; None: never.
        client_credentials: for TLS to the scheduler and to other workers.
        server_credentials: for TLS of the object service.
        ipfs: URL of the RPC of this host's IPFS node; empty: none is used; None: as the scheduler says.
        limits: bounds of the core; slots and executors_max are filled in.
    """

    addresses: tuple[Address, ...]
    amounts: dict[str, int]
    name: str
    executors_max: int
    object_dir: Path
    local_dir: Path
    object_memory: int | None = None
    spill_max: int | None = None
    host: str = "127.0.0.1"
    auth: TokenAuth = field(default_factory=lambda: TokenAuth(None))
    cancel_grace: float | None = None
    drain_timeout: float = 60.0
    death_timeout: float | None = None
    client_credentials: grpc.ChannelCredentials | None = None
    server_credentials: grpc.ServerCredentials | None = None
    ipfs: str | None = None
    limits: Limits = field(default_factory=Limits)

    @property
    def object_bytes_max(self) -> tuple[int | None, ...]:
        """Bounds of the directories, in their order."""
        return (self.object_memory, self.spill_max)

    @property
    def slots(self) -> int:
        """Whole cpus."""
        return max(1, self.amounts.get("cpu", 0) // 1_000_000)

    @property
    def core_limits(self) -> Limits:
        """Bounds of the core, with slots and executors_max."""
        return replace(self.limits, slots=self.slots, executors_max=self.executors_max)

    @property
    def ahead_credits(self) -> int:
        """How many sync tasks to hold ahead: so many that tiny ones do not run out within a round trip."""
        return max(128, 64 * self.slots)


def make_directories(config: WorkerConfig, worker_id: str) -> list[Directories]:
    """The worker's own directories, results' first.

    Raises:
        FatalError: one cannot be made.
    """
    bases = {config.object_dir: "--object-dir", config.local_dir: "--local-dir"}
    made: list[Directories] = []
    for base, flag in bases.items():
        try:
            made.append(Directories(base, worker_id))
        except OSError as error:
            for directories in made:
                directories.remove()
            reason = error.strerror or str(error)
            raise FatalError(
                f"{flag} {base} cannot be used: {reason}; give a directory that can be written to"
            ) from error
    return made
