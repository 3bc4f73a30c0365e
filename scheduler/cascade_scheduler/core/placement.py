"""Which ready node goes to which worker.

A node goes to a worker that has its amounts free, the least busy first, or the one that holds most of its
input. Nodes that need nothing but cpu are also sent ahead to busy workers, as much as their expected duration
allows, so that the next task is there when one ends; what waits on a busy worker while another is idle is
asked back.

A node that is ready when no other is, as that of a short run or the next step of a loop, goes to the same
worker without a line being made for it, if one has room.

Before a worker is looked for, the limits of the line are asked, then its pools; a line that may not go waits
as a whole. Every turn asks anew, so nothing has to be woken. A node says that a limit holds it as soon as it
does; that it finds no room it says when it would be next and nothing of its line has moved for
`starving_after`, so a full cluster costs two such events a second and line at most, however many nodes wait.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush, heapreplace

from cascade_scheduler.core import attempts, feasible, followers, leases, nodes, runs
from cascade_scheduler.core.books import Books
from cascade_scheduler.core.commands import RetractAttempt
from cascade_scheduler.core.plans import AmountClass
from cascade_scheduler.core.queues import NODE_MASK
from cascade_scheduler.core.run import READY, Run
from cascade_scheduler.core.values import ErrorInfo, ObjectValue
from cascade_scheduler.core.worker import Worker

__all__ = ["dispatch", "has_place"]

MICROS = 1_000_000


def dispatch(books: Books) -> None:
    """Places what is ready, class by class; one class that finds no room holds up no other."""
    if books.queues.alone is not None:
        _place_alone(books, *books.queues.alone)
    classes = books.queues.classes()
    if books.lease_waits:
        leases.wait_no_more(books, classes)
    books.token_at = 0.0
    if books.crowd:
        books.crowd.clear()
    if books.kept is not None and books.kept not in classes:
        _let_pools_go(books)
    if books.reserved:
        for worker in books.workers.values():
            if worker.reserved is not None and worker.reserved not in classes:
                _unreserve(books, worker)
    while classes:
        books.let_go = False
        for cls in classes:
            _place_class(books, cls)
        if not books.let_go:
            break
        classes = books.queues.classes()  # what was kept for one line is there for those before it
    _balance(books)
    if books.tips or books.followers:
        followers.review(books)


def _place_alone(books: Books, run: Run, cls: AmountClass, key: int) -> None:
    """Places the one node that is ready, if a worker has room: as its line would, but without a line."""
    node = key & NODE_MASK
    if run.status[node] != READY or books.reserved or books.kept is not None or books.lease_waits:
        return
    asynchronous, least, found = cls.asynchronous, 0.0, None
    for worker in books.workers.values():
        if worker.connected and not (worker.draining or worker.queue) and worker.fits(cls):
            load = worker.load(asynchronous)
            if found is None or load < least:
                least, found = load, worker
    if found is None:
        return
    worker = _at_input(books, run, node, cls) or found
    expected = books.expected(run.graph.functions[run.spec(node).function].cid)
    books.queues.go_alone(expected)
    attempts.assign(books, run, node, worker, cls, ahead=False, expected=expected)


class _Room:
    """Workers with room for a class: first free ones, then busy ones that may be sent work ahead."""

    __slots__ = ("busy", "cls", "free", "limit", "only_cpu", "touched")

    def __init__(self, books: Books, cls: AmountClass) -> None:
        self.cls = cls
        self.only_cpu = cls.only_cpu
        self.touched = False
        """Nodes have been placed since it was worked out who has room."""
        self.free: list[tuple[float, int, Worker]] = []
        self.busy: list[tuple[float, int, Worker]] = []
        self.limit = books.settings.ahead_seconds
        for order, worker in enumerate(books.workers.values()):
            if not worker.usable or (worker.reserved is not None and worker.reserved != cls):
                continue
            if not worker.queue and self._fits(worker):
                self.free.append((worker.load(cls.asynchronous), order, worker))
            elif self._takes_ahead(worker):
                self.busy.append((worker.ahead_seconds / worker.cpu, order, worker))
        if len(self.free) > 1:
            heapify(self.free)
        if len(self.busy) > 1:
            heapify(self.busy)

    def _fits(self, worker: Worker) -> bool:
        cls = self.cls
        if cls.asynchronous:
            if worker.async_running >= worker.async_credits:
                return False
        elif worker.sync_running >= worker.sync_credits:
            return False
        free = worker.free
        for name, micros in cls.amounts:  # noqa: SIM110 - a loop is faster here, and this is hot
            if free.get(name, 0) < micros:
                return False
        return True

    def _takes_ahead(self, worker: Worker) -> bool:
        return (
            self.only_cpu
            and not worker.leased
            and len(worker.queue) + worker.followers < worker.ahead_credits
            and worker.ahead_seconds < self.limit * worker.cpu / MICROS
            and worker.could(self.cls.amounts)
        )

    def take(self) -> tuple[Worker, bool] | None:
        """(worker, ahead) for the next node; the caller places it there, then calls `placed`."""
        while self.free:
            worker = self.free[0][2]
            if not self.touched or (not worker.queue and self._fits(worker)):
                return worker, False
            _, order, _ = heappop(self.free)
            if self._takes_ahead(worker):
                heappush(self.busy, (worker.ahead_seconds / worker.cpu, order, worker))
        while self.busy:
            worker = self.busy[0][2]
            if self._takes_ahead(worker):
                return worker, True
            heappop(self.busy)
        return None

    def placed(self, worker: Worker, ahead: bool) -> None:
        """Brings the order up to date after a node was placed."""
        self.touched = True
        heap = self.busy if ahead else self.free
        if heap and heap[0][2] is worker:
            load = worker.ahead_seconds / worker.cpu if ahead else worker.load(self.cls.asynchronous)
            heapreplace(heap, (load, heap[0][1], worker))


def has_place(books: Books, cls: AmountClass) -> bool:
    """Whether some worker would take a node of the line now."""
    return _Room(books, cls).take() is not None


def _place_class(books: Books, cls: AmountClass) -> None:
    room = _Room(books, cls)
    queues = books.queues
    placed: tuple[Worker, bool] | None = None
    asks = bool(cls.limits or cls.pools)
    while True:
        head = queues.head(cls)
        if head is None or (asks and not _may_go(books, cls)):
            if books.lease_waits:
                books.lease_waits.pop(cls, None)
            break
        run, node = head
        if placed is not None:
            room.placed(*placed)
        place = room.take()
        if place is None:
            _no_room(books, cls, placed is not None)
            break
        worker, ahead = place
        holder = _at_input(books, run, node, cls)
        if holder is not None:
            worker, ahead = holder, False
        expected = books.expected(run.graph.functions[run.spec(node).function].cid)
        queues.pop(cls, expected)
        attempts.assign(books, run, node, worker, cls, ahead=ahead, expected=expected)
        placed = worker, ahead
    if placed is not None:
        waits = head is not None and not (asks and _is_held(books, cls))
        queues.moved(cls, books.now if waits else 0.0)
        if books.reserved or books.kept is not None:
            _starves_no_more(books, cls)


def _is_held(books: Books, cls: AmountClass) -> bool:
    return not all(limit.permits(books.now) for limit in cls.limits)


def _may_go(books: Books, cls: AmountClass) -> bool:
    """Limits first, then pools: whether a node of the line may be given to a worker that has room."""
    for limit in cls.limits:
        if not limit.permits(books.now):
            at = limit.waited_for()
            if at is not None and (not books.token_at or at < books.token_at):
                books.token_at = at
            for run, node in books.queues.untold(cls):
                books.tell(run, "TaskBlocked", node, reason="ConstraintViolation")
            books.queues.moved(cls)
            _starves_no_more(books, cls)
            return False
    for pool, micros in cls.pools:
        if pool.total < micros:
            for run in books.queues.runs_of(cls):
                _fail_all(books, run, cls)
            return False
        if pool.free < micros or (books.kept is not None and pool.kept and books.kept != cls):
            _wait_for_pools(books, cls)
            return False
    return True


def _wait_for_pools(books: Books, cls: AmountClass) -> None:
    """A line finds too little in a pool. After a while nobody else takes from its pools before it.

    Only one line at a time has its pools kept, and only one that finds its pools free keeps a worker, so that
    no two lines can wait for what is kept for the other.
    """
    for worker in books.workers.values():
        if worker.reserved == cls:
            _unreserve(books, worker)
    _tell_contention(books, cls)
    if books.queues.blocked(cls, books.now) >= books.settings.starving_after and books.kept is None:
        books.kept = cls
        for pool, _ in cls.pools:
            pool.kept = True


def _let_pools_go(books: Books) -> None:
    kept, books.kept = books.kept, None
    if kept is not None:
        books.let_go = True
        for pool, _ in kept.pools:
            pool.kept = False


def _starves_no_more(books: Books, cls: AmountClass) -> None:
    """A line has moved, or may not go at all: nothing is kept for it."""
    if books.kept == cls:
        _let_pools_go(books)
    if books.reserved:
        for worker in books.workers.values():
            if worker.reserved == cls:
                _unreserve(books, worker)


def _tell_contention(books: Books, cls: AmountClass) -> None:
    if books.queues.still(cls, books.now) < books.settings.starving_after:
        return
    for run, node in books.queues.head_untold(cls):
        books.tell(run, "TaskBlocked", node, reason="ResourceContention")


def _at_input(books: Books, run: Run, node: int, cls: AmountClass) -> Worker | None:
    """The worker that holds most of the node's input, when the input is large and the worker has room."""
    if not books.objects or node >= run.graph.size:
        return None
    held: dict[str, int] = {}
    for source in run.graph.inputs(node):
        value = run.values.get(run.resolve(source))
        if isinstance(value, ObjectValue):
            held[value.worker] = held.get(value.worker, 0) + value.size
    if not held:
        return None
    holder = books.workers.get(max(held, key=lambda name: held[name]))
    if (
        holder is None
        or not holder.usable
        or holder.queue
        or holder.reserved not in (None, cls)
        or not holder.fits(cls)
    ):
        return None
    return holder


