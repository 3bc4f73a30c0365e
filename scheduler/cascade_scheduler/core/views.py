"""What the shell may read of the core's state, as plain values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeAlias, Union

from cascade_scheduler.core import frames, inputs, waiting
from cascade_scheduler.core.books import Books
from cascade_scheduler.core.graph import NodeKind
from cascade_scheduler.core.run import ACTIVE, DONE, READY, SKIPPED, STATE_NAMES, WAITING, Run
from cascade_scheduler.core.values import BlobValue, CompoundValue, ListValue, Value
from cascade_scheduler.core.worker import Worker

__all__ = [
    "ClusterInfo",
    "NodeInfo",
    "Progress",
    "RunInfo",
    "Tree",
    "TreeCompound",
    "TreeList",
    "WorkerInfo",
    "all_nodes",
    "cluster_info",
    "fetch_value",
    "is_by_name",
    "is_plain",
    "open_nodes",
    "progress",
    "run_info",
    "single_value",
    "target_tree",
    "worker_info",
]


class Progress(NamedTuple):
    """A run's nodes that run code, counted."""

    total: int
    done: int
    running: int
    skipped: int
    failed: int
    retried: int


class RunInfo(NamedTuple):
    """A run in short; times in seconds since the Unix epoch."""

    run_id: str
    name: str
    state: str
    submitted: float
    ended: float | None
    error: str
    progress: Progress


class NodeInfo(NamedTuple):
    """A node in short."""

    node: int
    task: str
    state: str
    worker: str
    reason: str


class WorkerInfo(NamedTuple):
    """A worker in short; amounts in micros."""

    worker: str
    name: str
    state: str
    amounts: tuple[tuple[str, int], ...]
    free: tuple[tuple[str, int], ...]
    running: int
    queued: int
    host: str
    pid: int


class ClusterInfo(NamedTuple):
    """The cluster in numbers; amounts in micros."""

    amounts: tuple[tuple[str, int], ...]
    free: tuple[tuple[str, int], ...]
    runs_active: int
    nodes_ready: int
    nodes_running: int
    pools: tuple[tuple[str, int], ...]
    pools_free: tuple[tuple[str, int], ...]


class TreeList(NamedTuple):
    """A list."""

    items: tuple[Tree, ...]


class TreeCompound(NamedTuple):
    """A pickle whose persistent ids stand for the inputs."""

    template: bytes | BlobValue
    inputs: tuple[Tree, ...]


Tree: TypeAlias = Union[int, TreeList, TreeCompound]
"""The shape of the target's value; an int is a node whose value stands there."""


def progress(run: Run) -> Progress:
    """Where the run stands, in numbers."""
    total, done, skipped = frames.progress(run)
    return Progress(total, done, run.active, skipped, run.failed, run.retried)


def run_info(run: Run) -> RunInfo:
    """The run in short."""
    error = "" if run.error is None else f"{run.error.type}: {run.error.message}"
    ended = None if run.live else run.ended
    return RunInfo(run.run_id, run.name, run.state, run.submitted, ended, error, progress(run))


def open_nodes(books: Books, run: Run, limit: int) -> list[NodeInfo]:
    """Nodes that run or wait, the running ones first."""
    found: list[NodeInfo] = []
    for node, attempt_id in run.nodes_active.items():
        if len(found) >= limit:
            return found
        attempt = books.attempts[attempt_id]
        state = "running" if attempt.charged else "sent ahead"
        found.append(NodeInfo(node, run.task(node), state, attempt.worker.name, ""))
    if run.state != "running":
        return found
    for node, status in enumerate(run.status):
        if len(found) >= limit:
            break
        if status >= DONE or status == ACTIVE or not run.runs_code(node):
            continue
        reason = ""
        if status == READY:
            reason = waiting.reason(books, run, node)
        elif run.shut(node):
            reason = "waits until a router has chosen it"
        elif status == WAITING:
            reason = f"waits for {max(run.pending[node], 1)} of its inputs"
        found.append(NodeInfo(node, run.task(node), STATE_NAMES[status], "", reason))
    return found


