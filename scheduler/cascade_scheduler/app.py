"""The scheduler process: puts the rooms together, leads or stands by, serves, drains, ends."""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial

from cascade_scheduler.blobs.base import BlobError, BlobStore
from cascade_scheduler.core.events import Event
from cascade_scheduler.front import Front, StartError
from cascade_scheduler.hub import Hub
from cascade_scheduler.leading import Candidate, LeadKeeper, this_process
from cascade_scheduler.life import Life, SchedulerOptions
from cascade_scheduler.solving import SolverProcess
from cascade_scheduler.store.base import RunStore, StoreError, StoreFenced, StoreUnavailable
from cascade_scheduler.store.cache import CacheStore, MemoryCacheStore
from cascade_scheduler.store.shared import Holder, SharedStore
from cascade_scheduler.story import write_story
from cascade_scheduler.turn import Turn

__all__ = ["EXIT_BUG", "EXIT_FENCED", "Scheduler", "SchedulerOptions", "StartError"]

EXIT_BUG = 70
"""Exit code after a bug in the core; what it knew is not to be trusted."""
EXIT_FENCED = 75
"""Exit code when another scheduler has taken over the store; started again, this one stands by."""
STOP_SECONDS = 2.0
STOP_NOW_SECONDS = 0.2
"""So that sessions can still be told why they end."""
CONNECT_SECONDS = 0.25
"""How often a store that is not there is looked for at the start."""
READY_SECONDS = 1.0
"""How often the answer of the health service is looked at."""

logger = logging.getLogger("cascade.scheduler")


