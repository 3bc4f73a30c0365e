"""Coroutines that begin here and now, without a task, whose wake-up is a good part of a short write.

Where all supported Pythons have eager tasks, these can take its place (decision 6).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

__all__ = ["advance", "forget"]

Waited = asyncio.Future[Any] | None


def advance(work: Coroutine[Any, Any, object], then: Callable[[Waited], object]) -> bool:
    """Runs a coroutine up to where it waits, as a task would; returns whether it has ended.

    Args:
        work: what is run; what it raises comes out here.
        then: called when what it waits for is there, with that, to advance it again.
    """
    try:
        waited = work.send(None)
    except StopIteration:
        return True
    if waited is None:  # a bare yield: it goes on in the loop's next iteration
        asyncio.get_running_loop().call_soon(then, None)
    else:
        waited._asyncio_future_blocking = False  # what a task does with a future that was yielded to it
        waited.add_done_callback(then)
    return False


def forget(waited: Waited) -> None:
    """Nobody goes on with what was waited for: its error, if it has one, is not to be reported as lost."""
    if waited is not None and not waited.cancelled():
        waited.exception()
