"""What every run store keeps to: in memory and in a real Redis."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import redis.asyncio

from cascade_dist.codec.cid import cid_of
from cascade_dist.storage.seal import Sealer
from cascade_scheduler.core.commands import (
    DropConstraint,
    SaveAttempt,
    SaveCheckpoint,
    SaveConstraint,
    SaveFrame,
    SaveOutcome,
    SaveResult,
    SaveSkip,
)
from cascade_scheduler.core.limits import CONCURRENCY, PAUSE, RATE_LIMIT, Constraint
from cascade_scheduler.core.values import BlobValue, ObjectValue
from cascade_scheduler.store.base import (
    Batch,
    Record,
    RunCreated,
    RunDropped,
    RunEvents,
    RunRenewed,
    RunStore,
    StoredAttempt,
    StoredFrame,
    StoredFunction,
    StoredJump,
    StoredResult,
    StoredRun,
    StoreError,
    StoreFenced,
    StoreUnavailable,
)
from cascade_scheduler.store.memory import MemoryRuns, MemoryStore
from cascade_scheduler.store.redis import RedisStore, masked

Open = Callable[[], Awaitable[RunStore]]
KEY = b"k" * 32


async def fresh(url: str) -> None:
    """Empties the database."""
    client: Any = redis.asyncio.Redis.from_url(url)
    await client.flushdb()
    await client.aclose()


@pytest.fixture(params=["memory", "redis"])
async def open_store(request: pytest.FixtureRequest) -> AsyncIterator[Open]:
    """Opens one more store on the same state, as the next scheduler does."""
    opened: list[RunStore] = []
    runs = MemoryRuns()
    url = ""
    if request.param == "redis":
        url = request.getfixturevalue("redis_server")
        await fresh(url)

    async def make() -> RunStore:
        store: RunStore = RedisStore(url, Sealer(KEY)) if url else MemoryStore(runs)
        opened.append(store)
        await store.open()
        return store

    yield make
    for store in opened:
        await store.close()


def created(run_id: str = "r", **changes: Any) -> RunCreated:
    body = b"\x80\x05N."
    record = RunCreated(
        run_id, "a name ☃", "cancel", True, 1234.5, "ab" * 16, 3, b"params", b"template",
        (b"chunk one", b"\0chunk two"), b"end", (StoredFunction(cid_of(body), "mod.f", body, b"\1\2"),),
    )  # fmt: skip
    return record._replace(**changes)


async def land(store: RunStore, number: int, *records: Record) -> None:
    await asyncio.wait_for(store.commit(Batch(number, records)), 20)


async def load(store: RunStore) -> dict[str, StoredRun]:
    return {run.created.run_id: run async for run in store.load()}


async def test_an_empty_store_has_no_runs(open_store: Open) -> None:
    assert await load(await open_store()) == {}


async def test_one_run_is_loaded_by_its_id(open_store: Open) -> None:
    store = await open_store()
    await land(store, 1, created("r"), created("other"), SaveResult("r", 0, "aa", 7, b"one", True, 2))
    found = await store.load_run("r")
    assert found is not None
    assert found.created == created("r")
    assert found.results == {"aa": StoredResult(7, b"one", True, 2)}
    assert await store.load_run("nobody") is None


async def test_a_run_that_is_resumed_keeps_its_results_and_nothing_else(open_store: Open) -> None:
    store = await open_store()
    blob = BlobValue(cid_of(b"large"), 5)
    await land(
        store,
        1,
        created(),
        SaveResult("r", 0, "aa", 7, b"one", False),
        SaveResult("r", 1, "bb[3]", 8, blob),
        SaveSkip("r", 2, "cc", "ConditionFalse"),
        SaveAttempt("r", 0, 7, 1, "w"),
        RunEvents("r", 1, b"events"),
        SaveOutcome("r", "failed", "ValueError: no"),
    )
    later = await open_store()
    await land(later, 1, created(name="again", resumed=True), SaveResult("r", 2, "cc", 9, b"three"))
    found = await later.load_run("r")
    assert found is not None
    assert found.created == created(name="again")
    assert (found.state, found.error) == ("running", "")
    assert found.results == {
        "aa": StoredResult(7, b"one", False),
        "bb[3]": StoredResult(8, blob),
        "cc": StoredResult(9, b"three"),
    }
    assert not found.skipped
    assert not found.attempts
    assert not found.events


async def test_a_run_that_is_created_anew_keeps_nothing(open_store: Open) -> None:
    store = await open_store()
    await land(store, 1, created(), SaveResult("r", 0, "aa", 7, b"one"))
    await land(store, 2, created())
    found = await store.load_run("r")
    assert found is not None
    assert not found.results


async def test_resuming_an_unknown_run_creates_it(open_store: Open) -> None:
    store = await open_store()
    await land(store, 1, created(resumed=True))
    found = await store.load_run("r")
    assert found is not None
    assert found.created == created()


async def test_epochs_grow(open_store: Open) -> None:
    store = await open_store()
    epochs = [await store.open() for _ in range(3)]
    assert epochs == sorted(set(epochs))


async def test_everything_of_a_run_comes_back(open_store: Open) -> None:
    store = await open_store()
    blob, thing = BlobValue(cid_of(b"x"), 70_000), ObjectValue(2**63 + 5, 9, "worker-1", "host:1")
    await land(
        store,
        1,
        created(),
        SaveAttempt("r", 0, 2**40 + 1, 1, "worker-1"),
        SaveResult("r", 0, "aa", 2**40 + 1, b"\x80\x05K\x01.", True, 3),
        SaveAttempt("r", 1, 2**40 + 2, 1, "worker one"),
        RunEvents("r", 1, b"first events"),
    )
    await land(
        store,
        2,
        SaveAttempt("r", 1, 2**40 + 3, 2, "worker one"),
        SaveResult("r", 1, "bb[0]", 2**40 + 3, blob),
        SaveResult("r", 2, "bb[1]", 2**40 + 4, thing),
        SaveSkip("r", 3, "cc", "ConditionFalse"),
        RunEvents("r", 10, b"more events"),
    )
    found = (await load(await open_store()))["r"]
    assert found == StoredRun(
        created(),
        "running",
        "",
        {
            "aa": StoredResult(2**40 + 1, b"\x80\x05K\x01.", True, 3),
            "bb[0]": StoredResult(2**40 + 3, blob),
            "bb[1]": StoredResult(2**40 + 4, thing),
        },
        {"cc": "ConditionFalse"},
        {0: StoredAttempt(2**40 + 1, 1, "worker-1"), 1: StoredAttempt(2**40 + 3, 2, "worker one")},
        {1: b"first events", 10: b"more events"},
    )


async def test_the_outcome_is_kept(open_store: Open) -> None:
    store = await open_store()
    await land(store, 1, created(), SaveOutcome("r", "failed", "ValueError: ☃"))
    found = (await load(store))["r"]
    assert (found.state, found.error) == ("failed", "ValueError: ☃")


async def test_a_value_that_was_made_again_replaces_the_first(open_store: Open) -> None:
    store = await open_store()
    await land(store, 1, created(), SaveResult("r", 0, "aa", 1, b"\x80one"))
    await land(store, 2, SaveResult("r", 0, "aa", 2, b"\x80two"))
    assert (await load(store))["r"].results == {"aa": StoredResult(2, b"\x80two")}


async def test_old_events_go(open_store: Open) -> None:
    store = await open_store()
    await land(store, 1, created(), RunEvents("r", 1, b"a"), RunEvents("r", 5, b"b"))
    await land(store, 2, RunEvents("r", 9, b"c", (1, 5)))
    assert (await load(store))["r"].events == {9: b"c"}


async def test_runs_come_oldest_first(open_store: Open) -> None:
    store = await open_store()
    await land(store, 1, *(created(name, submitted=at) for at, name in enumerate(["b", "c", "a"], 1000)))
    assert list(await load(store)) == ["b", "c", "a"]


async def test_a_dropped_run_is_gone_and_its_id_free(open_store: Open) -> None:
    store = await open_store()
    await land(store, 1, created(), SaveResult("r", 0, "aa", 1, b"\x80"), SaveSkip("r", 1, "bb", "Pruned"))
    await land(store, 2, RunDropped("r"))
    assert await load(store) == {}
    await land(store, 3, created(name="second"))
    found = (await load(store))["r"]
    assert (found.created.name, found.results, found.skipped) == ("second", {}, {})


async def test_a_batch_that_landed_lands_again_without_effect(open_store: Open) -> None:
    store = await open_store()
    await land(store, 1, created())
    batch = (SaveResult("r", 0, "aa", 1, b"\x80one"), RunEvents("r", 1, b"events"))
    await land(store, 2, *batch)
    await land(store, 2, *batch)
    await land(store, 2, SaveResult("r", 0, "aa", 9, b"\x80never"))  # the number says that it has landed
    found = (await load(store))["r"]
    assert found.results == {"aa": StoredResult(1, b"\x80one")}
    assert found.events == {1: b"events"}


async def test_a_gap_is_refused(open_store: Open) -> None:
    store = await open_store()
    await land(store, 1, created())
    with pytest.raises(StoreFenced, match="batch 3"):
        await land(store, 3, SaveSkip("r", 0, "aa", "Pruned"))
    assert (await load(store))["r"].skipped == {}


async def test_an_older_epoch_commits_nothing(open_store: Open) -> None:
    old = await open_store()
    await land(old, 1, created())
    new = await open_store()
    with pytest.raises(StoreFenced, match="epoch"):
        await land(old, 2, SaveSkip("r", 0, "aa", "Pruned"))
    await land(new, 1, SaveSkip("r", 1, "bb", "Pruned"))
    assert (await load(new))["r"].skipped == {"bb": "Pruned"}


async def test_a_batch_of_many_records(open_store: Open) -> None:
    store = await open_store()
    results = [SaveResult("r", node, f"{node:032x}", node + 1, b"\x80%d" % node) for node in range(9_000)]
    await land(store, 1, created(), *results, SaveSkip("r", 9_000, "x", "Pruned"))
    found = (await load(store))["r"]
    assert len(found.results) == 9_000
    assert found.results[f"{8_999:032x}"] == StoredResult(9_000, b"\x808999")
    assert found.skipped == {"x": "Pruned"}


async def test_records_keep_their_order_within_a_batch(open_store: Open) -> None:
    store = await open_store()
    await land(store, 1, RunDropped("r"), created(), RunDropped("r"), created(name="last"))
    assert (await load(store))["r"].created.name == "last"


LIMITS = [
    Constraint("a", "global", CONCURRENCY, limit=3),
    Constraint("pause:task:f ☃", "task:f ☃", PAUSE, expires_at=1234.5678901),
    Constraint("b", "run:r", RATE_LIMIT, rate=10 / 60, capacity=2.5),
]


async def test_constraints_come_back_as_they_were(open_store: Open) -> None:
    store = await open_store()
    assert list(await store.constraints()) == []
    await land(store, 1, *map(SaveConstraint, LIMITS))
    found = await (await open_store()).constraints()
    assert sorted(found) == sorted(LIMITS)


async def test_a_constraint_is_replaced_by_its_id_and_dropped_by_it(open_store: Open) -> None:
    store = await open_store()
    await land(store, 1, *map(SaveConstraint, LIMITS))
    changed = Constraint("a", "task:g", PAUSE)
    await land(store, 2, SaveConstraint(changed), DropConstraint("b"), DropConstraint("never was"))
    await land(store, 3, DropConstraint("a"), SaveConstraint(changed), DropConstraint(LIMITS[1].id))
    assert list(await (await open_store()).constraints()) == [changed]


async def test_an_older_scheduler_sets_no_constraint(open_store: Open) -> None:
    old, new = await open_store(), await open_store()
    await land(new, 1, SaveConstraint(LIMITS[0]))
    with pytest.raises(StoreFenced):
        await land(old, 1, SaveConstraint(LIMITS[1]))
    assert list(await new.constraints()) == [LIMITS[0]]


async def test_constraints_land_with_the_runs_of_their_batch(open_store: Open) -> None:
    store = await open_store()
    batch = Batch(1, (created(), SaveConstraint(LIMITS[0]), SaveSkip("r", 0, "aa", "Pruned")))
    await store.commit(batch)
    await store.commit(batch)
    again = await open_store()
    assert list(await again.constraints()) == [LIMITS[0]]
    assert (await load(again))["r"].skipped == {"aa": "Pruned"}


def frame(number: int, name: bytes = b"a chunk", body: bytes = b"\x80\x05K\x01.") -> SaveFrame:
    function = StoredFunction(cid_of(body), "mod.g", body, b"\3")
    return SaveFrame("r", number, StoredFrame(name, b"its end", (function,)))


async def test_a_run_that_went_on_is_the_frame_that_it_is_in(open_store: Open) -> None:
    store = await open_store()
    await land(store, 1, created(), SaveResult("r", 0, "aa", 7, b"one"), SaveAttempt("r", 0, 7, 1, "w"))
    await land(
        store, 2, SaveSkip("r", 1, "bb", "ConditionFalse"), frame(1), SaveResult("r", 0, "cc", 8, b"two")
    )
    found = (await load(await open_store()))["r"]
    stored = frame(1).stored
    assert isinstance(stored, StoredFrame)
    assert (found.frame, found.jump, found.checkpoint) == (1, None, None)
    assert found.created == created(chunks=(stored.chunk,), end=stored.end, functions=stored.functions)
    assert found.results == {"cc": StoredResult(8, b"two")}
    assert not found.skipped
    assert not found.attempts


async def test_of_many_frames_in_a_batch_the_last_counts(open_store: Open) -> None:
    store = await open_store()
    steps: list[Record] = [created(), created("other"), SaveResult("other", 0, "zz", 3, b"kept")]
    for number in range(1, 6):
        steps.append(frame(number, b"chunk %d" % number, b"\x80\x05K%c." % number))
        steps.append(SaveAttempt("r", 0, 100 + number, 1, "w"))
    await land(store, 1, *steps, RunEvents("r", 1, b"events"))
    runs = await load(await open_store())
    assert runs["r"].frame == 5
    assert runs["r"].created.chunks == (b"chunk 5",)
    assert [function.body for function in runs["r"].created.functions] == [b"\x80\x05K\x05."]
    assert runs["r"].attempts == {0: StoredAttempt(105, 1, "w")}
    assert runs["r"].events == {1: b"events"}
    assert runs["other"].results == {"zz": StoredResult(3, b"kept")}


async def test_a_checkpoint_holds_until_the_next_frame(open_store: Open) -> None:
    store = await open_store()
    node_id = b"n" * 16
    await land(store, 1, created(), frame(1), SaveCheckpoint("r", 1, node_id, b"at 5"))
    await land(store, 2, SaveCheckpoint("r", 1, node_id, b"at 9"))
    assert (await load(await open_store()))["r"].checkpoint == (node_id, b"at 9")
    later = await open_store()
    await land(later, 1, frame(2))
    assert (await load(await open_store()))["r"].checkpoint is None


async def test_a_jump_keeps_the_graph_and_is_over_with_the_next_frame(open_store: Open) -> None:
    store = await open_store()
    jump = StoredJump(4, ("rate", "☃"), b"\0pickled")
    await land(store, 1, created(), SaveResult("r", 0, "aa", 7, b"one"), SaveFrame("r", 1, jump))
    found = (await load(await open_store()))["r"]
    assert (found.frame, found.jump, found.created) == (1, jump, created())
    assert not found.results
    later = await open_store()
    await land(later, 1, frame(2))
    found = (await load(await open_store()))["r"]
    assert (found.frame, found.jump) == (2, None)
    assert found.created.chunks == (b"a chunk",)


async def test_a_run_that_is_resumed_begins_with_its_first_frame(open_store: Open) -> None:
    store = await open_store()
    await land(store, 1, created(), frame(3), SaveCheckpoint("r", 3, b"n" * 16, b"at 5"))
    await land(store, 2, SaveFrame("r", 4, StoredJump(1, (), b"")), created(resumed=True))
    found = (await load(await open_store()))["r"]
    assert found.created == created()
    assert (found.frame, found.jump, found.checkpoint) == (0, None, None)


async def test_the_pools_of_a_run_come_back(open_store: Open) -> None:
    made = created(pools=(("gpu", 1), ("slots", 2**40)))
    await land(await open_store(), 1, made)
    assert (await load(await open_store()))["r"].created == made


# --- what is Redis's own -------------------------------------------------------------------------


@pytest.fixture
async def client(redis_server: str) -> AsyncIterator[Any]:
    """A plain client, as a user's script has one."""
    await fresh(redis_server)
    plain = redis.asyncio.Redis.from_url(redis_server)
    yield plain
    await plain.aclose()


