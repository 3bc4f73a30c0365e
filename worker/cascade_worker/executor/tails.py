"""Targets that tasks return: compiled here, so that the run can go on as them.

What is needed for that is loaded at the first of them: most tasks return plain values.
"""

from __future__ import annotations

import os
import reprlib
import sys
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, NamedTuple

from cascade_dist.codec.arguments import FIRST, ArgumentEncoder, plain_payload
from cascade_dist.codec.functions import EncodedFunction, FunctionCache
from cascade_dist.codec.graph_pickler import ByValuePickler
from cascade_dist.codec.params import load_params
from cascade_dist.codec.references import unwrap_task
from cascade_dist.codec.values import Packed
from cascade_dist.errors import CascadeError, GraphError, GraphTooLargeError, SerializationError
from cascade_dist.graph.build import Compilation
from cascade_dist.graph.code_hash import CodeHasher
from cascade_dist.graph.code_watch import CodeWatch, watch
from cascade_dist.graph.encoding import SCALARS
from cascade_dist.graph.identity import Identity, Specs, scalars_content
from cascade_dist.graph.model import Node, TaskSpec
from cascade_dist.graph.scan import Found, Scanner
from cascade_dist.language.jump import Jump
from cascade_dist.language.lazy import UNSET, LazyResult, WithParams
from cascade_dist.v1 import client_pb2, worker_pb2
from cascade_dist.wire.fields import field, tag
from cascade_dist.wire.graphs import Part, Upload, encode_graph
from cascade_worker.executor.frames import BodyInfo
from cascade_worker.executor.leases import NextStep

__all__ = [
    "ARGUMENTS_BYTES_MAX",
    "ARGUMENTS_BYTES_WARN",
    "GRAPH_BYTES_MAX",
    "JUMP_BYTES_MAX",
    "Compiled",
    "Compiler",
    "jump_index",
    "jump_tail",
    "refusal",
]

_HEAD = tag(worker_pb2.Tail.HEAD_FIELD_NUMBER)
_NODE_ID = tag(worker_pb2.Tail.NODE_ID_FIELD_NUMBER)
_ARGS = tag(worker_pb2.Tail.ARGS_FIELD_NUMBER)

GRAPH_BYTES_MAX = 1 << 20
"""A target that a task returns is one message."""
ARGUMENTS_BYTES_WARN = 1 << 20
ARGUMENTS_BYTES_MAX = 64 << 20
"""Of all arguments of such a target: past the first there is a warning, past the second an error."""
JUMP_BYTES_MAX = 512 << 10
"""Of the data of a jump, which travels with the assignment."""
_FUNCTIONS_MAX = 512
_SHAPES_MAX = 64
_PARAMS_MAX = 16
_WARNED_MAX = 1_000
_COUNTED_BYTES_MAX = 64 << 20


class _Shape(NamedTuple):
    """What calls of a task that differ in their arguments alone have in common."""

    task: Any
    """Kept, so that its id stays its own."""
    spec: TaskSpec
    head: bytes
    """The field with the serialized Submit without ids and arguments."""
    watch: CodeWatch | None
    """Tells whether the spec still holds; None: nothing can, so only a leased loop repeats it."""


class Compiled(NamedTuple):
    """A target that is ready to travel."""

    tail: bytes
    """A serialized worker_pb2.Tail."""
    uploads: tuple[tuple[bytes, Packed], ...]
    """(CID, bytes) of what has to be in the blob store first."""


Body = Callable[..., Any]


class _Functions(FunctionCache):
    """Functions by what their code is, so that one that came from the scheduler goes back under its own CID.

    Pickled again, a function that was loaded may have other bytes than it came with.
    """

    def __init__(self, known: OrderedDict[bytes, EncodedFunction], func: Body, own: EncodedFunction) -> None:
        super().__init__()
        self._known = known
        self._func = func
        self._own = own

    def encode(self, task_or_func: Any, code_hash: bytes = b"") -> EncodedFunction:
        """The function's body and its CID."""
        if unwrap_task(task_or_func) is self._func:
            return self._own
        known = self._known.get(code_hash) if code_hash else None
        if known is not None:
            self._known.move_to_end(code_hash)
            return known
        encoded = super().encode(task_or_func, code_hash)
        if code_hash:
            self._known[code_hash] = encoded
            if len(self._known) > _FUNCTIONS_MAX:
                self._known.popitem(last=False)
        return encoded


