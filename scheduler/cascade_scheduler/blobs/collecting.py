"""Deletes blobs that nothing names any more, after a grace.

What live runs, transfers and finished runs that clients may still ask for need is pinned in this process.
What stored runs need was in use until they ended, so it stays for the grace, which is to be longer than they
are kept. Entries of the cluster's cache are asked for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Container

from cascade_dist.config import format_size
from cascade_scheduler.blobs.base import BlobError, BlobStore
from cascade_scheduler.store.base import StoreUnavailable

__all__ = ["GRACE_SECONDS", "collect_idle"]

GRACE_SECONDS = 25 * 3600.0
"""An hour more than a stored run and an entry of the cache are kept."""
PERIOD_SECONDS = (0.05, 600.0)

logger = logging.getLogger("cascade.scheduler")


async def collect_idle(
    blobs: BlobStore, named: Callable[[], Awaitable[Container[bytes]]], grace: float
) -> None:
    """Collects for ever, often enough that nothing stays much longer than its grace of so many seconds."""
    shortest, longest = PERIOD_SECONDS
    while True:
        await asyncio.sleep(min(longest, max(shortest, grace / 10)))
        try:
            count, size = await blobs.collect(await named(), idle_seconds=grace)
        except (StoreUnavailable, BlobError, OSError) as error:
            logger.warning("idle blobs are not deleted now: %s", error)
            continue
        if count:
            logger.info("%d blobs (%s) that nothing needs any more are deleted", count, format_size(size))
