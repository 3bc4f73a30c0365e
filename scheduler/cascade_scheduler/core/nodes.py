"""What becomes of a node: answered by its edges, done, skipped, failed; and what that does to others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cascade_scheduler.core import cluster_cache, flow, followers, observing, recovering, routers, runs, waits
from cascade_scheduler.core.books import Books
from cascade_scheduler.core.cached import Recovered
from cascade_scheduler.core.candidates import OBSERVE_SPLIT
from cascade_scheduler.core.commands import EventRecord, SaveFailure, SaveSkip
from cascade_scheduler.core.flow import PRUNED, Unobserved
from cascade_scheduler.core.graph import EdgeKind, NodeKind, Spec
from cascade_scheduler.core.run import DONE, FAILED, READY, SKIPPED, WAITING, Expansion, Run, Skip
from cascade_scheduler.core.values import BlobValue, ErrorInfo

__all__ = [
    "drop_value",
    "fail",
    "inputs_used",
    "is_needed",
    "let_go",
    "let_go_indirect",
    "make_ready",
    "park",
    "release",
    "resume",
    "settle",
    "skip",
    "start",
    "structural_done",
]

_CONTAINERS = (NodeKind.GATHER, NodeKind.COLLECT)
GATHERED = "gather"
"""The name of a list, tuple or dict of lazy values; all other lists are maps."""


def start(
    books: Books,
    run: Run,
    hits: Mapping[int, bytes | BlobValue] | None = None,
    recovered: Recovered | None = None,
) -> None:
    """Sets a run going: its roots are ready. `hits`: what the cluster's cache had, when it was asked."""
    if run.cached is not None:
        _start_cached(books, run, hits, recovered)
        return
    for cls, keys in run.plan.roots.items():
        for key in keys:
            run.status[key & 0xFFFFFFFF] = READY
        run.ready += len(keys)
        books.queues.push_all(run, cls, keys.copy())
    for node in run.plan.structural_roots:
        if run.state == "running" and _answer(books, run, node):
            settle(books, run, node)


def _start_cached(
    books: Books, run: Run, hits: Mapping[int, bytes | BlobValue] | None, recovered: Recovered | None
) -> None:
    """The same where values may be there already: root by root, with what is done by them last."""
    nothing = hits is None and recovered is None
    done = [] if nothing else cluster_cache.begin(books, run, hits, recovered)
    for keys in run.plan.roots.values():
        for key in keys:
            node = key & 0xFFFFFFFF
            if _answer(books, run, node):
                done.append(node)
    done.extend(node for node in run.plan.structural_roots if _answer(books, run, node))
    _spread(books, run, done)


def make_ready(books: Books, run: Run, node: int) -> None:
    """Puts a node that may go into its queue; one that its worker goes on with by itself has left it."""
    if run.followers and node in run.followers:
        followers.begin(books, run.followers[node])
        return
    run.status[node] = READY
    run.ready += 1
    if not run.root.held:
        books.queues.push_node(run, node)


def settle(books: Books, run: Run, node: int) -> None:
    """A node is done or skipped: answers the edges that wait for it, and theirs, without recursion."""
    if node == run.graph.target and run.picks is None:
        runs.target_settled(books, run)
    else:
        _spread(books, run, [node])


def resume(books: Books, run: Run, asked: Iterable[int]) -> None:
    """Nodes that waited for something that is no edge: those with nothing else to wait for are decided."""
    todo: list[int] = []
    for node in asked:
        waits = run.state == "running" and run.status[node] == WAITING and not run.pending[node]
        if waits and _answer(books, run, node):
            todo.append(node)
    _spread(books, run, todo)


def _spread(books: Books, run: Run, todo: list[int]) -> None:
    """Answers what waits for the nodes in `todo`, which are done or skipped."""
    graph_nodes = run.graph.size
    target = run.graph.target
    start_of, all_consumers = run.plan.consumer_start, run.plan.consumers
    pending, picks = run.pending, run.picks
    while True:
        if picks is not None and picks.opened and run.state == "running":
            node = picks.opened.pop()
            if run.status[node] == WAITING and not pending[node] and _answer(books, run, node):
                todo.append(node)
            continue
        if not todo:
            return
        node = todo.pop()
        if node == target:
            runs.target_settled(books, run)
            continue
        if run.state != "running":
            return
        if node >= graph_nodes:
            _child_settled(books, run, node, todo)
            continue
        chose = () if picks is None else tuple(picks.chosen_by.get(node, ()))
        for consumer in all_consumers[start_of[node] : start_of[node + 1]]:
            left = pending[consumer] = pending[consumer] - 1
            if not left and run.state == "running" and _answer(books, run, consumer):
                todo.append(consumer)
        for router in chose:
            if run.status[router] == WAITING and run.state == "running":
                left = pending[router] = pending[router] - 1
                if not left and _answer(books, run, router):
                    todo.append(router)