class Compiler:
    """Compiles the targets that the tasks of one executor return.

    Args:
        functions_dir: where the bodies of functions and the params of runs lie.
    """

    def __init__(self, functions_dir: str) -> None:
        self._functions_dir = functions_dir
        self._known: OrderedDict[bytes, EncodedFunction] = OrderedDict()
        """By code hash: how a function travels."""
        self._own: OrderedDict[bytes, EncodedFunction] = OrderedDict()
        """By CID: functions that came from the scheduler."""
        self._params: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._shapes: dict[Hashable, _Shape] = {}
        self._scanner = Scanner()
        self.run_id = ""
        """Of the task whose target is being compiled."""
        self._warned: dict[str, int] = {}
        """By run: the size of arguments that was warned of last."""

    def compile(self, info: BodyInfo, func: Body, target: Any) -> Compiled:
        """A target that a task has returned.

        Args:
            info: of the task.
            func: its function.
            target: a lazy result, map or router, or one with params of its own.

        Raises:
            GraphError: it is no target, or cannot be compiled; names the task.
            GraphTooLargeError: it, or its arguments, are above a bound; names size and bound.
        """
        try:
            return self._compile(info, func, target)
        except CascadeError as error:
            error.add_note(f"(in the target that task {info.name!r} returned)")
            raise

    def _compile(self, info: BodyInfo, func: Body, target: Any) -> Compiled:
        params = self._params_of(info)
        if isinstance(target, WithParams):
            target, params = target.target, dict(target.params)
        compilation = Compilation(target, params, warn_unknown=False)
        own = self._own_function(info, func)
        functions = _Functions(self._known, func, own)
        uploads: list[tuple[bytes, Packed]] = []
        parts: list[client_pb2.Submit] = []
        size = 0
        items: Iterable[Upload | Part] = encode_graph(
            compilation,  # type: ignore[arg-type]  # its facts are read-only properties
            run_id="",
            known={own.cid, *(cid for _, _, cid, _ in info.resources)},
            inline_max=info.inline_bytes_max,
            functions=functions,
            part_bytes=GRAPH_BYTES_MAX,
        )
        for item in items:
            if isinstance(item, Upload):
                uploads.append((item.cid, item.packed))
                continue
            size += item.message.ByteSize()
            parts = [item.message]
            if size > _COUNTED_BYTES_MAX:
                break
        if size > GRAPH_BYTES_MAX or not parts[0].HasField("end"):
            raise GraphTooLargeError(
                f"task {info.name!r} returned a target of {compilation.node_count:,} nodes and "
                f"{_size(size)}, and one that a task returns has at most {_size(GRAPH_BYTES_MAX)}: map over "
                "a lazy list, which is one node, or return a task that returns the rest"
            )
        message = parts[0]
        self._check_arguments(info, sum(map(len, message.chunk.node_args)) + sum(p.size for _, p in uploads))
        if not uploads:
            self._learn(info, func, target, message)
        return Compiled(worker_pb2.Tail(graph=message).SerializeToString(), tuple(uploads))

    # --- calls like an earlier one -------------------------------------------------------------------

    def _learn(self, info: BodyInfo, func: Body, target: Any, message: client_pb2.Submit) -> None:
        """Keeps what later calls of the same task may repeat, if it is one that they may."""
        key = _shape_key(info, func, target)
        chunk = message.chunk
        if key is None or len(chunk.node_args) != 1 or chunk.blobs or chunk.value_keys or chunk.jumps:
            return  # beside its id and arguments, something else differs from call to call
        known = self._shapes.get(key)
        if known is not None and (known.watch is None or known.watch.holds()):
            return
        spec = Specs(CodeHasher()).of(target.task, target.chain)
        shared = client_pb2.Submit()
        shared.CopyFrom(message)
        shared.chunk.ClearField("node_ids")
        shared.chunk.ClearField("node_args")
        if len(self._shapes) >= _SHAPES_MAX:
            self._shapes.clear()
        head = field(_HEAD, shared.SerializeToString())
        self._shapes[key] = _Shape(target.task, spec, head, watch(target.task, spec.retry))

    def repeated(self, info: BodyInfo, func: Body, target: Any, *, fast: bool = False) -> NextStep | None:
        """The step that a returned call of the task itself is, when it is like an earlier one.

        Args:
            info: of the task.
            func: its function.
            target: what it returned.
            fast: code that cannot be watched is taken to be as it was.

        Raises:
            CascadeError: its arguments cannot be sent; as compiling it says so.
        """
        key = _shape_key(info, func, target)
        shape = None if key is None else self._shapes.get(key)
        if shape is None or not (fast if shape.watch is None else shape.watch.holds()):
            return None
        args, kwargs, spec = target.args, target.kwargs, shape.spec
        if not kwargs and SCALARS.issuperset(map(type, args)):
            content = scalars_content(spec, args)
            payload = plain_payload(args, kwargs)
            if payload is not None and len(payload) <= info.inline_bytes_max:
                return NextStep(payload, content, shape.head)
        found: Found = {}
        scanner = self._scanner
        scanner.inputs = False
        scanner.injected.clear()
        try:
            for value in (*args, *kwargs.values()):
                scanner.scan(value, "", found)
            if found or scanner.inputs or scanner.injected:
                return None
            encoder = ArgumentEncoder(info.inline_bytes_max)
            encoded = encoder.encode(Node(0, spec, spec.name, args, kwargs))
            if encoder.handles:
                return None
            content = Identity(CodeHasher(), {}).content(spec, args, kwargs, -1, ())
        except Exception:
            return None  # compiling it says what is wrong
        return NextStep(encoded, content, shape.head) if isinstance(encoded, bytes) else None

    @staticmethod
    def tail_of(step: NextStep) -> bytes:
        """A serialized worker_pb2.Tail of what `repeated` gave."""
        return step.head + field(_NODE_ID, step.node_id) + field(_ARGS, step.args)

    def _check_arguments(self, info: BodyInfo, size: int) -> None:
        """Warns of arguments that grow, and stops them.

        Raises:
            GraphTooLargeError: names the size and the bound.
        """
        if size <= ARGUMENTS_BYTES_WARN:
            return
        if size > ARGUMENTS_BYTES_MAX:
            raise GraphTooLargeError(
                f"task {info.name!r} returned a target with {_size(size)} of arguments, and the most is "
                f"{_size(ARGUMENTS_BYTES_MAX)}: keep what grows in a file or a database, and pass its name"
            )
        if size < 2 * self._warned.get(self.run_id, 0):
            return
        if len(self._warned) >= _WARNED_MAX:
            self._warned.clear()
        self._warned[self.run_id] = size
        print(
            f"task {info.name!r} returned a target with {_size(size)} of arguments; if they grow with every "
            f"step, the loop fails at {_size(ARGUMENTS_BYTES_MAX)}",
            file=sys.stderr,
        )

    def _own_function(self, info: BodyInfo, func: Body) -> EncodedFunction:
        """The function of the task itself, as it came; the scheduler has its body."""
        known = self._own.get(info.function)
        if known is None:
            with open(os.path.join(self._functions_dir, info.function.hex()), "rb") as file:
                body = file.read()
            hashed = CodeHasher().hash(func)
            code_hash = b"" if hashed.reason else hashed.digest
            name = f"{getattr(func, '__module__', '')}.{getattr(func, '__qualname__', info.name)}"
            known = self._own[info.function] = EncodedFunction(info.function, body, name, code_hash)
            if code_hash:
                self._known.setdefault(code_hash, known)
            if len(self._own) > _FUNCTIONS_MAX:
                self._own.popitem(last=False)
        return known

    def _params_of(self, info: BodyInfo) -> dict[str, Any]:
        """The params of a task's run.

        Raises:
            TaskLoadError: they cannot be loaded.
        """
        if not info.params:
            return {}
        found = self._params.get(info.params)
        if found is None:
            with open(os.path.join(self._functions_dir, info.params), "rb") as file:
                found = load_params(file.read())
            self._params[info.params] = found
            if len(self._params) > _PARAMS_MAX:
                self._params.popitem(last=False)
        return found