def all_nodes(books: Books, run: Run, limit: int) -> list[NodeInfo]:
    """The first nodes of the run's graph, in order, as they stand or stood at its end.

    What maps over lazy lists became is not listed.
    """
    found: list[NodeInfo] = []
    for node in range(min(limit, run.graph.size)):
        status = run.status[node]
        reason = worker = ""
        if status == SKIPPED:
            reason = run.skips[node].reason
        elif status == ACTIVE and node in run.nodes_active:
            worker = books.attempts[run.nodes_active[node]].worker.name
        found.append(NodeInfo(node, run.task(node), STATE_NAMES[status], worker, reason))
    return found


def worker_info(worker: Worker) -> WorkerInfo:
    """The worker in short."""
    state = "disconnected" if not worker.connected else "draining" if worker.draining else "connected"
    queued = len(worker.queue)
    return WorkerInfo(
        worker.id,
        worker.name,
        state,
        tuple(worker.amounts.items()),
        tuple(worker.free.items()),
        len(worker.attempts) - queued,
        queued,
        worker.host,
        worker.pid,
    )


def cluster_info(books: Books) -> ClusterInfo:
    """The cluster in numbers."""
    amounts: dict[str, int] = {}
    free: dict[str, int] = {}
    for worker in books.workers.values():
        if worker.connected:
            for name, micros in worker.amounts.items():
                amounts[name] = amounts.get(name, 0) + micros
            for name, micros in worker.free.items():
                free[name] = free.get(name, 0) + micros
    live = [run for run in books.runs.values() if run.live]
    roots = sum(run.parent is None for run in live)
    return ClusterInfo(
        tuple(amounts.items()),
        tuple(free.items()),
        roots,
        sum(run.ready for run in live),
        sum(run.active for run in live),
        tuple((pool.name, pool.total) for pool in books.lines.pools.values()),
        tuple((pool.name, pool.free) for pool in books.lines.pools.values()),
    )


def is_plain(run: Run) -> bool:
    """The run is one task, of which no more can be told than that it has begun and ended."""
    graph = run.graph
    if graph.size != 1 or run.loop is not None or run.cached is not None:
        return False
    spec = graph.spec(0)
    return spec.kind == NodeKind.CALL and not (spec.spawn or spec.resources or spec.cache_policy)


def target_tree(run: Run) -> Tree:
    """The shape of the target's value. Built without recursion: containers may be nested deeply."""
    target = run.resolve(run.graph.target)
    if run.runs_code(target):
        return target
    built: dict[int, Tree] = {}
    todo = [target]
    while todo:
        node = todo[-1]
        if node in built:
            todo.pop()
            continue
        kind = run.graph.spec(node).kind if node < run.graph.size else NodeKind.CALL
        if kind == NodeKind.CALL:
            built[node] = node
            todo.pop()
            continue
        value = inputs.plain_value(run, node)
        if value is not None:
            built[node] = TreeCompound(value, ())
            todo.pop()
            continue
        expansion = run.expansions.get(node)
        sources = (
            [run.resolve(s) for s in run.graph.inputs(node)]
            if expansion is None
            else range(expansion.first, sum(expansion))
        )
        missing = [s for s in sources if s not in built]
        if missing:
            todo.extend(missing)
            continue
        todo.pop()
        trees = tuple(built[s] for s in sources)
        if kind == NodeKind.GATHER:
            built[node] = TreeCompound(run.graph.blob_args.get(node) or run.graph.node_args[node], trees)
        else:
            built[node] = TreeList(trees)
    return built[target]


def fetch_value(
    books: Books, run_id: str, node: int
) -> tuple[bytes | BlobValue | None, Iterator[Value]] | None:
    """A structural value in parts, for a worker that was given its name; None when there is no such value."""
    run = books.runs.get(run_id)
    if run is None or not 0 <= node < run.graph.size or run.runs_code(node) or run.status[node] != DONE:
        return None
    return None if inputs.plain_value(run, node) is not None else inputs.parts(run, node)


def is_by_name(run: Run, node: int, value: Value) -> bool:
    """The value may as well be fetched by the node's name: it is its own bytes, list or container."""
    if type(value) is bytes:
        return single_value(run, node) is value
    return isinstance(value, (ListValue, CompoundValue)) and run.built.get(node) is value


def single_value(run: Run, node: int) -> Value | None:
    """The value of a node that is made of no other nodes' values, if it is there."""
    value = run.values.get(node)
    if value is not None or not 0 <= node < run.graph.size or run.runs_code(node):
        return value
    return inputs.plain_value(run, node) if run.status[node] == DONE else None
