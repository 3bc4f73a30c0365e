"""What must hold after every turn. Checked after every turn in tests; sampled in large graphs."""

from __future__ import annotations

from collections import Counter

from cascade_scheduler.core import line_invariants
from cascade_scheduler.core.books import Books
from cascade_scheduler.core.flow import PRUNED
from cascade_scheduler.core.graph import EdgeKind, NodeKind
from cascade_scheduler.core.run import ACTIVE, DELAYED, DONE, FAILED, NESTED, READY, SKIPPED, WAITING, Run
from cascade_scheduler.core.values import ObjectValue

__all__ = ["InvariantError", "check"]

SAMPLE_ABOVE_NODES = 1000


class InvariantError(AssertionError):
    """The core's books do not add up; the message says which rule, for which thing."""


def _must(holds: bool, rule: str, *about: object) -> None:
    if not holds:
        raise InvariantError(f"{rule}: {about}")


def check(books: Books, *, sample: int = 16) -> None:
    """Walks all books.

    Args:
        sample: in runs above 1,000 nodes, look at every so-many-th node only.

    Raises:
        InvariantError: a rule is broken.
    """
    for run in books.runs.values():
        _must(books.runs.get(run.frame_id) is run, "frames are booked under their id", run.frame_id)
        if run.live and run.halting:
            assert run.loop is not None
            waits = run.active or run.watching or run.nested or run.loop.asked
            _must(not run.ready, "a frame that is left has nothing ready", run.frame_id)
            _must(bool(waits), "a run that waits for its next frame waits for something", run.frame_id)
        elif run.live and run.state != "closing":
            _check_run(books, run, sample if len(run.status) > SAMPLE_ABOVE_NODES else 1)
        else:
            _must(not run.nodes_active and not run.active, "an ended run has no attempts", run.run_id)
            _must(not (run.watching or run.waits or run.observing), "an ended run waits no more", run.run_id)
    away = [w.id for w in books.workers.values() if not w.connected]
    _must(sorted(away) == sorted(books.away), "workers that are away are known", away)
    reserved = sum(w.reserved is not None for w in books.workers.values())
    _must(reserved == books.reserved, "reserved workers are counted", reserved)
    for worker in books.workers.values():
        _check_worker(books, worker.id)
    _check_followers(books)
    rule = line_invariants.broken(books)
    _must(rule is None, *(rule or ("",)))
    leased = sum(attempt.leased for attempt in books.attempts.values())
    _must(leased == books.leased, "leases are counted", leased)
    for attempt_id, attempt in books.attempts.items():
        _must(attempt.id == attempt_id, "attempts are booked under their id", attempt_id)
        _must(
            books.workers.get(attempt.worker.id) is attempt.worker,
            "an attempt's worker is on the books",
            attempt_id,
        )
        _must(
            attempt.worker.attempts.get(attempt_id) is attempt,
            "an attempt is on its worker's books",
            attempt_id,
        )
        if not attempt.observing:
            has = attempt.run.nodes_active.get(attempt.node)
            _must(has == attempt_id, "a node has one attempt", attempt_id)
    for attempt_id, (run, node, worker_id) in books.objects.items():
        value = run.values.get(node)
        _must(
            isinstance(value, ObjectValue) and value.attempt == attempt_id,
            "an object is some node's value",
            attempt_id,
        )
        _must(worker_id in books.workers, "an object's holder is on the books", attempt_id, worker_id)
    for attempt_id, copies in books.copies.items():
        _must(attempt_id in books.objects, "a copy is of an object on the books", attempt_id)
        _must(books.objects[attempt_id][2] not in copies, "a holder has no copy beside", attempt_id)
        _must(books.workers.keys() >= copies.keys(), "those with copies are on the books", attempt_id)
    _must(books.moved.keys() <= books.objects.keys(), "what has moved is on the books")


