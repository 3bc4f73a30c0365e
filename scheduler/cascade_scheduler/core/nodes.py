"""What becomes of a node: answered by its edges, done, skipped, failed; and what that does to others."""

from __future__ import annotations

from cascade_scheduler.core import flow, runs
from cascade_scheduler.core.books import Books
from cascade_scheduler.core.commands import EventRecord, SaveSkip
from cascade_scheduler.core.graph import EdgeKind, NodeKind, Spec
from cascade_scheduler.core.run import DONE, FAILED, READY, SKIPPED, WAITING, Expansion, Run, Skip
from cascade_scheduler.core.values import ErrorInfo

__all__ = ["drop_value", "fail", "inputs_used", "let_go", "make_ready", "settle", "start"]

GATHERED = "gather"
"""The name of a list, tuple or dict of lazy values; all other lists are maps."""


def start(books: Books, run: Run) -> None:
    """Sets a run going: its roots are ready."""
    for cls, keys in run.plan.roots.items():
        for key in keys:
            run.status[key & 0xFFFFFFFF] = READY
        run.ready += len(keys)
        books.queues.push_all(run, cls, keys.copy())
    for node in run.plan.structural_roots:
        if _answer(books, run, node):
            settle(books, run, node)


def make_ready(books: Books, run: Run, node: int) -> None:
    """Puts a node that may go into its queue."""
    run.status[node] = READY
    run.ready += 1
    books.queues.push_node(run, node)


def settle(books: Books, run: Run, node: int) -> None:
    """A node is done or skipped: answers the edges that wait for it, and theirs, without recursion."""
    graph_nodes = run.graph.size
    target = run.graph.target
    start_of, all_consumers = run.plan.consumer_start, run.plan.consumers
    pending = run.pending
    todo = [node]
    while todo:
        node = todo.pop()
        if node == target:
            runs.target_settled(books, run)
            continue
        if run.state != "running":
            return
        if node >= graph_nodes:
            _child_settled(books, run, node, todo)
            continue
        for consumer in all_consumers[start_of[node] : start_of[node + 1]]:
            left = pending[consumer] = pending[consumer] - 1
            if not left and _answer(books, run, consumer):
                todo.append(consumer)


def _child_settled(books: Books, run: Run, node: int, todo: list[int]) -> None:
    map_node = run.children[node - run.graph.size][0]
    run.map_left[map_node] -= 1
    if not run.map_left[map_node]:
        _structural_done(books, run, map_node)
        todo.append(map_node)


def _structural_done(books: Books, run: Run, node: int) -> None:
    """Its inputs are kept for as long as somebody needs its value, and let go with it."""
    run.status[node] = DONE
    spec = run.graph.spec(node)
    if _is_map(spec) and node not in run.finished_once:
        run.finished_once.add(node)
        task = spec.name if spec.kind == NodeKind.COLLECT else f"{spec.name}.map"
        books.out.append(
            EventRecord(run.run_id, "TaskExecutionFinished", books.now, node, task, status="Succeeded")
        )
    if not run.uses[node] and not run.plan.leaves[node]:
        _let_go_inputs(books, run, node)


def _is_map(spec: Spec) -> bool:
    """The node stands for a map: to its users that is one node, which finishes once."""
    return spec.kind == NodeKind.MAP or (spec.kind == NodeKind.COLLECT and spec.name != GATHERED)


def _answer(books: Books, run: Run, node: int) -> bool:
    """All edges of a node are answered; True when that settles it at once."""
    if not (run.plan.flowless and not run.skips):
        verdict = flow.decide(run, node)
        if isinstance(verdict, Skip):
            _skip(books, run, node, verdict)
            return True
        if verdict is not None:
            fail(books, run, node, verdict)
            return False
    kind = run.graph.specs[run.graph.node_spec[node]].kind
    if kind == NodeKind.CALL:
        make_ready(books, run, node)
        return False
    if kind == NodeKind.MAP:
        return _expand(books, run, node)
    _structural_done(books, run, node)
    return True


