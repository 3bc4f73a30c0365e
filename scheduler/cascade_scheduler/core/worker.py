"""One worker as the core sees it: what it has, what is free, and the attempts on its books."""

from __future__ import annotations

from collections import OrderedDict

from cascade_scheduler.core.events import WorkerConnected
from cascade_scheduler.core.graph import Spec
from cascade_scheduler.core.limits import Limit
from cascade_scheduler.core.plans import AmountClass
from cascade_scheduler.core.run import Run

__all__ = ["Attempt", "Worker"]


class Attempt:
    """One try of one node on one worker."""

    __slots__ = (
        "asked_back",
        "charged",
        "cls",
        "expected",
        "follower",
        "follows",
        "id",
        "iterations",
        "leased",
        "limits",
        "node",
        "observing",
        "recalled",
        "run",
        "spec",
        "started",
        "try_",
        "worker",
    )

    def __init__(
        self,
        id_: int,
        run: Run,
        node: int,
        spec: Spec,
        worker: Worker,
        try_: int,
        charged: bool,
        expected: float,
        cls: AmountClass,
    ) -> None:
        self.id = id_
        self.run = run
        self.node = node
        self.spec = spec
        self.worker = worker
        self.try_ = try_
        self.charged = charged
        """It holds its amounts; else it waits on the worker, sent ahead."""
        self.expected = expected
        """Seconds that it will probably take."""
        self.cls = cls
        """What it holds, of its worker and of pools."""
        self.limits: tuple[Limit, ...] = cls.limits
        """The limits that it counts for."""
        self.started = False
        self.observing = False
        """It runs no user's function; see the module `observing`."""
        self.asked_back = False
        """It was retracted, or its run is being stopped."""
        self.leased = False
        """Its worker goes on with its loop by itself."""
        self.recalled = False
        """The lease is to end."""
        self.iterations = 0
        """Steps of the lease that are counted."""
        self.follows: Attempt | None = None
        """The attempt whose value it waits for, as long as it is a follower; see `followers`."""
        self.follower: Attempt | None = None
        """The one that waits for this one's value."""


class Worker:
    """A worker's books. Amounts in micros."""

    __slots__ = (
        "address",
        "ahead_credits",
        "ahead_seconds",
        "amounts",
        "async_credits",
        "async_running",
        "attempts",
        "connected",
        "cpu",
        "disconnected_at",
        "draining",
        "followers",
        "free",
        "host",
        "id",
        "last_report",
        "leased",
        "lost_at",
        "name",
        "pid",
        "queue",
        "reserved",
        "resources",
        "sync_credits",
        "sync_running",
    )

    def __init__(self, hello: WorkerConnected, now: float) -> None:
        self.id = hello.worker
        self.attempts: dict[int, Attempt] = {}
        """Every attempt on the books, charged or sent ahead."""
        self.queue: OrderedDict[int, Attempt] = OrderedDict()
        """Attempts sent ahead, in the order in which the worker will start them."""
        self.ahead_seconds = 0.0
        self.async_running = 0
        self.followers = 0
        """Attempts that wait there for the value of one before them."""
        self.sync_running = 0
        self.leased = 0
        """Attempts that are leases; nothing is sent ahead of their end."""
        self.reserved: object = None
        """The amount class for which the worker is kept free, when one starves."""
        self.resources: dict[tuple[str, str], int] = {}
        """(run, name) → how many of that resource its executors hold, as far as it has said."""
        self.introduce(hello, now)

    def introduce(self, hello: WorkerConnected, now: float) -> None:
        """Takes over what a Hello says of the worker itself."""
        self.name = hello.name
        self.host = hello.host
        self.pid = hello.pid
        self.address = hello.address
        self.amounts = dict(hello.amounts)
        self.free = dict(hello.amounts)
        self.cpu = max(1, self.amounts.get("cpu", 0))
        self.async_credits = hello.async_credits
        self.ahead_credits = hello.ahead_credits
        self.sync_credits = hello.sync_credits
        self.draining = hello.draining
        self.connected = True
        self.disconnected_at = 0.0
        self.lost_at = 0.0
        """While its stream is broken: when it counts as lost."""
        self.last_report = now

    @property
    def usable(self) -> bool:
        """It takes new work."""
        return self.connected and not self.draining

    def could(self, amounts: tuple[tuple[str, int], ...]) -> bool:
        """It has that much in all."""
        have = self.amounts
        for name, micros in amounts:  # noqa: SIM110 - a loop is faster here, and this is hot
            if have.get(name, 0) < micros:
                return False
        return True

    def fits(self, cls: AmountClass) -> bool:
        """An attempt that needs as much of a worker could start now."""
        if cls.asynchronous:
            if self.async_running >= self.async_credits:
                return False
        elif self.sync_running >= self.sync_credits:
            return False
        free = self.free
        for name, micros in cls.amounts:  # noqa: SIM110 - a loop is faster here, and this is hot
            if free.get(name, 0) < micros:
                return False
        return True

    def load(self, asynchronous: bool) -> float:
        """How busy it is, from 0 to 1, with work of a kind."""
        if asynchronous:
            return self.async_running / max(1, self.async_credits)
        return 1.0 - self.free.get("cpu", 0) / self.cpu

    def add(self, attempt: Attempt) -> None:
        """Puts an attempt on the books."""
        self.attempts[attempt.id] = attempt
        self.leased += attempt.leased
        if attempt.charged:
            self._charge(attempt)
        else:
            self.queue[attempt.id] = attempt
            self.ahead_seconds += attempt.expected

    def remove(self, attempt: Attempt) -> None:
        """Takes an attempt off the books, and charges what the worker starts in its place."""
        del self.attempts[attempt.id]
        self.leased -= attempt.leased
        if attempt.charged:
            self._refund(attempt)
        else:
            self._unqueue(attempt)
        queue = self.queue
        while queue:
            head = next(iter(queue.values()))
            if not self.fits(head.cls):
                break
            self.charge(head)

    def charge(self, attempt: Attempt) -> None:
        """One that was sent ahead has begun."""
        self._unqueue(attempt)
        attempt.charged = True
        self._charge(attempt)

    def _unqueue(self, attempt: Attempt) -> None:
        del self.queue[attempt.id]
        self.ahead_seconds = self.ahead_seconds - attempt.expected if self.queue else 0.0

    def _charge(self, attempt: Attempt) -> None:
        cls = attempt.cls
        for name, micros in cls.amounts:
            self.free[name] = self.free.get(name, 0) - micros
        if cls.asynchronous:
            self.async_running += 1
        else:
            self.sync_running += 1

    def _refund(self, attempt: Attempt) -> None:
        cls = attempt.cls
        for name, micros in cls.amounts:
            self.free[name] += micros
        if cls.asynchronous:
            self.async_running -= 1
        else:
            self.sync_running -= 1

    def recount(self) -> None:
        """Works out what is free from the attempts on the books, after a Hello changed the amounts."""
        self.free = dict(self.amounts)
        self.async_running = self.sync_running = 0
        for attempt in self.attempts.values():
            if attempt.charged:
                self._charge(attempt)
