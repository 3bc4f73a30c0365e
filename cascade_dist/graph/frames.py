"""What a lazy result needs: the first half of compiling it."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from cascade_dist.errors import GraphError
from cascade_dist.graph.params import Inputs
from cascade_dist.graph.scan import ATOMS, Found, Scanner, substituted
from cascade_dist.language.inputs import Env, Param
from cascade_dist.language.lazy import UNSET, Chain, LazyResult, MappedLazyResult, Unmapped
from cascade_dist.language.policies import checked_amounts
from cascade_dist.language.resources import Inject
from cascade_dist.language.router import Router
from cascade_dist.language.structural import Wait, checked_delay
from cascade_dist.language.task import Task, check_lengths, items_of, task

__all__ = [
    "NO_KWARGS",
    "NO_EXTRA",
    "Extra",
    "Frame",
    "Gather",
    "Literal",
    "Opener",
    "RouterFrame",
    "argument_name",
    "root_of",
]

NO_KWARGS: Final[dict[str, Any]] = {}
"""The one empty mapping of nodes without keyword arguments; never changed."""

_POSITIONS: Final = tuple(map(str, range(64)))


@task(name="never", pure=True, resources={"cpu": 0})
def never() -> bool:
    """The condition of ``run_if(False)``: a node like any other, so that there is one way to be false."""
    return False


@task(name="gather")
def _gather_task() -> None:
    """Names the gather in messages; never called."""


@task(name="literal")
def _literal_task() -> None:
    """Names literals in messages; never called."""


class Gather(LazyResult[Any]):
    """A value with lazy results in it, where a node is needed: a container as target, a route."""

    __slots__ = ("role", "value")

    def __init__(self, value: Any, role: str) -> None:
        super().__init__(_gather_task)
        self.value = value
        self.role = role
        """What it is, for messages."""


class Literal(LazyResult[Any]):
    """A plain value, where a node is needed: a selector, a route, what a stage passes on."""

    __slots__ = ("role", "value")

    def __init__(self, value: Any, role: str) -> None:
        super().__init__(_literal_task)
        self.value = value
        self.role = role
        """What it is, for messages."""


class Extra:
    """What few calls and maps have chained onto them."""

    __slots__ = ("amounts", "args", "content", "counted", "injected", "kwargs")

    def __init__(self) -> None:
        self.counted: dict[str, int] | None = None
        """Amounts in millionths, 0 where it is a lazy one; None: as chained."""
        self.amounts: dict[str, LazyResult[Any]] = NO_KWARGS
        """Lazy amounts by name."""
        self.args: tuple[Any, ...] | None = None
        """Of a stage: the positional arguments with a lazy result in place of the value that it passes on."""
        self.kwargs: dict[str, Any] = NO_KWARGS
        self.content: dict[str, Any] = NO_KWARGS
        """What of it counts for the node's id, by name."""
        self.injected: tuple[Inject, ...] = ()
        """Markers of resources among the arguments."""


NO_EXTRA: Final = Extra()
"""The one that stands for nothing; never changed."""


class Frame:
    """A lazy result whose needs are being walked."""

    __slots__ = (
        "after",
        "args",
        "columns",
        "condition",
        "extra",
        "found",
        "kwargs",
        "lazy",
        "needs",
    )

    def __init__(self, lazy: LazyResult[Any]) -> None:
        self.lazy = lazy
        self.args: tuple[Any, ...] = ()
        self.kwargs: dict[str, Any] = NO_KWARGS
        self.columns: dict[str, Any] = NO_KWARGS
        self.found: Found = {}
        self.condition: LazyResult[Any] | None = None
        self.after: Sequence[LazyResult[Any]] = ()
        self.extra = NO_EXTRA
        self.needs: Iterator[LazyResult[Any]] = iter(())


class RouterFrame(Frame):
    """A router whose needs are being walked."""

    __slots__ = ("keys", "routes", "selector")

    def __init__(self, router: Router[Any], selector: LazyResult[Any], routes: list[LazyResult[Any]]) -> None:
        super().__init__(router)
        self.keys = tuple(router.routes)
        self.selector = selector
        self.routes = routes
        self.needs = iter((selector, *routes))


