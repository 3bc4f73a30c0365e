"""What clients are told: updates, events, runs and workers in short."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cascade_dist.v1 import client_pb2, value_pb2
from cascade_scheduler.core.commands import RunEnded
from cascade_scheduler.core.explain import Explanation
from cascade_scheduler.core.values import BlobValue, Value
from cascade_scheduler.core.views import NodeInfo, Progress, RunInfo, Tree, TreeCompound, TreeList, WorkerInfo
from cascade_scheduler.eventlog import Logged, LogLine
from cascade_scheduler.wire.values import (
    PAYLOAD_BYTES_MAX,
    amounts_to,
    blob_from,
    duration_of,
    error_from,
    error_to,
    fill_value,
    seconds_of,
    split_seconds,
    timestamp_of,
    value_size,
)

__all__ = [
    "RUN_STATES",
    "event_to",
    "fill_finish",
    "fill_progress",
    "fill_results",
    "finish_from",
    "explanation_to",
    "node_to",
    "output_to",
    "run_to",
    "tree_from",
    "tree_nodes",
    "tree_to",
    "worker_to",
]

RESULT_BYTES = 16
"""What a result takes beside its value."""
REASON_CHARS_MAX = 4_000
TREE_DEPTH_MAX = 64
"""Deeper trees would be refused by whoever parses the message."""

RUN_STATES = {
    "pending": client_pb2.RUN_STATE_PENDING,
    "running": client_pb2.RUN_STATE_RUNNING,
    "cancelling": client_pb2.RUN_STATE_CANCELLING,
    "closing": client_pb2.RUN_STATE_RUNNING,
    "succeeded": client_pb2.RUN_STATE_SUCCEEDED,
    "failed": client_pb2.RUN_STATE_FAILED,
    "cancelled": client_pb2.RUN_STATE_CANCELLED,
}


_STATE_NAMES = {
    client_pb2.RUN_STATE_SUCCEEDED: "succeeded",
    client_pb2.RUN_STATE_FAILED: "failed",
    client_pb2.RUN_STATE_CANCELLED: "cancelled",
}


def fill_results(
    update: client_pb2.RunUpdate, results: Sequence[tuple[int, Value]], first: int, last: int
) -> int:
    """Writes results[first:last] into an update, or as many as 1 MiB holds; returns where it stopped.

    At least one is written when there is one.
    """
    add = update.results.add
    size = 0
    for at in range(first, last):
        node, value = results[at]
        if type(value) is bytes:
            size += len(value) + RESULT_BYTES
            if size > PAYLOAD_BYTES_MAX and at > first:
                return at
            add(node=node).value.inline = value
        else:
            size += value_size(value) + RESULT_BYTES
            if size > PAYLOAD_BYTES_MAX and at > first:
                return at
            fill_value(add(node=node).value, value)
    return last


def fill_progress(message: client_pb2.Progress, progress: Progress) -> None:
    """Writes a run's counts into a message."""
    message.total, message.done = progress.total, progress.done
    if progress.running:
        message.running = progress.running
    if progress.skipped:
        message.skipped = progress.skipped
    if progress.failed:
        message.failed = progress.failed
    if progress.retried:
        message.retried = progress.retried


def fill_finish(
    finish: client_pb2.RunFinish, ended: RunEnded, tree: Tree | None, progress: Progress | None
) -> None:
    """Writes into a message how a run ended."""
    finish.state = RUN_STATES[ended.state]
    duration = finish.duration
    duration.seconds, duration.nanos = split_seconds(ended.duration)
    if ended.failed_task:
        finish.failed_task = ended.failed_task
    if ended.skip_reason:
        finish.skip_reason = ended.skip_reason
        finish.skipped_node = ended.skipped_node
        finish.skipped_dependency = ended.skipped_dependency
    if tree is not None:
        tree_to(finish.tree, tree)
    if ended.error is not None:
        finish.error.CopyFrom(error_to(ended.error))
    if progress is not None:
        fill_progress(finish.progress, progress)


def tree_to(message: client_pb2.TargetTree, tree: Tree, depth: int = 0) -> None:
    """Writes the shape of the target's value into a message.

    Raises:
        ValueError: containers are nested more deeply than a message can hold.
    """
    if depth > TREE_DEPTH_MAX:
        raise ValueError(f"the target's value nests containers more than {TREE_DEPTH_MAX} deep")
    if isinstance(tree, int):
        message.node = tree
        return
    branch: client_pb2.TargetList | client_pb2.TargetCompound
    if isinstance(tree, TreeList):
        branch, children = message.list, tree.items
        branch.SetInParent()
        add = message.list.items.add
    else:
        branch, children = message.compound, tree.inputs
        branch.SetInParent()
        _fill_template(message.compound, tree)
        add = message.compound.inputs.add
    if all(type(child) is int for child in children):
        branch.nodes.extend(children)  # type: ignore[arg-type]  # all are ints, as was just seen
        return
    for child in children:
        tree_to(add(), child, depth + 1)


