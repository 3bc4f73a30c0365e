"""One task, from its frame to the frame that answers it: load, observe, encode, explain.

Sync and async executors share this; they differ in how they call the function.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from cascade_dist.codec.arguments import load_arguments, overridden
from cascade_dist.codec.exceptions import ErrorRecord, encode_exception
from cascade_dist.codec.functions import load_function
from cascade_dist.codec.preview import preview
from cascade_dist.codec.values import Packed, dump_inline_or_packed, load, load_item
from cascade_dist.errors import CascadeError, ResultSerializationError, StoreFullError, TaskLoadError
from cascade_dist.language.jump import Jump
from cascade_dist.language.lazy import LazyResult, WithParams
from cascade_dist.language.resources import Filler, Inject, filling
from cascade_worker.executor import frames
from cascade_worker.executor.caching import Policies
from cascade_worker.executor.environment import set_variable
from cascade_worker.executor.files import map_file
from cascade_worker.executor.frames import DONE, FAILED, TAIL, BodyInfo, ExecutorConfig
from cascade_worker.executor.leases import Lease, NextStep
from cascade_worker.executor.observations import OBSERVE_TRUTH, Keys, Seen, observe
from cascade_worker.executor.resources import Definition, Step, definitions_of
from cascade_worker.executor.segments import BOUNDS, ObjectWriter

if TYPE_CHECKING:
    from cascade_worker.executor import tails

__all__ = ["Body", "Task", "Unloadable", "Workbench"]

_FUNCTIONS_MAX = 512
_BODIES_MAX = 2048
_PREVIEW_CHARS = 100
_THREADS_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

_PLAIN = frozenset({type(None), bool, int, float})
_plain_dumps = pickle.dumps
_NONE = _plain_dumps(None, 5)
_NOTHING_SEEN = Seen()

Frame = tuple[Any, ...]


class Unloadable(Exception):
    """Wraps what went wrong outside of user code's own run: trying again does not help."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Body:
    """What many tasks share, with the function loaded."""

    __slots__ = ("definitions", "filler", "func", "info", "retried")

    def __init__(self, info: BodyInfo, func: Callable[..., Any]) -> None:
        self.info = info
        self.func = func
        self.retried: tuple[type[BaseException], ...] | None = None
        self.definitions: tuple[Definition, ...] = ()
        """The resources that it has injected, and those that they need."""
        self.filler: Filler | None = None
        """Gives its calls what they have injected; only with definitions."""


class Task:
    """A task frame, taken apart."""

    __slots__ = (
        "args",
        "aside_ns",
        "attempt",
        "body",
        "flags",
        "inline_bytes_max",
        "inputs",
        "key",
        "lease",
        "map_index",
        "maps",
        "more",
        "node_id",
        "observe",
        "publish",
        "run_id",
        "try_",
    )

    def __init__(self, frame: Frame) -> None:
        (
            _,
            self.attempt,
            self.key,
            self.args,
            self.inputs,
            self.node_id,
            self.try_,
            self.map_index,
            self.observe,
            self.publish,
            self.inline_bytes_max,
            self.flags,
            self.more,
            self.run_id,
        ) = frame
        self.body: Body | None = None
        self.lease: Lease | None = None
        """With it, a loop goes on here."""
        self.maps: list[Any] = []
        """The maps of its inputs, kept until it is answered: it takes a while to let go of one."""
        self.aside_ns = 0
        """Time that its caching policy took: no part of its duration."""

    def place(self) -> str:
        """Which step of a loop it is, and in which nested graph; empty: neither."""
        more, lease = self.more, self.lease
        if more is None and lease is None:
            return ""
        step, within = (more.get("step", 0), more.get("within", "")) if more else (0, "")
        if lease is not None:
            step += lease.iterations
        return f"{within}{step}" if step or within else ""

    def go_on(self, step: NextStep) -> None:
        """Becomes a further step of its loop."""
        self.args, self.inputs, self.node_id = step.args, None, step.node_id.hex()
        self.maps.clear()
        self.try_ = 1
        self.aside_ns = 0