@pytest.fixture
async def store(redis_server: str, client: Any) -> AsyncIterator[RedisStore]:
    """A store on an empty Redis."""
    opened = RedisStore(redis_server, Sealer(KEY))
    await opened.open()
    yield opened
    await opened.close()


async def test_s84_results_and_skips_lie_where_the_base_library_has_them(
    store: RedisStore, client: Any
) -> None:
    await land(
        store, 1, created(), SaveResult("r", 0, "aa", 1, b"\x80\x05K\x07."), SaveSkip("r", 1, "bb", "Pruned")
    )
    record = await client.hget("cascade:run:r:results", "aa")
    assert record.startswith(b"\x80\x05K\x07.")
    assert Sealer(KEY).open("r", "aa", record) == (1, b"\x80\x05K\x07.")
    assert await client.hgetall("cascade:run:r:skipped") == {b"bb": b"Pruned"}
    for key in await client.keys("cascade:run:*"):
        assert 86_390 < await client.ttl(key) <= 86_400, key


async def test_the_time_to_live_is_renewed(store: RedisStore, client: Any) -> None:
    await land(store, 1, created(), SaveResult("r", 0, "aa", 1, b"\x80"))
    for key in await client.keys("cascade:run:*"):
        await client.expire(key, 100)
    await land(store, 2, RunRenewed("r", 5000.0))
    for key in await client.keys("cascade:run:*"):
        assert await client.ttl(key) > 86_390, key
    assert await client.zscore("cascade:runs", "r") == 5000.0


