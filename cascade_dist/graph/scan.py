"""Finding lazy results and inputs in arguments, and putting values in the place of inputs."""

from __future__ import annotations

import copy
import types
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any, Final

from cascade_dist.errors import GraphError
from cascade_dist.language.inputs import Env, Param
from cascade_dist.language.lazy import LazyResult, Unmapped
from cascade_dist.language.resources import Inject

__all__ = ["ATOMS", "Scanner", "substituted"]

ATOMS: Final = frozenset(
    {
        int,
        float,
        str,
        bytes,
        bool,
        complex,
        types.NoneType,
        types.EllipsisType,
        bytearray,
        range,
        types.FunctionType,
    }
)
"""Exact types that hold nothing."""

Found = dict[LazyResult[Any], str]
Children = Callable[[Any], "Iterator[Any]"]


def _of_dict(value: Any) -> Iterator[Any]:
    for key, item in value.items():
        yield key
        yield item


def _of_set(value: Any) -> Iterator[Any]:
    return iter(value)


def _of_dataclass(value: Any) -> Iterator[Any]:
    for field in fields(value):
        yield getattr(value, field.name, None)


def children_of(kind: type) -> Children | None:
    """How to look into values of a type; None when there is nothing to look into."""
    if issubclass(kind, list | tuple):
        return iter
    if issubclass(kind, dict):
        return _of_dict
    if issubclass(kind, set | frozenset):
        return _of_set
    if is_dataclass(kind):
        return _of_dataclass
    return None


class Scanner:
    """Finds lazy results at any depth of lists, tuples, dicts, sets, dataclasses and named tuples.

    Attributes:
        inputs: whether a `Param`, `Env` or marker was met since this was last set to False.
        injected: the `Inject` markers that were met since this was last cleared.
    """

    def __init__(self) -> None:
        self.inputs = False
        self.injected: list[Inject] = []
        self._children: dict[type, Children | None] = {}

    def scan(self, value: Any, arg: str, found: Found) -> None:
        """Adds the lazy results in a value, in its order, each once, with the argument it was first found in.

        Raises:
            GraphError: there is an `unmapped` in it.
            RecursionError: the value is nested too deeply, or holds itself.
        """
        kind = type(value)
        if kind in ATOMS:
            return
        try:
            children = self._children[kind]
        except KeyError:
            children = self._children[kind] = children_of(kind)
        if children is not None:
            if (children is iter or children is _of_set) and ATOMS.issuperset(map(type, value)):
                return
            if children is _of_set:
                self._scan_set(value, arg, found)
                return
            for child in children(value):
                if type(child) not in ATOMS:
                    self.scan(child, arg, found)
        elif isinstance(value, LazyResult):
            if value not in found:
                found[value] = arg
        elif kind is Param or kind is Env:
            self.inputs = True
        elif kind is Inject:
            self.inputs = True
            self.injected.append(value)
        elif kind is Unmapped:
            raise GraphError(
                f"argument {arg!r} has {value!r} in it: cs.unmapped(…) is for whole parameters of "
                "task.map(…); in a call or inside a value pass the value itself"
            )

    def _scan_set(self, value: Any, arg: str, found: Found) -> None:
        """A set's own order does not last, so its lazy results come in the order they were made."""
        finds: list[Found] = []
        for item in value:
            if type(item) not in ATOMS:
                finds.append({})
                self.scan(item, arg, finds[-1])
        for find in sorted(finds, key=lambda find: [lazy.serial for lazy in find]):
            for lazy in find:
                found.setdefault(lazy, arg)


def substituted(value: Any, resolve: Callable[[Any], Any]) -> Any:
    """The value with each `Param`, `Env` and marker in it replaced; what holds none is kept, not copied.

    Args:
        value: an argument.
        resolve: gives what stands for one of these.
    """
    kind = type(value)
    if kind in ATOMS or isinstance(value, LazyResult):
        return value
    if kind is Param or kind is Env or kind is Inject:
        return resolve(value)
    children = children_of(kind)
    if children is None:
        return value
    if children is _of_dict:
        return _new_dict(value, resolve)
    if children is _of_dataclass:
        return _new_dataclass(value, resolve)
    items = [substituted(item, resolve) for item in value]
    if all(new is old for new, old in zip(items, value, strict=True)):
        return value
    return _new_sequence(value, items)


def _new_dict(value: Any, resolve: Callable[[Any], Any]) -> Any:
    pairs = [(substituted(key, resolve), substituted(item, resolve)) for key, item in value.items()]
    if all(a is c and b is d for (a, b), (c, d) in zip(pairs, value.items(), strict=True)):
        return value
    new = copy.copy(value)
    new.clear()
    for key, item in pairs:
        new[key] = item
    return new


def _new_dataclass(value: Any, resolve: Callable[[Any], Any]) -> Any:
    changed = {}
    for field in fields(value):
        old = getattr(value, field.name, None)
        new = substituted(old, resolve)
        if new is not old:
            changed[field.name] = new
    if not changed:
        return value
    clone = copy.copy(value)  # not `replace`, which would run __init__ a second time
    for name, new in changed.items():
        object.__setattr__(clone, name, new)
    return clone


def _new_sequence(value: Any, items: list[Any]) -> Any:
    kind = type(value)
    if kind in (list, tuple, set, frozenset):
        return kind(items)
    if isinstance(value, tuple) and hasattr(kind, "_make"):
        return kind._make(items)
    if isinstance(value, list):
        new = copy.copy(value)
        new[:] = items
        return new
    return kind(items)