def _skip(books: Books, run: Run, node: int, skip: Skip) -> None:
    run.status[node] = SKIPPED
    run.skips[node] = skip
    if run.runs_code(node):
        run.skipped += 1
    key = run.key(node)
    books.out.append(SaveSkip(run.run_id, node, key, skip.reason))
    if not _is_silent(run, node):
        books.out.append(
            EventRecord(run.run_id, "TaskSkipped", books.now, node, run.task(node), reason=skip.reason)
        )
    _let_go_inputs(books, run, node)


def _is_silent(run: Run, node: int) -> bool:
    """A map is skipped with one event, its own: not its gate's, and none of its children's."""
    kind = run.graph.spec(node).kind
    if kind == NodeKind.GATE:
        return True
    return kind == NodeKind.CALL and any(k == EdgeKind.GATE for _, k in run.graph.sources(node))


def _expand(books: Books, run: Run, node: int) -> bool:
    """A map's lists are there: makes its children. True when there are none."""
    if node in run.expansions:  # its lists had been lost, and are there again
        first, size = run.expansions[node]
        for child in range(first, first + size):
            if run.status[child] == WAITING:
                make_ready(books, run, child)
        return False
    lengths: list[tuple[str, int]] = []
    for source, kind in run.graph.sources(node):
        if kind == EdgeKind.ITEMS:
            known = flow.length(run, source)
            if known is None:
                message = (
                    f"{run.task(node)!r} maps over the value of {run.task(source)!r}, which is not a list"
                )
                fail(books, run, node, ErrorInfo("TypeError", message))
                return False
            lengths.append((run.task(source), known))
    literal = run.graph.map_columns.get(node)
    if literal is not None:
        lengths.append(("a literal list", literal))
    count = lengths[0][1]
    if any(known != count for _, known in lengths):
        told = ", ".join(f"{name} has {known}" for name, known in lengths)
        message = f"{run.task(node)!r} maps over lists of unequal lengths: {told}"
        fail(books, run, node, ErrorInfo("ValueError", message))
        return False
    first = len(run.status)
    most = books.settings.graph_nodes_max
    if first + count > most:
        text = f"{run.task(node)!r} maps over {count:,} items, and a run has at most {most:,} nodes"
        fail(books, run, node, ErrorInfo("GraphTooLargeError", f"{text} (graph_nodes_max): map over batches"))
        return False
    run.expansions[node] = Expansion(first, count)
    run.map_left[node] = count
    run.status.extend(bytes(count))
    run.pending.extend([0] * count)
    run.uses.extend([1] * count)
    run.children.extend((node, index) for index in range(count))
    run.total += count
    for child in range(first, first + count):
        make_ready(books, run, child)
    if count:
        return False
    _structural_done(books, run, node)
    return True


def fail(books: Books, run: Run, node: int, error: ErrorInfo) -> None:
    """A node has failed for good."""
    run.status[node] = FAILED
    run.failed += 1
    _let_go_inputs(books, run, node)
    if run.error is None:
        run.error = error
        run.failed_task = run.task(node)
    if run.state == "running" and run.on_failure == "cancel":
        runs.stop(books, run)


def let_go(books: Books, run: Run, node: int) -> None:
    """One consumer fewer needs the node's value; at the last, the value goes, and what it is made of."""
    todo = [node]
    while todo:
        node = todo.pop()
        uses = run.uses[node] = run.uses[node] - 1
        if uses > 0 or run.is_leaf(node) or run.status[node] not in (DONE, SKIPPED):
            continue
        if not drop_value(books, run, node):
            todo.extend(run.inputs(node))


def drop_value(books: Books, run: Run, node: int) -> bool:
    """Forgets the value of a node that nobody needs; False for a structural node, whose inputs are to go."""
    books.drop(run, node)
    if node < run.graph.size and not run.runs_code(node):
        run.built.pop(node, None)
        return run.status[node] == SKIPPED
    return True


def _let_go_inputs(books: Books, run: Run, node: int) -> None:
    for source in run.inputs(node):
        let_go(books, run, source)


def inputs_used(books: Books, run: Run, node: int) -> None:
    """A node that ran code has its result: it needs its inputs no more."""
    graph = run.graph
    if node < graph.size and graph.edge_start[node] != graph.edge_start[node + 1]:
        _let_go_inputs(books, run, node)