async def test_a_run_whose_time_is_over_leaves_the_list(store: RedisStore, client: Any) -> None:
    await land(store, 1, created("old"), created("new", submitted=1234.5 + 100 * 3600))
    assert await client.zrange("cascade:runs", 0, -1) == [b"new"]


async def test_a_record_of_another_key_counts_as_lost(
    store: RedisStore, client: Any, redis_server: str
) -> None:
    await land(
        store, 1, created(), SaveResult("r", 0, "aa", 1, b"\x80"), SaveResult("r", 1, "bb", 2, b"\x80")
    )
    forged = Sealer(b"x" * 32).seal("r", "aa", 1, b"\x80evil")
    await client.hset("cascade:run:r:results", "aa", forged)
    assert list((await load(store))["r"].results) == ["bb"]
    other = RedisStore(redis_server, Sealer(b"x" * 32))
    await other.open()
    assert await load(other) == {}  # its graph is sealed with another key too
    await other.close()


async def test_a_lost_tail_and_a_lost_epoch_are_refused(store: RedisStore, client: Any) -> None:
    await land(store, 1, created())
    await client.delete("cascade:batch")
    with pytest.raises(StoreFenced, match="has lost results"):
        await land(store, 2, SaveSkip("r", 0, "aa", "Pruned"))
    await client.delete("cascade:epoch")
    with pytest.raises(StoreFenced, match="missing"):
        await land(store, 1, SaveSkip("r", 0, "aa", "Pruned"))


