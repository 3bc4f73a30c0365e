"""From ``MODULE:TARGET`` to a target."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle

from cascade_dist.errors import ConfigError
from cascade_dist.language.lazy import LazyResult

__all__ = ["load_target"]

_FORM = "write MODULE:TARGET, such as flows.daily:report or flows/daily.py:report"


def load_target(text: str) -> Any:
    """The target that a text names.

    A function that needs no arguments is called (a task gives its lazy result). What a module of the user's
    own defines travels by value, so workers need not have the module.

    Args:
        text: ``MODULE:TARGET``; MODULE is a dotted name or the path of a file, TARGET a name in it.

    Raises:
        ConfigError: there is no such module or name, or it needs arguments.
    """
    module_text, colon, name = text.rpartition(":")
    if not colon or not module_text or not name:
        raise ConfigError(f"{text!r} names no target: {_FORM}")
    module = _load_module(module_text)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            names = ", ".join(_candidates(module)) or "none"
            raise ConfigError(f"{module_text} has no {name!r}; what it defines: {names}")
        found = getattr(found, part)
    return _call(found, text) if callable(found) else found


def _load_module(text: str) -> ModuleType:
    if text.endswith(".py") or os.sep in text:
        return _load_file(Path(text))
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        _by_value_if_own(text)
        return importlib.import_module(text)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{text}.".startswith(f"{error.name}."):
            raise
        raise ConfigError(
            f"there is no module {text!r} here (looked for {error.name!r}, also in {os.getcwd()}): {_FORM}"
        ) from None


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"there is no file {str(path)!r}: {_FORM}")
    path = path.resolve()
    sys.path.insert(0, str(path.parent))  # as when the file is run: it may import its neighbours
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{str(path)!r} is no Python file: {_FORM}")
    module = importlib.util.module_from_spec(spec)
    _by_value_if_own(path.stem, str(path))
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(path.stem, None)  # as a failed import does
        raise
    return module


def _by_value_if_own(name: str, file: str | None = None) -> None:
    """Lets what a module defines travel by value when it is the user's, not something that is installed.

    It comes before the module is executed: tasks find out as they are defined how they travel, and a module
    may run some of them at its top level, where a worker that imports it would do so again.
    """
    if file is None and name in sys.modules:
        file = getattr(sys.modules[name], "__file__", None)
    elif file is None:
        spec = importlib.util.find_spec(name)
        file = spec.origin if spec is not None and spec.has_location else None
    if file is None:
        return
    parts = Path(file).resolve().parts
    if "site-packages" in parts or "dist-packages" in parts:
        return
    if name in sys.modules:
        cloudpickle.register_pickle_by_value(sys.modules[name])
        return
    sys.modules[name] = ModuleType(name)  # only what is imported can be registered, by its name
    try:
        cloudpickle.register_pickle_by_value(sys.modules[name])
    finally:
        del sys.modules[name]


def _candidates(module: ModuleType) -> list[str]:
    """What may be meant: lazy results, containers that may hold some, functions of the module."""

    def may_be(value: Any) -> bool:
        own = callable(value) and getattr(value, "__module__", None) == module.__name__
        return own or isinstance(value, LazyResult | list | tuple | dict)

    return sorted(n for n, value in vars(module).items() if not n.startswith("_") and may_be(value))[:20]


def _call(func: Any, text: str) -> Any:
    try:
        signature = inspect.signature(getattr(func, "func", func))
    except (TypeError, ValueError):
        return func()
    needed = [
        parameter.name
        for parameter in signature.parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if needed:
        raise ConfigError(
            f"{text} needs arguments ({', '.join(needed)}), and nobody gives them here: name a lazy "
            "result, or a function without arguments that returns one; cs.Param stands for values given by -p"
        )
    return func()
