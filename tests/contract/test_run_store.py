"""What every run store keeps to: in memory and in a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import redis.asyncio

from cascade_dist.codec.cid import cid_of
from cascade_dist.storage.seal import Sealer
from cascade_scheduler.core.cached import Facts
from cascade_scheduler.core.commands import (
    DropConstraint,
    DropWorker,
    LoopCounts,
    SaveAttempt,
    SaveCancel,
    SaveCheckpoint,
    SaveConstraint,
    SaveDue,
    SaveFacts,
    SaveFailure,
    SaveFrame,
    SaveOutcome,
    SaveResult,
    SaveSkip,
    SaveWorker,
)
from cascade_scheduler.core.limits import CONCURRENCY, PAUSE, RATE_LIMIT, Constraint
from cascade_scheduler.core.values import BlobValue, ErrorInfo, ObjectValue
from cascade_scheduler.store.base import (
    Batch,
    Record,
    RunAnswered,
    RunCreated,
    RunDropped,
    RunEvents,
    RunResumed,
    RunStore,
    Standing,
    StoredAnswer,
    StoredAttempt,
    StoredDue,
    StoredFailure,
    StoredFrame,
    StoredFunction,
    StoredHead,
    StoredJump,
    StoredResult,
    StoredRun,
    StoredWorker,
    StoreFenced,
    StoreGap,
)
from cascade_scheduler.store.memory import MemoryRuns, MemoryStore
from cascade_scheduler.store.redis import RedisStore

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
        SaveAttempt("r", 4, 2**40 + 5, 1, "worker one", behind=2**40 + 3),
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
        {
            0: StoredAttempt(2**40 + 1, 1, "worker-1"),
            1: StoredAttempt(2**40 + 3, 2, "worker one"),
            4: StoredAttempt(2**40 + 5, 1, "worker one", 2**40 + 3),
        },
        {1: b"first events", 10: b"more events"},
    )


FACTS = Facts(
    False,
    2,
    -1_500_000,
    b"\0digest",
    ((4, 1), (7, "no key ☃")),
    ErrorInfo("E", "it", "tb", b"\x80e"),
    24,
    (b"\x80one", b"\x80two"),
    BlobValue(cid_of(b"split"), 9),
)


async def test_what_else_a_restart_needs_of_nodes_comes_back(open_store: Open) -> None:
    store = await open_store()
    error = ErrorInfo("ValueError", "☃", "a traceback", b"\x80pickled")
    await land(
        store,
        1,
        created(params=b"\x80params", cancel_on_disconnect=True, disconnect_grace=2.5),
        SaveFacts("r", 0, "aa", FACTS),
        SaveFacts("r", 1, "bb", Facts()),
        SaveAttempt("r", 3, 2**40 + 1, 1, "w one", 2),
        SaveAttempt("r", 3, 2**40 + 2, 1, "w one", 7),
        SaveDue("r", 3, 7, 1, 1234.56789),
        SaveAttempt("r", 4, 2**40 + 3, 1, "w one"),
        SaveDue("r", 4, -1, 2, 1e9 + 0.123456),
        SaveDue("r", 5, -1, 0, 7.5),
        SaveAttempt("r", 5, 2**40 + 4, 3, "w"),
        SaveFailure("r", 6, -1, error, "raiser"),
        SaveFailure("r", 3, 9, error, "child"),
        SaveCancel("r"),
    )
    found = (await load(await open_store()))["r"]
    assert found.created.params == b"\x80params"
    assert (found.created.cancel_on_disconnect, found.created.disconnect_grace) == (True, 2.5)
    assert found.facts == {"aa": FACTS, "bb": Facts()}
    assert found.attempts == {5: StoredAttempt(2**40 + 4, 3, "w")}
    assert found.children == {(3, 2): StoredAttempt(2**40 + 1, 1, "w one")}
    assert found.dues == {(3, 7): StoredDue(1, 1234.56789), (4, -1): StoredDue(2, 1e9 + 0.123456)}
    assert found.failures == {(6, -1): StoredFailure(error, "raiser"), (3, 9): StoredFailure(error, "child")}
    assert found.cancelled


async def test_a_frame_takes_the_place_of_all_that_was_saved_of_the_last(open_store: Open) -> None:
    store = await open_store()
    await land(
        store,
        1,
        created(),
        SaveFacts("r", 0, "aa", FACTS),
        SaveDue("r", 3, 7, 1, 1234.5),
        SaveAttempt("r", 3, 5, 1, "w", 2),
        SaveFailure("r", 6, -1, ErrorInfo("E", ""), "raiser"),
        frame(1)._replace(counts=LoopCounts(3, 2, 1, 4)),
    )
    found = (await load(store))["r"]
    assert (found.facts, found.dues, found.children, found.failures) == ({}, {}, {}, {})
    assert found.counts == LoopCounts(3, 2, 1, 4)
    await land(store, 2, SaveCheckpoint("r", 1, b"n" * 16, b"args", 7, LoopCounts(9, 9, 1, 11)))
    found = (await load(store))["r"]
    assert (found.counts, found.iterations) == (LoopCounts(9, 9, 1, 11), 7)


async def test_how_a_run_ended_comes_back(open_store: Open) -> None:
    store = await open_store()
    answer = RunAnswered("r", b"\0finish\n", ((4, "aa"), (0, "bb[1]")))
    await land(store, 1, created(), created("other"), answer, SaveOutcome("r", "succeeded", ""))
    found = (await load(await open_store()))["r"]
    assert found.answer == StoredAnswer(answer.finish, answer.keys)
    heads = sorted(await store.heads())
    assert heads == [
        StoredHead("other", "a name ☃", "running", "", 1234.5),
        StoredHead("r", "a name ☃", "succeeded", "", 1234.5),
    ]


async def test_a_run_that_goes_on_in_its_stored_graph_keeps_results_and_frame(open_store: Open) -> None:
    store = await open_store()
    await land(
        store,
        1,
        created(),
        frame(3)._replace(counts=LoopCounts(3, 2, 1, 4)),
        SaveResult("r", 0, "aa", 7, b"one", True),
        SaveFacts("r", 0, "aa", FACTS),
        SaveSkip("r", 2, "cc", "ConditionFalse"),
        SaveAttempt("r", 0, 7, 1, "w"),
        SaveDue("r", 1, -1, 1, 5.0),
        SaveFailure("r", 1, -1, ErrorInfo("E", ""), "raiser"),
        SaveCancel("r"),
        RunEvents("r", 1, b"events"),
        RunAnswered("r", b"finish", ()),
        SaveOutcome("r", "failed", "ValueError: no"),
    )
    await land(store, 2, RunResumed("r", 2000.0))
    found = (await load(await open_store()))["r"]
    assert (found.state, found.error, found.cancelled, found.answer) == ("running", "", False, None)
    assert (found.frame, found.counts) == (3, LoopCounts(3, 2, 1, 4))
    assert found.results == {"aa": StoredResult(7, b"one", True)}
    assert found.facts == {"aa": FACTS}
    assert (found.skipped, found.attempts, found.dues, found.failures, found.events) == ({}, {}, {}, {}, {})


async def test_the_roster_comes_back(open_store: Open) -> None:
    store = await open_store()
    one = SaveWorker("w1", "one ☃", (("cpu", 4_000_000), ("gpu", 1)))
    await land(store, 1, one, SaveWorker("w2", "two", ()), SaveWorker("w3", "three", ()), DropWorker("w2"))
    await land(store, 2, SaveWorker("w3", "three again", (("cpu", 1),)), DropWorker("never was"))
    found = list(await (await open_store()).roster())
    assert found == [StoredWorker(*one), StoredWorker("w3", "three again", (("cpu", 1),))]


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
    with pytest.raises(StoreGap, match=r"last batch is 1|after batch 1"):
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


async def test_a_jump_in_the_batch_of_its_graph_keeps_the_graph(open_store: Open) -> None:
    store = await open_store()
    jump = StoredJump(4, (), b"")
    steps = (frame(1), frame(2, b"the last"), SaveAttempt("r", 0, 7, 1, "w"), SaveFrame("r", 3, jump))
    await land(store, 1, created(), *steps)
    found = (await load(await open_store()))["r"]
    assert (found.frame, found.jump, found.created.chunks) == (3, jump, (b"the last",))
    assert not found.attempts


async def test_what_stands_takes_the_place_of_what_stood(open_store: Open) -> None:
    store = await open_store()
    worker = SaveWorker("w2", "two", (("cpu", 1),))
    await land(store, 1, SaveConstraint(LIMITS[0]), SaveWorker("w1", "one", ()))
    await land(store, 2, Standing((SaveConstraint(LIMITS[1]),), (worker,)))
    assert list(await store.constraints()) == [LIMITS[1]]
    assert [tuple(kept) for kept in await store.roster()] == [tuple(worker)]
    await land(store, 3, Standing((), ()))
    assert not await store.constraints()
    assert not await store.roster()


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