async def test_settings_that_can_lose_results_are_named(
    store: RedisStore, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await store.open()
    assert "can be" not in caplog.text
    await client.config_set("appendonly", "no")
    await client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        await store.open()
    finally:
        await client.config_set("appendonly", "yes")
        await client.config_set("maxmemory-policy", "noeviction")
    assert "appendonly=no" in caplog.text
    assert "maxmemory-policy=allkeys-lru" in caplog.text


async def test_constraints_are_readable_json_without_a_time_to_live(store: RedisStore, client: Any) -> None:
    await land(store, 1, SaveConstraint(Constraint("pause:global", "global", PAUSE)))
    told = json.loads(await client.hget("cascade:constraints", "pause:global"))
    assert (told["scope"], told["type"], told["expires_at"]) == ("global", "pause", None)
    assert await client.ttl("cascade:constraints") == -1


@pytest.mark.parametrize(
    "text", [b"no json", b"[]", b"{}", b'{"id":"x","scope":"nowhere","type":"pause","limit":0}', b"\xff\xfe"]
)
async def test_a_constraint_that_makes_no_sense_is_passed_over(
    store: RedisStore, client: Any, caplog: pytest.LogCaptureFixture, text: bytes
) -> None:
    await land(store, 1, SaveConstraint(Constraint("good", "global", PAUSE)))
    await client.hset("cascade:constraints", "bad", text)
    assert [found.id for found in await store.constraints()] == ["good"]
    assert "constraint 'bad'" in caplog.text


async def test_another_kind_of_key_in_the_place_of_the_constraints_is_named(
    store: RedisStore, client: Any
) -> None:
    await client.set("cascade:constraints", "no hash")
    with pytest.raises(StoreError, match="cascade:constraints"):
        await store.constraints()


async def test_what_is_resumed_lives_as_long_as_its_run(store: RedisStore, client: Any) -> None:
    await land(store, 1, created(), SaveResult("r", 0, "aa", 7, b"one", True))
    for part in ("results", "facts"):
        await client.expire(f"cascade:run:r:{part}", 10)
    await land(store, 2, created(resumed=True))
    for part in ("results", "facts"):
        assert await client.ttl(f"cascade:run:r:{part}") > 80_000


async def test_a_result_that_is_not_sealed_is_not_resumed(
    store: RedisStore, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await land(store, 1, created(), SaveResult("r", 0, "aa", 7, b"one"), SaveResult("r", 1, "bb", 8, b"two"))
    await client.hset("cascade:run:r:results", "aa", b"\x80\x05N.")
    found = await store.load_run("r")
    assert found is not None
    assert list(found.results) == ["bb"]
    assert "counts as lost" in caplog.text


async def test_no_redis_is_named_without_its_password(unused_tcp_port: int) -> None:
    url = f"redis://user:{secrets.token_hex(4)}@127.0.0.1:{unused_tcp_port}/0"
    lost = RedisStore(url, Sealer(KEY))
    with pytest.raises(
        StoreError, match=rf"no Redis at redis://user:\*\*\*@127.0.0.1:{unused_tcp_port}/0.*--state"
    ):
        await lost.open()
    with pytest.raises(StoreUnavailable):
        await land(lost, 1, created())
    with pytest.raises(StoreUnavailable):
        await lost.load_run("r")
    await lost.close()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h:1/0", "redis://h:1/0"),
        ("redis://:secret@h:1/0", "redis://:***@h:1/0"),
        ("rediss://u:secret@h/2", "rediss://u:***@h/2"),
        ("unix://:secret@/run/redis.sock?db=1", "unix://:***@/run/redis.sock?db=1"),
    ],
)
def test_passwords_are_masked(url: str, shown: str) -> None:
    assert masked(url) == shown
