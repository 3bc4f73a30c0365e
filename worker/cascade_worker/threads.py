"""Waiting for threads, also by those who are cancelled meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

__all__ = ["in_thread"]


async def in_thread(job: asyncio.Future[Any], stop: Callable[[], object] | None = None) -> None:
    """Waits until a thread is done, also when that is cancelled, however often.

    For who closes or removes behind it what the thread uses: the end of a process cancels all that waits once
    more.

    Args:
        job: what the thread does; what it raises comes out here, unless the wait is cancelled.
        stop: called when the wait is cancelled, so that the thread is done soon.
    """
    try:
        await asyncio.shield(job)
    except asyncio.CancelledError:
        if stop is not None:
            stop()
        while not job.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([job])
        if not job.cancelled():
            job.exception()  # else it would be logged, since nobody asked
        raise
