"""Routers: one value of several, chosen by the value of another."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from cascade_dist.language.inputs import Env, Param
from cascade_dist.language.lazy import LazyResult, MappedLazyResult, Unmapped
from cascade_dist.language.task import Task, task

if TYPE_CHECKING:
    from cascade_dist.language.lazy import Chain

__all__ = ["Router"]

R_co = TypeVar("R_co", covariant=True)


@task(name="router")
def _router_task() -> None:
    """Names routers in messages; never called."""


class Router(LazyResult[R_co]):
    """Stands for the value of the route whose key equals the selector's value.

    It may stand wherever a lazy result may. What only routers need starts once one of them has chosen it.

    Args:
        selector: a lazy result, another router, a `Param` or `Env`, or a plain value that can be a key.
        routes: by key, a lazy result, a router, a map, or any value, with lazy results in it or not.

    Attributes:
        selector: as given.
        routes: a dict of its own, as given.

    Raises:
        TypeError: the selector can never be a key, or the routes are no mapping.
        ValueError: there are no routes.
    """

    __slots__ = ("routes", "selector")

    def __init__(self, selector: Any, routes: Mapping[Any, Any]) -> None:
        super().__init__(_router_task)
        self.selector = _checked_selector(selector)
        self.routes = _checked_routes(routes)

    def _chained(self) -> Chain:
        raise TypeError(
            "a Router runs nothing itself, so nothing can be chained onto it: chain onto the selector, the "
            "routes, or the task that gets the Router"
        )

    def passthrough(self) -> NoReturn:
        """Refuses, as all chaining onto a router does.

        Raises:
            TypeError: always.
        """
        self._chained()
        raise AssertionError

    def __repr__(self) -> str:
        keys = reprlib.repr(list(self.routes))
        return f"<Router on {reprlib.repr(self.selector)} to {keys} #{self.serial}>"


def _checked_selector(selector: Any) -> Any:
    """A selector whose value may be a key.

    Raises:
        TypeError: it never can.
    """
    if isinstance(selector, MappedLazyResult):
        raise TypeError(
            f"the selector of a Router is {selector!r}, whose value is a list, and a list is never a key: "
            "give the map to a task that makes one value of it, such as a str"
        )
    if isinstance(selector, LazyResult | Param | Env):
        return selector
    if isinstance(selector, Task):
        raise TypeError(f"the selector of a Router is {selector!r}: call the task")
    if isinstance(selector, Unmapped):
        raise TypeError(f"the selector of a Router is {selector!r}: cs.unmapped(…) is for task.map(…)")
    try:
        hash(selector)
    except TypeError as error:
        raise TypeError(
            f"the selector of a Router is {reprlib.repr(selector)}, a {type(selector).__name__}, which can "
            f"never be a key ({error}): give a lazy result, a Param, an Env or a value that can be hashed"
        ) from None
    _refuse_lazy(selector, "the selector of a Router")
    return selector


def _checked_routes(routes: Any) -> dict[Any, Any]:
    """A copy of the routes.

    Raises:
        TypeError: they are no mapping, or a key or route cannot be meant.
        ValueError: there are none.
    """
    if not isinstance(routes, Mapping):
        raise TypeError(
            f"the routes of a Router are {reprlib.repr(routes)}, a {type(routes).__name__}: give a dict of "
            "lazy results by key"
        )
    if not routes:
        raise ValueError("a Router has no routes: give a dict with at least one")
    copied = dict(routes)
    for key, route in copied.items():
        _refuse_lazy(key, "a key of a Router's routes")
        if isinstance(route, Task):
            raise TypeError(f"route {reprlib.repr(key)} of a Router is {route!r}: call the task")
        if isinstance(route, Unmapped):
            raise TypeError(
                f"route {reprlib.repr(key)} of a Router is {route!r}: cs.unmapped(…) is for task.map(…)"
            )
    return copied


def _refuse_lazy(value: Any, what: str) -> None:
    """Refuses what is compared before what is in it is known."""
    todo = [value]
    while todo:
        part = todo.pop()
        if isinstance(part, LazyResult | Param | Env):
            raise TypeError(
                f"{what} is or holds {part!r}, which has no value yet: give plain values, or let a task "
                "make the key"
            )
        if isinstance(part, tuple | frozenset):
            todo += part
