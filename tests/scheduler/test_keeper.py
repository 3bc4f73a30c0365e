"""A store whose state a client keeps: batches wait for its word, and for nothing once it is gone."""

from __future__ import annotations

import asyncio
import pickle

from cascade_scheduler.core.commands import SaveAttempt, SaveFrame, SaveOutcome, SaveResult, SaveSkip
from cascade_scheduler.store.base import Batch
from cascade_scheduler.store.keeper import KeeperStore

ONE = SaveResult("r", 0, "aa", 7, pickle.dumps(1, 5))
TWO = SaveSkip("r", 1, "bb", "Pruned")


async def test_a_commit_waits_for_the_acknowledgement() -> None:
    store = KeeperStore(1)
    commit = asyncio.ensure_future(store.commit(Batch(1, [SaveAttempt("r", 0, 7, 1, "w"), ONE, TWO])))
    pending = await store.pending()
    assert (pending.number, pending.records) == (1, [ONE, TWO])
    assert not commit.done()
    assert await store.pending() == pending, "one that comes again has the same number"
    await store.acknowledge(0)
    assert not commit.done()
    await store.acknowledge(1)
    await asyncio.wait_for(commit, 5)


async def test_batches_without_results_wait_for_nobody() -> None:
    store = KeeperStore(1)
    await asyncio.wait_for(store.commit(Batch(1, [SaveOutcome("r", "succeeded", "")])), 5)


async def test_what_a_later_frame_makes_void_is_not_told() -> None:
    store = KeeperStore(1)
    commit = asyncio.ensure_future(store.commit(Batch(1, [ONE, SaveFrame("r", 1, None), TWO])))
    pending = await store.pending()
    assert pending.records == [SaveFrame("r", 1, None), TWO]
    await store.acknowledge(pending.number)
    await commit


async def test_a_client_that_has_gone_in_order_is_not_waited_for() -> None:
    store = KeeperStore(1)
    commit = asyncio.ensure_future(store.commit(Batch(1, [ONE])))
    await store.pending()
    await store.dismiss()
    await asyncio.wait_for(commit, 5)
    await asyncio.wait_for(store.commit(Batch(2, [TWO])), 5)
