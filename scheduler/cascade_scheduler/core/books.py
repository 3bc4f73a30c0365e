"""All state of the core in one place; the handlers in the files beside this one change it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from cascade_scheduler.core.cached import KeyMemory
from cascade_scheduler.core.commands import Command, EventRecord, ReleaseObject
from cascade_scheduler.core.limits import Constraint
from cascade_scheduler.core.lines import Lines
from cascade_scheduler.core.plans import AmountClass
from cascade_scheduler.core.queues import Queues
from cascade_scheduler.core.run import Run
from cascade_scheduler.core.values import BlobValue, ObjectValue
from cascade_scheduler.core.worker import Attempt, Worker

if TYPE_CHECKING:
    from cascade_scheduler.core.closing import Closing

__all__ = ["EPOCH_SHIFT", "Books", "Promise", "Settings"]

EPOCH_SHIFT = 40
"""An attempt id is epoch << 40 | counter, so a run never uses one twice."""
DURATIONS_MAX = 10_000
SPARE_BYTES = 200
"""What a value costs that is kept, beside its bytes."""
TASK_SECONDS_MIN = 1e-4
"""What one attempt costs a worker at the least, user code aside."""
TASK_SECONDS_UNKNOWN = 0.05


class Settings(NamedTuple):
    """The operator's choices. Times in seconds."""

    closed: bool = False
    """No worker will come that is not expected: an amount that nobody has is an error at once."""
    expected_workers: int = 0
    """In a closed cluster: nothing is called impossible before that many workers have come."""
    infeasible_after: float = 60.0
    """In an open cluster: how long a node waits for a worker that could ever run it."""
    cancel_grace: float = 5.0
    """How long the resources of a run may take to be torn down when all else has stopped."""
    worker_grace: float = 2.0
    """How long a worker whose stream broke may take to come back."""
    loss_budget: int = 3
    """How often a node's executor or worker may die under it before the node fails."""
    graph_nodes_max: int = 2_000_000
    """Nodes of one run, with the children that its maps over lazy lists become."""
    runs_kept: int = 1000
    nodes_kept: int = 4_000_000
    """Bounds of finished runs that are kept for clients, in runs and in nodes."""
    ahead_seconds: float = 0.05
    """How much work, by its expected duration, is sent ahead to a worker per cpu."""
    retract_after: float = 0.02
    """How long a worker may sit idle while another has work waiting."""
    starving_after: float = 0.5
    """After how long a class that finds no room gets a worker kept free for it."""
    spare_bytes_max: int = 64 << 20
    """Small values that are kept although nobody needs them, while there are objects that may be lost."""
    pools: tuple[tuple[str, int], ...] = ()
    """Amounts in micros that all nodes of the cluster share, whatever workers have."""
    fast_loops: bool = True
    """Workers may go on with loops by themselves."""
    chains: bool = True
    """A chain's next nodes may be sent before their input is there; see `followers`."""
    saves: bool = True
    """Somebody keeps what is saved; without it nothing is said about that."""
    publishes: bool = False
    """Who keeps results wants them themselves: large ones become blobs."""


class Promise(NamedTuple):
    """A request about limits that is answered when these workers have promised, or are lost."""

    request: int
    constraints: tuple[Constraint, ...]
    workers: dict[str, None]


