"""Resources: what tasks are given by the executor that runs them, such as a connection or a model.

A resource is a generator function that yields its value once. A task asks for it with `inject`, as the
default of a parameter or as an argument; the definition then travels with the graph. Where a name is looked
up: first `override_resource`, then what the attempt that runs here was given (on a worker), then the
definitions of this process, then the one that the marker brought along when its function was pickled.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from types import FunctionType
from typing import Any, Final, NoReturn, overload

from cascade_dist.errors import ResourceNotFoundError
from cascade_dist.language.policies import is_text
from cascade_dist.language.warn import warn_user

__all__ = [
    "SCOPES",
    "Filler",
    "Inject",
    "Resource",
    "Slot",
    "filling",
    "find",
    "inject",
    "injections",
    "known_names",
    "override_resource",
    "register",
    "resolve",
    "resource",
    "within",
]

SCOPES: Final = ("task", "run", "worker")
"""Around one attempt; once per executor and run; once per executor. From narrow to wide."""


class Resource:
    """A generator function whose value tasks may have injected. Made by `resource`.

    Attributes:
        func: the generator function itself.
        name: what it is asked for by.
        scope: "task", "run" or "worker".
        asynchronous: whether it is an async generator function.
    """

    def __init__(self, func: Callable[..., Any], *, name: str | None = None, scope: str = "run") -> None:
        self.name = _name_of(func) if name is None else name
        if not is_text(self.name) or not self.name:
            raise TypeError(f"a resource's name is {name!r}: give a str that is not empty")
        _check_generator(func, self.name)
        if scope not in SCOPES:
            raise ValueError(
                f"scope of resource {self.name!r} is {scope!r}: it is one of {', '.join(map(repr, SCOPES))}"
            )
        self.func = func
        self.scope = scope
        self.asynchronous = inspect.isasyncgenfunction(func)
        _check_parameters(func, self.name)
        for attribute in ("__module__", "__name__", "__qualname__", "__doc__"):
            value = getattr(func, attribute, None)
            if value is not None:
                setattr(self, attribute, value)
        self.__wrapped__ = func

    @property
    def requires(self) -> tuple[Inject, ...]:
        """The markers of the resources that it needs itself, each name once."""
        return tuple({marker.name: marker for _, _, marker in injections(self.func)}.values())

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(
            f"{self!r} is set up where a task needs it: give the task cs.inject({self.name!r}); to step "
            "through it by hand use its .func"
        )

    def __repr__(self) -> str:
        return f"<Resource {self.name!r} ({self.scope})>"

    def __reduce__(self) -> str | tuple[Any, ...]:
        """By name where it can be imported by that name; else whole."""
        module, qualname = str(self.__module__), str(getattr(self, "__qualname__", ""))
        if module not in ("__main__", "__mp_main__") and qualname and _resolve(module, qualname) is self:
            return qualname
        return _restore, (self.func, self.name, self.scope)


def is_resource(value: object) -> bool:
    """Whether something is a resource; callers may pass anything, whatever the annotations say."""
    return isinstance(value, Resource)


def _restore(func: Callable[..., Any], name: str, scope: str) -> Resource:
    return Resource(func, name=name, scope=scope)


def _resolve(module: str, qualname: str) -> object:
    found: object = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found


def _name_of(func: object) -> str:
    while isinstance(func, functools.partial):
        func = func.func
    name = getattr(func, "__name__", None)
    return name if isinstance(name, str) else type(func).__name__


def _is_generator_function(func: object) -> bool:
    return inspect.isgeneratorfunction(func) or inspect.isasyncgenfunction(func)


def _check_generator(func: object, name: str) -> None:
    if _is_generator_function(func):
        return
    if isinstance(func, Resource):
        raise TypeError(f"{name!r} is a resource already: for other options make one of its function (.func)")
    if _is_generator_function(getattr(func, "__wrapped__", None)):
        raise TypeError(
            f"resource {name!r} is wrapped, as by @contextmanager: put @cs.resource on the bare generator "
            "function"
        )
    kind = "a plain function" if callable(func) else f"a {type(func).__name__}"
    raise TypeError(
        f"resource {name!r} is {kind}: it has to be a generator function that yields its value once, "
        "with the teardown behind the yield"
    )


def _check_parameters(func: Callable[..., Any], name: str) -> None:
    for parameter in inspect.signature(func).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.default is parameter.empty:
            raise TypeError(
                f"resource {name!r} has the parameter {parameter.name!r}, which nobody gives it: let it have "
                "another resource, as in db=cs.inject('db'), or a plain default"
            )


# --- markers ---------------------------------------------------------------------------------------------


class Inject:
    """Stands for a resource's value: as the default of a parameter, or as an argument at any depth.

    Attributes:
        name: the resource's name.
        resource: the definition, when the marker was made of one.
    """

    __slots__ = ("carried", "name", "resource")

    def __init__(self, name: str, resource: Resource | None = None, carried: Resource | None = None) -> None:
        self.name = name
        self.resource = resource
        self.carried = carried
        """The definition that came along from another process, for a name that is not known in this one."""

    def __repr__(self) -> str:
        return f"inject({self.name!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        # As the default of a function that is pickled: what it calls may inject too, so it goes along.
        return _restored, (self.name, self.resource is not None, find(self))

    def _no_value(self, act: str) -> str:
        return (
            f"cannot {act} {self!r}: it is a marker, in whose place a task gets the value of resource "
            f"{self.name!r} when it runs. Give it to a task as an argument, or as the default of a "
            "parameter; a task's function that is called by hand is given the value by hand"
        )

    def __bool__(self) -> bool:
        raise TypeError(self._no_value("decide by"))

    def __iter__(self) -> NoReturn:
        raise TypeError(self._no_value("iterate over"))

    def __len__(self) -> int:
        raise TypeError(self._no_value("take the length of"))

    def __getitem__(self, key: object) -> NoReturn:
        raise TypeError(self._no_value("index"))

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(self._no_value("call"))

    def __enter__(self) -> NoReturn:
        raise TypeError(self._no_value("enter"))

    def __exit__(self, *error: object) -> None:
        """Never reached."""

    def __getattr__(self, name: str) -> NoReturn:
        # An AttributeError, because copy, pickle and notebooks ask for names that may be missing.
        if name.startswith("__"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        raise AttributeError(self._no_value(f"take attribute {name!r} of"))


def _restored(name: str, by_object: bool, definition: Resource | None) -> Inject:
    return Inject(name, definition) if by_object else Inject(name, None, definition)


def inject(what: str | Resource) -> Any:
    """A marker in whose place a task gets a resource's value when it runs.

    Args:
        what: the resource, or its name.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(what, Resource):
        return Inject(what.name, what)
    if is_text(what) and what:
        return Inject(what)
    raise TypeError(f"cs.inject got {what!r}, a {type(what).__name__}: give a resource or its name")


