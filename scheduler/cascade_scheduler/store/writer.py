"""Brings the turns' records to the store, in order, and says when they are there."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Iterable, Sequence
from functools import partial
from typing import TypeVar

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

__all__ = ["StoreWriter"]

T = TypeVar("T")

Then = Callable[[], None]

BATCH_RECORDS_MAX = 20_000
BATCH_BYTES_MAX = 16 << 20
BATCH_BYTES_AT_ONCE = 1 << 20
"""So much goes without waiting for more."""
TOGETHER_SECONDS = 0.002
"""How long a record that nobody is in a hurry for waits for others."""
RETRY_FIRST = 0.05
RETRY_MAX = 5.0
"""Seconds between two tries while the store is away: from, to."""
_MAY_WAIT = frozenset(
    (
        *(RunCreated, RunEvents, RunRenewed, SaveAttempt, SaveCheckpoint, SaveDue, SaveFacts, SaveFrame),
        *(SaveResult, SaveSkip),
    )
)
"""What a run leaves while it goes on, and that it has begun: who submits does not wait for that."""

logger = logging.getLogger("cascade.scheduler")


class StoreWriter:
    """At most one batch is in flight; what comes meanwhile is the next one, so batches land in order.

    What nobody is in a hurry for waits a moment for more of its kind: a batch costs the scheduler and the
    store about the same, whether it brings one result or a hundred. The end of a run goes at once, with all
    that waits; so a short run is one batch.

    While the store is away, records wait here. Past `backlog_max` bytes `room` is cleared: services then take
    no reports and no submits until it is set again, so the cluster holds still instead of growing.
    """

    def __init__(
        self, store: RunStore, *, on_fenced: Callable[[StoreFenced], None], backlog_max: int = 256 << 20
    ) -> None:
        self._store = store
        self.bell = Bell()
        """Held while callbacks run, so that what they say to one peer is one message."""
        self._on_fenced = on_fenced
        self._backlog_max = backlog_max
        self._waiting: deque[tuple[Sequence[Record], Sequence[Then]]] = deque()
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

    def put(self, records: Sequence[Record], then: Sequence[Then]) -> None:
        """Takes the records of one turn; calls all of `then` once they and all before them have landed.

        With an immediate store that is before `put` returns.
        """
        if self.immediate:
            if records:
                self._number += 1
                self._store.apply(Batch(self._number, records))
            for call in then:
                call()
            return
        if not records and not self._waiting and self._task is None:
            for call in then:
                call()
            return
        self.beginnings.note(records)
        self._waiting.append((records, then))
        self._backlog += sum(map(size_of, records))
        if self._backlog > self._backlog_max:
            self.room.clear()
        if not records or self._backlog > BATCH_BYTES_AT_ONCE or not _MAY_WAIT.issuperset(map(type, records)):
            self._hurry = True
        self._go_on()

    def _go_on(self) -> None:
        """Begins to write, now or when what waits has waited for its moment."""
        if self._task is not None:
            return
        if self._hurry:
            self._start()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TOGETHER_SECONDS, self._start)

    def seen(self, error: StoreUnavailable | None) -> None:
        """Somebody else has asked the store: why it is away; None: it has answered."""
        if error is not None:
            self._is_away(error)
        elif self._task is None:  # else whoever writes finds out
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
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._drain(), name="store writer")

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
        while self._waiting or self._task is not None:
            self._start()
            assert self._task is not None
            done, _ = await asyncio.wait((self._task,), timeout=max(0.0, until - time.monotonic()))
            if not done:
                return False
        return True

    async def close(self) -> None:
        """Stops; what has not landed is lost."""
        if self._timer is not None:
            self._timer.cancel()
        task = self._task
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))

    async def _drain(self) -> None:
        try:
            while (self._waiting and self._hurry) or self._gap is not None:
                if self._gap is not None:
                    await self._mend(self._gap)
                    continue
                records, then, rest = self._next()
                for part in _parts(records):
                    await self._land(part)
                with self.bell:
                    for call in then:
                        call()
                self._backlog -= rest
                if self._backlog <= self._backlog_max // 2:
                    self.room.set()
        except StoreFenced as error:
            self._on_fenced(error)
            return
        except Exception as error:
            if self.on_bug is None:
                raise
            self.on_bug(error)  # what it had taken to write is gone, and nobody may be told of more
            return
        finally:
            self._task = None
        if self._waiting:
            self._go_on()

    def _next(self) -> tuple[list[Record], list[Then], int]:
        """Takes whole turns up to the bound; one turn above it becomes several batches."""
        records: list[Record] = []
        calls: list[Then] = []
        size = 0
        while self._waiting and size < BATCH_BYTES_MAX and len(records) < BATCH_RECORDS_MAX:
            more, then = self._waiting.popleft()
            records.extend(more)
            calls.extend(then)
            size += sum(map(size_of, more))
        self._hurry = bool(self._waiting)
        return records, calls, size

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
