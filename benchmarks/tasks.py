"""The tasks of our own side. Workers import this module, so it loads nothing else."""

from __future__ import annotations

import os
import time
from typing import Any

import cascade_dist as cs

__all__ = ["choice", "countdown", "follow", "gate", "items", "noop", "sleep", "step"]


@cs.task
def noop() -> None:
    """Does nothing."""


@cs.task
def step(value: int) -> int:
    """One link of a chain."""
    return value + 1


@cs.task
def sleep(seconds: float) -> None:
    """Keeps everything behind it waiting."""
    time.sleep(seconds)


@cs.task
def gate(path: str) -> None:
    """Ends when there is such a file."""
    while not os.path.exists(path):
        time.sleep(0.005)


@cs.task
def follow(gate: None, number: int) -> int:
    """Waits for the gate; its arguments differ from its neighbours'."""
    return number


@cs.task
def choice(value: int) -> int:
    """A selector, or a condition."""
    return value


@cs.task
def items(count: int) -> list[int]:
    """A list to map over."""
    return list(range(count))


@cs.task
def countdown(steps: int) -> Any:
    """A loop of so many steps."""
    return 0 if steps == 0 else countdown(steps - 1)
