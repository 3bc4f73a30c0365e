"""The protocol of stores that several schedulers may reach."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

from cascade_scheduler.store.base import RunCreated, RunStore

__all__ = ["RELEASED", "Holder", "SharedStore"]


class Holder(NamedTuple):
    """Who leads, or wants to: as it stands in the lease, for others to judge and to tell people."""

    owner: str
    """Made anew by each scheduler at its start."""
    address: str
    host: str
    machine: str
    """Of the kernel's life and the process ids' space that `pid` counts in; empty: not known."""
    pid: int
    started: int
    """When the process began, in the kernel's ticks; tells it from a later one with its id."""


RELEASED = Holder("", "", "", "", 0, 0)
"""Whoever led has given the lease back."""


@runtime_checkable
class SharedStore(RunStore, Protocol):
    """A store that several schedulers may reach: who leads holds a lease in it, and only its batches land."""

    async def connect(self) -> None:
        """Connects, looks whether the store can be used, and warns of what it can lose.

        Raises:
            StoreError: it is not there, or cannot be used; names the URL and the remedy.
        """

    async def holder(self) -> Holder | None:
        """Who holds the lease, or RELEASED; None: it has ended, or never was.

        Raises:
            StoreUnavailable: the store cannot be reached now.
        """

    async def claim(self, mine: Holder, ttl: float, over: Holder | None = None) -> int | None:
        """Takes the lease for `ttl` seconds if nobody but `over` has it, and begins a new epoch.

        Returns:
            The epoch; None: somebody else holds the lease.

        Raises:
            StoreUnavailable: the store cannot be reached now.
        """

    async def renew(self, ttl: float) -> None:
        """Lets the lease that was claimed last for `ttl` seconds again.

        Raises:
            StoreUnavailable: the store cannot be reached now.
            StoreFenced: another scheduler leads.
            StoreGap: the store has lost what it had acknowledged.
        """

    async def release(self) -> None:
        """Gives the lease back, so that the next one need not wait; failing is no harm."""

    async def take_again(self) -> None:
        """After a gap: the lease and this epoch stand again, with batches numbered from 1.

        Raises:
            StoreUnavailable: the store cannot be reached now.
            StoreFenced: another scheduler leads.
        """

    async def has_run(self, created: RunCreated) -> bool:
        """Whether the store knows this very run, in its first frame: then its results can stay.

        Raises:
            StoreUnavailable: the store cannot be reached now.
        """
