"""What travels by name: functions and tasks that a worker can import."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from types import ModuleType
from typing import Any

import cloudpickle

from cascade_dist.errors import TaskLoadError
from cascade_dist.language.resources import Resource
from cascade_dist.language.task import Task

__all__ = ["Reference", "display_name", "import_reference", "reference_of", "unwrap_task"]

Reference = tuple[str, str]
"""Module and qualified name."""

_MAINS = frozenset({"__main__", "__mp_main__"})


def reference_of(obj: object) -> Reference | None:
    """The name by which another process can import a function, class or task; None when there is none.

    There is none for what ``__main__`` defines, for lambdas and nested functions, for what a module's name no
    longer stands for, and for modules given to `cloudpickle.register_pickle_by_value`.
    """
    module_name = getattr(obj, "__module__", None)
    qualname = getattr(obj, "__qualname__", None)
    if type(module_name) is not str or type(qualname) is not str or module_name in _MAINS or "<" in qualname:
        return None
    module = sys.modules.get(module_name)
    if module is None or _by_value(module):
        return None
    found: Any = module
    for part in qualname.split("."):
        found = getattr(found, part, None)
        if found is None:
            return None
    return (module_name, qualname) if found is obj or unwrap_task(found) is obj else None


def _by_value(module: ModuleType) -> bool:
    registered = cloudpickle.list_registry_pickle_by_value()
    if not registered:
        return False
    parts = module.__name__.split(".")
    return any(".".join(parts[:length]) in registered for length in range(1, len(parts) + 1))


def unwrap_task(obj: Any) -> Any:
    """The function of a task or resource; anything else as it is."""
    return obj.func if isinstance(obj, Task | Resource) else obj


def import_reference(module_name: str, qualname: str) -> Any:
    """Imports what a reference names.

    A module whose file has changed since this process first came by it is loaded again: on a client somebody
    edits and reloads modules while workers live on.

    Raises:
        TaskLoadError: the module, or the name in it, is not there; names it and the remedy.
    """
    try:
        module = _fresh(module_name)
    except ImportError as error:
        raise TaskLoadError(_no_module(module_name, qualname, error), name=module_name) from error
    except Exception as error:
        raise TaskLoadError(
            f"module {module_name!r}, which has {qualname!r}, raised {type(error).__name__} when the worker "
            f"imported it: {error}",
            name=module_name,
        ) from error
    found: Any = module
    for part in qualname.split("."):
        found = getattr(found, part, _MISSING)
        if found is _MISSING:
            where = getattr(module, "__file__", None) or "no file"
            raise TaskLoadError(
                f"module {module_name!r} on the worker ({where}) has no {qualname!r}: it is another version "
                "than the client's. Install the same one on the workers, or restart them if it has changed",
                name=module_name,
            )
    return found


_MISSING = object()
_stamps: dict[str, tuple[int, int] | None] = {}


def _fresh(module_name: str) -> ModuleType:
    module = sys.modules.get(module_name)
    if module is None:
        module = importlib.import_module(module_name)
        _stamps[module_name] = _stamp(module)
        return module
    stamp = _stamp(module)
    if _stamps.setdefault(module_name, stamp) != stamp and stamp is not None:
        module = importlib.reload(module)
        _stamps[module_name] = stamp
    return module


def _stamp(module: ModuleType) -> tuple[int, int] | None:
    path = getattr(module, "__file__", None)
    try:
        status = os.stat(path) if path else None
    except OSError:
        return None
    return None if status is None else (status.st_mtime_ns, status.st_size)


def _no_module(module_name: str, qualname: str, error: ImportError) -> str:
    missing = error.name or module_name
    remedy = (
        "install it on the workers, put its directory on their PYTHONPATH, or send it along with "
        f"`cloudpickle.register_pickle_by_value({module_name.partition('.')[0]})`"
    )
    if missing == module_name or module_name.startswith(f"{missing}."):
        return f"the worker has no module {missing!r}, which has {qualname!r}: {remedy}"
    needs = f"needs {missing!r}, which the worker lacks ({error})"
    return f"module {module_name!r}, which has {qualname!r}, {needs}: {remedy}"


def display_name(func: object) -> str:
    """A function's module and qualified name, for messages to people."""
    while isinstance(func, functools.partial):
        func = func.func
    func = unwrap_task(func)
    named = func if hasattr(func, "__qualname__") else type(func)
    module = getattr(named, "__module__", None) or "?"
    return f"{module}.{getattr(named, '__qualname__', type(func).__qualname__)}"
