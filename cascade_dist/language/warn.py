"""Warnings that point at the user's line, however deep in our own code they are found."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

__all__ = ["called_from_here", "warn_user"]

_PACKAGE = __name__.partition(".")[0]


class _Place(NamedTuple):
    """A line of a module; no frame, which would keep all that the user's function has."""

    file: str
    line: int
    module: str
    told: dict[Any, Any]
    """Python's own record of what was warned of in the module."""


_called_from: ContextVar[_Place | None] = ContextVar("_called_from", default=None)
"""Where a coroutine of the user's is, while a thread does something on its behalf."""


def warn_user(text: str) -> None:
    """Warns; the place that is named is the innermost one outside of this package."""
    place = _called_from.get() or _users_place()
    warnings.warn_explicit(text, UserWarning, place.file, place.line, place.module, place.told)


@contextmanager
def called_from_here() -> Iterator[None]:
    """What is called in the block, in whichever thread, warns at the place that has called this package."""
    token = _called_from.set(_users_place())
    try:
        yield
    finally:
        _called_from.reset(token)


def _users_place() -> _Place:
    frame = sys._getframe(1)
    while frame.f_back is not None and _is_passed_over(frame.f_globals.get("__name__", "")):
        frame = frame.f_back
    names = frame.f_globals
    told = names.setdefault("__warningregistry__", {})
    return _Place(frame.f_code.co_filename, frame.f_lineno, names.get("__name__", "<unknown>"), told)


def _is_passed_over(module: str) -> bool:
    return module.partition(".")[0] == _PACKAGE or module == "contextlib"
