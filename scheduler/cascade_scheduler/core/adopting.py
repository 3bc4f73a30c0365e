"""A restart: the runs that the last scheduler left, and the workers that hold attempts of them.

The workers of the last scheduler are put on the books as if their streams had just broken, with the attempts
that the store names as the last ones of their nodes. So what a worker says when it comes is an ordinary
reconnect: what it holds goes on, what it does not hold is made again, and a worker that does not come in time
is lost like any other. Recovered runs decide at once, and dispatch nothing until that is settled.
"""

from __future__ import annotations

from heapq import heappush

from cascade_scheduler.core import closing, followers, nodes, recovering, runs
from cascade_scheduler.core.books import Books
from cascade_scheduler.core.cached import Cached
from cascade_scheduler.core.events import LastAttempt, RosterKnown, RunRecovered, WorkerConnected
from cascade_scheduler.core.run import ACTIVE, DELAYED, READY, Loop, Run
from cascade_scheduler.core.worker import Attempt, Worker

__all__ = ["heard", "lost", "on_recovered", "on_roster"]


# --- workers -----------------------------------------------------------------------------------------


def on_roster(books: Books, event: RosterKnown) -> None:
    """Workers that the last scheduler had: each has its time to come. Said again, the time begins anew."""
    for known in event.workers:
        if known.worker in books.recovering:
            books.workers[known.worker].lost_at = books.now + event.grace
        if known.worker in books.workers:
            continue
        hello = WorkerConnected(known.worker, known.name, known.amounts, 0, 0, "")
        worker = books.workers[known.worker] = Worker(hello, books.now)
        worker.connected = False
        worker.disconnected_at = books.now
        worker.lost_at = books.now + event.grace
        books.away[worker.id] = worker
        books.recovering[worker.id] = None


def heard(books: Books, worker: Worker) -> None:
    """A worker has said what it holds."""
    if worker.id not in books.recovering:
        return
    queue = worker.queue
    while queue and worker.fits((head := next(iter(queue.values()))).cls):
        worker.charge(head)  # it has started that by itself
    _settled(books, worker)


def lost(books: Books, worker: Worker) -> None:
    """A worker did not come in time."""
    if worker.id in books.recovering:
        _settled(books, worker)


def _settled(books: Books, worker: Worker) -> None:
    del books.recovering[worker.id]
    if books.recovering:
        return
    books.known.clear()
    for run in [run for run in books.runs.values() if run.root.held and run.state == "running"]:
        if not run.halting:
            for node, status in enumerate(run.status):
                if status == READY:
                    books.queues.push_node(run, node)
    for run in books.runs.values():
        run.held = False


# --- runs --------------------------------------------------------------------------------------------


def on_recovered(books: Books, event: RunRecovered) -> None:
    """A run goes on where the last scheduler left it. Nobody is told of anything a second time."""
    run = runs.enter(books, event, event.submitted)
    run.held = bool(books.recovering)
    if not event.begun:
        _tell_beginning(books, run, event)
    run.cached = run.cached or Cached()
    if event.number:
        _resume_loop(run, event)
    _know(books, event)
    _note_resources(books, run)
    nodes.start(books, run, None, event.recovered)
    recovering.let_go(run)
    if run.state == "running":
        for place, attempt in event.attempts.items():
            node = _node_at(run, place)
            ends = node < 0 or run.status[node] != READY or place in event.failures
            if not ends and _has_its_input(run, node, attempt, event):
                _adopt(books, run, node, attempt, event.iterations)
        _adopt_followers(books, run, event)
        for place, (tries, at) in event.delays.items():
            node = _node_at(run, place)
            if node >= 0 and run.status[node] == READY and tries:
                _delay(books, run, node, tries, at)
        _fail(books, run, event)
    if event.cancelled and run.state == "running":
        runs.stop(books, run)
    runs.settle_if_stuck(books, run)


def _tell_beginning(books: Books, run: Run, event: RunRecovered) -> None:
    """Of a run of one task the result may be stored, and what was to be told of it not."""
    books.tell(run, "RunStarted")
    if event.recovered.nodes and run.graph.size == 1 and not event.number:
        books.tell(run, "TaskExecutionStarted", 0, attempt=1)
        books.tell(run, "TaskExecutionFinished", 0, status="Succeeded", attempt=1)


