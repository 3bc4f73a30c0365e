"""Runs of one task go a shorter way to Redis; what they leave there is what the common way leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from cascade_dist.codec.cid import cid_of
from cascade_scheduler.core.commands import SaveAttempt, SaveOutcome, SaveResult, SaveSkip
from cascade_scheduler.core.values import BlobValue
from cascade_scheduler.store.base import (
    Batch,
    Record,
    RunAnswered,
    RunDropped,
    RunEnding,
    RunEvents,
    StoredFunction,
)
from cascade_scheduler.store.redis import RedisStore
from cascade_scheduler.store.redis_batch import BatchCommands
from tests.contract.test_run_store import created, land, load

Turns = Sequence[Sequence[Record]]


def begun(run_id: str, **changes: Any) -> tuple[Record, ...]:
    return created(run_id, chunks=(b"one",), **changes), SaveAttempt(run_id, 0, 7, 1, "w1")


def ended(run_id: str, **changes: Any) -> tuple[Record, ...]:
    return SaveResult(run_id, 0, "aa", 7, b"\x80value")._replace(**changes), RunEnding(run_id)


def over(run_id: str, **changes: Any) -> tuple[Record, ...]:
    events = RunEvents(run_id, 1, b"[[1, 2]]", whole=True)._replace(**changes)
    return (
        RunAnswered(run_id, b"finish", ((0, "aa"),)),
        SaveOutcome(run_id, "succeeded", ""),
        events,
    )


PLAIN: list[Turns] = [
    [begun("r"), ended("r")],
    [begun("r", params=b""), ended("r")],
    [begun("ü" * 20), ended("ü" * 20)],
    [begun("r", functions=()), ended("r", value=b"\x80" + bytes(70_000))],
    [over("old")],
    [over("old"), begun("r"), ended("r")],
    [over("old"), begun("old"), ended("old")],
]
"""By turns: all but the last, or the only one, are known while there is time."""
LARGE = StoredFunction(cid_of(b"x" * 20_000), "mod.large", b"x" * 20_000, b"")
OTHERS: list[Turns] = [
    [begun("r"), ended("r", truth=True)],
    [begun("r"), ended("r", length=3)],
    [begun("r"), ended("r", value=BlobValue(b"\x01\x55\x12\x20" + bytes(32), 9))],
    [begun("r"), ended("other")],
    [begun("r"), (SaveSkip("r", 1, "bb", "Pruned"),), ended("r")],
    [begun("r"), begun("s"), ended("s"), ended("r")],
    [begun("r"), ended("r"), over("r")],
    [begun("r")],
    [ended("old")],
    [begun("r", functions=(LARGE,)), ended("r")],
    [begun("r", resumed=True), ended("r")],
    [begun("r", params=b"p" * 5_000), ended("r")],
    [over("old", whole=False), begun("r"), ended("r")],
    [over("old", payload=b"x" * 20_000), begun("r"), ended("r")],
    [(RunDropped("old"),), begun("r"), ended("r")],
]


async def what_is_there(client: Any) -> dict[bytes, Any]:
    """All keys but those that say who leads, with what they hold and whether their time is limited."""
    found = {}
    for key in await client.keys("*"):
        kind = await client.type(key)
        if kind == b"hash":
            found[key] = await client.hgetall(key), 0 < await client.ttl(key) <= 86_400
        elif kind == b"zset":
            found[key] = await client.zrange(key, 0, -1, withscores=True)
    found.pop(b"cascade:batch")
    return found


async def put(store: RedisStore, number: int, turns: Turns) -> None:
    """Lands a batch as the writer does where it is in a hurry."""
    for turn in turns[:-1] or turns:
        store.prepare(turn)
    landed: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    batch = Batch(number, [record for turn in turns for record in turn])
    assert store.begin(batch, landed.set_result)
    assert await asyncio.wait_for(landed, 20)
    store.settle()


async def both_ways(store: RedisStore, client: Any, turns: Turns) -> tuple[Any, Any]:
    """What a batch leaves that goes at once, and what it leaves by the common way."""
    left = []
    for at_once in (True, False):
        for key in await client.keys("cascade:run*"):
            await client.delete(key)
        number = int(await client.hget("cascade:batch", "number"))
        earlier = (created("old", submitted=1.0), SaveResult("old", 0, "aa", 3, b"\x80old"))
        await land(store, number + 1, *earlier, SaveSkip("r", 0, "aa", "left over"))
        if at_once:
            await put(store, number + 2, turns)
        else:
            await land(store, number + 2, *[record for turn in turns for record in turn])
        left.append(await what_is_there(client))
    return left[0], left[1]


@pytest.fixture
async def ready(store: RedisStore, client: Any) -> RedisStore:
    """A store that has looked after its index just now."""
    await land(store, 1, created("old", submitted=1.0))
    return store


@pytest.mark.parametrize("turns", PLAIN)
async def test_a_run_of_one_task_leaves_the_same_by_the_shorter_way(
    ready: RedisStore, client: Any, turns: Turns, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    take = BatchCommands.take
    monkeypatch.setattr(
        BatchCommands, "take", lambda self, records: taken.append(len(records)) or take(self, records)
    )
    shorter, common = await both_ways(ready, client, turns)
    assert shorter == common
    assert len(taken) == 3, "only what was there before, twice, and the common way"


@pytest.mark.parametrize("turns", OTHERS)
async def test_all_else_goes_the_common_way(ready: RedisStore, client: Any, turns: Turns) -> None:
    shorter, common = await both_ways(ready, client, turns)
    assert shorter == common


async def test_an_end_may_follow_by_either_way(ready: RedisStore, client: Any) -> None:
    await put(ready, 2, [begun("r"), ended("r")])
    await land(ready, 3, *over("r"))
    await put(ready, 4, [begun("s"), ended("s")])
    await put(ready, 5, [over("s")])
    runs = await load(ready)
    assert [(runs[name].state, runs[name].events) for name in "rs"] == [
        ("succeeded", {1: b"[[1, 2]]"}),
        ("succeeded", {1: b"[[1, 2]]"}),
    ]
    keys = await client.keys("cascade:run:[rs]:*")
    assert all([0 < await client.ttl(key) <= 86_400 for key in keys])
    assert len(keys) == 4


async def test_a_batch_that_went_the_shorter_way_and_was_not_taken_goes_again(
    ready: RedisStore, client: Any
) -> None:
    early = begun("r")
    ready.prepare(early)
    batch = Batch(2, [*early, *ended("r")])
    await client.hset("cascade:batch", "somebody", "else")
    told: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    assert ready.begin(batch, told.set_result)
    assert not await asyncio.wait_for(told, 20)
    assert "r" not in await load(ready)
    await land(ready, 2, *batch.records)
    assert (await load(ready))["r"].results["aa"].value == b"\x80value"
