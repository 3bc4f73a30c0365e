"""Whether the hash of some code is still what it was, told without making it again.

A hash follows all that the code reaches. Where that is functions, tasks, plain scalars and installed code
alone, it can change only by an assignment: to a global, or to an attribute of a function or task. So it is
the same as long as each of these still holds the very object that it held. Code that reaches anything else
(a list, a class, a closure) may change unseen, and is not watched.
"""

from __future__ import annotations

import builtins
import types
from collections.abc import Mapping
from operator import attrgetter
from typing import Any, Final

from cascade_dist.graph.code_hash import loads_of
from cascade_dist.graph.encoding import SCALARS
from cascade_dist.graph.installed import installed_name, is_installed
from cascade_dist.language.policies import RetryPolicy
from cascade_dist.language.task import Task

__all__ = ["CodeWatch", "watch"]

_REACH_MAX: Final = 100
"""Of functions, tasks and values: to look at more of them costs as much as to hash them."""
_ABSENT: Final = object()
_task_parts = attrgetter(
    "func",
    "name",
    "asynchronous",
    "pure",
    "mode",
    "timeout",
    "retry",
    "durable",
    "cache",
    "spawn",
    "resources",
)


class CodeWatch:
    """What the hash of one task depends on, as it was."""

    __slots__ = ("_functions", "_names", "_tasks")

    def __init__(self) -> None:
        self._names: list[tuple[Mapping[str, Any], str, Any]] = []
        """Namespaces, names and what stood there."""
        self._functions: list[tuple[types.FunctionType, types.CodeType, tuple[Any, ...] | None]] = []
        """Functions that have nothing but code and defaults."""
        self._tasks: list[tuple[Task[Any], tuple[Any, ...]]] = []

    def holds(self) -> bool:
        """Everything that was looked at is still the same object."""
        for namespace, name, value in self._names:
            if namespace.get(name, _ABSENT) is not value:
                return False
        for function, code, defaults in self._functions:
            if function.__code__ is not code or function.__defaults__ is not defaults:
                return False
            if function.__kwdefaults__ is not None or function.__dict__:
                return False
        for task, parts in self._tasks:  # noqa: SIM110 - a loop is faster here, and this is hot
            if _task_parts(task) != parts:
                return False
        return True

    def _look_at(self, task: Task[Any]) -> bool:
        """Notes all that a task reaches; False: something of it may change unseen."""
        todo: list[Any] = [task]
        seen: set[int] = set()
        while todo:
            owner = todo.pop()
            if id(owner) in seen:
                continue
            seen.add(id(owner))
            if len(seen) > _REACH_MAX:
                return False
            if type(owner) is Task:
                if not _is_plain_retry(owner.retry):
                    return False
                *parts, resources = _task_parts(owner)
                self._tasks.append((owner, (*parts, dict(resources))))
                todo.append(owner.func)
            elif type(owner) is types.FunctionType:
                if not self._look_at_function(owner, todo):
                    return False
            elif not _is_atom(owner):
                return False
        return True

    def _look_at_function(self, function: types.FunctionType, todo: list[Any]) -> bool:
        if installed_name(function) is not None:
            return True
        defaults = function.__defaults__ or ()
        if function.__closure__ or function.__kwdefaults__ or function.__dict__:
            return False
        if not all(map(_is_atom, defaults)):
            return False
        chains, imports = loads_of(function.__code__)
        if any(name and not is_installed(module) for module, name in imports):
            return False
        self._functions.append((function, function.__code__, function.__defaults__))
        namespace = function.__globals__
        home = self._name(namespace, "__name__")
        if isinstance(home, str) and is_installed(home):
            return True
        for chain in chains:
            value = self._name(namespace, chain[0])
            if value is _ABSENT:
                self._name(builtins.__dict__, chain[0])
                continue
            for name in chain[1:]:
                if not isinstance(value, types.ModuleType) or is_installed(value.__name__):
                    break
                if type(value) is not types.ModuleType or name not in value.__dict__:
                    return False  # a module may make what it is asked for
                value = self._name(value.__dict__, name)
            todo.append(value)
        return True

    def _name(self, namespace: Mapping[str, Any], name: str) -> Any:
        value = namespace.get(name, _ABSENT)
        self._names.append((namespace, name, value))
        return value


def watch(task: Task[Any], retry: RetryPolicy | None = None) -> CodeWatch | None:
    """What tells that the hash of a task, made now, still holds; None: nothing can.

    Args:
        task: the task.
        retry: when its calls are tried again, where that was chained onto them.
    """
    made = CodeWatch()
    return made if _is_plain_retry(retry) and made._look_at(task) else None


def _is_atom(value: Any) -> bool:
    """It counts by what never changes: a scalar by itself, a module or installed code by its name."""
    kind = type(value)
    if kind is tuple:
        return SCALARS.issuperset(map(type, value))
    return kind in SCALARS or kind is types.ModuleType or installed_name(value) is not None


def _is_plain_retry(retry: RetryPolicy | None) -> bool:
    """The code of the exceptions that are retried does not change."""
    return retry is None or all(installed_name(kind) is not None for kind in retry.on)