class Slot:
    """Where a marker stood in arguments that are on their way: whoever loads them gets the value."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"inject({self.name!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _taken, (self.name,)


_values: Mapping[str, Any] | None = None


@contextlib.contextmanager
def filling(values: Mapping[str, Any]) -> Iterator[None]:
    """In this block, what is loaded has values in the place of slots. For the one thread that loads."""
    global _values
    before, _values = _values, values
    try:
        yield
    finally:
        _values = before


def _taken(name: str) -> Any:
    return Slot(name) if _values is None else _values[name]


# --- parameters that are injected ------------------------------------------------------------------------

Injection = tuple[str, int, Inject]
"""A parameter, its position (-1: by keyword only), and the marker that is its default."""


def injections(func: Callable[..., Any]) -> tuple[Injection, ...]:
    """The parameters of a function that have a marker as their default."""
    if type(func) is FunctionType and not hasattr(func, "__wrapped__"):
        defaults = (*(func.__defaults__ or ()), *(func.__kwdefaults__ or {}).values())
        if not any(type(default) is Inject for default in defaults):
            return ()
    try:
        parameters = inspect.signature(func).parameters.values()
    except (ValueError, TypeError):  # some builtins have none
        return ()
    by_keyword = inspect.Parameter.KEYWORD_ONLY
    return tuple(
        (parameter.name, -1 if parameter.kind is by_keyword else position, parameter.default)
        for position, parameter in enumerate(parameters)
        if type(parameter.default) is Inject
    )


class Filler:
    """Gives calls of a function what it has injected.

    Args:
        func: what is to be called.
    """

    def __init__(self, func: Callable[..., Any]) -> None:
        self.wanted = injections(func)
        parameters = inspect.signature(func).parameters.values() if self.wanted else ()
        # These cannot go by their names: they are given in their order, with those before them.
        self._in_order = [(p.name, p.default) for p in parameters if p.kind is p.POSITIONAL_ONLY]

    def fill(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], values: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call with the injected ones among them; what the caller gave stays.

        Args:
            args: positional arguments.
            kwargs: keyword arguments; changed.
            values: of resources, by name.
        """
        for name, position, marker in self.wanted:
            if 0 <= position < len(args):
                if args[position] is marker:  # somebody has laid the defaults out
                    args = (*args[:position], values[marker.name], *args[position + 1 :])
            elif name not in kwargs or kwargs[name] is marker:
                kwargs[name] = values[marker.name]
        for name, default in self._in_order[len(args) :]:
            args = (*args, kwargs.pop(name, default))
        return args, kwargs


# --- names -----------------------------------------------------------------------------------------------

_registry: dict[str, Resource] = {}
_overrides: dict[str, list[Resource]] = {}
"""By name, the replacements in force; the last one counts."""
_lock = threading.Lock()
_of_attempt: ContextVar[Mapping[str, Resource] | None] = ContextVar("cascade_resources", default=None)


