"""What a worker has to do, as messages: what many assignments share goes once a session."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from cascade_dist.v1 import graph_pb2, worker_pb2
from cascade_dist.wire import MESSAGE_BYTES_MAX
from cascade_scheduler.core.commands import Assign
from cascade_scheduler.core.graph import Spec
from cascade_scheduler.functions import FunctionBody
from cascade_scheduler.wire.graphs import spec_to
from cascade_scheduler.wire.values import PAYLOAD_BYTES_MAX, fill_value, value_size

__all__ = ["AssignmentTooLarge", "WorkEncoder", "function_to"]

FUNCTIONS_REMEMBERED = 20_000
"""Functions that a session is known to have; of more, the least recently used is sent again."""

BODIES_MAX = 256
"""Of one run, that a session remembers; of more, the oldest is named anew when it comes again."""
SHARED_BODIES_MAX = 2_000
"""The same, of those that are of any run."""
ASSIGNMENT_BYTES_MAX = MESSAGE_BYTES_MAX - PAYLOAD_BYTES_MAX
"""Of one assignment and all that goes along; orders in the same message have the rest."""
_ASSIGNMENT_BYTES = 96
"""What an assignment takes beside its arguments and inputs."""


class AssignmentTooLarge(ValueError):
    """No message can carry it; the text names the task and the bound."""


def function_to(function: FunctionBody) -> graph_pb2.Function:
    """A function with its body."""
    return graph_pb2.Function(
        cid=function.cid, body=function.body, name=function.name, code_hash=function.code_hash
    )


_SPEC_MESSAGES: dict[int, tuple[Spec, graph_pb2.TaskSpec]] = {}
"""By the identity of the spec, which is held. Runs of one shape share their specs (see `wire.shapes`)."""
SPEC_MESSAGES_MAX = 2_000


def _spec_message(spec: Spec) -> graph_pb2.TaskSpec:
    found = _SPEC_MESSAGES.get(id(spec))
    if found is None:
        if len(_SPEC_MESSAGES) >= SPEC_MESSAGES_MAX:
            _SPEC_MESSAGES.clear()
        found = _SPEC_MESSAGES[id(spec)] = (spec, spec_to(spec))
    return found[1]


def _fields(command: Assign, body: int, run: int) -> dict[str, Any]:
    """What an assignment says, but for what has to be added to it piece by piece.

    `run` is 0 where the body tells it.
    """
    # What has its default is not named: each name costs something.
    fields: dict[str, Any] = {
        "attempt": command.attempt,
        "body": body,
        "node_id": command.node_id,
        "try": command.try_,
        "publish": command.publish,
    }
    if run:
        fields["run"] = run
    if command.args:
        fields["args"] = command.args
    if command.ahead:
        fields["ahead"] = True
    if command.observe:
        fields["observe"] = command.observe
    if command.map_index >= 0:
        fields["map_index_plus_one"] = command.map_index + 1
    if command.route_keys:
        fields["route_keys"] = command.route_keys
    if command.observe_only:
        fields["observe_only"] = True
    if command.tail:
        fields["tail"] = True
    if command.whole:
        fields["whole"] = True
    if command.lease:
        fields["lease"] = True
    if command.behind:
        fields["behind"] = command.behind
    if command.step:
        fields["step"] = command.step
    if command.within:
        fields["within"] = command.within
    if command.overrides:
        fields["overrides"] = command.overrides
    if command.jump is not None:
        fields["jump_keys"] = command.jump.keys
        fields["jump_exits"] = [n for n, target in enumerate(command.jump.targets) if target < 0]
    return fields


def _check_size(command: Assign, size: int) -> None:
    """Refuses what no message can carry.

    Args:
        command: the assignment.
        size: about what it takes, with what has to go along.

    Raises:
        AssignmentTooLarge: names the task, its inputs and the bound.
    """
    message = worker_pb2.Assignment()
    for value in command.inputs:
        fill_value(message.inputs.add(), value)
    size += message.ByteSize() - sum(map(value_size, command.inputs))
    if size > ASSIGNMENT_BYTES_MAX:
        raise AssignmentTooLarge(
            f"task {command.spec.name!r} has {len(command.inputs):,} inputs; what a worker has to be told "
            f"of it takes {size:,} bytes, and at most {ASSIGNMENT_BYTES_MAX:,} can be sent at once. Let "
            "several tasks take a part of the inputs each, or let a map make them, whose list is one input"
        )


_Bodies = dict[int, tuple[int, Spec, bytes]]
"""By the identity of the spec, which is cheaper than its hash; it is held, so the id stays its own."""


class _Run:
    """What a session has been told of one run."""

    __slots__ = ("bodies", "logs", "number", "own")

    def __init__(self, number: int, logs: bool, own: bool) -> None:
        self.number = number
        self.logs = logs
        self.own = own
        """Its params are part of its bodies, so it shares none."""
        self.bodies: _Bodies = {}


class WorkEncoder:
    """Makes the `Work` messages of one worker session.

    Runs and bodies have numbers within the session. Runs are forgotten on both sides by `ended_runs`, and
    with them the bodies that are theirs alone: those with something that is kept for a run, as resources are.
    All others are of any run, and outlive them, so that runs of one shape have them in common.

    An assignment that cannot be said is handed to `refuse` with the reason, and holds nobody else up.
    """

    def __init__(
        self,
        find_function: Callable[[bytes], FunctionBody | None],
        wants_logs: Callable[[str], bool],
        params: Callable[[str], bytes] = lambda run_id: b"",
        refuse: Callable[[Assign, Exception], None] | None = None,
    ) -> None:
        self._find_function = find_function
        self._wants_logs = wants_logs
        self._params = params
        self._refuse = refuse
        self._adding: Assign | None = None
        self._runs: dict[str, _Run] = {}
        self._numbers: dict[int, str] = {}
        self._bodies: _Bodies = {}
        """Those of any run, the oldest first."""
        self._functions: OrderedDict[bytes, None] = OrderedDict()
        self._last_run = 0
        self._last_body = 0

    def __len__(self) -> int:
        return len(self._runs)

    def run_id(self, number: int) -> str:
        """The run that has a number; empty: none."""
        return self._numbers.get(number, "")

    def encode(
        self,
        assigns: Iterable[Assign] = (),
        *,
        retract: Iterable[int] = (),
        cancel: Iterable[int] = (),
        release: Iterable[int] = (),
        recall: Iterable[int] = (),
        close: Iterable[str] = (),
        ended: Iterable[str] = (),
        promise: int = 0,
    ) -> list[worker_pb2.ConnectResponse]:
        """Messages of at most 1 MiB of payload each, in order; none when there is nothing to say."""
        messages = [worker_pb2.ConnectResponse()]
        left = iter(assigns)
        while True:
            try:
                size = self._assign(left, messages)
                break
            except Exception as error:
                self._give_up(messages, error)
        work = messages[-1].work
        if retract:
            work.retract.extend(retract)
        if cancel:
            work.cancel.extend(cancel)
        if release:
            work.release.extend(release)
        if recall:
            work.recall.extend(recall)
        if promise:
            work.promise = promise
        self._close_and_end(work, close, ended)
        if not size and not work.ByteSize():
            messages.pop()
        return messages

    def _give_up(self, messages: list[worker_pb2.ConnectResponse], error: Exception) -> None:
        """The assignment that was being added cannot be said; what it was to bring along may stay."""
        command = self._adding
        if command is None or self._refuse is None:
            raise error
        work = messages[-1].work
        if work.assignments and work.assignments[-1].attempt == command.attempt:
            del work.assignments[-1]
        if work.ByteSize():
            messages.append(worker_pb2.ConnectResponse())
        self._refuse(command, error)

    def _assign(self, assigns: Iterator[Assign], messages: list[worker_pb2.ConnectResponse]) -> int:
        """Adds assignments to the last message and further ones; returns the payload of the last one."""
        work = messages[-1].work
        add = work.assignments.add
        size = 0
        runs = self._runs
        for command in assigns:
            self._adding = command
            run = runs.get(command.run_id)
            extra = len(command.args) + _ASSIGNMENT_BYTES
            params = b""
            if run is None:
                params = self._params(command.run_id)
                extra += len(params)
                own = bool(params)
            else:
                own = run.own
            spec = command.spec
            shared = not (own or spec.resources or spec.cache_policy)
            bodies = self._bodies if shared else None if run is None else run.bodies
            known = None if bodies is None else bodies.get(id(spec))
            if known is not None and known[2] != command.function:
                known = None
            inputs = command.inputs
            if inputs:
                extra += sum(map(value_size, inputs))
            if command.route_keys:
                extra += sum(map(len, command.route_keys))
            functions: list[FunctionBody] = []
            if known is None:
                functions = self._unsent(command)
                extra += _spec_message(spec).ByteSize()
                extra += sum([len(function.body) for function in functions])
            if command.jump is not None:
                extra += len(command.jump.keys)
            if extra > PAYLOAD_BYTES_MAX:
                _check_size(command, extra)
            if size and size + extra > PAYLOAD_BYTES_MAX:
                message = worker_pb2.ConnectResponse()
                messages.append(message)
                work = message.work
                add = work.assignments.add
                size = 0
            size += extra
            if functions:
                self._name_functions(work, functions)
            if run is None:
                run = self._name_run(work, command.run_id, params)
            if known is None:
                if shared:
                    known = self._name_body(work, self._bodies, 0, command)
                else:
                    known = self._name_body(work, run.bodies, run.number, command)
            assignment = add(**_fields(command, known[0], run.number if shared else 0))
            if command.args_blob is not None:
                assignment.args_blob.cid, assignment.args_blob.size_bytes = command.args_blob
            if command.amounts is not None:
                # Absent amounts mean those of the spec, so that nothing at all is said as no cpu.
                for name, micros in command.amounts or (("cpu", 0),):
                    assignment.amounts.add(name=name, micros=micros)
            if inputs:
                add_input = assignment.inputs.add
                for value in inputs:
                    if type(value) is bytes:
                        add_input().inline = value
                    else:
                        fill_value(add_input(), value)
        self._adding = None
        return size

    def _close_and_end(self, work: worker_pb2.Work, close: Iterable[str], ended: Iterable[str]) -> None:
        runs = self._runs
        for run_id in close:
            run = runs.get(run_id) or self._name_run(work, run_id, self._params(run_id))
            work.close_runs.append(run.number)
        for run_id in ended:
            over = runs.pop(run_id, None)
            if over is not None:
                del self._numbers[over.number]
                work.ended_runs.append(over.number)

    def logs_changed(self, run_id: str) -> worker_pb2.ConnectResponse | None:
        """Tells the worker, if it knows the run, whether the lines that its tasks print are wanted now."""
        run = self._runs.get(run_id)
        logs = self._wants_logs(run_id)
        if run is None or run.logs == logs:
            return None
        run.logs = logs
        handle = worker_pb2.RunHandle(run=run.number, run_id=run_id, logs=logs)
        return worker_pb2.ConnectResponse(work=worker_pb2.Work(runs=[handle]))

    def _unsent(self, command: Assign) -> list[FunctionBody]:
        """The assignment's functions that this session has not had: its own, and those of resources."""
        if not command.function:
            return []  # it only observes
        spec = command.spec
        unsent: list[FunctionBody] = []
        for cid in (command.function, *(resource.function for resource in spec.resources)):
            if cid in self._functions:
                self._functions.move_to_end(cid)
                continue
            function = self._find_function(cid)
            if function is None:
                raise LookupError(f"a function of task {spec.name!r} is not in the function store")
            unsent.append(function)
        return unsent

    def _name_functions(self, work: worker_pb2.Work, functions: list[FunctionBody]) -> None:
        work.functions.extend(map(function_to, functions))
        known = self._functions
        for function in functions:
            known[function.cid] = None
            if len(known) > FUNCTIONS_REMEMBERED:
                known.popitem(last=False)

    def _name_run(self, work: worker_pb2.Work, run_id: str, params: bytes) -> _Run:
        number = self._last_run = self._last_run + 1
        logs = self._wants_logs(run_id)
        run = self._runs[run_id] = _Run(number, logs, bool(params))
        self._numbers[number] = run_id
        work.runs.add(run=number, run_id=run_id, logs=logs, params=params)
        return run

    def _name_body(
        self, work: worker_pb2.Work, bodies: _Bodies, run: int, command: Assign
    ) -> tuple[int, Spec, bytes]:
        self._last_body += 1
        spec = command.spec
        before = bodies.pop(id(spec), None)
        most = BODIES_MAX if run else SHARED_BODIES_MAX
        if before is None and len(bodies) >= most:  # a run that goes on as ever new tasks, say
            before = bodies.pop(next(iter(bodies)))
        if before is not None:
            work.forget_bodies.append(before[0])
        known = bodies[id(spec)] = (self._last_body, spec, command.function)
        body = work.bodies.add(
            body=self._last_body, spec=_spec_message(spec), function=command.function, run=run
        )
        if spec.resources and command.function:
            for resource in spec.resources:
                body.resources.add(
                    name=resource.name,
                    scope=resource.scope,
                    function=resource.function,
                    requires=resource.requires,
                )
        return known
