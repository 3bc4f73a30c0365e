"""`client://`: results and skips go to the client that started this scheduler, for backends of its own.

So a private cluster serves `state_backend=` where it is an object or a factory: the values are loaded in the
client's process, never here. A commit waits for the client's acknowledgement as one in Redis waits for Redis,
so a client hears of a result only when its backend has it. There is no way back: nothing is resumed from it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias, Union

from cascade_scheduler.core.commands import SaveFrame, SaveResult, SaveSkip
from cascade_scheduler.store.base import Batch, without_superseded
from cascade_scheduler.store.memory import ForgetfulStore

__all__ = ["CLIENT_STATE", "Kept", "KeeperStore", "Pending"]

CLIENT_STATE = "client://"

Kept: TypeAlias = Union[SaveResult, SaveSkip, SaveFrame]
"""What a client is told."""


class Pending(NamedTuple):
    """A batch that the client has not acknowledged. Numbered from 1 without gaps."""

    number: int
    records: Sequence[Kept]


class KeeperStore(ForgetfulStore):
    """One batch waits for the client at a time; sent again, on another stream, it has the same number.

    There is nothing to load: what a client keeps stays there.
    """

    def __init__(self, epoch: int) -> None:
        super().__init__(epoch)
        self._pending: Pending | None = None
        self._number = 0
        self._changed = asyncio.Condition()
        self._dismissed = False
        """The client has gone in order: nobody will keep anything any more."""

    @property
    def url(self) -> str:
        """The store as people may see it."""
        return CLIENT_STATE

    @property
    def immediate(self) -> bool:
        """A commit waits for the client."""
        return False

    def apply(self, batch: Batch) -> None:
        """The client is waited for: see `commit`."""
        raise TypeError("a store of a client takes batches by commit")

    async def commit(self, batch: Batch) -> None:
        """Has the client keep what of the batch is results and skips; the end of the client ends the wait."""
        told = [
            record
            for record in without_superseded(batch.records)
            if isinstance(record, (SaveResult, SaveSkip, SaveFrame))
        ]
        if not told:
            return
        async with self._changed:
            self._number += 1
            self._pending = Pending(self._number, told)
            self._changed.notify_all()
            await self._changed.wait_for(lambda: self._pending is None or self._dismissed)
            self._pending = None

    # --- the client's side -----------------------------------------------------------------------

    async def pending(self) -> Pending:
        """The batch that is to be kept next; waits for one."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._pending is not None)
            assert self._pending is not None
            return self._pending

    async def acknowledge(self, number: int) -> None:
        """The client has kept a batch."""
        async with self._changed:
            if self._pending is not None and self._pending.number == number:
                self._pending = None
                self._changed.notify_all()

    async def dismiss(self) -> None:
        """The client has gone in order: from now on nothing waits for it."""
        async with self._changed:
            self._dismissed = True
            self._changed.notify_all()

    async def close(self) -> None:
        """Nothing waits any more."""
        await self.dismiss()
