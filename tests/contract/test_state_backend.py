"""What every state of a run keeps to: in memory, in Redis, and where schedulers write it or read it."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis.asyncio

import cascade_dist as cs
from cascade_dist.storage.seal import Sealer
from cascade_scheduler.core.commands import SaveResult, SaveSkip
from cascade_scheduler.store.base import Batch, Record, StoredRun
from cascade_scheduler.store.redis import RedisStore
from tests.contract.test_run_store import created

KEY = b"k" * 32

Open = Callable[[str], cs.StateBackend]


class WrittenByAScheduler:
    """What is put goes in by the store of a scheduler, and is read by hand."""

    def __init__(self, run_id: str, client: Any, store: RedisStore, numbers: Any) -> None:
        self._run_id = run_id
        self._state = cs.RedisStateBackend(run_id, client)
        self._store = store
        self._numbers = numbers

    async def _land(self, record: Record) -> None:
        await self._store.commit(Batch(next(self._numbers), [record]))

    async def put_result(self, node_id: str, result: Any) -> None:
        await self._land(SaveResult(self._run_id, 0, node_id, 7, pickle.dumps(result, 5), True, 1))

    async def mark_skipped(self, node_id: str, reason: str) -> None:
        await self._land(SaveSkip(self._run_id, 0, node_id, reason))

    async def get_result(self, node_id: str) -> Any:
        return await self._state.get_result(node_id)

    async def has_result(self, node_id: str) -> bool:
        return await self._state.has_result(node_id)

    async def get_skip_reason(self, node_id: str) -> str | None:
        return await self._state.get_skip_reason(node_id)

    async def clear(self) -> None:
        await self._state.clear()


class ReadByAScheduler:
    """What is put goes in by hand, and is read by the store of a scheduler."""

    def __init__(self, run_id: str, client: Any, store: RedisStore, numbers: Any) -> None:
        self._run_id = run_id
        self._state = cs.RedisStateBackend(run_id, client)
        self._store = store
        self._numbers = numbers
        self._known = False

    async def _run(self) -> StoredRun:
        if not self._known:
            self._known = True
            await self._store.commit(Batch(next(self._numbers), [created(self._run_id)]))
        found = await self._store.load_run(self._run_id)
        assert found is not None
        return found

    async def put_result(self, node_id: str, result: Any) -> None:
        await self._run()
        await self._state.put_result(node_id, result)

    async def mark_skipped(self, node_id: str, reason: str) -> None:
        await self._run()
        await self._state.mark_skipped(node_id, reason)

    async def get_result(self, node_id: str) -> Any:
        found = (await self._run()).results.get(node_id)
        if found is None:
            return None
        assert isinstance(found.value, bytes)
        return pickle.loads(found.value)

    async def has_result(self, node_id: str) -> bool:
        return node_id in (await self._run()).results

    async def get_skip_reason(self, node_id: str) -> str | None:
        return (await self._run()).skipped.get(node_id)

    async def clear(self) -> None:
        await self._state.clear()


@pytest.fixture(autouse=True)
def seal_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASCADE_SEAL_KEY", KEY.decode())


@pytest.fixture
async def client(redis_server: str) -> AsyncIterator[Any]:
    """A client of a database that is empty."""
    made = redis.asyncio.Redis.from_url(redis_server)
    await made.flushdb()
    yield made
    await made.aclose()


@pytest.fixture
async def store(redis_server: str, client: Any) -> AsyncIterator[RedisStore]:
    """The store of a scheduler."""
    made = RedisStore(redis_server, Sealer(KEY))
    await made.open()
    yield made
    await made.close()


@pytest.fixture
async def url(redis_server: str, client: Any) -> AsyncIterator[str]:
    """Of a database that is empty; connections that were made of it are closed."""
    yield redis_server
    await cs.RedisStateBackend("r", redis_server).close()


@pytest.fixture(params=["memory", "redis", "redis-url", "written-by-a-scheduler", "read-by-a-scheduler"])
def open_state(request: pytest.FixtureRequest) -> Open:
    """Opens the state of a run."""
    if request.param == "memory":
        return cs.InMemoryStateBackend
    if request.param == "redis-url":
        url = request.getfixturevalue("url")
        return lambda run_id: cs.RedisStateBackend(run_id, url)
    client = request.getfixturevalue("client")
    if request.param == "redis":
        return lambda run_id: cs.RedisStateBackend(run_id, client)
    store, numbers = request.getfixturevalue("store"), itertools.count(1)
    kind = WrittenByAScheduler if request.param.startswith("written") else ReadByAScheduler
    return lambda run_id: kind(run_id, client, store, numbers)


VALUES = [None, 0, "", [1, {"a": (2.5, b"\0")}], b"x" * 100_000, {1, 2}, ValueError("kept")]


async def test_values_round_trip(open_state: Open) -> None:
    state = open_state("r")
    assert isinstance(state, cs.StateBackend)
    for number, value in enumerate(VALUES):
        assert not await state.has_result(f"n{number}")
        assert await state.get_result(f"n{number}") is None
        await state.put_result(f"n{number}", value)
        assert await state.has_result(f"n{number}")
        assert repr(await state.get_result(f"n{number}")) == repr(value)
    await state.put_result("n0", "another")
    assert await state.get_result("n0") == "another"


async def test_children_of_a_map_have_keys_of_their_own(open_state: Open) -> None:
    state = open_state("r")
    await state.put_result("n", "the node")
    for index in range(3):
        await state.put_result(f"n[{index}]", index)
    assert [await state.get_result(f"n[{index}]") for index in range(3)] == [0, 1, 2]
    assert await state.get_result("n") == "the node"


async def test_skips_have_reasons(open_state: Open) -> None:
    state = open_state("r")
    assert await state.get_skip_reason("n") is None
    await state.mark_skipped("n", "ConditionFalse ☃")
    assert await state.get_skip_reason("n") == "ConditionFalse ☃"
    assert not await state.has_result("n")


async def test_runs_do_not_mix(open_state: Open) -> None:
    one, other = open_state("one"), open_state("other")
    await one.put_result("n", 1)
    await one.mark_skipped("m", "Pruned")
    assert not await other.has_result("n")
    await other.clear()
    assert await one.get_result("n") == 1
    assert await other.get_skip_reason("m") is None


async def test_s89_clear_leaves_neither_results_nor_reasons(open_state: Open) -> None:
    state = open_state("r")
    await state.clear()
    await state.put_result("n", None)
    await state.mark_skipped("m", "Pruned")
    await state.clear()
    assert not await state.has_result("n")
    assert await state.get_skip_reason("m") is None
    await state.put_result("n", 1)
    assert await state.get_result("n") == 1
