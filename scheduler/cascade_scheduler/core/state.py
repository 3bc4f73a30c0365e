"""The core: events in, commands out. See the package for the rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cascade_scheduler.core import (
    adopting,
    attempts,
    closing,
    cluster_cache,
    constraints,
    frames,
    leases,
    observing,
    placement,
    runs,
    waits,
    workers,
)
from cascade_scheduler.core.books import Books, Settings
from cascade_scheduler.core.commands import Command
from cascade_scheduler.core.events import (
    CacheAnswered,
    ConstraintsCleared,
    ConstraintSet,
    ConstraintsLoaded,
    Event,
    MessageArrived,
    PlanMade,
    RosterKnown,
    RunCancelRequested,
    RunForgotten,
    RunRecovered,
    RunSubmitted,
    Tick,
    WorkerConnected,
    WorkerDisconnected,
    WorkerReported,
)

__all__ = ["Core", "Settings"]


def _on_tick(books: Books, event: Tick) -> None:
    workers.lose_overdue(books)


_HANDLERS: dict[type[Any], Callable[[Any, Any], None]] = {
    RunSubmitted: runs.on_submitted,
    RosterKnown: adopting.on_roster,
    RunRecovered: adopting.on_recovered,
    RunCancelRequested: runs.on_cancel_requested,
    RunForgotten: runs.on_forgotten,
    WorkerConnected: workers.on_connected,
    WorkerDisconnected: workers.on_disconnected,
    WorkerReported: workers.on_reported,
    ConstraintSet: constraints.on_set,
    ConstraintsCleared: constraints.on_cleared,
    ConstraintsLoaded: constraints.on_loaded,
    MessageArrived: waits.on_message,
    PlanMade: frames.on_plan_made,
    CacheAnswered: cluster_cache.on_answered,
    Tick: _on_tick,
}


class Core(Books):
    """The scheduler's state machine."""

    def turn(self, events: Sequence[Event], now: float) -> list[Command]:
        """Takes what happened, in order, at the time `now` (seconds since the Unix epoch); says what to do.

        The time never runs back here: an earlier `now` counts as the latest one.
        """
        self.now = max(self.now, now)
        self.out = []
        for event in events:
            _HANDLERS[type(event)](self, event)
            if self.frames_over:
                frames.hand_over(self)
        if self.closing:
            closing.expire(self)
        if self.delayed:
            attempts.wake_delayed(self)
        if self.timers:
            waits.wake(self)
        if self.lines.limits.expires_at is not None:
            constraints.expire(self)
        if self.to_observe:
            observing.dispatch(self)
        if self.frames_over:
            frames.hand_over(self)
        placement.dispatch(self)
        if self.frames_over:  # an amount that can never be had
            frames.hand_over(self)
            placement.dispatch(self)
        return self.out

    @property
    def next_wakeup(self) -> float | None:
        """When the core wants a Tick at the latest; None: not before something happens."""
        look = self.queues.next_look(self.now, self.settings.starving_after)
        expiry = self.lines.limits.expires_at
        if not (
            look is not None
            or self.delayed
            or self.timers
            or self.balance_at
            or self.away
            or self.infeasible
            or self.token_at
            or self.closing
            or self.lease_waits
            or expiry is not None
        ):
            return None
        times: list[float] = []
        if self.token_at:
            times.append(self.token_at)
        if expiry is not None:
            times.append(expiry)
        if self.delayed:
            times.append(self.delayed[0][0])
        if self.timers:
            times.append(self.timers[0][0])
        if self.closing:
            times.append(closing.wakeup(self))
        if self.balance_at:
            times.append(self.balance_at)
        if self.lease_waits:
            times.append(min(self.lease_waits.values()) + leases.WAIT_SECONDS)
        if self.away:
            times.extend(worker.lost_at for worker in self.away.values())
        if self.infeasible:
            times.append(min(self.infeasible.values()) + self.settings.infeasible_after)
        if look is not None:
            times.append(look)  # then something is kept for who has waited so long
        return min(times, default=None)
