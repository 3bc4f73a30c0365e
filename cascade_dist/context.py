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
        map_index: the index of a child of a map; None for other nodes.
        attempt_id: number of the attempt, which a run never uses twice.
        idempotency_key: names the run, the node, and the step of a loop, and so what the task is to do. All
            tries of it have the same key, after losses and restarts too, and nothing else has it: give it to
            services that do a thing once, however often they are asked.
    """

    run_id: str
    node_id: str
    attempt: int
    task: str
    worker: str
    map_index: int | None = None
    attempt_id: int = 0
    idempotency_key: str = ""


# A record is (run id, node id, try, task name, map index or -1, worker id, number of the attempt, place in
# loops and nested graphs): that is what executors keep, because making an AttemptInfo for every attempt would
# cost more than most tasks do.
_Record = tuple[str, str, int, str, int, str, int, str]

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
    run_id, node_id, try_, name, index, worker, attempt, place = record
    child = f"[{index}]" if index >= 0 else ""
    key = "/".join(part for part in (run_id, place, f"{node_id}{child}") if part)
    child_index = index if index >= 0 else None
    return AttemptInfo(run_id, node_id, try_, f"{name}{child}", worker, child_index, attempt, key)