class Scheduler:
    """One scheduler process, inside a running event loop."""

    def __init__(
        self, options: SchedulerOptions, store: RunStore, blobs: BlobStore, cache: CacheStore | None = None
    ) -> None:
        self.options = options
        self._store = store
        self._cache = cache or MemoryCacheStore(options.bounds.cluster_cache_bytes_max)
        self._blobs = blobs
        self._stop = asyncio.Event()
        self._now = asyncio.Event()
        self._front = Front(
            options.host,
            options.port,
            token=options.token,
            credentials=options.credentials,
            unix_socket=options.socket,
        )
        self._solver: SolverProcess | None = None
        self._life: Life | None = None
        self._lead: LeadKeeper | None = None
        self._standing: asyncio.Task[None] | None = None
        self._ready_timer: asyncio.Task[None] | None = None
        self.on_lead: Callable[[], None] = lambda: None
        """Called when a standby has taken the lead."""
        self.exit_code = 0
        self.address = ""

    @property
    def leader(self) -> Holder | None:
        """Who leads, as far as this standby knows; None when it is this scheduler."""
        return self._candidate.leader if self._standing is not None else None

    @property
    def hub(self) -> Hub:
        """The books of the shell, of a scheduler that leads."""
        assert self._life is not None
        return self._life.hub

    @property
    def turn(self) -> Turn:
        """The turn of a scheduler that leads."""
        assert self._life is not None
        return self._life.turn

    async def start(self) -> str:
        """Opens the store, listens, and leads or stands by; returns the address.

        Raises:
            StoreError: the store cannot be used.
            StartError: the address cannot be bound, or another scheduler leads and this one may not wait.
        """
        store = self._store if isinstance(self._store, SharedStore) else None
        try:
            if store is not None:
                await self._connect(store)
            await self._open_solver()
            self.address = await self._front.open()
            if store is None:
                await self._begin(await self._store.open())
            else:
                await self._claim(store)
        except BaseException:
            await self._end()
            raise
        return self.address

    async def _connect(self, store: SharedStore) -> None:
        """Connects; a store that is not there yet is waited for, since it may be starting too.

        Raises:
            StoreError: it cannot be used, or did not come in time.
        """
        until = time.monotonic() + self.options.store_wait
        told = False
        while True:
            try:
                await store.connect()
                return
            except StoreUnavailable as error:
                if time.monotonic() + CONNECT_SECONDS > until:
                    raise
                if not told:
                    logger.warning("%s; it is waited for, at most %g s", error, self.options.store_wait)
                told = True
            await asyncio.sleep(CONNECT_SECONDS)

    async def _open_solver(self) -> None:
        if self.options.solver == "native":
            return
        solver = self._solver = SolverProcess(self.options.solver, self.options.solver_timeout)
        try:
            await solver.open()
        except Exception as error:
            raise StartError(f"solver {solver.name!r} cannot be used: {error}") from error

    # --- the lead --------------------------------------------------------------------------------

    async def _claim(self, store: SharedStore) -> None:
        """Leads, or stands by."""
        self._candidate = Candidate(store, this_process(self.address), self.options.lease)
        epoch = await self._candidate.attempt()
        if epoch is not None:
            await self._begin(epoch)
            return
        if not self.options.standby:
            await self._begin(await self._claim_soon(store))
            return
        leader = self._candidate.leader
        if leader is not None:
            self._follow(leader)
        self._standing = asyncio.create_task(self._stand_by(), name="standby")

    async def _claim_soon(self, store: SharedStore) -> int:
        """The new epoch, if the lease of who led ends in its time."""
        leader = self._candidate.leader
        try:
            if leader is None or leader.machine != self._candidate.mine.machine:  # else it is seen to live
                async with asyncio.timeout(2 * self.options.lease):
                    return await self._candidate.wait(self._follow)
        except TimeoutError:
            leader = self._candidate.leader
        who = "another scheduler" if leader is None else f"the scheduler at {leader.address}"
        raise StartError(
            f"{who} leads the state in {store.url}: connect to it, or choose another database in --state"
        )

    def _follow(self, leader: Holder) -> None:
        logger.info(
            "standing by: the scheduler at %s (%s, process %d) leads", leader.address, leader.host, leader.pid
        )
        self._front.refuse(
            f"this scheduler is a standby; the leader is at {leader.address} (on {leader.host}): give that "
            "address too, with a comma between"
        )

    async def _stand_by(self) -> None:
        try:
            epoch = await self._candidate.wait(self._follow)
            while not await self._take_over(epoch):
                epoch = await self._candidate.wait(self._follow)
            logger.warning("this scheduler leads now, in epoch %d", epoch)
            self._standing = None
            self.on_lead()
        except (StoreError, BlobError) as error:
            logger.critical("this standby could not take over: %s", error)
            self._fail(1)
        except Exception as error:
            self._bug(error, ())

    async def _take_over(self, epoch: int) -> bool:
        """Leads; False when the store went away meanwhile, and this scheduler waits on."""
        try:
            await self._begin(epoch)
        except StoreUnavailable as error:
            logger.warning("this standby could not take over, and waits on: %s", error)
            life, self._life = self._life, None
            lead, self._lead = self._lead, None
            if life is not None:
                await life.say_goodbye("it could not begin", flush=False)
                await life.close()
            if lead is not None:
                await lead.stop()
            return False
        return True

    async def _begin(self, epoch: int) -> None:
        """This scheduler leads."""
        life = self._life = Life(
            self.options,
            self._store,
            self._blobs,
            self._cache,
            epoch=epoch,
            solver=self._solver,
            on_fenced=self._fenced,
            on_bug=self._bug,
        )
        if isinstance(self._store, SharedStore):
            self._front.refuse("this scheduler is taking up what the last leader left: call again")
            self._lead = LeadKeeper(
                self._store,
                self.options.lease,
                on_fenced=self._fenced,
                on_gap=life.writer.mend,
                on_bug=life.turn.bug,
                on_seen=life.writer.seen,
            )
            await self._lead.start()
        await self._blobs.open()
        await life.open()
        if self._lead is not None:
            self._lead.begun()
        await self._front.serve(partial(life.add_services, address=self.address))
        self._ready_timer = asyncio.create_task(self._watch_readiness(life), name="readiness")

    async def _watch_readiness(self, life: Life) -> None:
        while True:
            await self._front.ready(life.ready)
            await asyncio.sleep(READY_SECONDS)

    # --- the end ---------------------------------------------------------------------------------

    def stop(self) -> None:
        """Drains and ends; called again, ends now."""
        if self._stop.is_set():
            self._now.set()
        self._stop.set()

    def stop_now(self) -> None:
        """Ends without a drain."""
        self._now.set()
        self._stop.set()

    async def run(self) -> int:
        """Serves until stopped; returns the exit code."""
        await self._stop.wait()
        if not self._now.is_set() and self._life is not None:
            drain = asyncio.create_task(self._life.drain(), name="drain")
            now = asyncio.create_task(self._now.wait(), name="second signal")
            await asyncio.wait((drain, now), return_when=asyncio.FIRST_COMPLETED)
            for task in (drain, now):
                task.cancel()
        await self._end()
        return self.exit_code

    async def _end(self) -> None:
        """Ends what there is; also half way through the start."""
        for task in (self._standing, self._ready_timer):
            if task is not None and task is not asyncio.current_task():
                task.cancel()
                await asyncio.wait((task,))
        life = self._life
        if life is not None and not await life.say_goodbye(
            "the scheduler is going away", flush=not self._now.is_set()
        ):
            self.exit_code = self.exit_code or 1
        if self._lead is not None:
            await self._lead.stop()
        await self._front.close(STOP_NOW_SECONDS if self._now.is_set() else STOP_SECONDS)
        if life is not None:
            await life.close()
        if self._solver is not None:
            await self._solver.close()
        await self._cache.close()
        await self._store.close()
        await self._blobs.close()

    def _fenced(self, error: StoreFenced) -> None:
        logger.critical("%s; this scheduler ends, so that two do not give different answers", error)
        self._fail(EXIT_FENCED)

    def _bug(self, error: BaseException, story: Sequence[tuple[float, Sequence[Event]]]) -> None:
        text = "".join(traceback.format_exception(error))
        where = None
        if self.options.story_dir is not None:
            where = write_story(self.options.story_dir, time.time(), text, story)
        logger.critical(
            "a bug in the scheduler: it ends, because what it knows can no longer be trusted. %s\n%s",
            f"The last events are in {where}; please report them." if where else "",
            text,
        )
        self._fail(EXIT_BUG)

    def _fail(self, code: int) -> None:
        self.exit_code = code
        self.stop_now()