def register(definition: Resource) -> Resource:
    """Makes a resource known by its name in this process; `resource` does so itself. The last one counts.

    Raises:
        TypeError: it is no resource.
    """
    if not is_resource(definition):
        kind = type(definition).__name__
        raise TypeError(f"{definition!r}, a {kind}, is no resource: make one with @cs.resource")
    known = _registry.get(definition.name)
    if known is not None and known is not definition and known.__module__ != definition.__module__:
        warn_user(
            f"resource {definition.name!r} of {known.__module__} is replaced by that of "
            f"{definition.__module__}: give one of them another name"
        )
    _registry[definition.name] = definition
    return definition


def known_names() -> list[str]:
    """The names that can be injected in this process."""
    return sorted({*_registry, *_overrides, *(_of_attempt.get() or ())})


def find(marker: Inject) -> Resource | None:
    """The definition that a marker stands for here and now; None when there is none."""
    name = marker.name
    replaced = _overrides.get(name)
    if replaced:
        return replaced[-1]
    if marker.resource is not None:
        return marker.resource
    here = _of_attempt.get()
    if here is not None and name in here:
        return here[name]
    return _registry.get(name) or marker.carried


def resolve(marker: Inject, wanted_by: str) -> Resource:
    """The definition that a marker stands for here and now.

    Args:
        marker: the marker.
        wanted_by: who wants it, for the message: "task 'f'".

    Raises:
        ResourceNotFoundError: there is none; names it, who wants it, and what is known.
    """
    found = find(marker)
    if found is None:
        known = ", ".join(map(repr, known_names())) or "none"
        raise ResourceNotFoundError(
            f"{wanted_by} has resource {marker.name!r} injected, which is not registered (known: {known}): "
            "define it with @cs.resource before the submit, or register it with cluster.register(…)"
        )
    return found


@contextlib.contextmanager
def within(definitions: Mapping[str, Resource]) -> Iterator[None]:
    """In this block, names stand for these definitions first: what an attempt was given holds in its code."""
    token = _of_attempt.set(definitions)
    try:
        yield
    finally:
        _of_attempt.reset(token)


@contextlib.contextmanager
def override_resource(name: str | Resource, replacement: Any) -> Iterator[Resource]:
    """In this block, graphs get another resource under a name; afterwards the original again. For tests.

    Args:
        name: of the resource that is replaced, or the resource.
        replacement: a generator function, which gets the scope of the original; a resource, with its own
            scope; or a plain value that can be pickled.

    Raises:
        TypeError: the name is none.
    """
    wanted = inject(name)
    original = wanted.resource or _registry.get(wanted.name)
    scope = original.scope if original is not None else "run"
    if isinstance(replacement, Resource):
        made = Resource(replacement.func, name=wanted.name, scope=replacement.scope)
    else:
        func = replacement if _is_generator_function(replacement) else _constant(wanted.name, replacement)
        made = Resource(func, name=wanted.name, scope=scope)
    with _lock:
        _overrides.setdefault(wanted.name, []).append(made)
    try:
        yield made
    finally:
        with _lock:
            left = [other for other in _overrides[wanted.name] if other is not made]
            if left:
                _overrides[wanted.name] = left
            else:
                del _overrides[wanted.name]


def _constant(name: str, value: Any) -> Callable[[], Iterator[Any]]:
    """A generator function that yields a value."""

    def constant() -> Iterator[Any]:
        yield value

    constant.__name__ = constant.__qualname__ = f"override of resource {name!r}"
    return constant


@overload
def resource(func: Callable[..., Any], /, *, name: str | None = ..., scope: str = ...) -> Resource: ...
@overload
def resource(*, name: str | None = ..., scope: str = ...) -> Callable[[Callable[..., Any]], Resource]: ...
def resource(
    func: Callable[..., Any] | None = None, /, *, name: str | None = None, scope: str = "run"
) -> Any:
    """Makes a resource of a generator function, sync or async, that yields its value once.

    What is behind the yield tears it down; when the task fails, its exception is thrown in there for
    resources of scope "task". Parameters may have other resources as defaults, by `inject`.

    Args:
        func: the generator function; None for a decorator with options.
        name: what it is asked for by (default: the function's name).
        scope: "task" (around one attempt), "run" (once per executor and run, until the run ends) or "worker"
            (once per executor).

    Raises:
        TypeError: it is no generator function, or has a parameter that nobody gives.
        ValueError: there is no such scope.
    """
    if func is None:
        return functools.partial(_resource, name=name, scope=scope)
    return _resource(func, name=name, scope=scope)


def _resource(func: Any, /, *, name: str | None, scope: str) -> Resource:
    return register(Resource(func, name=name, scope=scope))
