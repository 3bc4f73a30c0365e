"""Targets of other files as tasks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cascade_dist.language.lazy import LazyResult, WithParams
from cascade_dist.language.task import task
from cascade_dist.library.targets import load_target

__all__ = ["subflow"]


@task(name="subflow", spawn=True)
def subflow(path: str, target: str, params: Mapping[str, Any] | None = None) -> Any:
    """Loads a Python file on the worker and runs a target of it, as part of this run, with params of its own.

    Args:
        path: of the file, on the worker.
        target: the name of a lazy result in it, or of a function without arguments that makes one.
        params: values of the target's `Param`\\ s, by name.

    Raises:
        FileNotFoundError: there is no such file.
        ConfigError: there is no such name in it, or it needs arguments.
    """
    file = Path(path).resolve()
    if not file.is_file():
        raise FileNotFoundError(f"there is no subflow file {str(file)!r} on this worker")
    found = load_target(f"{file}:{target}")
    return (
        WithParams(found, dict(params or {}))
        if isinstance(found, LazyResult | list | tuple | dict)
        else found
    )
