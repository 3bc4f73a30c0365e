"""Tasks: functions that make lazy results when called."""

from __future__ import annotations

import functools
import inspect
import itertools
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping
from types import FunctionType, MethodType
from typing import Any, ClassVar, Final, Generic, Protocol, TypeVar, overload

from cascade_dist.language.inputs import Env, Param
from cascade_dist.language.lazy import LazyResult, MappedLazyResult, Unmapped
from cascade_dist.language.policies import (
    MODES,
    RetryPolicy,
    checked_amounts,
    checked_retry,
    checked_timeout,
    is_text,
)
from cascade_dist.language.resources import Inject, Injection, Resource, injections

__all__ = ["Task", "check_lengths", "items_of", "task"]

R = TypeVar("R")

OPTIONS: Final = ("name", "pure", "mode", "resources", "timeout", "retry", "durable", "cache", "spawn")
"""The options of `task`."""

ITEMS_MAX: Final = 10_000_000
"""So many items may a list have that is mapped over: endless iterators have to stop somewhere."""

_KEYWORDS_MAX: Final = 64


class Task(Generic[R]):
    """A function whose calls are lazy. Made by `task`.

    Attributes:
        func: the function itself.
        name: what events, errors and plans call it.
        asynchronous: whether it is a coroutine function.
        pure: whether equal calls are one.
        mode: "blocking" or "compute".
        resources: what one attempt holds, by name in millionths.
        timeout: bound of one attempt in seconds, or None.
        retry: when a failed attempt is tried again, or None.
        durable: whether the value survives its worker.
        spawn: whether a lazy value that it returns is run in its place.
        cache: "cluster" when values are kept for the whole cluster, or None.
    """

    cluster_caches: ClassVar[bool] = False
    """Any task of this process has ``cache="cluster"``: compiling looks for value keys only then."""

    def __init__(
        self,
        func: Callable[..., Any],
        *,
        name: str | None = None,
        pure: bool = False,
        mode: str = "blocking",
        resources: Mapping[str, float] | None = None,
        timeout: float | None = None,
        retry: RetryPolicy | int | None = None,
        durable: bool = False,
        cache: str | None = None,
        spawn: bool = False,
    ) -> None:
        self.func = func
        self.name = _name_of(func) if name is None else name
        if not is_text(self.name) or not self.name:
            raise TypeError(f"a task's name is {name!r}: give a str that is not empty")
        _check_callable(func, self.name)
        self.asynchronous = _is_coroutine_function(func)
        self.pure = _flag("pure", pure)
        if mode not in MODES:
            raise ValueError(
                f"mode of task {self.name!r} is {mode!r}: it is one of {', '.join(map(repr, MODES))}"
            )
        self.mode = mode
        self.resources = checked_amounts(resources or {})
        self.timeout = checked_timeout(timeout)
        self.retry = None if retry is None else checked_retry(retry)
        self.durable = _flag("durable", durable)
        self.spawn = _flag("spawn", spawn)
        self.cache = _checked_cluster_cache(cache, self.pure, self.name)
        if self.cache is not None:
            Task.cluster_caches = True
        self._least, self._most = _positional_bounds(func)
        self._keywords: dict[int, tuple[frozenset[str], frozenset[str]]] = {}
        self._adopt(func)

    def _adopt(self, func: Callable[..., Any]) -> None:
        """Looks like the function to help(), inspect and doctest."""
        for attribute in ("__module__", "__name__", "__qualname__", "__doc__", "__annotations__"):
            value = getattr(func, attribute, None)
            if value is not None and not isinstance(value, property):
                setattr(self, attribute, value)
        self.__wrapped__ = func

    @functools.cached_property
    def signature(self) -> inspect.Signature | None:
        """What calls are bound to; None where Python cannot tell (some builtins)."""
        try:
            # A wrapper is called with what it takes itself: what it wraps may take more or less.
            return inspect.signature(self.func, follow_wrapped=False)
        except (ValueError, TypeError):
            return None

    @functools.cached_property
    def injections(self) -> tuple[Injection, ...]:
        """The parameters that have an `inject` marker as their default."""
        return injections(self.func)

    def __call__(self, /, *args: Any, **kwargs: Any) -> LazyResult[R]:
        """A lazy result of the function for these arguments.

        Raises:
            TypeError: the function does not take these arguments.
        """
        if kwargs:
            if not self._fits(len(args), kwargs):
                self.bind(args, kwargs)
        elif not self._least <= len(args) <= self._most:
            self.bind(args, kwargs)
        return LazyResult(self, args, kwargs)

    def _fits(self, given: int, kwargs: Mapping[str, Any]) -> bool:
        """Whether keywords after so many positional arguments are surely right."""
        wanted = self._keywords.get(given)
        if wanted is None:
            wanted = _keywords_after(self.func, given)
            if len(self._keywords) < _KEYWORDS_MAX:
                self._keywords[given] = wanted
        required, allowed = wanted
        return required <= kwargs.keys() <= allowed

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> inspect.BoundArguments | None:
        """The arguments by parameter; None where the signature is not known.

        Raises:
            TypeError: the function does not take these arguments.
        """
        if self.signature is None:
            return None
        try:
            return self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.name}(): {error}; it takes {self.signature}") from None

    def map(self, /, **columns: Any) -> MappedLazyResult[list[R]]:
        """Calls the function once per item, items zipped by position; its value is the list of the results.

        Args:
            columns: by parameter, an iterable, a lazy list, or ``cs.unmapped(value)``.

        Raises:
            TypeError: the function does not take these parameters, or one is not a list.
            ValueError: the lists differ in length, or there is none.
        """
        self.bind((), columns)
        taken = {name: items_of(self.name, name, column) for name, column in columns.items()}
        if all(isinstance(column, Unmapped) for column in taken.values()):
            raise ValueError(f"{self.name}.map() has nothing to map over: give at least one parameter a list")
        check_lengths(self.name, taken)
        return MappedLazyResult(self, taken)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """As a method: calls get the instance first, as with functions."""
        return self if instance is None else MethodType(self, instance)

    def __repr__(self) -> str:
        return f"<Task {self.name!r}>"

    def __reduce__(self) -> str | tuple[Any, ...]:
        """By name where it can be imported by that name, so that it costs a few bytes; else whole."""
        module, qualname = str(self.__module__), str(getattr(self, "__qualname__", ""))
        importable = module not in ("__main__", "__mp_main__") and not _by_value(module)
        if importable and qualname and _resolve(module, qualname) is self:
            return qualname
        return _restore, (self.func, self.options())

    def options(self) -> dict[str, Any]:
        """The options that it was made with, as `task` takes them."""
        amounts = {name: micros / 1_000_000 for name, micros in self.resources.items()}
        return {
            "name": self.name,
            "pure": self.pure,
            "mode": self.mode,
            "resources": amounts,
            "timeout": self.timeout,
            "retry": self.retry,
            "durable": self.durable,
            "cache": self.cache,
            "spawn": self.spawn,
        }