def _resume_loop(run: Run, event: RunRecovered) -> None:
    loop = run.loop = Loop()
    loop.number = event.number
    loop.frame = event.frame
    loop.total, loop.done, loop.skipped, loop.steps, loop.own = event.counts
    loop.told = event.steps_told


def _know(books: Books, event: RunRecovered) -> None:
    """The workers that made these results may not have heard that they are stored."""
    if books.recovering:
        stored = event.recovered
        books.known.update(value.attempt for value in stored.nodes.values())
        for children in stored.children.values():
            books.known.update(value.attempt for value in children.values())


def _note_resources(books: Books, run: Run) -> None:
    """Any of the workers of before may hold resources of the run."""
    for worker in books.recovering:
        for spec in run.graph.specs:
            closing.note(books, run, books.workers[worker], spec)


def _node_at(run: Run, place: tuple[int, int]) -> int:
    """The number of a node, or of a map's child; -1: there is none."""
    node, child = place
    if child < 0:
        return node if node < run.graph.size else -1
    expansion = run.expansions.get(node)
    return -1 if expansion is None or child >= expansion.size else expansion.first + child


def _adopt(books: Books, run: Run, node: int, last: LastAttempt, iterations: int) -> None:
    """Puts an attempt of the last scheduler on the books of its worker, if that may still come."""
    if last.try_ > 1:
        run.tries[node] = last.try_ - 1
    worker = books.workers.get(last.worker)
    if worker is None or worker.id not in books.recovering:
        return
    cls = books.queues.line_of(run, node)
    spec = run.spec(node)
    only_cpu = not cls.asynchronous and {name for name, _ in cls.amounts} <= {"cpu"}
    ahead = only_cpu and not (cls.pools or cls.limits)
    expected = books.expected(run.graph.functions[spec.function].cid)
    attempt = Attempt(last.attempt, run, node, spec, worker, last.try_, not ahead, expected, cls)
    attempt.started = last.started
    attempt.iterations = iterations
    for pool, micros in cls.pools:
        pool.free -= micros
    for limit in cls.limits:
        limit.take()
    books.attempts[attempt.id] = attempt
    if cls.asynchronous:
        worker.async_credits += 1  # it had one for this; how many it has, it says when it comes
    worker.add(attempt)
    run.nodes_active[node] = attempt.id
    run.status[node] = ACTIVE
    run.ready -= 1
    run.active += 1


def _has_its_input(run: Run, node: int, last: LastAttempt, event: RunRecovered) -> bool:
    """What a follower was given is the accepted value of its input, and not one that was lost."""
    if not last.behind:
        return True
    stored = (event.recovered.nodes.get(source) for source in run.graph.inputs(node))
    return any(value is not None and value.attempt == last.behind for value in stored)


def _adopt_followers(books: Books, run: Run, event: RunRecovered) -> None:
    """Puts what follows adopted attempts where it was; those who made ids made them in this order."""
    behind = [(last, node) for (node, child), last in event.attempts.items() if last.behind and child < 0]
    for last, node in sorted(behind):
        first = books.attempts.get(last.behind) or books.followers.get(last.behind)
        if (
            first is None
            or first.run is not run
            or first.follower is not None
            or first.worker.id != last.worker
            or followers.next_of(run, first) != node
        ):
            continue
        spec = run.spec(node)
        expected = books.expected(run.graph.functions[spec.function].cid)
        line = books.queues.line_of(run, node)
        cls = line._replace(limits=())
        attempt = Attempt(last.attempt, run, node, spec, first.worker, last.try_, False, expected, cls)
        attempt.asked_back = bool(line.limits)  # which were set later
        followers.link(books, first, attempt)


def _delay(books: Books, run: Run, node: int, tries: int, at: float) -> None:
    """A node between two tries waits on."""
    run.tries[node] = tries
    if at <= books.now:
        return
    run.status[node] = DELAYED
    run.ready -= 1
    run.waiting_retry += 1
    number = run.delays[node] = books.next_sequence()
    heappush(books.delayed, (at, number, run.frame_id, node))


def _fail(books: Books, run: Run, event: RunRecovered) -> None:
    """What failed has failed."""
    for place, (error, task) in event.failures.items():
        node = _node_at(run, place)
        if node < 0:
            continue
        if run.status[node] == READY:
            run.ready -= 1
        nodes.fail(books, run, node, error, task)
