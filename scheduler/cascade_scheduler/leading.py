"""Who leads: taking the lease of a shared store, keeping it, and waiting for it as a standby.

A lease only says who may begin an epoch; batches of an older epoch never land, however long a leader slept.
So losing a lease is no harm to anything that is stored, and a leader that finds it free takes it again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable
from pathlib import Path

from cascade_scheduler.store.base import StoreFenced, StoreGap, StoreUnavailable
from cascade_scheduler.store.shared import Holder, SharedStore

__all__ = ["LEASE_SECONDS", "Candidate", "LeadKeeper", "Patience", "is_dead", "this_process"]

LEASE_SECONDS = 3.0
POLL_SECONDS_MAX = 0.5
BEGIN_SECONDS = 30.0
"""How long others wait for a leader that is taking up what the last one left."""
RENEWALS = 3
"""In the time of a lease."""

logger = logging.getLogger("cascade.scheduler")


def this_process(address: str) -> Holder:
    """This process, as the holder of a lease. `address` is where it listens."""
    pid = os.getpid()
    started = _started(pid)
    machine = _machine() if started else ""
    return Holder(secrets.token_hex(8), address, socket.gethostname(), machine, pid, started or 0)


def is_dead(holder: Holder, mine: Holder) -> bool:
    """Whether a holder's process has certainly ended: that can be seen on its own machine alone."""
    if not holder.machine or holder.machine != mine.machine:
        return False
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    started = _started(holder.pid)
    return started is not None and started != holder.started


def _machine() -> str:
    """Names the kernel's life and the space that process ids count in; empty where it cannot be known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> int | None:
    """When a process began, in ticks of the kernel; 0 for one that is only left to be waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return 0 if fields[0] in "ZX" else int(fields[19])
    except (OSError, ValueError, IndexError):
        return None


class Patience:
    """When a standby may take a lease that nobody has.

    A leader that lives renews its lease long before it ends. But when the store was away, or came back
    without it, the lease is missing too, and then the leader shall be the one to take it again. So a standby
    takes what it has seen missing for a while.

    Args:
        grace: how long, in seconds.
    """

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._since: float | None = None

    def reset(self) -> None:
        """Somebody has the lease, or nobody knows."""
        self._since = None

    def missing(self, now: float) -> bool:
        """Nobody has the lease; whether it may be taken. `now` is of a clock that never runs back."""
        if self._since is None:
            self._since = now
        return now - self._since >= self._grace


class Candidate:
    """A scheduler that would lead.

    Args:
        store: where the lease is.
        mine: this process.
        ttl: of the lease, in seconds.
    """

    def __init__(self, store: SharedStore, mine: Holder, ttl: float) -> None:
        self._store = store
        self.mine = mine
        self._ttl = ttl
        self._away = False
        self.leader: Holder | None = None
        """Who leads, as far as is known."""

    async def attempt(self) -> int | None:
        """The new epoch, if nobody leads now.

        Raises:
            StoreUnavailable: the store cannot be reached.
        """
        holder = await self._store.holder()
        if holder is not None and not self._is_over(holder):
            self.leader = holder
            return None
        epoch = await self._store.claim(self.mine, self._ttl, holder)
        if epoch is None:
            self.leader = await self._store.holder()
        return epoch

    async def wait(self, changed: Callable[[Holder], None]) -> int:
        """Waits until the lead is free; returns the new epoch. `changed` is told of each leader."""
        patience = Patience(self._ttl / 2)
        while True:
            await asyncio.sleep(min(POLL_SECONDS_MAX, self._ttl / 4))
            try:
                epoch = await self._look(patience, changed)
            except StoreUnavailable as error:
                patience.reset()
                if not self._away:
                    logger.warning("this standby cannot see who leads: %s", error)
                self._away = True
                continue
            self._away = False
            if epoch is not None:
                return epoch

    async def _look(self, patience: Patience, changed: Callable[[Holder], None]) -> int | None:
        holder = await self._store.holder()
        if holder is None:
            if not patience.missing(time.monotonic()):
                return None
            return await self._store.claim(self.mine, self._ttl)
        if self._is_over(holder):
            return await self._store.claim(self.mine, self._ttl, holder)
        patience.reset()
        if self.leader is None or self.leader.owner != holder.owner:
            self.leader = holder
            changed(holder)
        return None

    def _is_over(self, holder: Holder) -> bool:
        """The lease was given back, or its holder is no more."""
        return not holder.owner or is_dead(holder, self.mine)


class LeadKeeper:
    """Renews the lease while this scheduler leads.

    Args:
        store: where the lease is.
        ttl: of the lease, in seconds.
        on_fenced: another scheduler leads now.
        on_gap: the store has lost what it had acknowledged.
        on_bug: something happened that cannot.
        on_seen: how the store was: why it is away, or None when it has answered.
    """

    def __init__(
        self,
        store: SharedStore,
        ttl: float,
        *,
        on_fenced: Callable[[StoreFenced], None],
        on_gap: Callable[[StoreGap], None],
        on_bug: Callable[[BaseException], None],
        on_seen: Callable[[StoreUnavailable | None], None] = lambda error: None,
    ) -> None:
        self._store = store
        self._ttl = ttl
        self._on_fenced = on_fenced
        self._on_gap = on_gap
        self._on_seen = on_seen
        self._on_bug = on_bug
        self._time = ttl
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begins to renew, for longer at first: taking up what the last leader left may hold this process up.

        Raises:
            StoreError: the lease is lost again, or the store away.
        """
        self._time = max(BEGIN_SECONDS, self._ttl)
        await self._store.renew(self._time)
        self._task = asyncio.create_task(self._keep(), name="lease")
        self._task.add_done_callback(self._ended)

    def begun(self) -> None:
        """What the last leader left is taken up: from now on the lease is renewed for its own time."""
        self._time = self._ttl

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._on_bug(error)

    async def stop(self) -> None:
        """Ends, and gives the lease back if it is still ours."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        await self._store.release()

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self._ttl / RENEWALS)
            try:
                await self._store.renew(self._time)
                self._on_seen(None)
            except StoreFenced as error:
                self._on_fenced(error)
                return
            except StoreGap as error:
                self._on_gap(error)
            except StoreUnavailable as error:
                self._on_seen(error)