def _shape_key(info: BodyInfo, func: Body, target: Any) -> Hashable | None:
    """What calls of the task itself with the same policies and parameters share; None: no such call."""
    if type(target) is not LazyResult or unwrap_task(target.task) is not func or target.task.injections:
        return None
    chain, policies = target.chain, None
    if chain is not None:
        plain = chain.condition is True and not chain.after and not chain.lazy_amounts
        if not plain or chain.passed is not UNSET or chain.cache is not None or chain.selector is not None:
            return None
        held = None if chain.amounts is None else frozenset(chain.amounts.items())
        policies = (chain.retry, chain.timeout, held, chain.priority)
    if target.task.pure and target.kwargs:
        return None
    return (info.function, info.inline_bytes_max, id(target.task), policies, len(target.args), *target.kwargs)


def jump_index(name: str, jump: Jump, numbers: Mapping[Any, int], told: str) -> int:
    """Which of a selector's keys a jump takes.

    Args:
        name: of the task.
        jump: what it returned.
        numbers: the index by key.
        told: the keys, for people.

    Raises:
        GraphError: none; names the key and those that there are.
    """
    try:
        index = numbers.get(jump.key)
    except TypeError:
        index = None
    if index is None:
        raise GraphError(
            f"task {name!r} jumped to key {reprlib.repr(jump.key)}, which its selector does not have; it has "
            f"{told}"
        )
    return index