def _fill_template(message: client_pb2.TargetCompound, tree: TreeCompound) -> None:
    if isinstance(tree.template, BlobValue):
        message.template_blob.cid, message.template_blob.size_bytes = tree.template
    else:
        message.template = tree.template


def event_to(event_id: int, logged: Logged, node_id: str) -> client_pb2.Event:
    """An event of a run."""
    if isinstance(logged, LogLine):
        return client_pb2.Event(
            event_id=event_id,
            timestamp=timestamp_of(logged.at),
            kind="LogLine",
            task=logged.task,
            node_id=node_id,
            worker=logged.worker,
            stream=_stream(logged.stream),
            text=logged.text,
        )
    event = client_pb2.Event(
        event_id=event_id,
        timestamp=timestamp_of(logged.at),
        kind=logged.kind,
        task=logged.task,
        node_id=node_id,
        status=logged.status,
        reason=logged.reason,
        error=logged.error,
        result_preview=logged.preview,
        worker=logged.worker,
        attempt=logged.attempt,
        max_attempts=logged.max_attempts,
        iterations=logged.iterations,
        resource=logged.resource,
    )
    if logged.status or logged.resource:
        event.duration.CopyFrom(duration_of(logged.duration))
    if logged.delay:
        event.delay.CopyFrom(duration_of(logged.delay))
    return event


def finish_from(finish: client_pb2.RunFinish, run_id: str) -> tuple[RunEnded, Tree | None, Progress]:
    """How a run ended, as it was told."""
    error = error_from(finish.error) if finish.HasField("error") else None
    ended = RunEnded(
        run_id,
        _STATE_NAMES[finish.state],
        error,
        finish.failed_task,
        finish.skip_reason,
        finish.skipped_node,
        finish.skipped_dependency,
        seconds_of(finish.duration),
    )
    tree = tree_from(finish.tree) if finish.HasField("tree") else None
    told = finish.progress
    progress = Progress(told.total, told.done, told.running, told.skipped, told.failed, told.retried)
    return ended, tree, progress


def tree_from(message: client_pb2.TargetTree) -> Tree:
    """The shape of the target's value; its depth is bounded by whoever wrote it."""
    shape = message.WhichOneof("shape")
    if shape == "list":
        return TreeList((*message.list.nodes, *map(tree_from, message.list.items)))
    if shape != "compound":
        return message.node
    compound = message.compound
    template: bytes | BlobValue = compound.template
    if compound.HasField("template_blob"):
        template = blob_from(compound.template_blob)
    return TreeCompound(template, (*compound.nodes, *map(tree_from, compound.inputs)))


def tree_nodes(tree: Tree) -> Iterator[int]:
    """The nodes whose values stand in a target's value."""
    todo = [tree]
    while todo:
        branch = todo.pop()
        if isinstance(branch, int):
            yield branch
        else:
            todo.extend(branch.items if isinstance(branch, TreeList) else branch.inputs)


def output_to(event_id: int, line: LogLine) -> client_pb2.TaskOutput:
    """A line that a task printed."""
    return client_pb2.TaskOutput(
        task=line.task,
        stream=_stream(line.stream),
        text=line.text,
        worker=line.worker,
        event_id=event_id,
    )


def _stream(number: int) -> value_pb2.LogStream:
    return value_pb2.LOG_STREAM_STDERR if number == 2 else value_pb2.LOG_STREAM_STDOUT


def run_to(info: RunInfo, now: float) -> client_pb2.RunInfo:
    """A run in short."""
    ended = now if info.ended is None else info.ended
    message = client_pb2.RunInfo(
        run_id=info.run_id,
        name=info.name,
        state=RUN_STATES[info.state],
        submitted=timestamp_of(info.submitted),
        duration=duration_of(ended - info.submitted),
        error=info.error,
    )
    fill_progress(message.progress, info.progress)
    return message


def node_to(info: NodeInfo) -> client_pb2.NodeInfo:
    """A node in short."""
    return client_pb2.NodeInfo(
        node=info.node, task=info.task, state=info.state, worker=info.worker, reason=info.reason
    )


def explanation_to(told: Explanation) -> client_pb2.NodeExplanation:
    """Why a node is where it is."""
    return client_pb2.NodeExplanation(
        node=node_to(told.info),
        node_id=told.node_id,
        reasons=[reason[:REASON_CHARS_MAX] for reason in told.reasons],
    )


def worker_to(info: WorkerInfo, silent: float, versions: client_pb2.Versions | None) -> client_pb2.WorkerInfo:
    """A worker in short; `silent` in seconds."""
    return client_pb2.WorkerInfo(
        worker_id=info.worker,
        name=info.name,
        state=info.state,
        amounts=amounts_to(info.amounts),
        free=amounts_to(info.free),
        running=info.running,
        queued=info.queued,
        host=info.host,
        pid=info.pid,
        silent=duration_of(silent),
        versions=versions,
    )
