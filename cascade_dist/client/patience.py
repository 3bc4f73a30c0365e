"""Waiting on the caller's thread, so that Ctrl-C is heard."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

__all__ = ["is_cancelled", "result_of", "until_done"]

T = TypeVar("T")

PIECE_SECONDS = 0.5
"""A signal that comes in the moment before Python's lock begins to wait is not heard until the wait ends."""


def until_done(future: Future[Any], timeout: float | None) -> bool:
    """Waits until a future is done, in pieces; False when that takes longer than `timeout` seconds."""
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        left = PIECE_SECONDS if deadline is None else min(PIECE_SECONDS, deadline - time.monotonic())
        try:
            Future.exception(future, max(0.0, left))  # past what a subclass makes of it
        except CancelledError:
            return True
        except TimeoutError:
            if future.done():
                return True
            if left < PIECE_SECONDS:
                return False
        else:
            return True


def result_of(future: Future[T], timeout: float | None = None) -> T:
    """A future's result, waited for in pieces.

    Raises:
        TimeoutError: it took longer than `timeout` seconds.
        CancelledError: it was cancelled.
        Exception: what it ended with.
    """
    until_done(future, timeout)
    return future.result(0)


def is_cancelled() -> bool:
    """The present task is cancelled itself, and not just what it waits for."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0
