"""A run's state in Redis means the same to `RedisStateBackend` and to the store of schedulers, both ways."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio

import cascade_dist as cs
from cascade_dist.codec.cid import cid_of
from cascade_dist.storage.seal import Sealer
from cascade_scheduler.core.commands import SaveResult, SaveSkip
from cascade_scheduler.core.values import BlobValue, ObjectValue
from cascade_scheduler.store.base import Batch, RunCreated, StoredFunction, StoredResult, StoredRun
from cascade_scheduler.store.redis import RedisStore

KEY = b"k" * 32


@pytest.fixture
async def client(redis_server: str) -> AsyncIterator[Any]:
    """A client of a database that is empty."""
    made = redis.asyncio.Redis.from_url(redis_server)
    await made.flushdb()
    yield made
    await made.aclose()


@pytest.fixture
async def store(redis_server: str, client: Any) -> AsyncIterator[RedisStore]:
    """The store of a scheduler, with a run in it."""
    made = RedisStore(redis_server, Sealer(KEY))
    await made.open()
    body = b"\x80\x05N."
    function = StoredFunction(cid_of(body), "mod.f", body, b"\1")
    created = RunCreated("r", "", "cancel", True, 1.0, "aa", 1, b"", b"t", (b"c",), b"e", (function,))
    await land(made, 1, created)
    yield made
    await made.close()


@pytest.fixture
def state(client: Any, monkeypatch: pytest.MonkeyPatch) -> cs.RedisStateBackend:
    """The same run, opened by hand."""
    monkeypatch.setenv("CASCADE_SEAL_KEY", KEY.decode())
    return cs.RedisStateBackend("r", client)


async def land(store: RedisStore, number: int, *records: Any) -> None:
    await asyncio.wait_for(store.commit(Batch(number, records)), 20)


async def load(store: RedisStore) -> StoredRun:
    return {run.created.run_id: run async for run in store.load()}["r"]


async def test_what_a_scheduler_stores_is_read(store: RedisStore, state: cs.RedisStateBackend) -> None:
    await land(
        store,
        2,
        SaveResult("r", 0, "aa", 7, pickle.dumps({"x": 1}, 5), True, 1),
        SaveResult("r", 1, "bb[0]", 8, BlobValue(cid_of(b"x"), 70_000)),
        SaveResult("r", 2, "bb[1]", 9, ObjectValue(9, 80_000, "worker-1", "host:1")),
        SaveSkip("r", 3, "cc", "ConditionFalse"),
    )
    assert await state.get_result("aa") == {"x": 1}
    for node, words in (("bb[0]", "70,000 bytes.*blob"), ("bb[1]", "80,000 bytes.*worker-1")):
        assert await state.has_result(node)
        with pytest.raises(cs.ResultMissingError, match=words):
            await state.get_result(node)
    assert await state.get_skip_reason("cc") == "ConditionFalse"
    assert not await state.has_result("cc")


async def test_what_is_put_by_hand_a_scheduler_loads(store: RedisStore, state: cs.RedisStateBackend) -> None:
    await land(store, 2, SaveResult("r", 0, "aa", 7, pickle.dumps([1], 5), True, 1))
    await state.put_result("aa", [])
    await state.put_result("bb", None)
    await state.mark_skipped("cc", "Pruned")
    found = await load(store)
    assert found.results == {
        "aa": StoredResult(0, pickle.dumps([], 5)),
        "bb": StoredResult(0, pickle.dumps(None, 5)),
    }
    assert found.skipped == {"cc": "Pruned"}


async def test_s89_after_clear_a_scheduler_finds_a_run_without_results(
    store: RedisStore, state: cs.RedisStateBackend
) -> None:
    await land(
        store, 2, SaveResult("r", 0, "aa", 7, pickle.dumps(1, 5), True), SaveSkip("r", 1, "cc", "Pruned")
    )
    await state.clear()
    found = await load(store)
    assert (found.results, found.skipped, found.state) == ({}, {}, "running")