def jump_tail(name: str, jump: Jump, index: int) -> bytes:
    """A jump as a serialized worker_pb2.Tail.

    Raises:
        GraphError: the data cannot be laid over arguments; says why.
        SerializationError: the data cannot be pickled.
    """
    data, overrides = jump.data, b""
    if isinstance(data, dict) and not all(isinstance(key, str) and key for key in data):
        raise GraphError(
            f"the data that task {name!r} jumped with is a dict whose keys are no names of parameters: to "
            "give it whole, name its parameter, as in Jump(key, {'parameter': data})"
        )
    named = {} if data is None else data if isinstance(data, dict) else {FIRST: data}
    if named:
        try:
            overrides = ByValuePickler().run(named).pickled()
        except Exception as error:
            raise SerializationError(
                f"task {name!r}: the data of its jump cannot be pickled ({error})"
            ) from error
    if len(overrides) > JUMP_BYTES_MAX:
        raise GraphTooLargeError(
            f"task {name!r} jumped with {_size(len(overrides))} of data, and the most is "
            f"{_size(JUMP_BYTES_MAX)}: return a call instead, whose arguments may be larger"
        )
    tail = worker_pb2.Tail(jump_plus_one=index + 1, overrides=overrides, names=named)
    return tail.SerializeToString()


def refusal(name: str, value: Any) -> GraphError:
    """Why a lazy value or a jump that a task returned is an error here."""
    if type(value).__name__ == "Jump":
        return GraphError(
            f"task {name!r} returned {value!r}, and is bound to no selector: bind its call with "
            "cs.bind(call, cs.select_jump({key: call or None, …})) and make it the target"
        )
    return GraphError(
        f"task {name!r} returned a lazy value ({value!r}) and is not the target of its run: only a target "
        "may, because the run then goes on with it. Mark the task with spawn=True to have the value run in "
        "its place, or return a plain value and build the graph outside of the task"
    )


def _size(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB" if size >= 1 << 20 else f"{size / 1024:.1f} KiB"
