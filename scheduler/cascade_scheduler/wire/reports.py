"""What workers say, as the core's events."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from cascade_dist.v1 import value_pb2, worker_pb2
from cascade_scheduler.core.events import (
    AttemptCancelled,
    AttemptDone,
    AttemptFailed,
    AttemptLost,
    AttemptReturned,
    Held,
    LeaseProgress,
    Report,
    ResourceReported,
    WorkerConnected,
)
from cascade_scheduler.core.values import BlobValue, ObjectValue
from cascade_scheduler.wire.values import BadMessage, amounts_from, blob_from, error_from

__all__ = ["hello_from", "leases_from", "reports_from", "resources_from"]

_SECONDS = 1e-9
NODE_ID_BYTES = 16
_FAILURES = {
    worker_pb2.FAILURE_KIND_RAISED: "raised",
    worker_pb2.FAILURE_KIND_TIMEOUT: "timeout",
    worker_pb2.FAILURE_KIND_UNLOADABLE: "unloadable",
    worker_pb2.FAILURE_KIND_INPUT_LOST: "input_lost",
}
_HELD = {
    worker_pb2.HELD_STATE_WAITING: "waiting",
    worker_pb2.HELD_STATE_RUNNING: "running",
    worker_pb2.HELD_STATE_FINISHED: "finished",
}


def hello_from(hello: worker_pb2.Hello) -> WorkerConnected:
    """A worker's Hello.

    Raises:
        BadMessage: a field is missing or out of its range.
    """
    if not hello.worker_id:
        raise BadMessage("Hello names no worker_id")
    held = []
    for attempt in hello.held:
        state = _HELD.get(attempt.state)
        if state is None:
            raise BadMessage(f"Hello holds attempt {attempt.attempt} in the unknown state {attempt.state}")
        held.append(Held(attempt.attempt, state))
    return WorkerConnected(
        hello.worker_id,
        hello.name or hello.worker_id,
        amounts_from(hello.amounts),
        hello.async_credits,
        hello.ahead_credits,
        hello.object_address,
        hello.host,
        hello.pid,
        tuple(held),
        tuple(hello.objects),
        hello.draining,
        hello.sync_credits,
    )


def leases_from(messages: Iterable[worker_pb2.LeaseProgress]) -> tuple[LeaseProgress, ...]:
    """How far leased loops have come.

    Raises:
        BadMessage: a checkpoint names no node.
    """
    found = []
    for message in messages:
        if len(message.node_id) != NODE_ID_BYTES:
            raise BadMessage(f"the checkpoint of attempt {message.attempt} names no node")
        found.append(LeaseProgress(message.attempt, message.iterations, message.args, message.node_id))
    return tuple(found)


def reports_from(
    worker: str,
    messages: Iterable[worker_pb2.Report],
    tail: Callable[[worker_pb2.Report], Report] | None = None,
) -> tuple[Report, ...]:
    """How attempts on a worker ended.

    Args:
        worker: its id.
        messages: its reports.
        tail: reads those of attempts that returned a target; None: there can be none.

    Raises:
        BadMessage: a report without an outcome or without a value.
    """
    reports: list[Report] = []
    append = reports.append
    make, done_type = tuple.__new__, AttemptDone
    for message in messages:
        outcome = message.WhichOneof("outcome")
        if outcome == "done":
            done = message.done
            value = done.value
            if value.WhichOneof("form") == "inline" and not (done.items or done.cached):
                inline = value.inline
                if inline[:1] == b"\0":
                    raise BadMessage(f"attempt {message.attempt} made inline bytes that are no pickle")
                # The common case, without the cost of keyword arguments: a task in 2 µs.
                append(
                    make(
                        done_type,
                        (
                            message.attempt,
                            inline,
                            message.duration_ns * _SECONDS,
                            done.preview,
                            done.truth if done.HasField("truth") else None,
                            done.length if done.HasField("length") else None,
                            (),
                            error_from(done.observe_error) if done.HasField("observe_error") else None,
                            _routes(done) if done.routes_plus_one else (),
                            done.route_text,
                            done.amount_micros if done.HasField("amount_micros") else None,
                            done.digest,
                            False,
                            done.iterations,
                        ),
                    )
                )
            elif done.HasField("tail") and tail is not None:
                append(tail(message))
            else:
                append(_done(worker, message))
        elif outcome == "failed":
            append(_failed(message))
        elif outcome == "lost":
            append(AttemptLost(message.attempt, message.lost.reason, message.lost.innocent))
        elif outcome == "returned":
            append(AttemptReturned(message.attempt))
        elif outcome == "cancelled":
            append(AttemptCancelled(message.attempt, message.cancelled.killed))
        else:
            raise BadMessage(f"the report of attempt {message.attempt} has no outcome")
    return tuple(reports)


def _done(worker: str, message: worker_pb2.Report) -> AttemptDone:
    done = message.done
    return AttemptDone(
        message.attempt,
        _made_value(worker, message.attempt, done.value),
        message.duration_ns * _SECONDS,
        done.preview,
        done.truth if done.HasField("truth") else None,
        done.length if done.HasField("length") else None,
        tuple(done.items),
        error_from(done.observe_error) if done.HasField("observe_error") else None,
        _routes(done),
        done.route_text,
        done.amount_micros if done.HasField("amount_micros") else None,
        done.digest,
        done.cached,
        done.iterations,
    )


def _routes(done: worker_pb2.Done) -> tuple[int, ...]:
    return tuple(number - 1 for number in done.routes_plus_one)


def _made_value(worker: str, attempt: int, value: value_pb2.Value) -> bytes | ObjectValue | BlobValue:
    form = value.WhichOneof("form")
    if form == "inline":
        if value.inline[:1] == b"\0":  # in the store that is the mark of a reference
            raise BadMessage(f"attempt {attempt} made inline bytes that are no pickle")
        return value.inline
    if form == "blob":
        return blob_from(value.blob)
    if form == "object":
        made = value.object
        if len(made.holders) < 1:
            raise BadMessage(f"attempt {attempt} made an object that nobody holds")
        return ObjectValue(made.attempt, made.size_bytes, worker, made.holders[0])
    raise BadMessage(f"attempt {attempt} is reported done with a value that is {form or 'missing'}")


def _failed(message: worker_pb2.Report) -> AttemptFailed:
    failed = message.failed
    kind = _FAILURES.get(failed.kind)
    if kind is None:
        raise BadMessage(f"attempt {message.attempt} failed in the unknown way {failed.kind}")
    return AttemptFailed(
        message.attempt,
        error_from(failed.error),
        kind,
        failed.retryable,
        tuple(failed.lost_inputs),
        message.duration_ns * _SECONDS,
    )


def resources_from(
    messages: Iterable[worker_pb2.ResourceReport], run_id: Callable[[int], str]
) -> tuple[ResourceReported, ...]:
    """What became of resources on a worker.

    Args:
        messages: as it said.
        run_id: gives the run of a number.
    """
    return tuple(
        ResourceReported(
            run_id(message.run),
            message.name,
            message.released,
            message.reason,
            message.attempt,
            message.duration_ns * _SECONDS,
        )
        for message in messages
    )
