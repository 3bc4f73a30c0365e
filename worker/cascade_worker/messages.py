"""The border between the wire's messages and the core's events."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from cascade_dist.codec.exceptions import ErrorRecord, encode_exception
from cascade_dist.errors import StoreFullError, TaskTimeoutError
from cascade_dist.v1 import graph_pb2, value_pb2, worker_pb2
from cascade_dist.wire.convert import seconds, task_error
from cascade_worker.core.commands import Ending, EndingKind, SendReports
from cascade_worker.core.events import BodyKnown, Result, WorkReceived
from cascade_worker.core.state import Phase
from cascade_worker.executor import frames
from cascade_worker.leases import LeaseBook
from cascade_worker.transfers import NoRoomError, ObjectsLostError

__all__ = [
    "RARE_PARTS",
    "FunctionStore",
    "LogText",
    "LostInputs",
    "PublishedValue",
    "Session",
    "failed_frame",
    "fill_open_input",
    "held_attempts",
    "lost_inputs",
    "reports_message",
    "result_of",
    "task_frame",
    "with_rare_parts",
    "without_lease",
]

RARE_PARTS = frozenset(("retract", "cancel", "promise", "close_runs", "recall", "forget_bodies"))
"""Parts of work that few messages have."""

_FUNCTIONS_MAX = 4096
_PARAMS_MAX = 4096
_SPECS_MAX = 256
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


def lost_inputs(error: Exception, body: bytes) -> LostInputs:
    """What came in the way of the inputs of an attempt with this body, as executors know it."""
    lost = error.attempts if isinstance(error, ObjectsLostError) else ()
    if isinstance(error, NoRoomError):
        error = StoreFullError(
            f"task {frames.body_of(body).name!r}: {error}; make room there, or start the worker with another "
            "--object-dir or higher bounds (--object-memory, --spill-max)"
        )
    return LostInputs(encode_exception(error), lost)


# --- from the scheduler ----------------------------------------------------------------------------


class FunctionStore:
    """Function bodies as files, from which executors load them.

    Args:
        directory: where they lie, by the hex of their CID.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._params: OrderedDict[str, None] = OrderedDict()

    def __contains__(self, cid: bytes) -> bool:
        return cid in self._known

    def has(self, cids: Iterable[bytes]) -> bool:
        """Whether all of these bodies are here."""
        known = self._known
        for cid in cids:  # noqa: SIM110 - all() with a generator takes three times as long
            if cid not in known:
                return False
        return True

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
        self._write(cid.hex(), body)
        self._known[cid] = None

    def _write(self, name: str, data: bytes) -> None:
        # Executors look for the name, so it appears when the bytes are there.
        path = self._directory / name
        part = path.with_suffix(".part")
        part.write_bytes(data)
        part.rename(path)

    def put_params(self, run_id: str, params: bytes) -> str:
        """Keeps the params of a run; the name of their file."""
        name = params_name(run_id)
        self._write(name, params)
        self._params[name] = None
        if len(self._params) > _PARAMS_MAX:  # of runs that ended while there was no session
            self.drop_params(next(iter(self._params)))
        return name

    def drop_params(self, name: str) -> None:
        """The run has ended."""
        if self._params.pop(name, self) is None:
            (self._directory / name).unlink(missing_ok=True)


Amounts = tuple[tuple[str, int], ...]


class _Spec(NamedTuple):
    """What a worker needs of a spec."""

    name: str
    asynchronous: bool
    timeout: float | None
    amounts: Amounts
    retry_on: bytes | None
    threads: int
    spawn: bool
    cache_policy: bytes


