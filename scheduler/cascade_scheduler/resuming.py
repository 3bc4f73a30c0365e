"""What the store has of an earlier life of a run, in the shell, for the core to begin with.

Inline results and blobs count. Objects do while a worker of then may still have them; else their nodes run
again. A run that is submitted once more, and that had gone on as a returned target, as loops do, begins anew:
results of later frames are those of nodes that the target does not have.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping

from cascade_scheduler.core.cached import Facts, NestedResults, Recovered, StoredValue
from cascade_scheduler.core.graph import Graph, NodeKind
from cascade_scheduler.core.values import BlobValue, ObjectValue
from cascade_scheduler.runs import SubmitFacts
from cascade_scheduler.store.base import RunCreated, StoredRun, StoreUnavailable
from cascade_scheduler.store.writer import StoreWriter

__all__ = ["blobs_of", "differences", "load", "recovered_from", "results_of", "stored_blobs"]

LOAD_SECONDS = 60.0
"""A store that is away for longer cannot be resumed from."""
AGAIN_SECONDS = 0.25
NODES_AT_ONCE = 20_000
"""So many nodes are looked up before others have their turn."""

logger = logging.getLogger("cascade.scheduler")


async def load(writer: StoreWriter, run_id: str) -> StoredRun | None:
    """What the store has of a run; None when it is not known there. A store that is away is waited for.

    Raises:
        StoreUnavailable: it did not come back in time.
    """
    until = time.monotonic() + LOAD_SECONDS
    while True:
        try:
            async with asyncio.timeout(LOAD_SECONDS):
                return await writer.load_run(run_id)
        except (StoreUnavailable, TimeoutError) as error:
            if time.monotonic() >= until:
                told = str(error) or f"the store gave no answer within {LOAD_SECONDS:g} s"
                raise StoreUnavailable(told) from None
        await asyncio.sleep(AGAIN_SECONDS)


def differences(created: RunCreated, facts: SubmitFacts) -> list[str]:
    """What differs between the stored run and a submit, in words; empty when both are the same."""
    stored = SubmitFacts(
        target_id=created.target_id,
        template_id=created.template_id,
        params_digest=created.params_digest,
        node_count=created.node_count,
        on_failure=created.on_failure,
    )
    return stored.differences(facts)


async def recovered_from(
    stored: StoredRun, graph: Graph, has_blob: Callable[[bytes], bool]
) -> Recovered | None:
    """The results that a run which is submitted again can use; None when it has to begin anew."""
    run_id = stored.created.run_id
    if stored.frame:
        logger.info("run %s had gone on as a returned target: it begins anew", run_id)
        return None
    found = await results_of(stored, graph, has_blob)
    count = len(found.nodes) + sum(map(len, found.children.values()))
    logger.info("run %s is resumed: %d results are there", run_id, count)
    return found._replace(skipped=frozenset())


def stored_blobs(stored: StoredRun) -> list[bytes]:
    """The blobs that stored results are in."""
    values = (result.value for result in stored.results.values())
    return [value.cid for value in values if isinstance(value, BlobValue)]


async def results_of(
    stored: StoredRun,
    graph: Graph,
    has_blob: Callable[[bytes], bool],
    workers: frozenset[str] = frozenset(),
    finished: frozenset[str] = frozenset(),
) -> Recovered:
    """What is known of the nodes of a graph.

    Args:
        stored: the run.
        graph: in which it was.
        has_blob: whether a blob is there.
        workers: those that may still have the objects that they made.
        finished: ids of nodes of which it was told that they have ended.
    """
    whole, parts, nested = _usable_results(stored, has_blob, workers)
    for key, seen in stored.facts.items():
        path, slash, own = key.rpartition("/")
        if slash and path + slash in nested:
            nested[path + slash].facts[own] = seen
    nodes: dict[int, StoredValue] = {}
    children: dict[int, Mapping[int, StoredValue]] = {}
    facts: dict[int, Facts] = {}
    skipped: list[int] = []
    maps: list[int] = []
    for node in range(graph.size) if whole or parts or stored.skipped or stored.facts or finished else ():
        if not (node + 1) % NODES_AT_ONCE:
            await asyncio.sleep(0)  # other runs go on meanwhile
        kind = graph.spec(node).kind
        node_id = graph.node_id(node).hex()
        if kind == NodeKind.MAP and node_id in parts:
            children[node] = parts[node_id]
        elif node_id in whole and _fits(kind, whole[node_id]):
            nodes[node] = whole[node_id]
        if node_id in stored.facts and (node in nodes or kind != NodeKind.CALL):
            facts[node] = stored.facts[node_id]
        if node_id in stored.skipped:
            skipped.append(node)
        if node_id in finished and kind in (NodeKind.MAP, NodeKind.COLLECT):
            maps.append(node)
    return Recovered(nodes, children, facts, frozenset(skipped), frozenset(maps), {}, nested)


def _usable_results(
    stored: StoredRun, has_blob: Callable[[bytes], bool], workers: frozenset[str]
) -> tuple[dict[str, StoredValue], dict[str, dict[int, StoredValue]], dict[str, NestedResults]]:
    """Results by node id, those of maps' children by their map's, and those within nested graphs."""
    whole: dict[str, StoredValue] = {}
    parts: dict[str, dict[int, StoredValue]] = {}
    nested: dict[str, NestedResults] = {}
    for key, result in stored.results.items():
        value = result.value
        path, slash, own = key.rpartition("/")
        if isinstance(value, ObjectValue) and value.worker not in workers:
            continue
        if isinstance(value, BlobValue) and not has_blob(value.cid):
            continue
        usable = StoredValue(value, result.truth, result.length, result.attempt)
        if slash:
            nested.setdefault(path + slash, NestedResults({}, {})).values[own] = usable
            continue
        node_id, bracket, index = key.partition("[")
        if bracket:
            parts.setdefault(node_id, {})[int(index.rstrip("]"))] = usable
        else:
            whole[node_id] = usable
    return whole, parts, nested


def _fits(kind: NodeKind, stored: StoredValue) -> bool:
    """Calls have results, and recvs have messages; nothing else is stored."""
    return kind == NodeKind.CALL or (kind == NodeKind.RECV and isinstance(stored.value, bytes))


def blobs_of(recovered: Recovered) -> Iterator[bytes]:
    """The blobs that recovered results are in."""
    for values in (recovered.nodes, *recovered.children.values()):
        for stored in values.values():
            if isinstance(stored.value, BlobValue):
                yield stored.value.cid
