"""The functions of random programs. Each takes whatever it is given, and the same gives the same."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

import cascade_dist as cs
from cascade_dist.context import current_attempt

KEYS = (0, 1, 2, "a", "b", None, (1, "x"), 2.5)
"""What selectors give; routers have some of them."""
TRUTHS: tuple[Any, ...] = (0, 1, "", "yes", [], [0], None, True, False, 0.0, -1)
SMALL = 160
"""A value with a longer text is handed on as a number, so that values do not grow with the graph."""

oracle_attempt = 1
"""Which try it is when the evaluator calls a task, which runs in no executor."""


class Pair(NamedTuple):
    """A named tuple."""

    left: Any
    right: Any


class Stubborn:
    """Has no truth."""

    def __bool__(self) -> bool:
        raise ArithmeticError("this has no truth")

    def __repr__(self) -> str:
        return "Stubborn()"


def text(value: Any) -> str:
    """Says all of a value, the same in every process: types, order of lists, no order of sets."""
    kind = type(value).__name__
    if isinstance(value, dict):
        inner = ",".join(f"{text(key)}:{text(item)}" for key, item in value.items())
    elif isinstance(value, (set, frozenset)):
        inner = ",".join(sorted(map(text, value)))
    elif isinstance(value, (list, tuple)):
        inner = ",".join(map(text, value))
    elif is_dataclass(value) and not isinstance(value, type):
        inner = ",".join(text(getattr(value, field.name)) for field in fields(value))
    else:
        inner = repr(value)
    return f"{kind}({inner})"


def number(*values: Any) -> int:
    """A number that depends on all of the values."""
    return zlib.crc32(text(values).encode())


def attempt() -> int:
    """Which try this is, from 1."""
    info = current_attempt()
    return oracle_attempt if info is None else info.attempt


def const(value: Any = 0) -> Any:
    return value


def echo(first: Any = 0, *rest: Any) -> Any:
    return first


def mix(*values: Any, **named: Any) -> int:
    return number(values, named) % 997


async def later(*values: Any, **named: Any) -> int:
    return number(values, named) % 991


def pack(*values: Any) -> Any:
    return list(values) if len(text(values)) < SMALL else [number(values)]


def pair(left: Any = 0, right: Any = 0) -> Any:
    return Pair(left, right) if len(text((left, right))) < SMALL else Pair(number(left), number(right))


def select(*values: Any) -> Any:
    return KEYS[number(values) % len(KEYS)]


async def pick(*values: Any) -> Any:
    return KEYS[number(values) % 3]


def truth(*values: Any) -> Any:
    return TRUTHS[number(values) % len(TRUTHS)]


def items(*values: Any) -> list[int]:
    n = number(values)
    return [n % 7 + i for i in range(n % 5)]


def wide(*values: Any) -> list[str]:
    """Three items that are long, so that the list is an object when results are to be small."""
    return [f"{number(values)}" * 20, "b" * 90, "c" * 70]


def fail(*values: Any) -> Any:
    raise ValueError(f"failed {number(values)}")


def stubborn(*values: Any) -> Any:
    return Stubborn()


def flaky(failures: int = 1, *values: Any) -> int:
    """Fails so many times, then succeeds."""
    if attempt() <= failures:
        raise LookupError(f"flaky {number(values)} at try {attempt()}")
    return number(failures, values) % 983


# --- resources, policies -------------------------------------------------------------------------------


@cs.resource(name="oracle-crate", scope="run")
def crate() -> Iterator[int]:
    yield 11


@cs.resource(name="oracle-box", scope="task")
def box(crate: Any = cs.inject(crate)) -> Iterator[int]:
    yield 7 * crate


BOX = 77
"""What `box` gives."""


def using(*values: Any, handle: Any = cs.inject(box)) -> int:
    """Needs a resource, which needs another."""
    return number(values, handle) % 971


POLICIES: dict[str, Callable[[Any], Any]] = {
    "half": lambda lazy: lazy.with_constraints(cpu=0.5),
    "nothing": lambda lazy: lazy.with_constraints(cpu=0),
    "first": lambda lazy: lazy.with_priority(3),
    "patient": lambda lazy: lazy.with_timeout(60),
}
"""What changes when and where a call runs, and nothing of what it comes to."""


# --- tasks that return targets ------------------------------------------------------------------------

INNER = "in:"
"""How the names of calls begin that are made on workers; a hot loop may tell nothing of them."""
ENDS = ("value", "map", "router", "pipeline", "fail", "skipped", "sequence", "empty")
"""What the last step returns."""


def inner(func: Any, **options: Any) -> Any:
    """A task of a returned target."""
    return cs.task(func, name=f"{INNER}{func.__name__}", **options)


def turn(steps: int = 0, end: str = "value", *values: Any) -> Any:
    """Goes on as other targets, one after the other, whose shapes differ."""
    if steps <= 0:
        return _last(end, values)
    again, seen = inner(turn), number(steps, values) % 101
    shape = number(seen, values) % 4
    if shape == 0:
        return again(steps - 1, end, seen)
    if shape == 1:
        return again(steps - 1, end, [inner(mix)(seen, *values)], seen)
    if shape == 2:
        routes = {seen: again(steps - 1, end, seen), "other": inner(fail)(seen)}
        return cs.Router(inner(const)(seen), routes)
    return again(steps - 1, end, inner(mix).map(a=[1, seen])).after(inner(mix)(seen))


def _last(end: str, values: tuple[Any, ...]) -> Any:
    if end == "map":
        return inner(mix).map(a=[1, number(values)])
    if end == "router":
        return cs.Router(inner(truth)(values), {key: inner(mix)(key) for key in (0, 1, "", "yes", None)})
    if end == "pipeline":
        return cs.pipeline(number(values), [inner(mix), lambda x: inner(pack)(x).run_if(False), inner(echo)])
    if end == "fail":
        return inner(fail)(values)
    if end == "skipped":
        return inner(mix)(values).run_if(inner(const)(0))
    if end == "sequence":
        return inner(mix)(values).after(inner(mix)().run_if(False))
    if end == "empty":
        return inner(mix).map(a=[])
    return number(values) % 977


nest = turn
"""Is marked `spawn`: the target's value takes its place."""