class Workbench:
    """Loads and encodes for one executor."""

    def __init__(self, config: ExecutorConfig, rooms: Sequence[int] = ()) -> None:
        self._config = config
        self._rooms = rooms
        """By object directory, as under ROOM_WORD."""
        self._functions: OrderedDict[bytes, Callable[..., Any]] = OrderedDict()
        self._bodies: dict[bytes, Body] = {}
        self.policies = Policies()
        self._told_run: str | None = None
        self._told_node: str | None = None
        self._told_try: int | None = None
        """What the variables say; None: nothing yet."""
        self._threads = 0
        self._compiler: tails.Compiler | None = None
        self._keys = Keys()
        self._writer = ObjectWriter()

    # --- before -------------------------------------------------------------------------------------

    def body(self, key: bytes) -> Body:
        """The body of a task, loaded once.

        Raises:
            Unloadable: the function cannot be loaded.
        """
        found = self._bodies.get(key)
        if found is None:
            info = frames.body_of(key)
            found = Body(info, self._function(info.function, info))
            if info.resources:
                self._load_resources(found)
            if len(self._bodies) >= _BODIES_MAX:
                self._bodies.clear()
            self._bodies[key] = found
        return found

    def _load_resources(self, body: Body) -> None:
        info = body.info

        def load(cid: bytes, name: str) -> Callable[..., Any]:
            return self._function(cid, info, f"the function of resource {name!r}")

        body.definitions = definitions_of(info.resources, load)
        body.filler = Filler(body.func)

    def _function(self, cid: bytes, info: BodyInfo, what: str = "its function") -> Callable[..., Any]:
        func = self._functions.get(cid)
        if func is None and not cid:
            func = self._functions[cid] = _itself  # no user code: its value is its first input
        if func is None:
            path = os.path.join(self._config.functions_dir, cid.hex())
            self.use_threads(info.compute_threads)  # numeric libraries read them when they are imported
            try:
                with open(path, "rb") as file:
                    func = load_function(file.read())
            except Exception as error:
                raise Unloadable(_load_error(info.name, what, error)) from error
            self._functions[cid] = func
            if len(self._functions) > _FUNCTIONS_MAX:
                self._functions.popitem(last=False)
        return func

    def step(self, task: Task) -> Step | None:
        """What a task, or one step of a loop, is to have of resources; None: nothing."""
        body = task.body
        assert body is not None
        if not body.definitions or (task.more and task.more.get("whole")):  # whose function is not called
            return None
        return Step(body.definitions, task.attempt, body.info.run_id)

    def arguments(self, task: Task, step: Step | None = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a task, with the resources of its step among them.

        Raises:
            Unloadable: they cannot be loaded.
        """
        if step is None:
            return self._arguments(task)
        with filling(step.values):
            args, kwargs = self._arguments(task)
        assert task.body is not None
        assert task.body.filler is not None
        return task.body.filler.fill(args, kwargs, step.values)

    def _arguments(self, task: Task) -> tuple[tuple[Any, ...], dict[str, Any]]:
        payload = task.args
        if not payload and not task.more:
            return (), {}
        try:
            if type(payload) is not bytes:
                payload = map_file(payload[0])
            inputs = [_resolve(value, task.maps) for value in task.inputs] if task.inputs else []
            if task.body and not task.body.info.function:
                return tuple(inputs[:1]), {}
            made = load_arguments(payload, inputs, task.map_index)
            if task.more and "overrides" in task.more and task.body:
                made = overridden(task.body.func, made, task.more["overrides"])
            return made
        except Exception as error:
            name = task.body.info.name if task.body else "?"
            raise Unloadable(_load_error(name, "its arguments", error)) from error

    def tell_environment(self, task: Task) -> None:
        """Sets the variables that say which attempt this is; each only when it changes."""
        if task.run_id != self._told_run:
            self._told_run = task.run_id
            set_variable("CASCADE_RUN_ID", task.run_id)
        if task.node_id != self._told_node:
            self._told_node = task.node_id
            set_variable("CASCADE_NODE_ID", task.node_id)
        if task.try_ != self._told_try:
            self._told_try = task.try_
            set_variable("CASCADE_ATTEMPT", str(task.try_))

    def use_threads(self, threads: int) -> None:
        """Gives numeric libraries so many threads; 0 leaves them as they are.

        The variables work for libraries that are imported later, threadpoolctl, where it is installed, for
        those that are loaded already.
        """
        if not threads or threads == self._threads:
            return
        self._threads = threads
        for name in _THREADS_VARIABLES:
            os.environ[name] = str(threads)
        with contextlib.suppress(ImportError):
            import threadpoolctl  # type: ignore[import-not-found,unused-ignore]

            threadpoolctl.threadpool_limits(threads)

    # --- after --------------------------------------------------------------------------------------

    def done(self, task: Task, value: Any, duration_ns: int) -> Frame | NextStep:
        """The frame for a value that a task returned; or the step with which its leased loop goes on.

        Raises:
            Unloadable: it cannot be pickled or written.
        """
        body = task.body
        assert body is not None
        inline: bytes | None
        size = 0
        if type(value) in _PLAIN and not task.observe & ~OBSERVE_TRUTH and not task.more:
            inline = _plain_dumps(value, 5)
            truth = bool(value) if task.observe else None
            return (
                DONE,
                task.attempt,
                duration_ns,
                inline,
                0,
                truth,
                None,
                None,
                None,
                preview(value),
                False,
                None,
            )
        if isinstance(value, (LazyResult, Jump, WithParams)):
            return self._go_on(task, body, value, duration_ns)
        if type(value) is Inject:
            raise Unloadable(
                ResultSerializationError(
                    f"task {body.info.name!r} returned {value!r}, which stands for a value in arguments "
                    "alone: give it to a task, or return what is wanted of the resource"
                )
            )
        packed: bytes | Packed | None = None
        what = f"the result of {body.info.name!r}"
        inline_max = task.inline_bytes_max or body.info.inline_bytes_max
        seen = _NOTHING_SEEN
        only = False
        try:
            if task.observe:
                more = task.more or {}
                only = more.get("observe_only", False)
                seen = self._observe(task, value, more.get("route_keys", ()), what, inline_max)
                packed = seen.packed
            if packed is None:
                packed = _NONE if only else dump_inline_or_packed(value, inline_max, what=what)
        except ResultSerializationError as error:
            raise Unloadable(_hinted(error, value, body.info.name)) from error
        if isinstance(packed, Packed):
            size = packed.size
            self._write(f"{task.attempt:016x}", packed, what)
            inline = None
        else:
            inline = packed
        publish = bool(task.publish) and inline is None
        told = "" if only else preview(value)
        facts = (seen.truth, seen.length, seen.items, seen.error, told, publish, seen.more)
        return (DONE, task.attempt, duration_ns, inline, size, *facts)

    def _observe(
        self, task: Task, value: Any, route_keys: Sequence[bytes], what: str, inline_max: int
    ) -> Seen:
        assert task.body is not None
        return observe(
            task.observe,
            value,
            keys=self._keys,
            route_keys=route_keys,
            name=task.body.info.name if task.body.info.function else "",
            what=what,
            inline_max=inline_max,
        )

    def _go_on(
        self, task: Task, body: Body, value: LazyResult[Any] | Jump | WithParams, duration_ns: int
    ) -> Frame:
        """The frame for a target with which the run, or the node, is to go on.

        Raises:
            Unloadable: it may not, or the target cannot be compiled or written.
        """
        info = body.info
        if isinstance(value, Jump):
            return self._jump(task, body, value, duration_ns)
        if not (task.flags & frames.TAILS or info.spawn):
            raise Unloadable(_tails().refusal(info.name, value))
        compiler = self._compiler
        if compiler is None:
            compiler = self._compiler = _tails().Compiler(self._config.functions_dir)
        compiler.run_id = task.run_id
        told = repr(value)[:_PREVIEW_CHARS]
        try:
            step = compiler.repeated(info, body.func, value, fast=bool(task.flags & frames.FAST))
            if step is not None:
                if task.lease is not None and task.lease.goes_on:
                    return step
                return (TAIL, task.attempt, duration_ns, compiler.tail_of(step), [], told, 0)
            made = compiler.compile(info, body.func, value)
        except Exception as error:
            raise Unloadable(error) from error
        uploads = []
        for number, (cid, packed) in enumerate(made.uploads):
            what = f"an argument of the target that task {info.name!r} returned"
            uploads.append((cid, packed.size, self._write(f"{task.attempt:016x}-{number}", packed, what)))
        return (TAIL, task.attempt, duration_ns, made.tail, uploads, told, 0)

    def _jump(self, task: Task, body: Body, jump: Jump, duration_ns: int) -> Frame | NextStep:
        """The frame for a jump: where it leads, or, where the loop ends, its data as the value.

        Raises:
            Unloadable: the task may not jump, or its selector does not know the key.
        """
        tails = _tails()
        more = task.more or {}
        if "jump_keys" not in more or not task.flags & frames.TAILS:
            raise Unloadable(tails.refusal(body.info.name, jump))
        try:
            keys = self._keys.of(more["jump_keys"])
            index = tails.jump_index(body.info.name, jump, keys.numbers, keys.told)
            if index not in more["jump_exits"]:
                tail = tails.jump_tail(body.info.name, jump, index)
                return (TAIL, task.attempt, duration_ns, tail, [], repr(jump)[:_PREVIEW_CHARS], 0)
        except Exception as error:
            raise Unloadable(error) from error
        if isinstance(jump.data, Jump):
            raise Unloadable(tails.refusal(body.info.name, jump.data))
        return self.done(task, jump.data, duration_ns)

    def _write(self, name: str, packed: Packed, what: str) -> str:
        """Writes a large value into the first object directory that has room; returns its path."""
        reasons = []
        for number, directory in enumerate(self._config.object_dirs):
            if reason := self._bound(number, packed.size):
                reasons.append(f"{directory} ({reason})")
                continue
            try:
                return self._writer.write(directory, name, packed)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise Unloadable(error) from error
                reasons.append(f"{directory} ({error.strerror})")
        raise Unloadable(
            StoreFullError(
                f"{what} has {packed.size:,} bytes and there is no room for it in {' or '.join(reasons)}; "
                "make room there, or start the worker with another --object-dir"
            )
        )

    def _bound(self, number: int, size: int) -> str:
        """Why a directory's bound leaves no room for so many bytes; empty: it does, or there is none."""
        bounds = self._config.object_bytes_max
        most = bounds[number] if number < len(bounds) else None
        if most is None:
            return ""
        if size > most:
            return f"it holds at most {most:,} bytes: {BOUNDS[number]}"
        if number < len(self._rooms) and 0 < self._rooms[number] <= size:
            return f"{self._rooms[number] - 1:,} of its {most:,} bytes are free: {BOUNDS[number]}"
        return ""

    def failed(self, task: Task, error: BaseException, duration_ns: int, stopped: bool) -> Frame:
        """The frame for an attempt that raised."""
        unloadable = isinstance(error, Unloadable)
        if isinstance(error, Unloadable):
            error = error.error
        retryable = False
        body = task.body
        if not unloadable and not stopped and body is not None and body.info.retry_on is not None:
            retryable = isinstance(error, _retried(body))
        record = _record_of(error)
        return (
            FAILED,
            task.attempt,
            duration_ns,
            stopped,
            unloadable,
            record.type,
            record.message,
            record.traceback,
            record.pickled,
            retryable,
        )


def _tails() -> Any:
    """The module, which only few tasks need."""
    from cascade_worker.executor import tails

    return tails


def _record_of(error: BaseException) -> ErrorRecord:
    try:
        return encode_exception(error)
    except Exception as failure:  # an exception class can raise wherever it is asked for something
        text = f"{type(error).__name__} (it could not be described: {type(failure).__name__})"
        return ErrorRecord(type(error).__name__, text, "", b"")


def _retried(body: Body) -> tuple[type[BaseException], ...]:
    """The exception classes that the task's retry policy names."""
    if body.retried is None:
        body.retried = (Exception,)
        if body.info.retry_on:
            try:
                body.retried = tuple(pickle.loads(body.info.retry_on))
            except Exception:
                text = f"the retry policy of {body.info.name!r} cannot be loaded; every Exception is retried"
                print(text, file=sys.stderr)
    return body.retried


def _load_error(name: str, what: str, error: Exception) -> BaseException:
    if isinstance(error, CascadeError):
        return error
    return TaskLoadError(f"task {name!r}: {what} could not be loaded: {type(error).__name__}: {error}")


def _hinted(error: ResultSerializationError, value: object, name: str) -> BaseException:
    if type(value).__name__ == "coroutine":
        return ResultSerializationError(
            f"task {name!r} returned a coroutine: define it with `async def`, or run the coroutine inside it"
        )
    return error


def _itself(value: Any) -> Any:
    return value


# --- inputs ----------------------------------------------------------------------------------------


class _Frame:
    """A list or container whose inputs are being resolved."""

    __slots__ = ("made", "template", "values")

    def __init__(self, template: Any, values: Iterable[Any]) -> None:
        self.template = template
        """A container's pickle: bytes or a file; None for a list."""
        self.values: Iterator[Any] = iter(values)
        self.made: list[Any] = []

    def finish(self) -> Any:
        template = self.template
        if template is None:
            return self.made
        return load(template if type(template) is bytes else map_file(template[1]), self.made)


def _resolve(value: Any, maps: list[Any]) -> Any:
    """The value that an input stands for. Without recursion: containers may be nested at any depth.

    What it maps of results it adds to `maps`.
    """
    if type(value) is bytes:
        return load(value)
    stack: list[_Frame] = []
    while True:
        kind = 0 if type(value) is bytes else value[0]
        if kind == frames.LIST:
            stack.append(_Frame(None, value[1]))
        elif kind == frames.COMPOUND:
            stack.append(_Frame(value[1], value[2]))
        elif kind == frames.PARTS:
            stack.append(_Frame(value[2], frames.load_parts(value[1])))
        else:
            made = _leaf(value, kind, maps)
            if not stack:
                return made
            stack[-1].made.append(made)
        while True:
            try:
                value = next(stack[-1].values)
                break
            except StopIteration:
                made = stack.pop().finish()
                if not stack:
                    return made
                stack[-1].made.append(made)


def _leaf(value: Any, kind: int, maps: list[Any]) -> Any:
    if kind == 0:
        return load(value)
    mapped = map_file(value[1])
    maps.append(mapped)
    if kind == frames.FILE:
        return load(mapped)
    return load_item(mapped, value[3])