def _child_settled(books: Books, run: Run, node: int, todo: list[int]) -> None:
    map_node = run.children[node - run.graph.size][0]
    run.map_left[map_node] -= 1
    if not run.map_left[map_node]:
        structural_done(books, run, map_node)
        todo.append(map_node)


def structural_done(books: Books, run: Run, node: int) -> None:
    """Its inputs are kept for as long as somebody needs its value, and let go with it."""
    run.status[node] = DONE
    spec = run.graph.spec(node)
    if _is_map(spec) and node not in run.finished_once:
        run.finished_once.add(node)
        task = spec.name if spec.kind == NodeKind.COLLECT else f"{spec.name}.map"
        if not run.root.quiet:
            record = EventRecord(run.run_id, "TaskExecutionFinished", books.now, node, task, "Succeeded")
            books.out.append(record._replace(node_id=run.key(node)) if run.framed else record)
    if not is_needed(run, node):
        _let_go_inputs(books, run, node)


def is_needed(run: Run, node: int) -> bool:
    """Somebody still needs the node's value."""
    return run.uses[node] > 0 or run.is_leaf(node) or node in run.observing


def _is_map(spec: Spec) -> bool:
    """The node stands for a map: to its users that is one node, which finishes once."""
    return spec.kind == NodeKind.MAP or (spec.kind == NodeKind.COLLECT and spec.name != GATHERED)


def _answer(books: Books, run: Run, node: int) -> bool:
    """All edges of a node are answered; True when that settles it at once."""
    spec = run.graph.specs[run.graph.node_spec[node]]
    kind = spec.kind
    picks = run.picks
    if run.cached is not None and (run.status[node] != WAITING or run.is_recovered(node)):
        return False  # a hit, or what only a hit needed; who has a result waits for nobody
    if picks is not None:
        if picks.shut[node] or run.status[node] != WAITING:
            return False
        if kind == NodeKind.ROUTER:
            return routers.pick(books, run, node)
        if node in picks.alias:  # a skipped stage whose source was lost and is there again
            run.status[node] = SKIPPED
            run.skipped += 1
            return True
    if not (run.plan.flowless and not run.skips) and not (picks is not None and node in picks.decided):
        verdict = flow.decide(run, node)
        if isinstance(verdict, Unobserved):
            park(books, run, node, verdict)
            return False
        if isinstance(verdict, Skip):
            skip(books, run, node, verdict)
            return True
        if verdict is not None and picks is not None and _is_argument(run, node):
            picks.passed[node] = verdict  # said by the call that it is for, if that wants it
            skip(books, run, node, Skip(routers.NO_ROUTE, node))
            return True
        if verdict is not None:
            fail(books, run, node, verdict)
            return False
        let_go_indirect(books, run, node)
    if kind == NodeKind.CALL:
        if spec.cluster_cache and run.cached is not None and node in run.graph.value_keys:
            return _ask_cache(books, run, node)
        make_ready(books, run, node)
        return False
    if kind == NodeKind.MAP:
        return _expand(books, run, node)
    if kind in (NodeKind.WAIT, NodeKind.RECV):
        return waits.begin(books, run, node)
    structural_done(books, run, node)
    return True


def _ask_cache(books: Books, run: Run, node: int) -> bool:
    """A node whose value the cluster's cache may have goes when it has not; True when it has."""
    answer = cluster_cache.consult(books, run, node)
    if answer is cluster_cache.Answer.HIT:
        cluster_cache.hit(books, run, node)
    elif answer is cluster_cache.Answer.MISS:
        make_ready(books, run, node)
    return answer is cluster_cache.Answer.HIT


def park(books: Books, run: Run, node: int, verdict: Unobserved) -> None:
    """Lets a node wait until a fact that decides about it has been observed."""
    run.parked.setdefault(verdict.node, []).append(node)
    observing.request(books, run, verdict.node, verdict.bits, verdict.routers)


def skip(books: Books, run: Run, node: int, skip: Skip) -> None:
    """A node does not run. A stage lets its first input pass, if that has a value; the rest is let go."""
    run.status[node] = SKIPPED
    run.skips[node] = skip
    if run.cached is not None:
        run.values.pop(node, None)  # a list that an earlier life had split
    if run.runs_code(node):
        run.skipped += 1
    kind = run.graph.spec(node).kind
    told = not recovering.is_past(run, node, skip)
    if kind != NodeKind.ROUTER and told and skip.reason != routers.NO_ROUTE:
        # A router is no node to users: what it stands for has its own event.
        if run.parent is None and books.settings.saves:
            books.out.append(SaveSkip(run.run_id, node, run.key(node), skip.reason))
        if not _is_silent(run, node):
            books.tell(run, "TaskSkipped", node, reason=skip.reason)
    if run.picks is not None:
        let_go_indirect(books, run, node)
        if skip.reason != PRUNED and _pass_on(books, run, node):
            return
    _let_go_inputs(books, run, node)


