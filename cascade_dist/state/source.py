"""What may be given as ``state_backend=``: a URI, a backend, or what makes one for a run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, Union

from cascade_dist.state.base import StateBackend
from cascade_dist.state.uri import check_state_uri

__all__ = ["METHODS", "StateFactory", "StateSource", "check_backend", "check_state", "name_of"]

METHODS = ("put_result", "get_result", "has_result", "mark_skipped", "get_skip_reason", "clear")

StateFactory: TypeAlias = Callable[[str], Union[StateBackend, Awaitable[Union[StateBackend, None]], None]]
"""Makes the backend of a run of its id; None: the run's state is kept in memory alone."""

StateSource: TypeAlias = Union[str, StateBackend, StateFactory]


def check_state(given: Any) -> str | StateFactory:
    """A URI, or a factory: a backend that is given as an object is that of every run.

    Raises:
        TypeError: neither of these.
        ValueError: a URI of another scheme than redis, rediss or unix.
        ImportError: a URI, and redis is not installed.
    """
    if isinstance(given, str):
        return check_state_uri(given)
    lacking = lacking_methods(given)
    if not lacking and not isinstance(given, type):
        return lambda run_id: given
    if callable(given):
        factory: StateFactory = given
        return factory
    raise TypeError(
        f"state_backend is a {type(given).__qualname__}, which has no {', '.join(lacking)}: give a URI such "
        "as 'redis://localhost:6379/0', a backend such as cs.InMemoryStateBackend('my-run'), or a function "
        "that gets a run's id and returns one"
    )


def check_backend(made: Any, run_id: str) -> None:
    """Checks what a factory returned.

    Raises:
        TypeError: it is no backend; names what is missing.
    """
    if lacking := lacking_methods(made):
        raise TypeError(
            f"the factory of state_backend= returned a {type(made).__qualname__} for run {run_id!r}, which "
            f"has no {', '.join(lacking)}: it returns a state backend, or None for a run without one"
        )


def lacking_methods(given: Any) -> list[str]:
    """The methods of a state backend that something does not have."""
    return [name for name in METHODS if not callable(getattr(given, name, None))]


def name_of(backend: Any) -> str:
    """The backend's class, for messages."""
    return type(backend).__qualname__
