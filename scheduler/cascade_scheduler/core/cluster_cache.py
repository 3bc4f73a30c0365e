"""The cluster's cache of pure nodes: keys, questions to the shell, hits, and what hits make superfluous.

Keys that are known at submit are looked up before the run starts; their hits come with it, and what only they
needed is pruned. Other keys are made when a node's inputs are there. While the shell asks, the node waits and
holds nothing. Conditions and order are decided before any of this.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from cascade_dist.graph.keys import key_of_parts
from cascade_scheduler.core import nodes, recovering, runs
from cascade_scheduler.core.books import Books
from cascade_scheduler.core.cached import Cached, Parts, Recovered
from cascade_scheduler.core.candidates import OBSERVE_DIGEST, OBSERVE_SPLIT
from cascade_scheduler.core.commands import LookUpCached, SaveResult, StoreCached, TargetValue
from cascade_scheduler.core.events import CacheAnswered
from cascade_scheduler.core.flow import CACHE_HIT, PRUNED, Unobserved
from cascade_scheduler.core.graph import EdgeKind, Graph
from cascade_scheduler.core.run import DONE, WAITING, Run, Skip
from cascade_scheduler.core.values import BlobValue, ObjectValue

__all__ = ["Answer", "begin", "consult", "do_without", "hit", "known_keys", "on_answered", "store"]


class Answer(Enum):
    """What the cache says of a node that may go."""

    HIT = 1
    MISS = 2
    WAIT = 3
    """It is being asked, or something has to be observed first."""


# --- at submit -----------------------------------------------------------------------------------------


def known_keys(graph: Graph) -> list[tuple[int, bytes]]:
    """Nodes whose values are kept for the cluster, and their keys where known; from the target down."""
    return [
        (node, key_of_parts(_given(graph, node)))
        for node in sorted(graph.value_keys, reverse=True)
        if graph.value_keys[node].known and graph.spec(node).cluster_cache
    ]


def _given(graph: Graph, node: int) -> Parts:
    return tuple((part.name, part.digest) for part in graph.value_keys[node].parts)


def begin(
    books: Books, run: Run, hits: Mapping[int, bytes | BlobValue] | None, recovered: Recovered | None = None
) -> list[int]:
    """Takes what was found at submit, before anything starts; returns the nodes that are done by it."""
    cached = run.cached
    assert cached is not None
    if recovered is not None:
        recovering.note(run, recovered)
    for node, key in known_keys(run.graph) if hits is not None else ():
        cached.keys[node] = key
        cached.parts[node] = _given(run.graph, node)
        if node in cached.recovered:
            continue
        if hits is not None and node in hits:
            cached.hits[node] = hits[node]
        else:
            _miss(books, run, node)
    _prune(books, run, cached)
    done = recovering.take(books, run)
    found = [node for node in sorted(cached.hits) if _goes_at_once(run, node)]
    for node in found:
        hit(books, run, node)
    return done + found


def _goes_at_once(run: Run, node: int) -> bool:
    if run.status[node] != WAITING or run.shut(node):
        return False
    return all(kind == EdgeKind.DATA for _, kind in run.graph.sources(node))


def _prune(books: Books, run: Run, cached: Cached) -> None:
    """Skips what only hits would have needed, and what only that needed."""
    graph, plan = run.graph, run.plan
    demand: dict[int, int] = {}
    counted = run.picks.demand if run.picks is not None and run.picks.demand else None
    todo: list[tuple[int, int]] = []
    """Edges that fall away: (source, the hit that made it so)."""
    for node in sorted(cached.hits, reverse=True):
        if run.status[node] == WAITING:
            sources = graph.sources(node)
            every = node in cached.recovered  # conditions and order have let it go before
            todo.extend((s, node) for s, kind in sources if every or kind == EdgeKind.DATA)
        while todo:
            source, why = todo.pop()
            if counted is not None:
                counted[source] -= 1
                left = counted[source]
            else:
                if source not in demand:
                    uses = plan.consumer_start[source + 1] - plan.consumer_start[source]
                    demand[source] = uses + (source == graph.target)
                demand[source] -= 1
                left = demand[source]
            if left or run.status[source] != WAITING or source in cached.recovered:
                continue
            if run.picks is not None:
                run.picks.shut[source] = 1
            nodes.skip(books, run, source, Skip(PRUNED, why))
            cached.hits.pop(source, None)
            do_without(run, cached, source)
            todo.extend((s, why) for s, _ in graph.sources(source))


def do_without(run: Run, cached: Cached, source: int) -> None:
    """A node was pruned. Hits that would have been given its value, and still wait, do not wait for it."""
    plan, hits = run.plan, cached.hits
    for consumer in plan.consumers[plan.consumer_start[source] : plan.consumer_start[source + 1]]:
        if consumer in hits and run.status[consumer] == WAITING:
            run.pending[consumer] -= 1


# --- at run time ---------------------------------------------------------------------------------------


def consult(books: Books, run: Run, node: int) -> Answer:
    """What the cache has of a node whose edges are all answered."""
    cached = run.cached
    assert cached is not None
    if node in cached.hits:
        return Answer.HIT
    if node in cached.misses:
        return Answer.MISS
    if node in cached.asked:
        return Answer.WAIT
    key = _key_of(run, cached, node)
    if isinstance(key, Unobserved):
        nodes.park(books, run, node, key)
        return Answer.WAIT
    if key is None:
        cached.misses[node] = "an input of it has no content that could be told from others"
        return Answer.MISS
    cached.asked[node] = books.next_sequence()
    books.out.append(LookUpCached(run.frame_id, node, cached.asked[node], key))
    return Answer.WAIT


def on_answered(books: Books, event: CacheAnswered) -> None:
    """The cache has answered, or could not be asked."""
    run = books.runs.get(event.frame_id)
    if run is None or run.cached is None or run.cached.asked.get(event.node) != event.number:
        return
    cached, node = run.cached, event.node
    del cached.asked[node]
    if run.state != "running" or run.halting:
        return
    if event.value is None:
        _miss(books, run, node, event.trouble)
    else:
        cached.hits[node] = event.value
        books.key_memory.note(run.spec(node).name, cached.parts[node])
    nodes.resume(books, run, [node])
    runs.settle_if_stuck(books, run)


def _miss(books: Books, run: Run, node: int, trouble: str = "") -> None:
    cached = run.cached
    assert cached is not None
    name, parts = run.spec(node).name, cached.parts[node]
    cached.misses[node] = trouble or books.key_memory.difference(name, parts)
    books.key_memory.note(name, parts)


def hit(books: Books, run: Run, node: int) -> None:
    """The node has its value, and nothing ran for it."""
    cached = run.cached
    assert cached is not None
    value = cached.hits[node]
    if node in run.finished_once:  # its items went with its value
        run.lengths.pop(node, None)
        run.observed[node] = run.observed.get(node, 0) & ~OBSERVE_SPLIT
    run.status[node] = DONE
    run.done += 1
    books.keep(run, node, value)
    if books.settings.saves and run.parent is None and node not in cached.recovered:
        books.out.append(SaveResult(run.run_id, node, run.key(node), books.next_attempt(), value))
    if node not in run.finished_once:
        if not (run.root.quiet and node not in run.plan.tails):
            books.tell(run, "TaskSkipped", node, reason=CACHE_HIT)
        if run.is_told(node) and not run.told_late:
            books.out.append(TargetValue(run.run_id, node, value))
        nodes.inputs_used(books, run, node)
    if not nodes.is_needed(run, node):
        nodes.drop_value(books, run, node)


def store(books: Books, run: Run, node: int, value: bytes | ObjectValue | BlobValue) -> None:
    """Has the value that a node has made kept for the cluster, if it has a key."""
    cached = run.cached
    if cached is None or isinstance(value, ObjectValue) or node >= run.graph.size:
        return
    key = cached.keys.get(node)
    if key is not None and run.graph.spec(node).cluster_cache:
        books.out.append(StoreCached(run.spec(node).name, key, value))


# --- keys ----------------------------------------------------------------------------------------------


def _key_of(run: Run, cached: Cached, node: int) -> bytes | Unobserved | None:
    """A node's key, made of those of pure inputs and of what others turned out to be. Without recursion."""
    todo = [node]
    while todo:
        at = todo[-1]
        if at not in cached.keys:
            found = _parts_of(run, cached, at)
            if isinstance(found, int):
                todo.append(found)
                continue
            if found is None or isinstance(found, Unobserved):
                return found
            cached.keys[at] = key_of_parts(found)
            if at == node:
                cached.parts[at] = found
        todo.pop()
    return cached.keys[node]