class Books:
    """State that handlers share."""

    def __init__(
        self, settings: Settings, *, epoch: int = 1, dice: Callable[[], float] = lambda: 0.5
    ) -> None:
        self.settings = settings
        self.epoch = epoch
        self.now = 0.0
        self.runs: dict[str, Run] = {}
        self.finished: OrderedDict[str, int] = OrderedDict()
        """Ended runs, oldest first, with their nodes."""
        self.finished_nodes = 0
        self.workers: dict[str, Worker] = {}
        self.attempts: dict[int, Attempt] = {}
        self.followers: dict[int, Attempt] = {}
        """Attempts that wait on a worker for the value of one before them; they are on no other books yet."""
        self.tips: list[Attempt] = []
        """Attempts that came on the books since it was last looked what may follow them."""
        self.crowd: list[AmountClass] = []
        """Lines that found no room in this dispatch."""
        self.objects: dict[int, tuple[Run, int, str]] = {}
        """Objects that runs hold on to: attempt → (run, node, worker)."""
        self.copies: dict[int, dict[str, None]] = {}
        """Further workers that have an object whole."""
        self.moved: dict[int, int] = {}
        """Objects that a copy has taken the place of → the last attempt that was assigned before."""
        self.spare_bytes = 0
        """Of values that nobody needs, unless an object is lost."""
        self.lines = Lines(settings.pools)
        """Limits and pools."""
        self.queues = Queues(self.lines)
        self.away: dict[str, Worker] = {}
        """Workers whose stream broke, until they come back or are lost."""
        self.recovering: dict[str, None] = {}
        """Workers of the last scheduler that have not come yet; recovered runs wait for them."""
        self.known: set[int] = set()
        """Attempts whose results recovered runs have, as long as they wait."""
        self.reserved = 0
        """Workers that are kept free for a class that starves."""
        self.resourceful: dict[str, dict[str, None]] = {}
        """Runs that use resources of their own scope, with the workers that may hold some."""
        self.closing: dict[str, Closing] = {}
        """Runs of which all has stopped but their resources."""
        self.delayed: list[tuple[float, int, str, int]] = []
        """Heap of (wake-up, number of the wait, run, node): nodes between two tries."""
        self.kept: AmountClass | None = None
        """The line that starves for pools: nobody else takes from them."""
        self.let_go = False
        """Something that was kept for one line has become free for others in this dispatch."""
        self.token_at = 0.0
        """When the next token comes that a node waits for; 0.0: none."""
        self.promises: dict[int, Promise] = {}
        """Requests about limits that wait for workers, by number."""
        self.promise_number = 0
        """The last number that workers were asked to promise by."""
        self.to_observe: list[tuple[Run, int]] = []
        """(run, node) whose value waits for a worker that observes it."""
        self.timers: list[tuple[float, int, str, int]] = []
        """Heap of (when, number of the wait, run, node): waits, and recvs with a bound."""
        self.frames_over: list[Run] = []
        """Nested frames that have ended, of which their parents have not been told."""
        self.loop_steps = 0
        """Of all runs, for people."""
        self.leases = 0
        self.leased = 0
        """Attempts that are leases."""
        self.lease_waits: dict[AmountClass, float] = {}
        """Lines that have waited for room, while there are leases, since when."""
        self.listening: dict[str, dict[tuple[str, int], None]] = {}
        """Topic → recvs (run, node) that wait for its next message."""
        self.retained: dict[str, bytes] = {}
        """Topic → its retained message, the oldest first."""
        self.retained_bytes = 0
        self.infeasible: dict[tuple[str, AmountClass], float] = {}
        """(run, amounts) → since when no worker could ever give them."""
        self.durations: dict[bytes, float] = {}
        """Function → expected seconds of one call, a moving average."""
        self.dice = dice
        """Random numbers from 0 to 1, for the jitter of retries; they come from outside."""
        self.out: list[Command] = []
        self.key_memory = KeyMemory()
        self.balance_at = 0.0
        """When to look again whether an idle worker should get what waits on another; 0.0: never."""
        self._counter = 0
        self._sequence = 0

    def next_attempt(self) -> int:
        """An id that was never used."""
        self._counter += 1
        return (self.epoch << EPOCH_SHIFT) | self._counter

    def next_sequence(self) -> int:
        """A number that orders runs, and breaks ties."""
        self._sequence += 1
        return self._sequence

    def expected(self, function: bytes) -> float:
        """Seconds that one call will probably take."""
        return max(self.durations.get(function, TASK_SECONDS_UNKNOWN), TASK_SECONDS_MIN)

    def learn(self, function: bytes, seconds: float) -> None:
        """Takes note of how long a call took."""
        known = self.durations.get(function)
        if known is None:
            if len(self.durations) >= DURATIONS_MAX:
                self.durations.clear()
            self.durations[function] = seconds
        else:
            self.durations[function] = 0.75 * known + 0.25 * seconds

    def keep(self, run: Run, node: int, value: bytes | ObjectValue | BlobValue) -> None:
        """Stores a node's value."""
        run.values[node] = value
        if isinstance(value, ObjectValue):
            self.objects[value.attempt] = (run, node, value.worker)

    def drop(self, run: Run, node: int) -> None:
        """Forgets a node's value, and has its object released."""
        items = run.items.pop(node, None)
        value = run.values.pop(node, None)
        if isinstance(value, ObjectValue):
            self.objects.pop(value.attempt, None)
            self.out.append(ReleaseObject(value.worker, value.attempt))
            if self.copies:
                for worker in self.copies.pop(value.attempt, ()):
                    self.out.append(ReleaseObject(worker, value.attempt))
            if self.moved:
                self.moved.pop(value.attempt, None)
        elif value is not None and self.objects and run.state == "running":
            self._spare(run, node, value, items)

    def copied(self, worker: str, attempt: int) -> None:
        """A worker has an object whole that was made elsewhere."""
        entry = self.objects.get(attempt)
        if entry is None:
            self.out.append(ReleaseObject(worker, attempt))
        elif entry[2] != worker:
            self.copies.setdefault(attempt, {})[worker] = None

    def move(self, attempt: int) -> bool:
        """The holder of an object does not have it any more: a worker with a copy is the holder from now on.

        False: there is none.
        """
        run, node, _ = self.objects[attempt]
        copies = self.copies.get(attempt, {})
        while copies:
            name = next(iter(copies))
            del copies[name]
            worker = self.workers.get(name)
            value = run.values.get(node)
            if worker is None or not isinstance(value, ObjectValue):
                continue
            run.values[node] = value._replace(worker=name, address=worker.address)
            run.built.clear()  # lists and containers that name the old one
            self.objects[attempt] = (run, node, name)
            self.moved[attempt] = self.epoch << EPOCH_SHIFT | self._counter
            return True
        return False

    def _spare(self, run: Run, node: int, value: bytes | BlobValue, items: tuple[bytes, ...] | None) -> None:
        """Remembers a small value that nobody needs: an object that was made of it may be lost."""
        size = SPARE_BYTES + len(value) + sum(map(len, items or ()))
        if self.spare_bytes + size > self.settings.spare_bytes_max:
            return
        if run.spares is None:
            run.spares = {}
        if node not in run.spares:
            run.spares[node] = (value, items, size)
            self.spare_bytes += size

    def restore(self, run: Run, node: int) -> bool:
        """Has a value back that was dropped; False: it was not remembered."""
        found = None if run.spares is None else run.spares.pop(node, None)
        if found is None:
            return False
        value, items, size = found
        self.spare_bytes -= size
        run.values[node] = value
        if items is not None:
            run.items[node] = items
        return True

    def forget_spares(self, run: Run) -> None:
        """The frame is over."""
        if run.spares is not None:
            self.spare_bytes -= sum(size for _, _, size in run.spares.values())
            run.spares = None

    def tell(self, run: Run, kind: str, node: int = -1, **details: object) -> None:
        """Adds an event of a run."""
        task = run.task(node) if node >= 0 else ""
        if node >= 0 and run.framed:
            details["node_id"] = run.key(node)
        self.out.append(EventRecord(run.run_id, kind, self.now, node, task, **details))  # type: ignore[arg-type]