class Opener:
    """Finds what lazy results need.

    Args:
        inputs: the values of params and environment variables.
        scanner: finds lazy results in values.
    """

    def __init__(self, inputs: Inputs, scanner: Scanner) -> None:
        self._inputs = inputs
        self._scanner = scanner
        self._never = never()

    def open(self, lazy: LazyResult[Any]) -> Frame:
        """What a lazy result needs, and its arguments with the values of inputs in them.

        Raises:
            GraphError: its arguments cannot be walked.
            ValueError: lists of a map differ in length, or an input cannot be converted.
        """
        frame, chain = Frame(lazy), lazy.chain
        try:
            if type(lazy) is LazyResult:
                if chain is not None and chain.passed is not UNSET:
                    self._open_stage(lazy, frame, chain.passed)
                elif lazy.args or lazy.kwargs:
                    frame.args, frame.kwargs = self._arguments(lazy.args, lazy.kwargs, frame.found)
            elif isinstance(lazy, MappedLazyResult):
                self._open_map(lazy, frame)
            elif isinstance(lazy, Gather):
                self._open_gather(lazy, frame)
            elif isinstance(lazy, Router):
                return self._open_router(lazy)
            elif isinstance(lazy, Wait):
                self._open_wait(lazy, frame)
        except RecursionError:
            raise GraphError(
                f"the arguments of {lazy.task.name!r} are nested too deeply, or a container holds itself: "
                "pass a flatter value"
            ) from None
        if self._scanner.injected:
            self._take_injected(lazy, frame)
        if chain is not None:
            self._open_chain(lazy, frame, chain)
        elif frame.found:
            frame.needs = iter(frame.found)
        return frame

    def _take_injected(self, lazy: LazyResult[Any], frame: Frame) -> None:
        """Markers were met: in a call's arguments they are its resources, elsewhere they are misplaced."""
        injected, self._scanner.injected = tuple(self._scanner.injected), []
        if isinstance(lazy, Gather):
            raise _misplaced(injected[0], lazy.role)
        _extra_of(frame).injected = injected

    def _open_chain(self, lazy: LazyResult[Any], frame: Frame, chain: Chain) -> None:
        condition = chain.condition
        if condition is not True:
            if isinstance(condition, Param | Env):
                condition = bool(self._inputs.resolve(condition))
            if not isinstance(condition, bool):
                frame.condition = condition
            elif not condition:
                frame.condition = self._never
        needs = list(frame.found)
        if frame.condition is not None:
            needs.append(frame.condition)
        if chain.after:
            frame.after = tuple(dict.fromkeys(chain.after))
            needs += frame.after
        if chain.lazy_amounts:
            self._open_amounts(lazy.task.name, chain, _extra_of(frame))
        if frame.extra.amounts:
            needs += frame.extra.amounts.values()
        frame.needs = iter(needs)

    def _open_amounts(self, task: str, chain: Chain, extra: Extra) -> None:
        """The amounts of a call, with the numbers of inputs."""
        counted = dict(chain.amounts or {})
        lazy: dict[str, LazyResult[Any]] = {}
        for name, amount in chain.lazy_amounts.items():
            if isinstance(amount, LazyResult):
                lazy[name] = amount
                counted[name] = 0
                continue
            value = 0 if self._inputs.lacks(amount) else self._inputs.resolve(amount)
            try:
                counted |= checked_amounts({name: float(value) if isinstance(value, str) else value})
            except ValueError as error:
                raise ValueError(f"{amount!r}, for an amount of {task!r}: {error}") from None
        extra.counted, extra.amounts = counted, lazy
        extra.content = {**extra.content, **{f"amount {name}": amount for name, amount in lazy.items()}}

    def _arguments(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], found: Found
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments with the values of inputs in them; adds the lazy results in them to those found."""
        scanner = self._scanner
        scanner.inputs = False
        for position, value in enumerate(args):
            kind = type(value)
            if kind is LazyResult:
                found.setdefault(value, argument_name(position))
            elif kind not in ATOMS:
                scanner.scan(value, argument_name(position), found)
        for name, value in kwargs.items():
            kind = type(value)
            if kind is LazyResult:
                found.setdefault(value, name)
            elif kind not in ATOMS:
                scanner.scan(value, name, found)
        if scanner.inputs:
            resolve = self._inputs.resolve
            return (
                tuple([substituted(value, resolve) for value in args]),
                {name: substituted(value, resolve) for name, value in kwargs.items()},
            )
        return args, dict(kwargs) if kwargs else NO_KWARGS

    def _open_stage(self, lazy: LazyResult[Any], frame: Frame, passed: Any) -> None:
        """A call that passes a value on: the value becomes a node, the first that the call needs."""
        name = lazy.task.name
        source, value = self._node_of(passed, f"the value that {name!r} passes on when it is skipped")
        places = [argument_name(position) for position, arg in enumerate(lazy.args) if arg is passed]
        places += [name for name, arg in lazy.kwargs.items() if arg is passed]
        # A call may have the value inside an argument, or not at all: it is an input of the call even so.
        frame.found[source] = places[0] if places else ""
        args, kwargs = self._arguments(
            tuple([source if arg is passed else arg for arg in lazy.args]),
            {name: source if arg is passed else arg for name, arg in lazy.kwargs.items()},
            frame.found,
        )
        extra = _extra_of(frame)
        extra.args, extra.kwargs, extra.content = args, kwargs, {"passthrough": value}
        frame.args = tuple([value if arg is source else arg for arg in args])
        frame.kwargs = {name: value if arg is source else arg for name, arg in kwargs.items()}

    def _open_wait(self, lazy: Wait, frame: Frame) -> None:
        delay = lazy.delay
        extra = _extra_of(frame)
        if isinstance(delay, LazyResult):
            extra.amounts = {"": delay}
            frame.needs = iter((delay,))
        elif isinstance(delay, Param | Env):
            value = 0.0 if self._inputs.lacks(delay) else self._inputs.resolve(delay)
            delay = checked_delay(float(value) if isinstance(value, str) else value)
        extra.content = {"delay": delay}

    def _open_router(self, router: Router[Any]) -> RouterFrame:
        selector, value = self._node_of(router.selector, "the selector of a Router")
        if isinstance(selector, Literal):
            try:
                hash(value)
            except TypeError:
                raise GraphError(
                    f"the selector of a Router, {router.selector!r}, is {reprlib.repr(value)}, a "
                    f"{type(value).__name__}, which can never be a key: give a value that can be hashed"
                ) from None
        routes = [
            self._node_of(route, f"route {reprlib.repr(key)} of a Router")[0]
            for key, route in router.routes.items()
        ]
        return RouterFrame(router, selector, routes)

    def _node_of(self, value: Any, role: str) -> tuple[LazyResult[Any], Any]:
        """The lazy result that stands for a value, and the value with those of inputs in it."""
        if isinstance(value, LazyResult):
            return value, value
        found: Found = {}
        self._scanner.inputs = False
        self._scanner.scan(value, "", found)
        if self._scanner.injected:
            raise _misplaced(self._scanner.injected[0], role)
        if self._scanner.inputs:
            value = substituted(value, self._inputs.resolve)
        return (Gather(value, role) if found else Literal(value, role)), value

    def _open_map(self, lazy: MappedLazyResult[Any], frame: Frame) -> None:
        resolve, scanner = self._inputs.resolve, self._scanner
        columns: dict[str, Any] = {}
        missing = False
        for name, column in lazy.columns.items():
            if isinstance(column, Param | Env):
                lacking = self._inputs.lacks(column)
                missing |= lacking
                column = [] if lacking else items_of(lazy.task.name, name, resolve(column))
            scanner.inputs = False
            scanner.scan(column.value if isinstance(column, Unmapped) else column, name, frame.found)
            if scanner.inputs and isinstance(column, Unmapped):
                column = Unmapped(substituted(column.value, resolve))
            elif scanner.inputs:
                column = [substituted(item, resolve) for item in column]
            columns[name] = column
        if missing:  # which is said when the whole graph has been walked
            columns = {name: [] if isinstance(column, list) else column for name, column in columns.items()}
        check_lengths(lazy.task.name, columns)
        if all(isinstance(column, Unmapped) or column == [] for column in columns.values()):
            # No child needs what all children get: without a consumer it would run, or not, by chance.
            columns = {
                name: column if isinstance(column, list) else Unmapped(None)
                for name, column in columns.items()
            }
            frame.found.clear()
        frame.columns = columns

    def _open_gather(self, lazy: Gather, frame: Frame) -> None:
        self._scanner.inputs = False
        value = lazy.value
        found, scan = frame.found, self._scanner.scan
        if isinstance(value, dict):
            for key, item in value.items():
                scan(key, "key", found)
                scan(item, key if isinstance(key, str) else repr(key), found)
        elif isinstance(value, list | tuple):
            for position, item in enumerate(value):
                if type(item) is LazyResult:
                    found.setdefault(item, str(position))
                else:
                    scan(item, str(position), found)
        else:
            scan(value, "", found)
        frame.args = (substituted(value, self._inputs.resolve) if self._scanner.inputs else value,)


def _extra_of(frame: Frame) -> Extra:
    """The frame's own extra, which may be changed."""
    if frame.extra is NO_EXTRA:
        frame.extra = Extra()
    return frame.extra


def _misplaced(marker: Inject, role: str) -> GraphError:
    where = "the target" if role == _gather_task.name else role
    return GraphError(
        f"{where} has {marker!r} in it: a resource is given to tasks alone; let a task have it injected and "
        "return what is wanted of it"
    )


def root_of(target: Any) -> LazyResult[Any]:
    """The lazy result that a target is; a container becomes a gather.

    Raises:
        GraphError: it is no target.
    """
    if isinstance(target, LazyResult):
        return target
    if type(target) is tuple:
        target = list(target)
    if isinstance(target, list | tuple | dict):
        return Gather(target, _gather_task.name)
    remedy = "a target is a lazy result, a map, or a list, tuple or dict of such"
    if isinstance(target, Task):
        raise GraphError(f"{target!r} is a task, not a call of it: write {target.name}(…); {remedy}")
    if isinstance(target, Param | Env):
        raise GraphError(f"{target!r} has nothing to run: {remedy}")
    raise GraphError(f"nothing to run in {target!r}, a {type(target).__name__}: {remedy}")


def argument_name(position: int) -> str:
    """What a positional argument is called: "0" for the first."""
    return _POSITIONS[position] if position < len(_POSITIONS) else str(position)