def _spec_of(message: graph_pb2.TaskSpec) -> _Spec:
    amounts = tuple((amount.name, amount.micros) for amount in message.amounts)
    threads = 0
    if message.mode == _COMPUTE:
        threads = max(1, dict(amounts).get("cpu", _MICROS) // _MICROS)
    return _Spec(
        message.name,
        message.asynchronous,
        seconds(message.timeout) if message.HasField("timeout") else None,
        amounts,
        message.retry.on if message.HasField("retry") else None,
        threads,
        message.spawn,
        message.cache_policy,
    )


def params_name(run_id: str) -> str:
    """The name of the file with a run's params."""
    return f"params-{blake2b(run_id.encode(), digest_size=16).hexdigest()}"


class Session:
    """What one session has told of runs and bodies.

    Args:
        inline_bytes_max: results up to this many bytes go inline.
        functions: where the params of runs are kept too.
        seal_key: of the cluster, for tasks with a caching policy.
    """

    def __init__(
        self, inline_bytes_max: int, functions: FunctionStore | None = None, seal_key: bytes = b""
    ) -> None:
        self._inline_bytes_max = inline_bytes_max
        self._seal_key = seal_key
        self._functions = functions
        self._runs: dict[int, str] = {}
        self._params: dict[int, str] = {}
        """Names of files, by the number of the run."""
        self.body_keys: dict[int, bytes] = {}
        """Bodies as executors take them, by number."""
        self.functions: dict[int, tuple[bytes, ...]] = {}
        """CIDs of all functions that attempts of a body need, by its number; none: they only observe."""
        self._body_runs: dict[int, int] = {}
        """The number of the run by that of the body; of those that are of one run."""
        self._run_bodies: dict[int, list[int]] = {}
        self._computing: dict[int, frames.BodyInfo] = {}
        """Bodies in the mode compute."""
        self._specs: dict[bytes, _Spec] = {}

    def run_ids(self, runs: Iterable[int]) -> tuple[str, ...]:
        """The ids of runs."""
        return tuple([self._runs[run] for run in runs if run in self._runs])

    def run_numbers(self) -> dict[str, int]:
        """The numbers of runs."""
        return {run_id: number for number, run_id in self._runs.items()}

    def run_of(self, body: int, run: int) -> str:
        """The id of the run of an assignment that names a body, and a run if that is one of any run."""
        return self._runs.get(run or self._body_runs.get(body, 0), "")

    def functions_in_use(self) -> set[bytes]:
        """CIDs of the functions of all bodies."""
        return {cid for functions in self.functions.values() for cid in functions}

    def take_runs(self, runs: Iterable[worker_pb2.RunHandle]) -> None:
        """Learns the numbers of runs."""
        for handle in runs:
            self._runs[handle.run] = handle.run_id
            if handle.params and self._functions is not None:
                self._params[handle.run] = self._functions.put_params(handle.run_id, handle.params)

    def take_body(self, body: worker_pb2.TaskBody) -> BodyKnown:
        """Learns a body."""
        number, run, function = body.body, body.run, body.function
        spec = self._spec(body.spec)
        info = frames.BodyInfo(
            spec.name,
            self._runs.get(run, ""),
            function,
            spec.retry_on,
            spec.threads,
            self._inline_bytes_max,
            spec.spawn,
            self._params.get(run, ""),
            spec.cache_policy,
        )
        if spec.cache_policy:
            info = info._replace(seal_key=self._seal_key)
        needs: tuple[bytes, ...] = ()
        if body.resources:
            info = info._replace(resources=tuple(map(_resource, body.resources)))
            needs = tuple([resource.function for resource in body.resources])
        self.body_keys[number] = frames.body_key(info)
        if spec.threads:
            self._computing[number] = info
        self.functions[number] = (function, *needs) if function else ()
        if run:
            self._body_runs[number] = run
            self._run_bodies.setdefault(run, []).append(number)
        return BodyKnown(
            number,
            run,
            spec.name,
            function,
            spec.asynchronous,
            spec.timeout,
            spec.amounts,
            info.run_id,
            bool(info.resources),
            bool(spec.cache_policy),
        )

    def body_key(self, number: int, amounts: Amounts | None) -> bytes | None:
        """A body as executors take it, for an attempt that holds these amounts; None: it was never sent."""
        info = self._computing.get(number)
        if info is not None and amounts is not None and (cpu := dict(amounts).get("cpu")):
            return frames.body_key(info._replace(compute_threads=max(1, cpu // _MICROS)))
        return self.body_keys.get(number)

    def _spec(self, message: graph_pb2.TaskSpec) -> _Spec:
        """A spec taken apart; runs of one shape have equal ones."""
        key = message.SerializeToString(deterministic=True)
        found = self._specs.get(key)
        if found is None:
            if len(self._specs) >= _SPECS_MAX:
                self._specs.clear()
            found = self._specs[key] = _spec_of(message)
        return found

    def forget_bodies(self, numbers: Iterable[int]) -> None:
        """What comes later names other bodies."""
        for number in numbers:
            for known in (self.body_keys, self.functions, self._computing):
                known.pop(number, None)
            run = self._body_runs.pop(number, 0)
            if run:
                self._run_bodies[run].remove(number)

    def forget_runs(self, runs: Iterable[int]) -> None:
        """Runs have ended."""
        for run in runs:
            for number in self._run_bodies.pop(run, ()):
                del self.body_keys[number], self.functions[number], self._body_runs[number]
                self._computing.pop(number, None)
            self._runs.pop(run, None)
            if self._params and (name := self._params.pop(run, None)) is not None and self._functions:
                self._functions.drop_params(name)


def _resource(message: graph_pb2.ResourceDefinition) -> tuple[str, int, bytes, tuple[str, ...]]:
    return message.name, message.scope, message.function, tuple(message.requires)


def with_rare_parts(work: WorkReceived, part: Callable[[str, Any], Any], session: Session) -> WorkReceived:
    """Adds what few messages have, by the name of the part."""
    return work._replace(
        retract=tuple(part("retract", ())),
        cancel=tuple(part("cancel", ())),
        promise=part("promise", 0),
        close_runs=session.run_ids(part("close_runs", ())),
        recall=tuple(part("recall", ())),
        forget_bodies=tuple(part("forget_bodies", ())),
    )


def task_frame(
    assignment: worker_pb2.Assignment,
    key: bytes,
    args: Any,
    inputs: list[Any] | None,
    *,
    run_id: str,
    fast: bool = False,
    leased: bool = False,
) -> bytes:
    """The frame that makes an executor run an assignment.

    Args:
        assignment: what the scheduler said.
        key: its body.
        args: its arguments: bytes, or a file.
        inputs: its inputs.
        run_id: its run.
        fast: loops may go the fast way.
        leased: it goes on with its loop by itself.
    """
    whole, observe = assignment.whole, assignment.observe
    if whole:  # no user code: the value is its first input
        key = frames.body_key(
            frames.body_of(key)._replace(function=b"", cache_policy=b"", resources=(), spawn=False)
        )
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
            observe,
            assignment.publish,
            assignment.inline_bytes_max,
            frames.TAILS | fast * frames.FAST | leased * frames.LEASED if assignment.tail else 0,
            _more(assignment, observe, whole),
            run_id,
        )
    )


def without_lease(frame: bytes) -> bytes:
    """A task's frame, made before its lease was recalled."""
    fields = list(frames.loads(frame))
    fields[11] &= ~frames.LEASED
    return frames.dumps(tuple(fields))


def _more(assignment: worker_pb2.Assignment, observe: int, whole: bool) -> dict[str, Any] | None:
    """What few tasks have."""
    more: dict[str, Any] = {}
    if observe:
        if assignment.route_keys:
            more["route_keys"] = list(assignment.route_keys)
        if assignment.observe_only:
            more["observe_only"] = True
    if whole:
        more["whole"] = True
    if jump_keys := assignment.jump_keys:
        more["jump_keys"] = jump_keys
        more["jump_exits"] = tuple(assignment.jump_exits)
    if overrides := assignment.overrides:
        more["overrides"] = overrides
    if step := assignment.step:
        more["step"] = step
    if within := assignment.within:
        more["within"] = within
    return more or None


# --- from executors --------------------------------------------------------------------------------


def result_of(frame: tuple[Any, ...]) -> Result:
    """What an executor's answer means for the core."""
    if frame[0] == frames.TAIL:
        return Result(frame[1], True, frame, frame[2], len(frame[3]), False, bool(frame[4]), True)
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
    command: SendReports,
    logs: list[LogText],
    object_address: str,
    session: Session,
    leases: LeaseBook,
    copies: Sequence[int] = (),
) -> worker_pb2.ConnectRequest:
    """One message to the scheduler; a heartbeat when there is nothing to say."""
    message = worker_pb2.ConnectRequest(sequence=command.sequence, acked_through=command.acked_through)
    of_resources = command.resources or command.closed_runs
    said = command.started or command.endings or command.draining or command.promised or of_resources
    if not (said or logs or leases.has_news or copies):
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
    if leases.has_news:
        leases.write(reports)
    if copies:
        reports.copies.extend(copies)
    if of_resources:
        _add_resources(reports, command, session.run_numbers())
    if command.draining:
        reports.draining = True
    if command.promised:
        reports.promised = command.promised
    return message


def _add_resources(reports: worker_pb2.Reports, command: SendReports, numbers: dict[str, int]) -> None:
    """What became of resources. A run that this session does not know is told by the attempt, if at all."""
    for news in command.resources:
        reports.resources.add(
            run=numbers.get(news.run_id, 0),
            name=news.name,
            released=news.released,
            reason=news.reason,
            attempt=news.attempt,
            duration_ns=news.duration_ns,
        )
    reports.closed_runs.extend(numbers[run_id] for run_id in command.closed_runs if run_id in numbers)


def _done(report: worker_pb2.Report, ending: Ending, object_address: str) -> None:
    done = report.done
    payload: Any = ending.payload
    if payload[0] == frames.TAIL:
        done.tail.ParseFromString(payload[3])
        done.preview = payload[5]
        done.iterations = payload[6]
        return
    _fill_value(done.value, payload, object_address)
    if isinstance(payload, PublishedValue):
        payload = payload.frame
    _, _, _, _, _, truth, length, items, observe_error, preview, _, more = payload
    done.preview = preview
    if ending.flag:
        done.cached = True
    if truth is not None:
        done.truth = truth
    if length is not None:
        done.length = length
    if items:
        done.items.extend(items)
    if observe_error is not None:
        done.observe_error.CopyFrom(task_error(ErrorRecord(*observe_error)))
    if more is not None:
        _add_more(done, more)


def _fill_value(value: value_pb2.Value, payload: Any, object_address: str) -> None:
    """What an attempt returned, by what its executor said of it."""
    if isinstance(payload, PublishedValue):
        value.blob.cid = payload.cid
        value.blob.size_bytes = payload.size
    elif payload[3] is not None:
        value.inline = payload[3]
    else:
        value.object.attempt = payload[1]
        value.object.size_bytes = payload[4]
        value.object.holders.append(object_address)


def fill_open_input(assignment: worker_pb2.Assignment, made: Any, object_address: str) -> None:
    """Gives a follower the value that it waited for, as what the executor said of it tells."""
    for value in assignment.inputs:
        if value.WhichOneof("form") is None:
            _fill_value(value, made, object_address)


def _add_more(done: worker_pb2.Done, more: dict[str, Any]) -> None:
    if "iterations" in more:
        done.iterations = more["iterations"]
    if "routes_plus_one" in more:
        done.routes_plus_one.extend(more["routes_plus_one"])
        done.route_text = more["route_text"]
    if "amount_micros" in more:
        done.amount_micros = more["amount_micros"]
    if "digest" in more:
        done.digest = more["digest"]


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