def _no_room(books: Books, cls: AmountClass, placed: bool) -> None:
    """No worker has room for the head of a class: it waits, starves, or can never run."""
    if books.leased:
        leases.waits(books, cls)
    if any(worker.could(cls.amounts) for worker in books.workers.values()):
        books.crowd.append(cls)
        if books.infeasible:
            for other in books.queues.runs_of(cls):
                books.infeasible.pop((other.run_id, cls), None)
        if placed:
            return
        _tell_contention(books, cls)
        waited = books.queues.blocked(cls, books.now)
        if waited >= books.settings.starving_after and not _sent_ahead(books, cls):
            _reserve(books, cls)
        return
    _impossible(books, cls)


def _impossible(books: Books, cls: AmountClass) -> None:
    """No worker could ever run the class: at once an error in a closed cluster, in an open one after a while.

    The clock runs for each run by itself, and only while there are workers: without any, nothing is known.
    """
    settings = books.settings
    if not books.workers or (settings.closed and len(books.workers) < settings.expected_workers):
        for run in books.queues.runs_of(cls):
            books.infeasible.pop((run.run_id, cls), None)
        return
    for run in books.queues.runs_of(cls):
        key = (run.run_id, cls)
        closed = settings.closed or (
            run.run_id in books.lines.run_pools and feasible.undeclared(books, cls.amounts)
        )
        since = books.infeasible.get(key)
        if since is None:
            since = books.infeasible[key] = books.now
            if not closed and (node := books.queues.first_untold(run, cls)) >= 0:
                books.tell(run, "TaskBlocked", node, reason="ResourceContention")
        if closed or books.now - since >= settings.infeasible_after:
            del books.infeasible[key]
            _fail_all(books, run, cls)


