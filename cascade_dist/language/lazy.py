"""Lazy results: what calling a task gives. They name a value that is made when their graph runs."""

from __future__ import annotations

import itertools
import reprlib
from collections.abc import Callable, Mapping
from html import escape
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Generic, NoReturn, TypeVar

from cascade_dist.errors import SerializationError
from cascade_dist.language.inputs import Env, Param
from cascade_dist.language.policies import (
    RetryPolicy,
    checked_amounts,
    checked_cache,
    checked_priority,
    checked_retry,
    checked_timeout,
)

if TYPE_CHECKING:
    from typing import Self

    from cascade_dist.language.jump import Selector
    from cascade_dist.language.task import Task

__all__ = ["UNSET", "Chain", "LazyResult", "MappedLazyResult", "Unmapped", "WithParams", "unmapped"]

R_co = TypeVar("R_co", covariant=True)

UNSET: Final[Any] = object()
"""The timeout of a call that was given none, so that the task's own holds; None says "no limit"."""

EMPTY: Final[Mapping[str, Any]] = MappingProxyType({})

_next_serial = itertools.count(1).__next__


class Chain:
    """What was chained onto a lazy result; most have none."""

    __slots__ = (
        "after",
        "amounts",
        "cache",
        "condition",
        "lazy_amounts",
        "passed",
        "priority",
        "retry",
        "selector",
        "timeout",
    )

    def __init__(self) -> None:
        self.condition: LazyResult[Any] | Param | Env | bool = True
        self.after: list[LazyResult[Any]] = []
        self.retry: RetryPolicy | None = None
        self.timeout: float | None = UNSET
        self.amounts: dict[str, int] | None = None
        self.lazy_amounts: dict[str, LazyResult[Any] | Param | Env] = {}
        self.passed: Any = UNSET
        """What consumers get when this stage is skipped: the value that it would have got. UNSET: nothing."""
        self.priority = 0
        self.cache: Any = None
        self.selector: Selector | None = None
        """Where jumps that it returns lead."""


class LazyResult(Generic[R_co]):
    """A call that has not run. Hashable by identity; chaining changes it and returns it.

    Attributes:
        task: the task that was called.
        args: positional arguments, as given.
        kwargs: keyword arguments, as given.
        serial: number of this lazy result in its process, in the order they were made.
        chain: what was chained onto it, or None.
    """

    __slots__ = ("args", "chain", "kwargs", "serial", "task")

    def __init__(
        self, task: Task[Any], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] = EMPTY
    ) -> None:
        self.task = task
        self.args = args
        self.kwargs = kwargs or EMPTY
        self.chain: Chain | None = None
        self.serial = _next_serial()

    # --- chaining ---------------------------------------------------------------------------------

    def _chained(self) -> Chain:
        chain = self.chain
        if chain is None:
            chain = self.chain = Chain()
        return chain

    def run_if(self, condition: LazyResult[Any] | Param | Env | bool) -> Self:
        """Runs only if a value is true, by Python's truth; skipped otherwise. The last call wins.

        Args:
            condition: a lazy result, a `Param` or `Env`, or a plain bool.
        """
        if not isinstance(condition, LazyResult | Param | Env | bool):
            raise TypeError(
                f"run_if got {condition!r}, a {type(condition).__name__}: "
                "give a lazy result (call the task), a Param, an Env or a bool"
            )
        self._chained().condition = condition
        return self

    def after(self, *predecessors: LazyResult[Any]) -> Self:
        """Starts only when others have finished, without taking their values. Calls add up."""
        for predecessor in predecessors:
            if not isinstance(predecessor, LazyResult):
                raise TypeError(
                    f"after got {predecessor!r}, a {type(predecessor).__name__}: "
                    "give lazy results one by one, such as after(a, b) or after(*many)"
                )
        self._chained().after.extend(predecessors)
        return self

    def with_retry(
        self,
        max_attempts: int = 3,
        delay: float = 0.0,
        backoff: float = 1.0,
        jitter: float = 0.0,
        max_delay: float | None = None,
        on: type[Exception] | tuple[type[Exception], ...] = (Exception,),
    ) -> Self:
        """Tries again when an attempt raises.

        Args:
            max_attempts: executions in all.
            delay: seconds before the second attempt.
            backoff: factor on the delay per further attempt.
            jitter: share of the delay that is random, 0 to 1.
            max_delay: bound of one delay in seconds.
            on: exception classes that are retried.
        """
        classes = on if isinstance(on, tuple) else (on,)
        self._chained().retry = checked_retry(
            RetryPolicy(max_attempts, delay, backoff, jitter, max_delay, classes)
        )
        return self

    def with_constraints(self, **amounts: float | LazyResult[Any] | Param | Env) -> Self:
        """Says what one attempt holds of what workers have, such as ``cpu=2, memory_gb=4, gpu=1``.

        Goes over the task's own ``resources`` by name; the last call wins as a whole.

        Args:
            amounts: numbers, or lazy values, Params and Envs that become numbers.

        Raises:
            ValueError: an amount is no number, negative, not finite, or too small or large to count.
        """
        lazy = {name: amount for name, amount in amounts.items() if isinstance(amount, _LATER)}
        checked_amounts(dict.fromkeys(lazy, 0))  # their names
        counted = checked_amounts({name: amount for name, amount in amounts.items() if name not in lazy})
        chain = self._chained()
        chain.amounts, chain.lazy_amounts = counted, lazy
        return self

    def passthrough(self) -> Self:
        """Lets consumers have the first argument when this call is skipped, as between stages of a pipeline.

        Raises:
            TypeError: there is no first positional argument, or it is a map.
        """
        if not self.args:
            raise TypeError(
                f"{self.task.name!r} was called without a positional argument, so there is nothing to pass "
                "on when it is skipped: give the value to pass on as the first positional argument"
            )
        self._chained().passed = self.args[0]
        return self

    def with_timeout(self, seconds: float | None) -> Self:
        """Bounds one attempt, in seconds; None lifts the task's own bound."""
        self._chained().timeout = checked_timeout(seconds)
        return self

    def with_cache(self, policy: Any) -> Self:
        """Asks a policy on the worker before the task runs, and tells it the value afterwards.

        Of a map, every child asks by itself. The last call wins.

        Args:
            policy: a `cs.CachePolicy`, such as ``cs.ResultCache(backend)``.
        """
        self._chained().cache = checked_cache(policy)
        return self

    def with_priority(self, priority: int) -> Self:
        """Goes before what has a lower priority, among what can start; 0 is the default."""
        self._chained().priority = checked_priority(priority)
        return self

    # --- what people see --------------------------------------------------------------------------

    @property
    def id(self) -> int:
        """A number that no other lazy result of this process has."""
        return self.serial

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.task.name!r} #{self.serial}>"

    def _repr_html_(self) -> str:
        return f"<code>{escape(repr(self))}</code>"

    # --- misuse -----------------------------------------------------------------------------------

    def _no_value(self, act: str) -> str:
        return (
            f"cannot {act}: {self.task.name!r} was called but has not run, so there is no value yet. "
            "Pass the lazy result to another task, or get its value with cs.run(…)"
        )

    def __bool__(self) -> bool:
        raise TypeError(
            self._no_value("decide by a lazy result") + "; for a condition in the graph: .run_if(…)"
        )

    def __iter__(self) -> NoReturn:
        raise TypeError(
            self._no_value("iterate over a lazy result") + "; to run a task per item: task.map(…)"
        )

    def __len__(self) -> int:
        raise TypeError(self._no_value("take the length of a lazy result"))

    def __getitem__(self, key: object) -> NoReturn:
        raise TypeError(self._no_value("index a lazy result"))

    def __contains__(self, item: object) -> bool:
        raise TypeError(self._no_value("look into a lazy result"))

    def __await__(self) -> NoReturn:
        raise TypeError(self._no_value("await a lazy result") + ", or await cluster.run(…) of cs.aio")

    def __getattr__(self, name: str) -> NoReturn:
        # An AttributeError, because hasattr, copy and notebooks ask for names that may be missing.
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        raise AttributeError(self._no_value(f"take attribute {name!r} of a lazy result"))

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise SerializationError(
            f"the lazy result of {self.task.name!r} would have to travel to a worker by itself, as from a "
            "closure, a global or an object of a class of your own: pass it as an argument instead, bare or "
            "at any depth of lists, tuples, dicts, sets, dataclasses and named tuples"
        )


