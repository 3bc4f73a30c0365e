"""The border between the wire's messages and the core's events."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from cascade_dist.codec.exceptions import ErrorRecord, encode_exception
from cascade_dist.errors import TaskTimeoutError
from cascade_dist.v1 import graph_pb2, worker_pb2
from cascade_dist.wire.convert import seconds, task_error
from cascade_worker.core.commands import Ending, EndingKind, SendReports
from cascade_worker.core.events import BodyKnown, Result
from cascade_worker.core.state import Phase
from cascade_worker.executor import frames

__all__ = [
    "FunctionStore",
    "LogText",
    "LostInputs",
    "PublishedValue",
    "Session",
    "failed_frame",
    "held_attempts",
    "reports_message",
    "result_of",
    "task_frame",
]

_FUNCTIONS_MAX = 4096
_HELD = {
    Phase.WAITING: worker_pb2.HELD_STATE_WAITING,
    Phase.SENT: worker_pb2.HELD_STATE_WAITING,
    Phase.RUNNING: worker_pb2.HELD_STATE_RUNNING,
    Phase.STORING: worker_pb2.HELD_STATE_RUNNING,
    Phase.FINISHED: worker_pb2.HELD_STATE_FINISHED,
}
_COMPUTE = graph_pb2.MODE_COMPUTE
_MICROS = 1_000_000


class LogText(NamedTuple):
    """One line that a task printed."""

    attempt: int
    stream: int
    text: str


class PublishedValue(NamedTuple):
    """A DONE frame whose value is a blob now."""

    frame: tuple[Any, ...]
    cid: bytes
    size: int


class LostInputs(NamedTuple):
    """Why the inputs of an attempt cannot be had. `lost`: attempts whose objects nobody has."""

    error: ErrorRecord
    lost: tuple[int, ...]


# --- from the scheduler ----------------------------------------------------------------------------


class FunctionStore:
    """Function bodies as files, from which executors load them.

    Args:
        directory: where they lie, by the hex of their CID.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known: OrderedDict[bytes, None] = OrderedDict()

    def __contains__(self, cid: bytes) -> bool:
        return cid in self._known

    def add(self, functions: Iterable[graph_pb2.Function], in_use: set[bytes]) -> None:
        """Keeps bodies; the oldest of many that are not in use go."""
        for function in functions:
            if function.body and function.cid not in self._known:
                self.put(function.cid, function.body)
        if len(self._known) > _FUNCTIONS_MAX:
            for cid in [cid for cid in self._known if cid not in in_use][: len(self._known) - _FUNCTIONS_MAX]:
                del self._known[cid]
                (self._directory / cid.hex()).unlink(missing_ok=True)

    def put(self, cid: bytes, body: bytes) -> None:
        """Keeps one body."""
        path = self._directory / cid.hex()
        # Executors look for the name, so it appears when the bytes are there.
        part = path.with_suffix(".part")
        part.write_bytes(body)
        part.rename(path)
        self._known[cid] = None


