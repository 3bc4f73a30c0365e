"""Brings the turns' records to the store, in order, and says when they are there."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Iterable, Sequence
from functools import partial
from itertools import islice
from typing import NamedTuple, TypeVar

from cascade_scheduler.core.commands import (
    SaveAttempt,
    SaveCheckpoint,
    SaveDue,
    SaveFacts,
    SaveFrame,
    SaveResult,
    SaveSkip,
)
from cascade_scheduler.outbox import Bell
from cascade_scheduler.store.base import (
    Batch,
    PromptStore,
    Record,
    RunCreated,
    RunEvents,
    RunRenewed,
    RunStore,
    StoredRun,
    StoreFenced,
    StoreGap,
    StoreGarbage,
    StoreUnavailable,
)
from cascade_scheduler.store.mending import Beginnings, Memory, records_of
from cascade_scheduler.store.sizes import size_of

__all__ = ["NOTHING_WRITTEN", "Make", "StoreWriter", "Then", "Written"]

T = TypeVar("T")

Then = Callable[[], None]


class Written(NamedTuple):
    """What is written beside the records of a turn, and what is called when it has landed."""

    records: Sequence[Record]
    then: Sequence[Then]


NOTHING_WRITTEN = Written((), ())
Make = Callable[[], Written]
"""Makes it when its time has come."""

BATCH_RECORDS_MAX = 20_000
BATCH_BYTES_MAX = 16 << 20
BATCH_BYTES_AT_ONCE = 1 << 20
"""So much goes without waiting for more."""
TOGETHER_SECONDS = 0.002
"""How long a record that nobody is in a hurry for waits for others."""
RETRY_FIRST = 0.05
RETRY_MAX = 5.0
"""Seconds between two tries while the store is away: from, to."""
CANCELS_MAX = 20
CANCEL_SECONDS = 0.25
"""So often, so many seconds apart, a task is told to end: `asyncio.wait_for` of Python 3.11 may lose that."""
_MAY_WAIT = frozenset(
    (
        *(RunCreated, RunEvents, RunRenewed, SaveAttempt, SaveCheckpoint, SaveDue, SaveFacts, SaveFrame),
        *(SaveResult, SaveSkip),
    )
)
"""What a run leaves while it goes on, and that it has begun: who submits does not wait for that."""

logger = logging.getLogger("cascade.scheduler")


class _Flight(NamedTuple):
    """Whole turns that go to the store together."""

    records: Sequence[Record]
    then: Sequence[Then]
    size: int
    """Bytes."""
    soon: Sequence[Make] = ()
    """What goes with them."""
    late: Sequence[Make] = ()
    """What goes behind them."""

    @property
    def is_nothing(self) -> bool:
        """There is nothing to write."""
        return not (self.records or self.soon)

    @property
    def is_one_batch(self) -> bool:
        """There is something to write, and it need not be parted."""
        return 0 < len(self.records) <= BATCH_RECORDS_MAX and self.size <= BATCH_BYTES_MAX


class StoreWriter:
    """At most one batch is in flight; what comes meanwhile is the next one, so batches land in order.

    What nobody is in a hurry for waits a moment for more of its kind: a batch costs the scheduler and the
    store about the same, whether it brings one result or a hundred. The end of a run goes at once, with all
    that waits. How a short run ended, and its events, are made when its client has been told, and land with
    whatever is next.

    A batch goes out in the iteration of the loop in which it is wanted, and its answer is told in the one
    that reads it, without a task. What goes otherwise than it should is left to a task, which has patience.

    While the store is away, records wait here. Past `backlog_max` bytes `room` is cleared: services then take
    no reports and no submits until it is set again, so the cluster holds still instead of growing.
    """

    def __init__(
        self, store: RunStore, *, on_fenced: Callable[[StoreFenced], None], backlog_max: int = 256 << 20
    ) -> None:
        self._store = store
        self._prompt = store if isinstance(store, PromptStore) else None
        self.bell = Bell()
        """Held while callbacks run, so that what they say to one peer is one message."""
        self._on_fenced = on_fenced
        self._backlog_max = backlog_max
        self._waiting: deque[_Flight] = deque()
        """By turns."""
        self._ready = 0
        """How many of them the store has prepared."""
        self._flight: _Flight | None = None
        """What is under way without a task."""
        self._landing: asyncio.Future[None] | None = None
        """Set when that has ended; somebody waits for it."""
        self._task: asyncio.Task[None] | None = None
        self._number = 0
        self._backlog = 0
        self._hurry = False
        """Somebody waits for what waits here."""
        self._timer: asyncio.TimerHandle | None = None
        self.room = asyncio.Event()
        self.room.set()
        self.away = False
        """The store did not answer the last time."""
        self.immediate = store.immediate
        self.batches = 0
        """Batches that have landed."""
        self.beginnings = Beginnings()
        self.memory: Memory | None = None
        """Of a shared store: who tells what is held, should it lose that. Without it a loss is the end."""
        self.on_bug: Callable[[BaseException], None] | None = None
        """Something happened that cannot."""
        self._gap: StoreGap | None = None

    def put(
        self,
        records: Sequence[Record],
        then: Sequence[Then],
        *,
        soon: Make | None = None,
        late: Make | None = None,
    ) -> None:
        """Takes the records of one turn; calls all of `then` once they and all before them have landed.

        With an immediate store that is before `put` returns.

        Args:
            records: of the turn.
            then: called when they have landed.
            soon: makes what lands with them; it is asked when they go out, that of a later turn first.
            late: makes what lands in a batch behind them; it is asked when `then` has been called.
        """
        if self.immediate:
            if records:
                self._number += 1
                self._store.apply(Batch(self._number, records))
            for call in then:
                call()
            for make in filter(None, (soon, late)):
                self.put(*make())
            return
        turn = _Flight(records, then, sum(map(size_of, records)), _some(soon), _some(late))
        if turn.is_nothing and not late and not self._waiting and not self._busy:
            for call in then:
                call()
            return
        self.beginnings.note(records)
        self._waiting.append(turn)
        self._count(turn.size)
        may_wait = not turn.is_nothing and _MAY_WAIT.issuperset(map(type, records))
        if not may_wait or self._backlog > BATCH_BYTES_AT_ONCE:
            self._hurry = True
        self._go_on()
        self._prepare()

    def _count(self, size: int) -> None:
        self._backlog += size
        if self._backlog > self._backlog_max:
            self.room.clear()

    def _prepare(self) -> None:
        """Makes what waits ready to be sent, while there is time."""
        if self._timer is not None and self._prompt is not None:
            for turn in islice(self._waiting, self._ready, None):
                self._prompt.prepare(turn.records)
            self._ready = len(self._waiting)

    @property
    def _busy(self) -> bool:
        """A batch is in flight, or what it led to is being told."""
        return self._task is not None or self._flight is not None

    @property
    def idle(self) -> bool:
        """All has landed that is to be written."""
        return not (self._waiting or self._busy)

    def _go_on(self) -> None:
        """Begins to write, now or when what waits has waited for its moment."""
        if self._busy:
            return
        if self._hurry:
            self._start()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TOGETHER_SECONDS, self._start)

    def seen(self, error: StoreUnavailable | None) -> None:
        """Somebody else has asked the store: why it is away; None: it has answered."""
        if error is not None:
            self._is_away(error)
        elif not self._busy:  # else whoever writes finds out
            self._is_back()

    def _is_away(self, error: StoreUnavailable) -> None:
        if not self.away:
            self.away = True
            logger.error("results wait until the store is back: %s", error)

    def _is_back(self) -> None:
        if self.away:
            self.away = False
            logger.warning("the store %s is back", self._store.url)

    def mend(self, gap: StoreGap) -> None:
        """The store was seen to have lost what it had acknowledged."""
        self._gap = gap
        self._start()

    def _start(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._hurry = True
        if not self._busy:
            self._send()

    def _send(self) -> None:
        """Sends what waits: here and now, where that is simple; else a task does it."""
        flight = None
        if self._prompt is not None and self._gap is None and self._waiting:
            try:
                flight = self._flight = self._next()
                batch = Batch(self._number + 1, flight.records)
                if flight.is_one_batch and self._prompt.begin(batch, self._answered):
                    return
            except Exception as error:
                self._bug(error)
                return
            self._flight = None
        self._drain_patiently(flight)

    def _answered(self, landed: bool) -> None:
        """The store has taken what was sent, or has not, or nobody knows."""
        flight = self._flight
        if flight is None:  # closed meanwhile
            return
        if self._landing is not None and not self._landing.done():
            self._landing.set_result(None)
        if not landed:
            self._flight = None
            self._drain_patiently(flight)
            return
        self._number += 1
        self.batches += 1
        self._is_back()
        try:
            self._tell(flight)
            while self._waiting and self._waiting[0].is_nothing:  # they have waited for nothing else
                self._tell(self._waiting.popleft())
            # Behind it, since who is told waits for it, and nobody for this.
            self.beginnings.landed(flight.records)
            if self._prompt is not None:
                self._prompt.settle()
        except Exception as error:
            self._bug(error)
            return
        self._flight = None
        if self._waiting or self._gap is not None:
            self._go_on()
            self._prepare()

    def _drain_patiently(self, flight: _Flight | None) -> None:
        """Has a task land what was begun, and all that waits."""
        self._task = asyncio.get_running_loop().create_task(self._drain(flight), name="store writer")

    def _tell(self, flight: _Flight) -> None:
        """Tells of what has landed."""
        with self.bell:
            for call in flight.then:
                call()
        if flight.late:
            made = _made(flight.late)
            size = sum(map(size_of, made.records))
            self._waiting.appendleft(_Flight(made.records, made.then, size))  # before what was posted since
            self._count(size)
        self._backlog -= flight.size
        if self._backlog <= self._backlog_max // 2:
            self.room.set()

    def _bug(self, error: Exception) -> None:
        if self.on_bug is None:
            raise error
        self.on_bug(error)  # what it had taken to write is gone, and nobody may be told of more

    async def load_run(self, run_id: str) -> StoredRun | None:
        """What the store has of a run; what waits to be written is not part of it.

        Raises:
            StoreUnavailable: the store cannot be reached now.
        """
        return await self._store.load_run(run_id)

    def stored_runs(self) -> AsyncIterator[StoredRun]:
        """What the store has, run by run."""
        return self._store.load()

    async def garbage(self, spare: Container[str], *, dry_run: bool) -> StoreGarbage:
        """Has the store delete what nobody can use; as `RunStore.garbage`.

        Raises:
            StoreUnavailable: the store cannot be reached now.
        """
        return await self._store.garbage(spare, dry_run=dry_run)

    async def flush(self, timeout: float) -> bool:
        """Waits until everything has landed; False when that took longer than `timeout` seconds."""
        until = time.monotonic() + timeout
        while self._waiting or self._busy:
            self._start()
            ending: asyncio.Future[None] | None = self._task
            if ending is None:
                if self._landing is None or self._landing.done():
                    self._landing = asyncio.get_running_loop().create_future()
                ending = self._landing
            done, _ = await asyncio.wait((ending,), timeout=max(0.0, until - time.monotonic()))
            if not done:
                return False
        return True

    async def close(self) -> None:
        """Stops; what has not landed is lost."""
        if self._timer is not None:
            self._timer.cancel()
        self._flight = None
        self._prompt = None
        task = self._task
        if task is None:
            return
        for _ in range(CANCELS_MAX):
            task.cancel()
            done, _ = await asyncio.wait((task,), timeout=CANCEL_SECONDS)
            if done:
                return

    async def _drain(self, flight: _Flight | None) -> None:
        try:
            while flight is not None or (self._waiting and self._hurry) or self._gap is not None:
                if self._gap is not None:
                    await self._mend(self._gap)
                    continue
                flight = flight or self._next()
                for part in _parts(flight.records):
                    await self._land(part)
                self._tell(flight)
                flight = None
        except StoreFenced as error:
            self._on_fenced(error)
            return
        except Exception as error:
            self._bug(error)
            return
        finally:
            self._task = None
        if self._waiting:
            self._go_on()

    def _next(self) -> _Flight:
        """Takes whole turns up to the bound; one turn above it becomes several batches."""
        records: list[Record] = []
        calls: list[Then] = []
        soon: list[Make] = []
        late: list[Make] = []
        size = self._ready = 0
        while self._waiting and size < BATCH_BYTES_MAX and len(records) < BATCH_RECORDS_MAX:
            turn = self._waiting.popleft()
            records.extend(turn.records)
            calls.extend(turn.then)
            soon.extend(turn.soon)
            late.extend(turn.late)
            size += turn.size
        self._hurry = bool(self._waiting)
        for make in reversed(soon):  # what the last ones make of a run leaves nothing for those before them
            made = make()
            if made is not NOTHING_WRITTEN:
                records.extend(made.records)
                calls.extend(made.then)
                more = sum(map(size_of, made.records))
                self._count(more)
                size += more
        return _Flight(records, calls, size, late=late)

    async def _land(self, records: Sequence[Record]) -> None:
        """Brings records to the store, whatever it loses meanwhile."""
        while True:
            try:
                await self._commit(records)
                self.beginnings.landed(records)
                return
            except StoreGap as gap:
                await self._mend(gap)

    async def _mend(self, gap: StoreGap) -> None:
        """Writes again what is held of runs; what waits follows, and comes to the same once more.

        Nobody is told of anything meanwhile.
        """
        memory = self.memory
        if memory is None:
            raise StoreFenced(str(gap)) from gap
        store = memory.store
        logger.error("%s; what is held of %d runs is written again", gap, len(self.beginnings.live()))
        while True:
            try:
                await self._patiently(store.take_again)
                self._gap, self._number = None, 0
                await self._commit([memory.standing()])
                for run_id in (*self.beginnings.live(), *self.beginnings.ended()):
                    records = await self._patiently(partial(records_of, run_id, self.beginnings, memory))
                    for part in _parts(records):
                        await self._commit(part)
                break
            except StoreGap as again:
                logger.error("%s; once more", again)
        logger.warning("the store %s has again what is held", self._store.url)

    async def _commit(self, records: Sequence[Record]) -> None:
        """Lands one batch. Its number is taken when it has landed: sent again, it has the same."""
        batch = Batch(self._number + 1, records)
        await self._patiently(partial(self._store.commit, batch))
        self._number = batch.number
        self.batches += 1

    async def _patiently(self, act: Callable[[], Awaitable[T]]) -> T:
        """Does something in the store; while that is away, again and again."""
        delay = RETRY_FIRST
        while True:
            try:
                result = await act()
            except StoreUnavailable as error:
                self._is_away(error)
                await asyncio.sleep(delay)
                delay = min(2 * delay, RETRY_MAX)
            else:
                self._is_back()
                return result


def _some(make: Make | None) -> Sequence[Make]:
    return () if make is None else (make,)


def _made(makes: Sequence[Make]) -> Written:
    """All of it. The last ones first: what they make of a run leaves nothing for those before them."""
    records: list[Record] = []
    then: list[Then] = []
    for make in reversed(makes):
        more, calls = make()
        records.extend(more)
        then.extend(calls)
    return Written(records, then)


def _parts(records: Sequence[Record]) -> Iterable[Sequence[Record]]:
    """The records in pieces that one batch may hold; a single record may be larger than the bound."""
    part: list[Record] = []
    size = 0
    for record in records:
        extra = size_of(record)
        if part and (size + extra > BATCH_BYTES_MAX or len(part) >= BATCH_RECORDS_MAX):
            yield part
            part, size = [], 0
        part.append(record)
        size += extra
    if part:
        yield part