def _check_followers(books: Books) -> None:
    for attempt_id, attempt in books.followers.items():
        first = attempt.follows
        assert first is not None
        _must(attempt_id not in books.attempts, "a follower is on no other books", attempt_id)
        _must(first.follower is attempt, "a follower follows one attempt", attempt_id)
        known = (books.followers if first.follows is not None else books.attempts).get(first.id)
        _must(known is first, "what is followed is on the books", attempt_id)
        run, node = attempt.run, attempt.node
        _must(first.worker is attempt.worker and first.run is run, "a follower stays where its input is made")
        _must(run.followers.get(node) is attempt, "a follower is known to its run", attempt_id)
        alone = run.state != "running" or run.halting or run.pending[node] == 1
        _must(run.status[node] == WAITING and alone, "a follower waits for one value", attempt_id)
    _must(
        len(books.followers) == sum(len(run.followers) for run in books.runs.values()), "followers have runs"
    )
    for worker in books.workers.values():
        known_there = sum(attempt.worker is worker for attempt in books.followers.values())
        _must(worker.followers == known_there, "followers are counted", worker.id, worker.followers)


def _check_run(books: Books, run: Run, step: int) -> None:
    status = run.status
    if step == 1:
        counts = Counter(status[node] for node in range(len(status)) if run.runs_code(node))
        _must(
            counts[ACTIVE] == run.active == len(run.nodes_active),
            "active nodes are counted",
            run.run_id,
            run.active,
        )
        _must(counts[DONE] == run.done, "done nodes are counted", run.run_id, counts[DONE], run.done)
        _must(counts[SKIPPED] == run.skipped, "skipped nodes are counted", run.run_id)
        if run.state == "running":
            _must(counts[READY] == run.ready, "ready nodes are counted", run.run_id, counts[READY], run.ready)
            _must(counts[DELAYED] == run.waiting_retry, "delayed nodes are counted", run.run_id)
    for node in range(0, len(status), step):
        _check_node(run, node)
    _check_nested(books, run)
    if run.picks is not None:
        _check_picks(run, step)
    flying = sum(1 for attempt in books.attempts.values() if attempt.run is run and attempt.observing)
    _must(flying == run.watching, "attempts that observe are counted", run.run_id, run.watching)
    for node, observation in run.observing.items():
        attempt_of = books.attempts.get(observation.attempt)
        waits = (run, node) in books.to_observe if not observation.attempt else attempt_of is not None
        _must(waits, "an observation waits for a worker or is under way", run.run_id, node)
    if run.state == "running" and run.error is None:
        asked = run.cached is not None and run.cached.asked
        moves = run.active or run.ready or run.waiting_retry or run.observing or run.waits or run.nested
        moves = moves or asked or run.watching  # an observation that nobody waits for ends the wait
        stuck = not moves
        _must(not stuck, "a running run has something that moves", run.run_id)
    if run.error is not None and run.on_failure == "cancel":
        _must(run.state != "running", "a failure stops the run", run.run_id)


def _check_nested(books: Books, run: Run) -> None:
    nested = [node for node, state in enumerate(run.status) if state == NESTED]
    _must(set(nested) == set(run.nested), "nested nodes have frames", run.frame_id, nested)
    for node, child in (*run.nested.items(), *run.whole.items()):
        _must(books.runs.get(child.frame_id) is child, "nested frames are on the books", run.frame_id, node)
        _must(child.parent is run and child.parent_node == node, "a nested frame has its node", run.frame_id)
    for node in run.nested:
        _must(run.nested[node].live, "a nested frame goes on", run.frame_id, node)


def _check_node(run: Run, node: int) -> None:
    state = run.status[node]
    origin, index = run.origin(node)
    sources = _waits_for(run, origin)
    answered = [run.status[s] in (DONE, SKIPPED) for s in sources]
    if state == WAITING and index < 0 and run.state == "running":
        missing = answered.count(False)
        if node in run.expansions and not missing:
            _must(
                run.map_left[node] > 0,
                "a map that waits has children that have not finished",
                run.run_id,
                node,
            )
        else:
            _must(
                run.pending[node] == missing,
                "pending counts unanswered edges",
                run.run_id,
                node,
                run.pending[node],
            )
            _must(
                missing > 0 or _waits_otherwise(run, node) or run.on_failure == "finish",
                "a waiting node waits for something",
                run.run_id,
                node,
            )
    if state == READY:
        _must(all(answered), "a ready node's edges are answered", run.run_id, node)
    if state == ACTIVE:
        _must(node in run.nodes_active, "an active node has an attempt", run.run_id, node)
    if state in (SKIPPED, FAILED):
        _must(node not in run.values, "a node without success has no value", run.run_id, node)
    if state == SKIPPED:
        _must(node in run.skips, "a skipped node has a reason", run.run_id, node)
    if state == DONE and run.runs_code(node) and run.uses[node] > 0 and run.state == "running":
        _must(node in run.values, "a value that is needed is there", run.run_id, node)
    _must(run.uses[node] >= 0, "uses are not negative", run.run_id, node)


