"""Lost values: an object whose holder is gone is made again from its lineage.

A node whose value is lost and still needed goes back to waiting, and with it every input of its own that
was let go meanwhile and is not remembered: small values are (`Books.drop`), up to a bound. Consumers that
had counted the value as there wait again. A result that was accepted stays good: consumers that are done
are not run again.
"""

from __future__ import annotations

from collections.abc import Iterator

from cascade_scheduler.core import cluster_cache, nodes, observing, recovering
from cascade_scheduler.core.books import Books
from cascade_scheduler.core.graph import EdgeKind, NodeKind
from cascade_scheduler.core.run import DELAYED, DONE, READY, SKIPPED, WAITING, Run

__all__ = ["object_lost", "ready_again", "remake"]


def object_lost(books: Books, run: Run, attempt_id: int, told_by: int = 0) -> None:
    """The holder does not have the object any more, or an attempt did not get it anywhere.

    Who has a copy is the holder from now on. `told_by` is the attempt; if it was assigned before that, it has
    looked at the old one.
    """
    entry = books.objects.get(attempt_id)
    if entry is None or entry[0] is not run or (told_by and told_by <= books.moved.get(attempt_id, 0)):
        return
    if books.move(attempt_id):
        return
    if run.parent is not None and run.state != "running":
        run.incomplete = True
        books.drop(run, entry[1])
    elif run.live:
        remake(books, run, entry[1])


def ready_again(books: Books, run: Run, node: int) -> None:
    """A node whose attempt ended without an outcome is ready, or waits for what was lost meanwhile."""
    assert not run.halting
    missing = run.pending[node] = _unsettled(run, node)
    if missing:
        run.status[node] = WAITING
    else:
        nodes.make_ready(books, run, node)


def remake(books: Books, run: Run, node: int) -> None:
    """Has a lost value made again, if anybody still needs it."""
    if run.state != "running" or run.halting:
        books.drop(run, node)
        return
    if not nodes.is_needed(run, node):
        books.drop(run, node)
        return
    todo = [node]
    remade: list[int] = []
    undecided: list[int] = []
    while todo:
        node = todo.pop()
        if not run.has_value(node):
            continue
        makes = _makes_its_value(run, node)
        if run.status[node] == SKIPPED:
            run.skipped -= 1  # a stage that lets a lost value pass: skipped again when that is there
        run.status[node] = WAITING
        run.built.pop(node, None)
        if run.observing:
            undecided += observing.forget(run, node)
        for consumer in dict.fromkeys(run.consumers(node)):
            _unanswer(run, node, consumer, todo)
        if makes:
            books.drop(run, node)
            run.done -= 1
            run.finished_once.add(node)
            if recovering.lost(run, node):
                undecided.append(node)
                for source in run.plan.indirect.get(node, ()):
                    _need_again(books, run, source, todo)
            else:
                remade.append(node)
            if not run.is_hit(node):
                for source in _value_sources(run, node):
                    _need_again(books, run, source, todo)
        run.pending[node] = _unsettled(run, node)
    for node in remade:
        free = not run.pending[node] and not _map_waits(run, node)
        if run.status[node] == WAITING and (free or run.is_recovered(node)):
            if run.is_hit(node):
                cluster_cache.hit(books, run, node)
                nodes.settle(books, run, node)
            else:
                nodes.make_ready(books, run, node)
    if undecided:
        nodes.resume(books, run, undecided)


def _makes_its_value(run: Run, node: int) -> bool:
    """Its value is that of an attempt of its own, not of other nodes."""
    return run.runs_code(node) and run.status[node] != SKIPPED


def _unsettled(run: Run, node: int) -> int:
    """Edges of a node (a child's are its map's) whose source is neither done nor skipped.

    Of a router's routes the one that it chose counts.
    """
    origin, _ = run.origin(node)
    edges = run.graph.sources(origin)
    status = run.status
    missing = sum(1 for s, kind in edges if kind != EdgeKind.ROUTE and status[s] not in (DONE, SKIPPED))
    if run.picks is not None and run.graph.spec(origin).kind == NodeKind.ROUTER:
        route = run.picks.source.get(origin)
        if route is not None and status[route] not in (DONE, SKIPPED):
            missing += 1
    return missing


def _value_sources(run: Run, node: int) -> Iterator[int]:
    if node >= run.graph.size:
        return iter(())  # a map holds its lists until all its children have finished
    return (s for s, kind in run.graph.sources(node) if kind in (EdgeKind.DATA, EdgeKind.ITEMS))


def _map_waits(run: Run, node: int) -> bool:
    """The node is a map's child, and one of the map's lists is being made again."""
    origin, index = run.origin(node)
    return index >= 0 and run.pending[origin] > 0


def _unanswer(run: Run, node: int, consumer: int, todo: list[int]) -> None:
    """The consumer counted the node as answered, and must not."""
    if node >= run.graph.size:
        run.map_left[consumer] += 1
        if run.status[consumer] == DONE:
            todo.append(consumer)
        return
    status = run.status[consumer]
    if status in (WAITING, READY, DELAYED):
        if status == READY:
            run.ready -= 1
        elif status == DELAYED:
            run.waiting_retry -= 1
        run.status[consumer] = WAITING
        run.pending[consumer] = _unsettled(run, consumer)
    elif (status == DONE and _structural_in_use(run, consumer)) or (
        status == SKIPPED and _passes_in_use(run, node, consumer)
    ):
        todo.append(consumer)
    expansion = run.expansions.get(consumer)
    if expansion is not None and run.status[consumer] == WAITING:
        for child in range(expansion.first, expansion.first + expansion.size):
            if run.status[child] == READY:
                run.ready -= 1
            elif run.status[child] == DELAYED:
                run.waiting_retry -= 1
            else:
                continue
            run.status[child] = WAITING


def _passes_in_use(run: Run, node: int, stage: int) -> bool:
    """The stage was skipped and lets the node's value pass, to somebody who still needs it."""
    if run.picks is None or not run.has_value(stage) or run.picks.source[stage] != node:
        return False
    return nodes.is_needed(run, stage)


def _structural_in_use(run: Run, node: int) -> bool:
    """A structural node that is done has to wait again only if somebody still needs its value.

    A map that is done has its value in its children; it does not need its lists any more.
    """
    if run.runs_code(node) or run.graph.spec(node).kind == NodeKind.MAP:
        return False
    return run.uses[node] > 0 or run.is_leaf(node)


def _need_again(books: Books, run: Run, source: int, todo: list[int]) -> None:
    """A node that is to run again needs this value; it may have been let go."""
    stack = [source]
    while stack:
        node = stack.pop()
        run.uses[node] += 1
        if _makes_its_value(run, node):
            if run.status[node] == DONE and node not in run.values and not books.restore(run, node):
                todo.append(node)
        elif run.uses[node] == 1 and not run.is_leaf(node) and run.has_value(node):
            stack.extend(run.inputs(node))
            is_map = run.graph.spec(node).kind == NodeKind.MAP
            if not is_map and _unsettled(run, node):  # an input was lost while nobody needed this node
                todo.append(node)