def _restore(func: Callable[..., Any], options: dict[str, Any]) -> Task[Any]:
    return Task(func, **options)


def _resolve(module: str, qualname: str) -> object:
    found: object = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found


def _by_value(module: str) -> bool:
    """Whether cloudpickle was told to send a module's contents instead of its name."""
    cloudpickle = sys.modules.get("cloudpickle")
    if cloudpickle is None:
        return False
    listed = cloudpickle.list_registry_pickle_by_value()
    return any(module == name or module.startswith(name + ".") for name in listed)


def _flag(option: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{option} is {value!r}: give True or False")
    return value


def _checked_cluster_cache(cache: object, pure: bool, name: str) -> str | None:
    if cache is None:
        return None
    if cache != "cluster":
        raise ValueError(
            f"cache of task {name!r} is {cache!r}: it is 'cluster' or None; a policy belongs to a call, "
            ".with_cache(policy)"
        )
    if not pure:
        raise ValueError(
            f"task {name!r} has cache='cluster' without pure=True: its values are found by code and "
            "arguments, which only of a pure task say all; add pure=True, or use .with_cache(policy)"
        )
    return "cluster"


def _name_of(func: object) -> str:
    while isinstance(func, functools.partial):
        func = func.func
    name = getattr(func, "__name__", None)
    return name if isinstance(name, str) else type(func).__name__


def _check_callable(func: object, name: str) -> None:
    if isinstance(func, Task):
        raise TypeError(
            f"{name!r} is a task already; for other options make one of its function: cs.task(t.func, …)"
        )
    if isinstance(func, Resource):
        raise TypeError(f"{func!r} is a resource, not a task: give it to a task, by cs.inject({func.name!r})")
    if isinstance(func, LazyResult):
        raise TypeError(f"{func!r} is a call, not a function: cs.task takes the function")
    if isinstance(func, staticmethod | classmethod):
        kind = type(func).__name__
        raise TypeError(f"{name!r} is a {kind} already: put @{kind} above @cs.task, not below")
    if not callable(func):
        raise TypeError(
            f"cs.task got {func!r}, a {type(func).__name__}: it takes a function or another callable"
        )
    if any(inspect.isgeneratorfunction(part) or inspect.isasyncgenfunction(part) for part in _bodies(func)):
        raise TypeError(
            f"{name!r} is a generator function, and a generator cannot travel: return a list instead"
        )


def _bodies(func: object) -> tuple[object, ...]:
    """What may hold the code of a callable: itself and, for an object, its ``__call__``."""
    while isinstance(func, functools.partial):
        func = func.func
    return (func, None if isinstance(func, type) else getattr(func, "__call__", None))  # noqa: B004


def _is_coroutine_function(func: object) -> bool:
    return any(inspect.iscoroutinefunction(part) for part in _bodies(func))


def _positional_bounds(func: Callable[..., Any]) -> tuple[int, int]:
    """How many positional arguments, without keywords, are surely right: the fast way past `bind`."""
    if type(func) is not FunctionType or hasattr(func, "__signature__"):
        return 1, 0
    code = func.__code__
    if code.co_kwonlyargcount > len(func.__kwdefaults__ or ()):
        return 1, 0
    most = sys.maxsize if code.co_flags & inspect.CO_VARARGS else code.co_argcount
    return code.co_argcount - len(func.__defaults__ or ()), most


def _keywords_after(func: Callable[..., Any], given: int) -> tuple[frozenset[str], frozenset[str]]:
    """Keywords that a call with so many positional arguments needs and may have; if unsure, none that fit."""
    never = frozenset({""}), frozenset[str]()
    least, most = _positional_bounds(func)
    if least > most or not isinstance(func, FunctionType):
        return never
    code = func.__code__
    if code.co_posonlyargcount or code.co_kwonlyargcount or given > code.co_argcount:
        return never
    names = code.co_varnames[: code.co_argcount]
    return frozenset(names[given:least]), frozenset(names[given:])


def items_of(task: str, name: str, column: Any) -> Any:
    """What one parameter of a map is mapped over: a list, or something that becomes one later.

    Raises:
        TypeError: it is no list.
    """
    where = f"{task}.map({name}=…)"
    if isinstance(column, LazyResult | Param | Env | Unmapped):
        return column
    if isinstance(column, Inject):
        return Unmapped(column)
    if isinstance(column, str | bytes | bytearray):
        kind = "a string" if isinstance(column, str) else f"a {type(column).__name__}"
        raise TypeError(f"{where}: {kind} is not a list to map over; for one value for all: cs.unmapped(…)")
    if isinstance(column, set | frozenset):
        raise TypeError(f"{where}: a set has no order to map in; give a list, such as sorted(…)")
    if not isinstance(column, Iterable):
        raise TypeError(
            f"{where}: {column!r}, a {type(column).__name__}, is not a list to map over; "
            "for one value for all: cs.unmapped(…)"
        )
    try:
        items = list(itertools.islice(column, ITEMS_MAX + 1))
    except TypeError as error:
        raise TypeError(f"{where}: {error}; for one value for all: cs.unmapped(…)") from error
    if len(items) > ITEMS_MAX:
        raise ValueError(f"{where} has more than {ITEMS_MAX:,} items: map over slices, in several runs")
    return items


def check_lengths(task: str, columns: Mapping[str, Any]) -> None:
    """Raises ValueError, naming each length, when the known lists of a map differ in length."""
    lengths = {name: len(column) for name, column in columns.items() if isinstance(column, list)}
    if len(set(lengths.values())) > 1:
        named = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ValueError(f"{task}.map() zips its lists, so they need one length, but {named}")


class _Decorator(Protocol):
    """What `task` with options makes."""

    @overload
    def __call__(self, func: Callable[..., Coroutine[Any, Any, R]], /) -> Task[R]: ...
    @overload
    def __call__(self, func: Callable[..., R], /) -> Task[R]: ...


@overload
def task(func: Callable[..., Coroutine[Any, Any, R]], /, **options: Any) -> Task[R]: ...
@overload
def task(func: Callable[..., R], /, **options: Any) -> Task[R]: ...
@overload
def task(
    *,
    name: str | None = ...,
    pure: bool = ...,
    mode: str = ...,
    resources: Mapping[str, float] | None = ...,
    timeout: float | None = ...,
    retry: RetryPolicy | int | None = ...,
    durable: bool = ...,
    cache: str | None = ...,
    spawn: bool = ...,
) -> _Decorator: ...
def task(func: Any = None, /, **options: Any) -> Any:
    """Makes a task of a function, bare or with options, or of any other callable.

    Args:
        func: the function, lambda, `functools.partial` or callable object; None for a decorator with options.
        options: ``name`` (for people; default: the function's), ``pure`` (equal calls are one node),
            ``mode`` ("blocking", or "compute" for numeric code), ``resources`` (amounts that one attempt
            holds, such as ``{"cpu": 2}``), ``timeout`` (seconds per attempt), ``retry`` (a `RetryPolicy` or
            the number of attempts in all), ``durable`` (the value survives its worker), ``cache``
            ("cluster", with ``pure``: equal calls of later runs take the value of the first), ``spawn`` (a
            lazy value that it returns is run, and that value takes its place).

    Raises:
        TypeError: it is not callable, or there is no such option.
    """
    for option in options:
        if option not in OPTIONS:
            raise TypeError(f"cs.task has no option {option!r}: there are {', '.join(OPTIONS)}")
    if func is None:
        return functools.partial(task, **options)
    return Task(func, **options)