def _waits_for(run: Run, node: int) -> list[int]:
    """What a node waits for, one entry an edge: a router for its selector, then for the chosen route."""
    sources = [s for s, kind in run.graph.sources(node) if kind != EdgeKind.ROUTE]
    if run.picks is not None and run.graph.spec(node).kind == NodeKind.ROUTER and node in run.picks.source:
        sources.append(run.picks.source[node])
    return sources


def _waits_otherwise(run: Run, node: int) -> bool:
    parked = any(node in waiting for waiting in run.parked.values())
    asked = run.cached is not None and node in run.cached.asked
    return parked or asked or run.shut(node) or node in run.waits


def _check_picks(run: Run, step: int) -> None:
    """Routers, stages and what waits for them."""
    picks, graph, status = run.picks, run.graph, run.status
    assert picks is not None
    _must(not picks.opened or run.state != "running", "what was set going has been answered", run.run_id)
    for node, source in picks.source.items():
        if graph.spec(node).kind == NodeKind.ROUTER:
            _must(source in graph.routes(node), "a router chose one of its routes", run.run_id, node)
            _must(node in picks.chosen_by[source], "a route knows who chose it", run.run_id, node)
            _must(not picks.shut[source] and not picks.shut[node], "what was chosen may go", run.run_id, node)
        else:
            _must(source == graph.first_input(node), "a stage lets its first input pass", run.run_id, node)
    for node, other in picks.alias.items():
        _must(other not in picks.alias, "an alias names the end of all picks", run.run_id, node)
        if run.state == "running" and run.has_value(node) and (run.uses[node] or run.is_leaf(node)):
            _must(status[other] == DONE, "an alias has a value", run.run_id, node, other)
    for node in range(0, graph.size, step):
        pruned = status[node] == SKIPPED and run.skips[node].reason == PRUNED
        if picks.shut[node]:
            _must(status[node] == WAITING or pruned, "nothing goes before it is chosen", run.run_id, node)
        if pruned:
            _must(bool(picks.shut[node]), "what was chosen is not pruned", run.run_id, node)
        if picks.demand and run.state == "running":
            _must(picks.demand[node] >= 0, "demand is not negative", run.run_id, node)
            if picks.shut[node] and run.error is None:
                _must(pruned == (not picks.demand[node]), "what nobody may need is pruned", run.run_id, node)


def _check_worker(books: Books, worker_id: str) -> None:
    worker = books.workers[worker_id]
    used: Counter[str] = Counter()
    synchronous = asynchronous = 0
    for attempt_id, attempt in worker.attempts.items():
        _must(books.attempts.get(attempt_id) is attempt, "a worker's attempts are on the books", attempt_id)
        _must(
            attempt.charged == (attempt_id not in worker.queue),
            "an attempt is charged or in the queue",
            attempt_id,
        )
        if attempt.charged:
            used.update(dict(attempt.cls.amounts))
            asynchronous += attempt.cls.asynchronous
            synchronous += not attempt.cls.asynchronous
    for name, micros in worker.amounts.items():
        _must(
            worker.free[name] == micros - used[name] >= 0,
            "amounts add up",
            worker_id,
            name,
            worker.free[name],
        )
    _must(worker.async_running == asynchronous, "async attempts are counted", worker_id)
    _must(worker.sync_running == synchronous, "sync attempts are counted", worker_id)
    _must(asynchronous <= worker.async_credits, "async credits are kept", worker_id)
    _must(all(a in worker.attempts for a in worker.queue), "the queue holds booked attempts", worker_id)
