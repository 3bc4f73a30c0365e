"""Results that an earlier life of a run has left: their nodes are done before the run begins.

A node that has such a result was let go by its conditions, by order and by routers when it ran, so nothing of
that is asked again: it is done at once, and nobody is told that it finished a second time. What only such
nodes would need is not needed any more. Everything else is decided anew. Only nodes of the first frame of a
run are recovered: a run that had gone on as a returned target begins anew.
"""

from __future__ import annotations

from cascade_scheduler.core import nodes
from cascade_scheduler.core.books import Books
from cascade_scheduler.core.cached import Recovered, StoredValue
from cascade_scheduler.core.commands import TargetValue
from cascade_scheduler.core.flow import PRUNED
from cascade_scheduler.core.run import DONE, Run, Skip

__all__ = ["is_past", "note", "shed", "take", "take_children"]


def note(run: Run, recovered: Recovered) -> None:
    """Notes what is there, before it is decided what is needed."""
    assert run.cached is not None
    for node, stored in sorted(recovered.nodes.items()):
        _note(run, node, stored)
        if run.picks is not None:
            run.picks.shut[node] = 0  # it waits for no choice, and none can prune it
    run.cached.children = recovered.children


def _note(run: Run, node: int, stored: StoredValue) -> None:
    assert run.cached is not None
    run.cached.recovered[node] = None
    run.cached.hits[node] = stored.value
    if stored.truth is not None:
        run.truths[node] = stored.truth


def take(books: Books, run: Run) -> list[int]:
    """All nodes that have results are done; returns them. What waits for them is not answered yet."""
    assert run.cached is not None
    done = list(run.cached.recovered)
    for node in done:
        _take(books, run, node)
    return done


def _take(books: Books, run: Run, node: int) -> None:
    assert run.cached is not None
    value = run.cached.hits[node]
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
    """A map has become its children, from `first` on: those with results are done. False: there are none."""
    assert run.cached is not None
    known = run.cached.children.get(node, {})
    size = run.expansions[node].size
    for index in sorted(known):
        if index < size:
            _note(run, first + index, known[index])
            _take(books, run, first + index)
            run.map_left[node] -= 1
    return bool(known)


def is_past(run: Run, skip: Skip) -> bool:
    """A node is pruned because only recovered ones needed it: that was over before the run was resumed."""
    return skip.reason == PRUNED and run.is_recovered(skip.source)


def shed(run: Run) -> None:
    """The run has ended: values are not held on to any longer."""
    if run.cached is not None and run.cached.recovered:
        run.cached.hits.update(dict.fromkeys(run.cached.recovered, b""))
        run.cached.children = {}