def _fail_all(books: Books, run: Run, cls: AmountClass) -> None:
    while run.state == "running" and (node := books.queues.first_of(run, cls)) >= 0:
        run.ready -= 1
        message = feasible.never(books, run.task(node), cls)
        nodes.fail(books, run, node, ErrorInfo("AmountError", message))
    runs.settle_if_stuck(books, run)


def _sent_ahead(books: Books, cls: AmountClass) -> bool:
    return any(a.cls == cls for w in books.workers.values() for a in w.queue.values())


def _reserve(books: Books, cls: AmountClass) -> None:
    """Keeps the worker that is nearest to having room free for a class that starves."""
    able = [w for w in books.workers.values() if w.usable and w.reserved is None and w.could(cls.amounts)]
    if cls.amounts and able and not any(w.reserved == cls for w in books.workers.values()):
        name = cls.amounts[0][0]
        max(able, key=lambda w: w.free.get(name, 0)).reserved = cls
        books.reserved += 1


def _unreserve(books: Books, worker: Worker) -> None:
    worker.reserved = None
    books.reserved -= 1
    books.let_go = True


def _balance(books: Books) -> None:
    """Asks back what waits on busy workers while others are idle."""
    books.balance_at = 0.0
    for worker in books.workers.values():
        if worker.queue and worker.connected:
            break
    else:
        return
    victims = [w for w in books.workers.values() if w.queue and w.connected]
    idle = [
        w
        for w in books.workers.values()
        if w.usable and not w.queue and not w.sync_running and w.cpu >= MICROS
    ]
    if not idle:
        return
    for victim in victims:
        stuck = books.now - victim.last_report >= books.settings.retract_after
        worth = victim.ahead_seconds > 4 * books.settings.retract_after
        if not stuck and not worth:
            books.balance_at = victim.last_report + books.settings.retract_after
            continue
        waiting = [a for a in victim.queue.values() if not a.asked_back]
        for attempt in waiting[len(waiting) // 2 :]:
            if any(w.fits(attempt.cls) for w in idle):  # else it would come straight back
                attempt.asked_back = True
                books.out.append(RetractAttempt(victim.id, attempt.id))
