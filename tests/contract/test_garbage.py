"""What stores free: imports that were not finished, keys that no index names; and nothing else."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import redis.asyncio

import cascade_dist as cs
from cascade_dist.storage.seal import Sealer
from cascade_scheduler.core.commands import SaveOutcome, SaveResult, SaveSkip
from cascade_scheduler.store.base import (
    RunAnswered,
    RunCreated,
    RunDropped,
    RunEvents,
    RunImporting,
    RunRenewed,
    StoredAnswer,
    StoredResult,
)
from cascade_scheduler.store.memory import MemoryStore
from cascade_scheduler.store.redis import RedisStore
from tests.contract.test_run_store import KEY, Open, created, land, open_store

__all__ = ["open_store"]

VALUE = pickle.dumps(1, 5)


def arriving(run_id: str = "r") -> tuple[Any, ...]:
    """The records of an import but for the last."""
    return (
        RunImporting(run_id),
        SaveResult(run_id, -1, "aa", 0, VALUE, True, 1),
        SaveSkip(run_id, -1, "bb", "Pruned"),
        RunEvents(run_id, 1, b"events"),
        RunAnswered(run_id, b"finish", ((0, "aa"),)),
        SaveOutcome(run_id, "failed", "ValueError: no"),
    )


async def test_an_import_is_seen_when_it_is_whole(open_store: Open) -> None:
    store = await open_store()
    await land(store, 1, *arriving())
    assert await store.load_run("r") is None
    assert await store.heads() == []
    await land(store, 2, created(imported=True), RunRenewed("r", 9_999_999_999.0))
    found = await store.load_run("r")
    assert found is not None
    assert found.created == created()
    assert (found.state, found.error) == ("failed", "ValueError: no")
    assert found.results == {"aa": StoredResult(0, VALUE, True, 1)}
    assert found.skipped == {"bb": "Pruned"}
    assert found.events == {1: b"events"}
    assert found.answer == StoredAnswer(b"finish", ((0, "aa"),))
    assert [head.run_id for head in await store.heads()] == ["r"]


async def test_an_import_takes_the_place_of_one_that_was_not_finished(open_store: Open) -> None:
    store = await open_store()
    await land(store, 1, RunImporting("r"), SaveResult("r", -1, "old", 0, VALUE))
    await land(store, 2, *arriving(), created(imported=True))
    found = await store.load_run("r")
    assert found is not None
    assert list(found.results) == ["aa"]


async def test_an_import_that_failed_leaves_nothing(open_store: Open) -> None:
    store = await open_store()
    await land(store, 1, *arriving(), RunDropped("r"))
    assert (await store.garbage((), dry_run=True)).runs == {}


async def test_an_import_that_was_not_finished_is_freed(open_store: Open) -> None:
    store = await open_store()
    await land(store, 1, *arriving("half"), *arriving("under-way"), created("whole"))
    for dry_run in (True, False):
        found = await store.garbage({"under-way"}, dry_run=dry_run)
        assert list(found.runs) == ["half"]
        assert found.named == 1
    assert (await store.garbage({"under-way"}, dry_run=False)).runs == {}
    assert await store.load_run("whole") is not None
    await land(store, 2, created("under-way", imported=True))
    found_run = await store.load_run("under-way")
    assert found_run is not None
    assert list(found_run.results) == ["aa"]


# --- Redis alone ---------------------------------------------------------------------------------


@pytest.fixture
async def client(redis_server: str) -> Any:
    made: Any = redis.asyncio.Redis.from_url(redis_server)
    await made.flushdb()
    yield made
    await made.aclose()


@pytest.fixture
async def store(redis_server: str, client: Any) -> Any:
    made = RedisStore(redis_server, Sealer(KEY))
    await made.open()
    yield made
    await made.close()


async def test_keys_that_the_index_does_not_name_are_freed(store: RedisStore, client: Any) -> None:
    await land(store, 1, created("a:b"), SaveResult("a:b", 0, "aa", 7, VALUE), created("stays"))
    await client.zrem("cascade:runs", "a:b")
    told = await store.garbage((), dry_run=True)
    assert set(told.runs) == {"a:b"}
    assert told.bytes > 100
    assert await client.exists("cascade:run:a:b:meta")
    assert await store.garbage((), dry_run=False) == told
    assert await client.keys("cascade:run:a:b:*") == []
    assert await store.load_run("stays") is not None


async def test_entries_without_a_run_are_freed(store: RedisStore, client: Any) -> None:
    await land(store, 1, created("gone"), created("stays"))
    await client.delete("cascade:run:gone:meta", "cascade:run:gone:graph", "cascade:run:gone:functions")
    assert list((await store.garbage((), dry_run=False)).entries) == ["gone"]
    assert await client.zrange("cascade:runs", 0, -1) == [b"stays"]


async def test_a_state_that_was_written_by_hand_stays(
    store: RedisStore, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CASCADE_SEAL_KEY", KEY.decode())
    await cs.RedisStateBackend("mine", client).put_result("n", 1)
    assert (await store.garbage((), dry_run=False)).runs == {}
    await client.persist("cascade:run:mine:results")
    assert (await store.garbage((), dry_run=False)).runs == {"mine": 1}, "nothing would ever end it"


async def test_a_scheduler_that_leads_no_more_frees_nothing(
    store: RedisStore, redis_server: str, client: Any
) -> None:
    await land(store, 1, created("lost"))
    await client.zrem("cascade:runs", "lost")
    later = RedisStore(redis_server, Sealer(KEY))
    await later.open()
    try:
        assert (await store.garbage((), dry_run=False)).runs == {}
        assert list((await later.garbage((), dry_run=False)).runs) == ["lost"]
    finally:
        await later.close()


async def test_a_store_that_forgets_has_nothing_to_free() -> None:
    store = MemoryStore()
    await store.open()
    assert await store.garbage((), dry_run=False) == ({}, 0, (), 0)


def test_the_last_record_of_an_import_is_told_from_a_submit() -> None:
    assert not RunCreated(*created()).imported
