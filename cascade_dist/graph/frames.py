"""What a lazy result needs: the first half of compiling it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from cascade_dist.errors import GraphError
from cascade_dist.graph.params import Inputs
from cascade_dist.graph.scan import ATOMS, Found, Scanner, substituted
from cascade_dist.language.inputs import Env, Param
from cascade_dist.language.lazy import LazyResult, MappedLazyResult, Unmapped
from cascade_dist.language.task import Task, check_lengths, items_of, task

__all__ = ["NO_KWARGS", "Frame", "Gather", "Opener", "argument_name", "root_of"]

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


class Gather(LazyResult[Any]):
    """The target when it is a container."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        super().__init__(_gather_task)
        self.value = value


class Frame:
    """A lazy result whose needs are being walked."""

    __slots__ = ("after", "args", "columns", "condition", "found", "kwargs", "lazy", "needs")

    def __init__(self, lazy: LazyResult[Any]) -> None:
        self.lazy = lazy
        self.args: tuple[Any, ...] = ()
        self.kwargs: dict[str, Any] = NO_KWARGS
        self.columns: dict[str, Any] = NO_KWARGS
        self.found: Found = {}
        self.condition: LazyResult[Any] | None = None
        self.after: Sequence[LazyResult[Any]] = ()
        self.needs: Iterator[LazyResult[Any]] = iter(())


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
        frame = Frame(lazy)
        try:
            if type(lazy) is LazyResult:
                if lazy.args or lazy.kwargs:
                    self._open_call(lazy, frame)
            elif isinstance(lazy, MappedLazyResult):
                self._open_map(lazy, frame)
            elif isinstance(lazy, Gather):
                self._open_gather(lazy, frame)
        except RecursionError:
            raise GraphError(
                f"the arguments of {lazy.task.name!r} are nested too deeply, or a container holds itself: "
                "pass a flatter value"
            ) from None
        chain = lazy.chain
        if chain is None:
            if frame.found:
                frame.needs = iter(frame.found)
            return frame
        condition = chain.condition
        if condition is not True:
            if isinstance(condition, Param | Env):
                condition = bool(self._inputs.resolve(condition))
            if not isinstance(condition, bool):
                frame.condition = condition
            elif not condition:
                frame.condition = self._never
        frame.after = tuple(dict.fromkeys(chain.after))
        conditions = () if frame.condition is None else (frame.condition,)
        frame.needs = iter((*frame.found, *conditions, *frame.after))
        return frame

    def _open_call(self, lazy: LazyResult[Any], frame: Frame) -> None:
        scanner, found = self._scanner, frame.found
        scanner.inputs = False
        for position, value in enumerate(lazy.args):
            if type(value) not in ATOMS:
                scanner.scan(value, argument_name(position), found)
        for name, value in lazy.kwargs.items():
            if type(value) not in ATOMS:
                scanner.scan(value, name, found)
        frame.args = lazy.args
        frame.kwargs = dict(lazy.kwargs) if lazy.kwargs else NO_KWARGS
        if scanner.inputs:
            resolve = self._inputs.resolve
            frame.args = tuple(substituted(value, resolve) for value in lazy.args)
            frame.kwargs = {name: substituted(value, resolve) for name, value in lazy.kwargs.items()}

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
        frame.columns = columns

    def _open_gather(self, lazy: Gather, frame: Frame) -> None:
        self._scanner.inputs = False
        value = lazy.value
        found, scan = frame.found, self._scanner.scan
        if isinstance(value, dict):
            for key, item in value.items():
                scan(key, "key", found)
                scan(item, key if isinstance(key, str) else repr(key), found)
        else:
            for position, item in enumerate(value):
                if type(item) is LazyResult:
                    found.setdefault(item, str(position))
                else:
                    scan(item, str(position), found)
        frame.args = (substituted(value, self._inputs.resolve) if self._scanner.inputs else value,)


def root_of(target: Any) -> LazyResult[Any]:
    """The lazy result that a target is; a container becomes a gather.

    Raises:
        GraphError: it is no target.
    """
    if isinstance(target, LazyResult):
        return target
    if isinstance(target, list | tuple | dict):
        return Gather(target)
    remedy = "a target is a lazy result, a map, or a list, tuple or dict of such"
    if isinstance(target, Task):
        raise GraphError(f"{target!r} is a task, not a call of it: write {target.name}(…); {remedy}")
    if isinstance(target, Param | Env):
        raise GraphError(f"{target!r} has nothing to run: {remedy}")
    raise GraphError(f"nothing to run in {target!r}, a {type(target).__name__}: {remedy}")


def argument_name(position: int) -> str:
    """What a positional argument is called: "0" for the first."""
    return _POSITIONS[position] if position < len(_POSITIONS) else str(position)
