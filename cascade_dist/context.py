"""What the code of a task may know about its own attempt.

This module is a leaf: it imports the standard library alone.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, NamedTuple

__all__ = ["AttemptInfo", "current_attempt"]


class AttemptInfo(NamedTuple):
    """One attempt of one node.

    Attributes:
        run_id: the run.
        node_id: hex of the node's structural id.
        attempt: the try as users count, from 1.
        task: the task's name; a child of a map has its index in brackets.
        worker: id of the worker.
    """

    run_id: str
    node_id: str
    attempt: int
    task: str
    worker: str


# A record is (run id, node id, try, task name, map index or -1, worker id, number of the attempt): that is
# what executors keep, because making an AttemptInfo for every attempt would cost more than most tasks do.
_Record = tuple[str, str, int, str, int, str, int]

_of_coroutine: ContextVar[_Record | None] = ContextVar("cascade_attempt", default=None)
_of_process: list[_Record | None] = [None]
"""One place, filled while a sync executor runs a task: its threads see it too."""


in_executor = False
"""This process runs tasks for a worker. A private cluster started here would start others without end, when
what starts it is at the top of a module that its workers import."""


def _record() -> Any:
    return _of_coroutine.get() or _of_process[0]


def current_attempt() -> AttemptInfo | None:
    """The attempt that this code runs in; None outside of tasks."""
    record = _record()
    if record is None:
        return None
    run_id, node_id, try_, name, index, worker, _ = record
    return AttemptInfo(run_id, node_id, try_, f"{name}[{index}]" if index >= 0 else name, worker)