class Session:
    """What one session has told of runs and bodies.

    Args:
        inline_bytes_max: results up to this many bytes go inline.
    """

    def __init__(self, inline_bytes_max: int) -> None:
        self._inline_bytes_max = inline_bytes_max
        self._runs: dict[int, str] = {}
        self.body_keys: dict[int, bytes] = {}
        """Bodies as executors take them, by number."""
        self.functions: dict[int, bytes] = {}
        """CIDs by the number of the body."""
        self._body_runs: dict[int, int] = {}

    def take_runs(self, runs: Iterable[worker_pb2.RunHandle]) -> None:
        """Learns the numbers of runs."""
        for handle in runs:
            self._runs[handle.run] = handle.run_id

    def take_body(self, body: worker_pb2.TaskBody) -> BodyKnown:
        """Learns a body."""
        spec = body.spec
        retry_on = spec.retry.on if spec.HasField("retry") else None
        amounts = tuple((amount.name, amount.micros) for amount in spec.amounts)
        threads = 0
        if spec.mode == _COMPUTE:
            threads = max(1, dict(amounts).get("cpu", _MICROS) // _MICROS)
        info = frames.BodyInfo(
            spec.name,
            self._runs.get(body.run, ""),
            body.function,
            retry_on,
            threads,
            self._inline_bytes_max,
        )
        self.body_keys[body.body] = frames.body_key(info)
        self.functions[body.body] = body.function
        self._body_runs[body.body] = body.run
        timeout = seconds(spec.timeout) if spec.HasField("timeout") else None
        return BodyKnown(body.body, body.run, spec.name, body.function, spec.asynchronous, timeout, amounts)

    def forget_runs(self, runs: Iterable[int]) -> None:
        """Runs have ended."""
        ended = set(runs)
        for number in [number for number, run in self._body_runs.items() if run in ended]:
            del self.body_keys[number], self.functions[number], self._body_runs[number]
        for run in ended:
            self._runs.pop(run, None)


def task_frame(assignment: worker_pb2.Assignment, key: bytes, args: Any, inputs: list[Any] | None) -> bytes:
    """The frame that makes an executor run an assignment."""
    return frames.dumps(
        (
            frames.TASK,
            assignment.attempt,
            key,
            args,
            inputs,
            assignment.node_id,
            getattr(assignment, "try"),
            assignment.map_index_plus_one - 1,
            assignment.observe,
            assignment.publish,
            assignment.inline_bytes_max,
        )
    )


# --- from executors --------------------------------------------------------------------------------


def result_of(frame: tuple[Any, ...]) -> Result:
    """What an executor's answer means for the core."""
    if frame[0] == frames.DONE:
        size = len(frame[3] or b"") + (sum(map(len, frame[7])) if frame[7] else 0)
        return Result(frame[1], True, frame, frame[2], size, False, frame[10])
    return Result(frame[1], False, frame, frame[2], len(frame[7]) + len(frame[8]), frame[3])


def failed_frame(attempt: int, error: BaseException) -> tuple[Any, ...]:
    """The answer of an executor that could not handle a value, made by the worker."""
    return (frames.FAILED, attempt, 0, False, True, *encode_exception(error), False)


# --- to the scheduler ------------------------------------------------------------------------------


def held_attempts(held: Iterable[tuple[int, Phase]]) -> list[worker_pb2.HeldAttempt]:
    """The attempts on the books, for Hello."""
    return [worker_pb2.HeldAttempt(attempt=attempt, state=_HELD[phase]) for attempt, phase in held]


def reports_message(
    command: SendReports, logs: list[LogText], object_address: str
) -> worker_pb2.ConnectRequest:
    """One message to the scheduler; a heartbeat when there is nothing to say."""
    message = worker_pb2.ConnectRequest(sequence=command.sequence, acked_through=command.acked_through)
    if not (command.started or command.endings or logs or command.draining):
        message.heartbeat.SetInParent()
        return message
    reports = message.reports
    reports.SetInParent()
    if command.started:
        reports.started.extend(command.started)
    add = reports.reports.add
    for attempt, ending in command.endings:
        report = add()
        report.attempt = attempt
        report.duration_ns = ending.duration_ns
        _ENDINGS[ending.kind](report, ending, object_address)
    for line in logs:
        reports.logs.add(attempt=line.attempt, stream=line.stream, text=line.text)
    reports.draining = command.draining
    return message


def _done(report: worker_pb2.Report, ending: Ending, object_address: str) -> None:
    done = report.done
    payload: Any = ending.payload
    if isinstance(payload, PublishedValue):
        done.value.blob.cid = payload.cid
        done.value.blob.size_bytes = payload.size
        payload = payload.frame
    elif payload[3] is not None:
        done.value.inline = payload[3]
    else:
        reference = done.value.object
        reference.attempt = report.attempt
        reference.size_bytes = payload[4]
        reference.holders.append(object_address)
    _, _, _, _, _, truth, length, items, observe_error, preview, _ = payload
    done.preview = preview
    if truth is not None:
        done.truth = truth
    if length is not None:
        done.length = length
    if items:
        done.items.extend(items)
    if observe_error is not None:
        done.observe_error.CopyFrom(task_error(ErrorRecord(*observe_error)))


def _failed(report: worker_pb2.Report, ending: Ending, object_address: str) -> None:
    frame: Any = ending.payload
    report.failed.error.CopyFrom(task_error(ErrorRecord(*frame[5:9])))
    report.failed.kind = worker_pb2.FAILURE_KIND_UNLOADABLE if frame[4] else worker_pb2.FAILURE_KIND_RAISED
    report.failed.retryable = frame[9]


def _timed_out(report: worker_pb2.Report, ending: Ending, object_address: str) -> None:
    record = encode_exception(TaskTimeoutError(ending.reason))
    frame: Any = ending.payload
    if frame:  # where it was when it was stopped
        record = record._replace(traceback=frame[7])
    report.failed.error.CopyFrom(task_error(record))
    report.failed.kind = worker_pb2.FAILURE_KIND_TIMEOUT
    report.failed.retryable = True


def _lost(report: worker_pb2.Report, ending: Ending, object_address: str) -> None:
    report.lost.reason = ending.reason
    report.lost.innocent = ending.flag


def _returned(report: worker_pb2.Report, ending: Ending, object_address: str) -> None:
    report.returned.SetInParent()


def _cancelled(report: worker_pb2.Report, ending: Ending, object_address: str) -> None:
    report.cancelled.killed = ending.flag


def _input_lost(report: worker_pb2.Report, ending: Ending, object_address: str) -> None:
    payload: Any = ending.payload
    report.failed.error.CopyFrom(task_error(payload.error))
    lost = bool(payload.lost)
    report.failed.kind = worker_pb2.FAILURE_KIND_INPUT_LOST if lost else worker_pb2.FAILURE_KIND_UNLOADABLE
    report.failed.lost_inputs.extend(payload.lost)


_ENDINGS = {
    EndingKind.DONE: _done,
    EndingKind.FAILED: _failed,
    EndingKind.TIMED_OUT: _timed_out,
    EndingKind.LOST: _lost,
    EndingKind.RETURNED: _returned,
    EndingKind.CANCELLED: _cancelled,
    EndingKind.INPUT_LOST: _input_lost,
}