def _pass_on(books: Books, run: Run, node: int) -> bool:
    """A skipped stage lets the value of its source take the place of its own; a skipped target does not."""
    graph, picks = run.graph, run.picks
    assert picks is not None
    if not graph.spec(node).passthrough or node == graph.target:
        return False
    source = graph.first_input(node)
    if not run.has_value(source):
        error = picks.error_of(source)
        if error is not None:
            picks.passed[node] = error
        return False
    rest = graph.inputs(node)
    rest.remove(source)
    picks.source[node] = source
    picks.alias[node] = picks.alias.get(source, source)
    for other in rest:
        let_go(books, run, other)
    if not is_needed(run, node):
        let_go(books, run, source)
    return True


def _is_silent(run: Run, node: int) -> bool:
    """A map is skipped with one event, its own: not its gate's, and none of its children's.

    Lists, containers and literals are arguments to users; they are skipped with the calls that they are for.
    """
    kind = run.graph.spec(node).kind
    if kind in (NodeKind.GATE, NodeKind.LITERAL) or _is_argument(run, node):
        return True
    return kind == NodeKind.CALL and any(k == EdgeKind.GATE for _, k in run.graph.sources(node))


def _is_argument(run: Run, node: int) -> bool:
    """The node is a container that a call is given, or a router's route; it is none of the user's calls."""
    spec = run.graph.spec(node)
    return spec.name == GATHERED and spec.kind in _CONTAINERS and node != run.graph.target


def _expand(books: Books, run: Run, node: int) -> bool:
    """A map's lists are there: makes its children. True when there are none."""
    if node in run.expansions:  # its lists had been lost, and are there again
        first, size = run.expansions[node]
        for child in range(first, first + size):
            if run.status[child] == WAITING and not run.is_recovered(child):
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
    known = run.cached is not None and recovering.take_children(books, run, node, first)
    for child in range(first, first + count):
        if not known or run.status[child] == WAITING:
            make_ready(books, run, child)
    if run.map_left[node]:
        return False
    structural_done(books, run, node)
    return True


def fail(books: Books, run: Run, node: int, error: ErrorInfo, task: str = "") -> None:
    """A node has failed for good; `task` names the one that did, when that is a node of a nested frame."""
    run.status[node] = FAILED
    run.failed += 1
    if books.settings.saves and run.parent is None:
        origin, child = run.origin(node)
        books.out.append(SaveFailure(run.run_id, origin, child, error, task or run.task(node)))
    let_go_indirect(books, run, node)
    _let_go_inputs(books, run, node)
    if run.error is None:
        run.error = error
        run.failed_task = task or run.task(node)
    if run.state == "running" and run.on_failure == "cancel":
        runs.stop(books, run)


def let_go(books: Books, run: Run, node: int) -> None:
    """One consumer fewer needs the node's value; at the last, the value goes, and what it is made of."""
    todo = [node]
    while todo:
        node = todo.pop()
        uses = run.uses[node] = run.uses[node] - 1
        if uses > 0 or is_needed(run, node) or run.status[node] not in (DONE, SKIPPED):
            continue
        if not drop_value(books, run, node):
            todo.extend(run.inputs(node))


def drop_value(books: Books, run: Run, node: int) -> bool:
    """Forgets the value of a node that nobody needs.

    False for one whose value is made of its inputs' values: these are to go then.
    """
    if node < run.graph.size and not run.runs_code(node):
        run.built.pop(node, None)
        if not run.observed.get(node, 0) & OBSERVE_SPLIT:  # its items are not made a second time
            books.drop(run, node)
        return run.status[node] == SKIPPED
    books.drop(run, node)
    return not (run.status[node] == SKIPPED and run.has_value(node))


def release(books: Books, run: Run, node: int) -> None:
    """Forgets a value that was held on to, if nobody needs it."""
    if run.status[node] == DONE and not is_needed(run, node) and not drop_value(books, run, node):
        _let_go_inputs(books, run, node)


def let_go_indirect(books: Books, run: Run, node: int) -> None:
    """The node is decided: it needs no further observation of values that it held on to for that."""
    sources = run.plan.indirect.get(node)
    if sources is None or run.picks is None or node in run.picks.decided:
        return
    run.picks.decided.add(node)
    for source in sources:
        let_go(books, run, source)


def _let_go_inputs(books: Books, run: Run, node: int) -> None:
    for source in run.inputs(node):
        let_go(books, run, source)


def inputs_used(books: Books, run: Run, node: int) -> None:
    """A node that ran code has its result: it needs its inputs no more."""
    graph = run.graph
    if node < graph.size and graph.edge_start[node] != graph.edge_start[node + 1]:
        _let_go_inputs(books, run, node)