def _parts_of(run: Run, cached: Cached, node: int) -> Parts | Unobserved | int | None:
    """The parts of a key; or a pure input whose key has to be made first, or what has to be observed."""
    graph = run.graph
    inputs = graph.inputs(node)
    parts = []
    for name, digest, ordinal in graph.value_keys[node].parts:
        if not digest:
            source = run.resolve(inputs[ordinal])
            if source in graph.value_keys:
                known = cached.keys.get(source)
                if known is None:
                    return source
                digest = known
            else:
                seen = run.digests.get(source)
                if seen is None:
                    return _unobserved(run, source)
                digest = seen
        parts.append((name, digest))
    return tuple(parts)


def _unobserved(run: Run, source: int) -> Unobserved | None:
    """What has to be observed of an impure input; None when it has been, in vain."""
    if source in run.observe_errors or run.observed.get(source, 0) & OBSERVE_DIGEST:
        return None
    if run.status[source] != DONE:
        return None  # what a pure input was made of is being made again
    if not run.is_hit(source):
        if run.runs_code(source) and (source not in run.values or run.observe(source) & OBSERVE_DIGEST):
            return None  # it was observed where it was made
        if not nodes.is_needed(run, source):
            return None  # what it is made of has been let go
    return Unobserved(source, OBSERVE_DIGEST)