def _operator(symbol: str) -> Callable[..., Any]:
    def operate(self: LazyResult[Any], *_: object) -> NoReturn:
        raise TypeError(self._no_value(f"use {symbol} on a lazy result"))

    return operate


for _symbol, _names in {
    "+": "add radd",
    "-": "sub rsub neg",
    "*": "mul rmul",
    "/": "truediv rtruediv",
    "//": "floordiv rfloordiv",
    "%": "mod rmod",
    "**": "pow rpow",
    "@": "matmul rmatmul",
    "&": "and rand",
    "|": "or ror",
    "<": "lt",
    "<=": "le",
    ">": "gt",
    ">=": "ge",
    "int()": "int",
    "float()": "float",
    "abs()": "abs",
}.items():
    for _name in _names.split():
        setattr(LazyResult, f"__{_name}__", _operator(_symbol))


_LATER: Final = (LazyResult, Param, Env)
"""What becomes a value later."""


class Unmapped:
    """A value that every child of a map gets whole. Made by `unmapped`."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return f"unmapped({reprlib.repr(self.value)})"


def unmapped(value: Any) -> Any:
    """Marks a value in ``task.map(…)`` that every child gets as it is; it is sent once."""
    return Unmapped(value)


class MappedLazyResult(LazyResult[R_co]):
    """A task called once per item: its value is the list of their values, in order.

    Retry, timeout, constraints and priority are those of each child; `run_if` and `after` are the map's.

    Attributes:
        columns: what was given by parameter: a list of items, a lazy list, a `Param` or `Env` that will
            hold one, or an `Unmapped`.
    """

    __slots__ = ("columns",)

    def __init__(self, task: Task[Any], columns: dict[str, Any]) -> None:
        super().__init__(task)
        self.columns = columns

    def passthrough(self) -> NoReturn:
        """Refuses: a map has no one value to pass on.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            f"a map of {self.task.name!r} makes a new list and has no value to pass on when it is skipped: "
            "mark a call, or let the consumer take the list from a Router"
        )


class WithParams:
    """A target with params of its own, for a task that returns one.

    Attributes:
        target: a lazy result, or a container of such.
        params: values of its `Param`\\ s, by name; those of the run do not reach it.
    """

    __slots__ = ("params", "target")

    def __init__(self, target: Any, params: Mapping[str, Any]) -> None:
        self.target = target
        self.params = params

    def __repr__(self) -> str:
        return f"{self.target!r} with its params"
