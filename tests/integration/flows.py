"""Tasks and questions of the tests of flow."""

from __future__ import annotations

from typing import Any

import cascade_dist as cs

from .conftest import Journal

SECONDS = 60.0


def _same(x: Any, *needs: Any) -> Any:
    return x


def node(name: str, x: Any = None, *needs: Any) -> cs.LazyResult[Any]:
    """A call of a task of this name that gives a value back."""
    return cs.task(_same, name=name)(x, *needs)


def append_line(path: str, word: str, *needs: Any) -> str:
    with open(path, "a") as file:
        file.write(f"{word}\n")
    return word


def noted(journal: Journal, word: str, *needs: Any) -> cs.LazyResult[Any]:
    """A call of a task of this name that leaves a line, and gives its name back."""
    return cs.task(append_line, name=word)(journal.path, word, *needs)


@cs.task
def add(x: int, y: int = 1) -> int:
    return x + y


@cs.task
def double(x: int) -> int:
    return 2 * x


@cs.task
def fails(*needs: Any) -> None:
    raise KeyError("on purpose")


def skips(run: cs.Run[Any]) -> dict[str, str]:
    """Why nodes were skipped, by name; a name that comes twice is a fault."""
    found = [(e.task, e.reason) for e in run.events() if type(e).__name__ == "TaskSkipped"]
    assert len(dict(found)) == len(found), found
    return dict(found)


def started(run: cs.Run[Any]) -> list[str]:
    """What ran, in order."""
    return [e.task for e in run.events() if type(e).__name__ == "TaskExecutionStarted"]


def ended(cluster: cs.Cluster, target: Any, **options: Any) -> tuple[Any, dict[str, str]]:
    """A run's value and what it skipped."""
    run = cluster.submit(target, **options)
    return run.result(SECONDS), skips(run)
