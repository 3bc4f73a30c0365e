"""How batches land in Redis: at once or patiently, whole, once; and what lies together in one key."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from redis.exceptions import ConnectionError as ConnectionLost

from cascade_dist.codec.cid import cid_of, cid_to_text
from cascade_dist.storage.seal import Sealer
from cascade_scheduler.core.commands import (
    SaveAttempt,
    SaveFrame,
    SaveOutcome,
    SaveResult,
    SaveSkip,
)
from cascade_scheduler.store import redis as redis_module
from cascade_scheduler.store import redis_transactions
from cascade_scheduler.store.base import (
    Batch,
    Record,
    RunCreated,
    RunEvents,
    RunResumed,
    StoredAttempt,
    StoredFrame,
    StoredFunction,
    StoredJump,
    StoredResult,
    StoreFenced,
    StoreGap,
    StoreUnavailable,
)
from cascade_scheduler.store.redis import RedisStore
from tests.contract.test_run_store import KEY, created, land, load

# --- batches without a task ---------------------------------------------------------------------------


async def begun(store: RedisStore, number: int, *records: Record) -> bool:
    """Sends a batch at once; whether it has landed."""
    landed: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    if not store.begin(Batch(number, records), landed.set_result):
        return False
    told = await asyncio.wait_for(landed, 20)
    if told:
        store.settle()
    return told


async def test_a_batch_lands_without_a_task_once_redis_has_answered(store: RedisStore) -> None:
    first = Batch(1, [created()])
    assert not store.begin(first, lambda landed: None), "there is no connection yet"
    await store.commit(first)
    assert await begun(store, 2, SaveResult("r", 0, "aa", 7, b"one", True))
    assert not store.begin(first, lambda landed: None), "it is not the next one"
    await land(store, 2, SaveResult("r", 0, "aa", 7, b"one", True))  # as somebody who has not heard of it
    await land(store, 3, SaveSkip("r", 1, "bb", "Pruned"))
    assert await begun(store, 4, SaveSkip("r", 2, "cc", "Pruned"))
    run = (await load(store))["r"]
    assert run.results == {"aa": StoredResult(7, b"one", True, None)}
    assert set(run.skipped) == {"bb", "cc"}


async def test_one_batch_is_under_way_at_a_time(store: RedisStore) -> None:
    await land(store, 1, created())
    landed: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    assert store.begin(Batch(2, [SaveSkip("r", 1, "bb", "Pruned")]), landed.set_result)
    assert not store.begin(Batch(3, [SaveSkip("r", 2, "cc", "Pruned")]), lambda landed: None)
    assert await asyncio.wait_for(landed, 20)


async def test_what_is_refused_has_not_landed_and_commit_says_why(store: RedisStore, client: Any) -> None:
    await land(store, 1, created())
    skip = SaveSkip("r", 1, "bb", "Pruned")
    assert not await begun(store, 3, skip)
    with pytest.raises(StoreGap):
        await land(store, 3, skip)
    await client.set("cascade:run:r:skipped", "something else")
    assert not await begun(store, 2, skip)
    with pytest.raises(StoreUnavailable, match="cascade:run:r:skipped is a string"):
        await land(store, 2, skip)
    with pytest.raises(StoreUnavailable, match="cascade:run:r:skipped is a string"):
        await land(store, 2, skip)  # though Redis has its number by now
    await client.delete("cascade:run:r:skipped")
    await land(store, 2, skip)
    assert set((await load(store))["r"].skipped) == {"bb"}
    await client.hset("cascade:batch", "other", "1")
    assert not await begun(store, 3, skip), "somebody has written what was compared"
    await land(store, 3, skip)
    assert await begun(store, 4, skip)
    await client.incr("cascade:epoch")
    assert not await begun(store, 5, skip)
    with pytest.raises(StoreFenced):
        await land(store, 5, skip)


async def test_a_connection_that_breaks_is_made_anew(store: RedisStore, client: Any) -> None:
    await land(store, 1, created())
    skip = SaveSkip("r", 1, "bb", "Pruned")
    await client.client_kill_filter(_type="normal", skipme=True)
    answers: asyncio.Queue[bool] = asyncio.Queue()
    # Whether the end of the connection has been read by now is up to the machine.
    sent = store.begin(Batch(2, [skip]), answers.put_nowait)
    assert not sent or not await asyncio.wait_for(answers.get(), 20)
    await land(store, 2, skip)
    assert await begun(store, 3, skip)


async def test_an_answer_that_does_not_come_is_waited_for_so_long(
    redis_server: str, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_module, "TIMEOUT_SECONDS", 1.0)
    store = RedisStore(redis_server, Sealer(KEY))
    await store.open()
    await land(store, 1, created())
    skip = SaveSkip("r", 1, "bb", "Pruned")
    await client.client_pause(60_000, all=False)
    assert not await begun(store, 2, skip)
    with pytest.raises(StoreUnavailable):
        await land(store, 2, skip)
    await client.client_unpause()
    await land(store, 2, skip)
    assert await begun(store, 3, skip)
    await store.close()


# --- small graphs and functions lie in one key with what else is told of a run ---------------------------


def function(name: str, size: int) -> StoredFunction:
    """A function with a body of so many bytes."""
    body = name[:1].encode() * size
    return StoredFunction(cid_of(body), name, body, b"h" * 16)


@pytest.mark.parametrize("graph", [10, 10_000, 100_000])
@pytest.mark.parametrize("functions", [10, 100_000])
async def test_graphs_and_functions_come_back_whatever_their_size(
    store: RedisStore, client: Any, graph: int, functions: int
) -> None:
    own = tuple(sorted(function(name, functions) for name in ("f", "g", "h\nh")))
    first = created(chunks=(b"\n" * graph,), end=b"e\nnd", functions=own)
    await land(store, 1, first)
    assert (await load(store))["r"].created == first
    assert await client.exists("cascade:run:r:graph") == (graph > 10_000)
    assert await client.hexists("cascade:run:r:meta", "graph") == (graph == 10_000)
    assert await client.exists("cascade:run:r:functions") == (functions > 10)
    [head] = await store.heads()
    assert (head.run_id, head.name, head.submitted) == ("r", first.name, first.submitted)
    assert await store.has_run(first)
    parted = created("parted", chunks=(b"a", b"b"))
    await land(store, 2, parted)
    assert (await load(store))["parted"].created == parted


@pytest.mark.parametrize("params", [10, 5_000])
async def test_params_come_back_whatever_their_size(store: RedisStore, client: Any, params: int) -> None:
    first = created(chunks=(b"one",), params=b"\n" * params)
    await land(store, 1, first)
    assert (await load(store))["r"].created == first
    assert await client.hexists("cascade:run:r:meta", "params") == (params > 10)


@pytest.mark.parametrize("place", ["meta", "graph"])
async def test_a_run_is_read_as_earlier_versions_have_stored_it(
    store: RedisStore, client: Any, place: str
) -> None:
    sealer, own = Sealer(KEY), function("f", 10)
    told = {"name": "a name", "on_failure": "cancel", "logs": True, "target": "ab", "nodes": 3}
    told |= {"params": b"digest".hex(), "template": b"template".hex(), "parts": 1, "pools": [["gpu", 2]]}
    told |= {"cancel_on_disconnect": True, "disconnect_grace": 1.5, "submitted": 12.5}
    head = {"name": own.name, "hash": own.code_hash.hex(), "cid": cid_to_text(own.cid), "size": 10}
    fields = {
        "state": "running",
        "run": sealer.seal("r", "meta", 0, json.dumps(told).encode()),
        "params": sealer.seal("r", "params", 0, b"params"),
        "functions": json.dumps(head).encode() + b"\n" + own.body,
    }
    if place == "meta":
        fields["graph"] = sealer.seal("r", "graph", 0, b"3\nendone")
    else:
        pieces = {
            "0": sealer.seal("r", "graph:0", 0, b"one"),
            "end": sealer.seal("r", "graph:end", 0, b"end"),
        }
        await client.hset("cascade:run:r:graph", mapping=pieces)
    await client.hset("cascade:run:r:meta", mapping=fields)
    await client.zadd("cascade:runs", {"r": 12.5})
    expected = RunCreated(
        *("r", "a name", "cancel", True, 12.5, "ab", 3, b"digest", b"template", (b"one",), b"end", (own,)),
        *((("gpu", 2),), False, b"params", True, 1.5),
    )
    assert (await load(store))["r"].created == expected
    assert [head.name for head in await store.heads()] == ["a name"]
    assert await store.has_run(expected)
    await land(store, 1, SaveFrame("r", 1, StoredFrame(b"two", b"e", (own,))))
    found = (await load(store))["r"].created
    assert found == expected._replace(chunks=(b"two",), end=b"e")


async def test_a_run_that_has_jumped_is_still_in_its_graph(store: RedisStore) -> None:
    await land(store, 1, created(chunks=(b"one",)))
    await land(store, 2, SaveFrame("r", 1, StoredJump(2, ("n",), b"overrides")))
    run = (await load(store))["r"]
    assert (run.created, run.frame) == (created(chunks=(b"one",)), 1)
    await land(store, 3, SaveFrame("r", 2, StoredFrame(b"two", b"e", ())))
    await land(store, 4, SaveFrame("r", 3, StoredJump(2, ("n",), b"overrides")))
    found = (await load(store))["r"].created
    assert (found.chunks, found.end, found.functions) == ((b"two",), b"e", ())


async def test_a_beginning_that_was_changed_is_passed_over(
    store: RedisStore, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await land(store, 1, created(chunks=(b"one",)))
    sealed = await client.hget("cascade:run:r:meta", "run")
    await client.hset("cascade:run:r:meta", "run", sealed.replace(b"one", b"two"))
    assert await load(store) == {}
    assert "run r is passed over" in caplog.text


async def test_functions_are_remembered_of_runs_that_go_on_alone(store: RedisStore) -> None:
    await land(store, 1, created("goes on"), created("r"), SaveOutcome("r", "succeeded", ""))
    assert list(store._functions) == ["goes on"]
    await land(store, 2, SaveOutcome("goes on", "succeeded", ""))
    assert not store._functions


@pytest.mark.parametrize("before", [10, 100_000])
@pytest.mark.parametrize("after", [10, 100_000])
async def test_a_frame_takes_the_place_of_graph_and_functions_whatever_their_size(
    store: RedisStore, client: Any, before: int, after: int
) -> None:
    await land(store, 1, created(chunks=(b"x" * before,), functions=(function("f", before),)))
    other = StoredFrame(b"y" * after, b"other end", (function("g", after),))
    await land(store, 2, SaveFrame("r", 1, other))
    found = (await load(store))["r"].created
    assert (found.chunks, found.end, found.functions) == ((other.chunk,), other.end, other.functions)
    assert await client.exists("cascade:run:r:graph") == (after > 10)
    assert await client.exists("cascade:run:r:functions") == (after > 10)


async def test_a_run_that_is_over_in_one_batch_leaves_no_attempts(store: RedisStore, client: Any) -> None:
    attempt = SaveAttempt("r", 0, 7, 1, "w")
    await land(store, 1, created(chunks=(b"one",)), attempt, SaveOutcome("r", "succeeded", ""))
    assert sorted(await client.keys("cascade:run:r:*")) == [b"cascade:run:r:meta"]
    run = (await load(store))["r"]
    assert (run.state, run.attempts) == ("succeeded", {})


@pytest.mark.parametrize("waits", [True, False])
async def test_a_batch_of_which_nothing_was_heard_is_sent_again_whole(
    store: RedisStore, client: Any, monkeypatch: pytest.MonkeyPatch, waits: bool
) -> None:
    await land(store, 1, created())
    await client.set("cascade:run:r:skipped", "foreign")
    skip = SaveSkip("r", 1, "bb", "Pruned")
    with monkeypatch.context() as patched:
        patched.setattr(redis_transactions, "_outcome", lambda *_: ConnectionLost("its answer was lost"))
        if waits:
            with pytest.raises(StoreUnavailable, match="its answer was lost"):
                await land(store, 2, skip)
        else:
            assert not await begun(store, 2, skip)
    assert await client.hget("cascade:batch", "number") == b"2", "though it has failed"
    with pytest.raises(StoreUnavailable, match="cascade:run:r:skipped is a string"):
        await land(store, 2, skip)
    await client.delete("cascade:run:r:skipped")
    await land(store, 2, skip)
    assert set((await load(store))["r"].skipped) == {"bb"}


@pytest.mark.parametrize("size", [10, 20_000])
@pytest.mark.parametrize("prepared", [True, False])
async def test_events_of_a_run_that_is_over_in_one_batch_lie_with_the_rest_when_they_are_few(
    store: RedisStore, client: Any, size: int, prepared: bool
) -> None:
    await land(store, 1, created("other"))
    begun_with = (created(chunks=(b"one",)), SaveAttempt("r", 0, 7, 1, "w"))
    told = RunEvents("r", 1, b"[" + b" " * size + b"1]", whole=True)
    if prepared:
        store.prepare(begun_with)
    assert await begun(store, 2, *begun_with, SaveOutcome("r", "succeeded", ""), told)
    run = (await load(store))["r"]
    assert (run.state, run.attempts) == ("succeeded", {})
    assert run.events == {1: told.payload}
    keys = await client.keys("cascade:run:r:*")
    assert len(keys) == (1 if size == 10 else 2)
    assert all([0 < await client.ttl(key) <= 86_400 for key in keys])
    await land(store, 3, RunResumed("r", 5.0))
    assert (await load(store))["r"].events == {}


@pytest.mark.parametrize("at", [3, 5])
async def test_events_that_follow_the_end_of_a_run_leave_those_before_them(
    store: RedisStore, client: Any, at: int
) -> None:
    over, told = SaveOutcome("r", "succeeded", ""), RunEvents("r", 1, b"[1]", whole=True)
    lines = (RunEvents("r", 3, b"[3]"), RunEvents("r", 4, b"[4]"))  # a worker says last what was printed
    records = (created(), over, told, *lines)
    await land(store, 1, *records[:at])
    await land(store, 2, *records[at:])
    assert (await load(store))["r"].events == {1: b"[1]", 3: b"[3]", 4: b"[4]"}
    assert all([0 < await client.ttl(key) <= 86_400 for key in await client.keys("cascade:run:r:*")])


async def test_events_of_a_long_run_in_one_batch_have_a_time_to_live(store: RedisStore, client: Any) -> None:
    many = (RunEvents("r", 1, b"[1]"), RunEvents("r", 2, b"[2]", (1,)), RunEvents("r", 3, b"[3]"))
    await land(store, 1, created(), *many, SaveOutcome("r", "succeeded", ""), RunEvents("r", 4, b"[4]"))
    assert (await load(store))["r"].events == {2: b"[2]", 3: b"[3]", 4: b"[4]"}
    assert all([0 < await client.ttl(key) <= 86_400 for key in await client.keys("cascade:run:r:*")])


async def test_the_index_is_pruned_now_and_then(
    store: RedisStore, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = 1234.5 + 100 * 3600
    await land(store, 1, created("first"))
    await land(store, 2, created("second", submitted=late))
    assert await client.zrange("cascade:runs", 0, -1) == [b"first", b"second"]
    monkeypatch.setattr(redis_module, "PRUNE_SECONDS", -1.0)
    await land(store, 3, created("third", submitted=late))
    assert await client.zrange("cascade:runs", 0, -1) == [b"second", b"third"]


async def test_what_was_prepared_lands_as_what_was_not(store: RedisStore) -> None:
    await land(store, 1, created("other"))
    early = (created(), SaveAttempt("r", 0, 7, 1, "w"))
    store.prepare(early[:1])
    store.prepare(early[1:])
    result = SaveResult("r", 0, "aa", 7, b"one")
    assert await begun(store, 2, *early, result)
    run = (await load(store))["r"]
    assert (run.created, run.results) == (early[0], {"aa": StoredResult(7, b"one")})
    assert run.attempts == {0: StoredAttempt(7, 1, "w")}


@pytest.mark.parametrize("prepared", ["too much", "something else", "superseded"])
async def test_what_was_prepared_and_does_not_come_is_forgotten(store: RedisStore, prepared: str) -> None:
    await land(store, 1, created())
    one, two = (SaveSkip("r", number, f"{number}", "Pruned") for number in range(2))
    records = (
        (two, SaveFrame("r", 1, StoredFrame(b"chunk", b"end", ()))) if prepared == "superseded" else (two,)
    )
    store.prepare({"too much": (two, one), "something else": (one,), "superseded": (two,)}[prepared])
    assert await begun(store, 2, *records)
    run = (await load(store))["r"]
    assert set(run.skipped) == (set() if prepared == "superseded" else {"1"})
