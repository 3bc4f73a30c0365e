"""Jumps: loops that go from one node of a graph to another, with some arguments replaced."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any, TypeVar

from cascade_dist.errors import GraphError
from cascade_dist.language.lazy import LazyResult, MappedLazyResult
from cascade_dist.language.task import Task

__all__ = ["Jump", "Selector", "bind", "select_jump"]

L = TypeVar("L", bound=LazyResult[Any])


class Jump:
    """Returned by a task that is bound to a selector: the run goes on with the selector's target for the key.

    Attributes:
        key: which way to go.
        data: a dict replaces arguments of the target by parameter name, other data its first argument, and
            None nothing. Where the key ends the loop, the value of the run.
    """

    __slots__ = ("data", "key")

    def __init__(self, key: Any, data: Any = None) -> None:
        self.key = key
        self.data = data

    def __repr__(self) -> str:
        return f"Jump({reprlib.repr(self.key)}, {reprlib.repr(self.data)})"

    def __reduce__(self) -> tuple[type[Jump], tuple[Any, Any]]:
        return Jump, (self.key, self.data)


class Selector:
    """Where jumps lead. Made by `select_jump`.

    Attributes:
        routes: by key, the call to go on with, or None where the loop ends.
    """

    __slots__ = ("routes",)

    def __init__(self, routes: dict[Any, LazyResult[Any] | None]) -> None:
        self.routes = routes

    def __repr__(self) -> str:
        return f"<Selector of {reprlib.repr(list(self.routes))}>"


def select_jump(routes: Mapping[Any, LazyResult[Any] | None]) -> Selector:
    """Says where jumps lead, for `bind`.

    Args:
        routes: by key, the call to go on with, or None where the loop ends with the jump's data as its value.

    Raises:
        TypeError: it is no mapping, or a route cannot be jumped to.
        ValueError: there are no routes.
    """
    if not isinstance(routes, Mapping):
        raise TypeError(
            f"select_jump got {reprlib.repr(routes)}: give a dict of lazy results, or None, by key"
        )
    if not routes:
        raise ValueError("select_jump got no routes: give a dict with at least one")
    for key, route in routes.items():
        if isinstance(key, LazyResult):
            raise TypeError(f"a key of select_jump is {key!r}, which has no value yet: give plain values")
        if isinstance(route, Task):
            raise TypeError(f"route {reprlib.repr(key)} of select_jump is {route!r}: call the task")
        if isinstance(route, MappedLazyResult):
            raise TypeError(
                f"route {reprlib.repr(key)} of select_jump is {route!r}, a map, whose arguments are lists: "
                "jump to a task that returns the map"
            )
        if route is not None and type(route) is not LazyResult:
            raise TypeError(
                f"route {reprlib.repr(key)} of select_jump is {reprlib.repr(route)}, a "
                f"{type(route).__name__}: give a call of a task, or None where the loop ends"
            )
    return Selector(dict(routes))


def bind(source: L, selector: Selector) -> L:
    """Lets a call return a `Jump`; changes the call and returns it.

    Args:
        source: the call whose value may be a jump.
        selector: where its jumps lead; `source` itself may be among the routes.

    Raises:
        TypeError: it is no call of a task, or no selector.
        GraphError: the call is bound to another selector already.
    """
    if type(source) is not LazyResult:
        raise TypeError(
            f"bind got {reprlib.repr(source)}, a {type(source).__name__}: give the call of a task whose "
            "value may be a Jump"
        )
    if not isinstance(selector, Selector):
        raise TypeError(f"bind got {reprlib.repr(selector)} for its selector: make one with cs.select_jump")
    chain = source._chained()
    if chain.selector is not None and chain.selector is not selector:
        raise GraphError(f"{source!r} is bound to a selector already: a call has one")
    chain.selector = selector
    return source
