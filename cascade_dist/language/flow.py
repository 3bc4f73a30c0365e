"""Lazy results in a row: one after the other, or each with the value of the one before."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

from cascade_dist.language.lazy import LazyResult
from cascade_dist.language.router import Router
from cascade_dist.language.task import Task

__all__ = ["pipeline", "sequence"]


def sequence(steps: Iterable[Any]) -> LazyResult[Any]:
    """Lets each of some lazy results start when the one before has finished; stands for the last.

    A failure stops the sequence. A step that is skipped skips what follows.

    Args:
        steps: lazy results, in order. A `Router` can only be the first: there is nothing of it to wait.

    Raises:
        TypeError: a step is no lazy result.
        ValueError: there are no steps.
    """
    if isinstance(steps, LazyResult | str) or not isinstance(steps, Iterable):
        raise TypeError(f"cs.sequence got {steps!r}: give a list of lazy results")
    row = list(steps)
    if not row:
        raise ValueError("cs.sequence got no steps: give at least one lazy result")
    for number, step in enumerate(row):
        if not isinstance(step, LazyResult):
            hint = f": call it, {step.name}(…)" if isinstance(step, Task) else ": give lazy results"
            raise TypeError(f"step {number} of cs.sequence is {step!r}, a {type(step).__name__}{hint}")
        if number and isinstance(step, Router):
            raise TypeError(
                f"step {number} of cs.sequence is {step!r}: a Router runs nothing that could wait; put its "
                "routes in order, or the task that gets it"
            )
    for before, step in itertools.pairwise(row):
        step.after(before)
    last: LazyResult[Any] = row[-1]
    return last


def pipeline(initial: Any, steps: Iterable[Callable[[Any], Any]]) -> LazyResult[Any]:
    """Gives a value to the first step, its value to the second, and so on; stands for the last.

    A step that is skipped is passed through: the next one gets the value that the skipped one would have got.
    That holds for steps that call a task; a step that gives a map or a `Router` is not passed through.

    Args:
        initial: any value, lazy or not.
        steps: tasks, or functions that take the value so far and return a lazy result, such as
            ``lambda x: double(x).run_if(flag)``.

    Raises:
        TypeError: a step cannot be called, is a call already, or gives something that is not lazy.
        ValueError: there are no steps.
    """
    if isinstance(steps, LazyResult | str) or not isinstance(steps, Iterable):
        raise TypeError(f"cs.pipeline got {steps!r} for its steps: give a list of tasks")
    row = list(steps)
    if not row:
        raise ValueError("cs.pipeline got no steps: give at least one task")
    for number, step in enumerate(row):
        _check_step(number, step)
    value: Any = initial
    for number, step in enumerate(row):
        made = step(value)
        if not isinstance(made, LazyResult):
            raise TypeError(
                f"step {number} of cs.pipeline, {step!r}, gave {made!r}, a {type(made).__name__}: a step "
                "takes the value so far and returns a lazy result; make the function a task with @cs.task"
            )
        if type(made) is LazyResult and made is not value:
            made._chained().passed = value
        value = made
    last: LazyResult[Any] = value
    return last


def _check_step(number: int, step: object) -> None:
    if isinstance(step, LazyResult):
        raise TypeError(
            f"step {number} of cs.pipeline is {step!r}, which was called already: give the task itself, "
            f"{step.task.name}, or lambda x: {step.task.name}(x, …)"
        )
    if not callable(step):
        raise TypeError(
            f"step {number} of cs.pipeline is {step!r}, a {type(step).__name__}, which cannot be called: "
            "give tasks, or functions that return a lazy result"
        )
