"""A collection of what nobody needs any more: in the store, and among the blobs."""

from __future__ import annotations

import logging
from collections.abc import Container, Iterable

from cascade_dist.config import format_size
from cascade_dist.v1 import client_pb2
from cascade_scheduler.blobs.base import BlobError
from cascade_scheduler.hub import Hub
from cascade_scheduler.store.base import StoreUnavailable
from cascade_scheduler.wire.run_files import blobs_of_parts

__all__ = ["collect_garbage"]

NAMES_MAX = 100
IDLE_SECONDS = 3_600.0
"""A blob that was used so shortly ago may be part of a graph that is being sent, or an object of a client."""

logger = logging.getLogger("cascade.scheduler")


async def collect_garbage(
    hub: Hub, importing: Container[str], *, dry_run: bool, idle_seconds: float = IDLE_SECONDS
) -> client_pb2.CollectGarbageResponse:
    """Frees it, unless it is only to be told; what cannot be looked at is told as an error.

    Args:
        hub: of the scheduler.
        importing: runs that are being written.
        dry_run: only say what there is.
        idle_seconds: blobs that were used since stay.
    """
    response = client_pb2.CollectGarbageResponse()
    readable = 0
    try:
        found = await hub.writer.garbage(importing, dry_run=dry_run)
    except StoreUnavailable as error:
        response.found.add(kind="run keys", error=str(error))
        response.found.add(kind="blobs", error="the store says not which of them runs need")
        return response
    else:
        response.found.add(
            kind="run keys",
            count=sum(found.runs.values()),
            bytes=found.bytes,
            names=_some(found.runs),
        )
        response.found.add(kind="index entries", count=len(found.entries), names=_some(found.entries))
        readable = found.named
    blobs = response.found.add(kind="blobs")
    try:
        named = await _named(hub, readable)
        blobs.count, blobs.bytes = await hub.blobs.collect(named, idle_seconds=idle_seconds, dry_run=dry_run)
    except (StoreUnavailable, BlobError, OSError) as error:
        blobs.error = str(error)
    if not dry_run and (freed := [kind for kind in response.found if kind.count]):
        told = ", ".join(f"{kind.count} {kind.kind} ({format_size(kind.bytes)})" for kind in freed)
        logger.info("freed: %s", told)
    return response


def _some(names: Iterable[str]) -> list[str]:
    return sorted(names)[:NAMES_MAX]


async def _named(hub: Hub, runs: int) -> set[bytes]:
    """The blobs that stored runs and entries of the cluster's cache name.

    Args:
        hub: of the scheduler.
        runs: how many there are.

    Raises:
        StoreUnavailable: not all can be read, so nobody knows.
    """
    named = set(await hub.cluster_cache.blobs())
    read = 0
    async for run in hub.writer.stored_runs():
        needed, of_results = blobs_of_parts(run)
        named |= needed | of_results
        read += 1
    if read < runs:
        raise StoreUnavailable(
            f"{runs - read} stored runs cannot be read (the log says why), so nobody knows which blobs they "
            "name"
        )
    return named
