"""Results that an earlier life of a run has left: their nodes are done before the run begins.

A node that has such a result was let go by its conditions, by order and by routers when it ran, so nothing of
that is asked again: it is done at once, and nobody is told that it finished a second time. What only such
nodes would need is not needed any more. Everything else is decided anew, by what was observed then, and so
in the same way. Only nodes of one frame of a run are recovered: its first one, or the one that it was in.
"""

from __future__ import annotations

from collections.abc import Iterator

from cascade_scheduler.core import demand, nodes
from cascade_scheduler.core.books import Books
from cascade_scheduler.core.cached import Facts, Recovered, StoredValue
from cascade_scheduler.core.commands import TargetValue
from cascade_scheduler.core.flow import PRUNED
from cascade_scheduler.core.graph import Graph, NodeKind
from cascade_scheduler.core.run import DONE, Run, Skip
from cascade_scheduler.core.values import BlobValue, ObjectValue

__all__ = ["is_past", "let_go", "lost", "note", "of_nested", "shed", "take", "take_children"]


def note(run: Run, recovered: Recovered) -> None:
    """Notes what is there, before it is decided what is needed."""
    assert run.cached is not None
    for node, stored in sorted(recovered.nodes.items()):
        _note(run, node, stored)
        if run.picks is not None:
            run.picks.shut[node] = 0  # it waits for no choice, and none can prune it
    for node, facts in recovered.facts.items():
        _note_facts(run, node, facts)
    run.cached.children = recovered.children
    run.cached.skipped = recovered.skipped
    run.cached.waits = recovered.waits
    run.cached.nested = recovered.nested
    run.finished_once.update(recovered.finished)


def _note(run: Run, node: int, stored: StoredValue) -> None:
    assert run.cached is not None
    value = stored.value
    run.cached.recovered[node] = None
    if isinstance(value, ObjectValue):
        run.values[node] = value  # it is made again if it is gone; nobody has a second copy
    else:
        run.cached.hits[node] = value
    if stored.truth is not None:
        run.truths[node] = stored.truth
    if stored.length is not None and (not stored.length or not isinstance(value, bytes)):
        run.lengths[node] = stored.length  # of a small list only together with its items
        if not stored.length:
            run.items[node] = ()


def _note_facts(run: Run, node: int, facts: Facts) -> None:
    """What was observed is not asked again."""
    run.observed[node] = facts.observed
    if facts.truth is not None:
        run.truths[node] = facts.truth
    if facts.length is not None:
        run.lengths[node] = facts.length
    if facts.items is not None:
        run.items[node] = facts.items
    if facts.error is not None:
        run.observe_errors[node] = facts.error
    if facts.amount is not None:
        run.amounts_seen[node] = facts.amount
    if facts.digest:
        run.digests[node] = facts.digest
    for router, found in facts.routes:
        run.routes[node, router] = found
    if facts.split is not None and not run.runs_code(node):
        run.values[node] = facts.split


def of_nested(child: Run) -> Recovered | None:
    """What is stored of a nested graph that begins once more: its task has run, and returned it, again."""
    cached, graph = child.root.cached, child.graph
    found = None if cached is None else cached.nested.get(child.within)
    if found is None:
        return None
    results: dict[int, StoredValue] = {}
    children: dict[int, dict[int, StoredValue]] = {}
    for key, stored in found.values.items():
        node_id, bracket, index = key.partition("[")
        if bracket:
            for node in _nodes_of(graph, node_id, NodeKind.MAP):
                children.setdefault(node, {})[int(index.rstrip("]"))] = stored
        else:
            results.update((node, stored) for node in _nodes_of(graph, node_id, NodeKind.CALL))
    facts = {node: facts for key, facts in found.facts.items() for node in _nodes_of(graph, key)}
    return Recovered(results, children, facts)


def _nodes_of(graph: Graph, node_id: str, kind: NodeKind | None = None) -> Iterator[int]:
    """The nodes with an id, of which a graph has one, or none when it is another graph than before."""
    wanted = bytes.fromhex(node_id)
    at = graph.node_ids.find(wanted)
    while at >= 0 and at % len(wanted):
        at = graph.node_ids.find(wanted, at + 1)
    if at >= 0:
        node = at // len(wanted)
        if kind is None or graph.spec(node).kind == kind:
            yield node


def take(books: Books, run: Run) -> list[int]:
    """All nodes that have results are done; returns them. What waits for them is not answered yet."""
    assert run.cached is not None
    done = list(run.cached.recovered)
    for node in done:
        _take(books, run, node)
    return done


def _take(books: Books, run: Run, node: int) -> None:
    assert run.cached is not None
    value = run.cached.hits[node] if node in run.cached.hits else run.values[node]
    run.status[node] = DONE
    if not run.runs_code(node):
        assert isinstance(value, bytes)  # a message: nothing else that runs no code is stored
        run.received[node] = value
        nodes.let_go_indirect(books, run, node)
        nodes.structural_done(books, run, node)
        return
    run.done += 1
    books.keep(run, node, value)
    if run.is_told(node) and not run.told_late:
        books.out.append(TargetValue(run.run_id, node, value))
    nodes.let_go_indirect(books, run, node)
    nodes.inputs_used(books, run, node)
    if not nodes.is_needed(run, node):
        nodes.drop_value(books, run, node)


def take_children(books: Books, run: Run, node: int, first: int) -> bool:
    """A map has become its children, from `first` on: those with results are done. False: there are none.

    Objects of workers that have come or are lost by now have gone: nobody needed them then.
    """
    assert run.cached is not None
    known = run.cached.children.get(node, {})
    size = run.expansions[node].size
    for index in sorted(known):
        if index < size and _may_be_there(books, known[index].value):
            _note(run, first + index, known[index])
            _take(books, run, first + index)
            run.map_left[node] -= 1
    return bool(known)


def _may_be_there(books: Books, value: bytes | BlobValue | ObjectValue) -> bool:
    if not isinstance(value, ObjectValue):
        return True
    return value.worker in books.recovering and value.worker in books.away  # neither coming nor lost just now


def is_past(run: Run, node: int, skip: Skip) -> bool:
    """It was told in an earlier life, or only recovered nodes needed it: that was over before."""
    if run.cached is None:
        return False
    return node in run.cached.skipped or (skip.reason == PRUNED and run.is_recovered(skip.source))


def lost(run: Run, node: int) -> bool:
    """A value that is made again is gone. True: it was a recovered result, and its node is to be decided.

    That has not been done in this life. The node waits for no choice, and what it needs does not either.
    """
    if not run.is_recovered(node) or run.is_hit(node):
        return False
    assert run.cached is not None
    del run.cached.recovered[node]
    if node >= run.graph.size:
        return False  # a child is decided with its map
    if run.picks is not None:
        run.picks.decided.discard(node)
        for source, _ in run.graph.sources(node):
            demand.open_up(run, source)
    return True


def let_go(run: Run) -> None:
    """Forgets results that nobody needs; while workers have objects, these may be made of them again."""
    cached = run.cached
    assert cached is not None
    if any(isinstance(value, ObjectValue) for value in run.values.values()):
        return
    for node in cached.recovered:
        if node not in run.values and run.runs_code(node):
            cached.hits.pop(node, None)


def shed(run: Run) -> None:
    """The run has ended: values are not held on to any longer."""
    if run.cached is not None and run.cached.recovered:
        run.cached.hits.update(dict.fromkeys(run.cached.recovered, b""))
        run.cached.children = {}
        run.cached.skipped, run.cached.waits, run.cached.nested = frozenset(), {}, {}
