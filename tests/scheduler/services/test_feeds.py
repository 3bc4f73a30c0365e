"""What one client is told of one run: made ready beforehand, it is the same."""

from __future__ import annotations

import asyncio

import pytest

from cascade_dist.v1 import client_pb2
from cascade_scheduler.core.commands import RunEnded, TargetValue
from cascade_scheduler.core.values import ErrorInfo, Value
from cascade_scheduler.core.views import Progress, Tree, TreeList
from cascade_scheduler.eventlog import LogLine
from cascade_scheduler.runs import RunBook, RunRecord, SubmitFacts
from cascade_scheduler.services.client_session import Feed, foresee
from cascade_scheduler.wire.values import PAYLOAD_BYTES_MAX
from tests.scheduler.peers import SECONDS, Client, Worker, done, one_task, pickled, scheduler
from tests.scheduler.services.test_missed_lines import GatedStore

FACTS = SubmitFacts(target_id="ab", template_id=b"t", params_digest=b"p", node_count=2, on_failure="cancel")
GOOD = RunEnded("r", "succeeded", None, "", "", 0, "", 0.5)
BAD = RunEnded("r", "failed", ErrorInfo("ValueError", "no"), "load", "", 0, "", 0.5)
COUNTS = Progress(2, 2, 0, 0, 0, 0)


def feed_of(ended: RunEnded, tree: Tree | None) -> Feed:
    """Of a run that has ended in the core, and of which nothing was told."""
    record = RunRecord("r", "", FACTS, logs=True, submitted=1.0)
    record.ending = (ended, tree, COUNTS)
    return Feed(record, logs=True)


def ready(feed: Feed, values: list[tuple[int, Value]]) -> None:
    """Foresees what is told; another run ends in the same turn."""
    runs = RunBook(never, never, never, shows_at_once=False)
    runs.add(feed.record)
    assert feed.record.ending is not None
    told = [TargetValue("r", node, value) for node, value in values]
    foresee(
        runs, [TargetValue("other", 0, b"x"), GOOD._replace(run_id="other"), *told, feed.record.ending[0]]
    )


def never(*_: object) -> None:
    """Is not called."""
    raise AssertionError


def told(feed: Feed, values: list[tuple[int, Value]]) -> list[client_pb2.OpenResponse]:
    """What the client is told once all has landed."""
    feed.record.results.extend(values)
    feed.record.ended = feed.record.ending
    return list(feed.messages())


ENDS: list[tuple[RunEnded, Tree | None, list[tuple[int, Value]]]] = [
    (GOOD, 0, [(0, b"value")]),
    (GOOD, TreeList((0, 1)), [(0, b"a"), (1, b"b")]),
    (BAD, None, []),
    (GOOD, 0, [(0, b"x" * (PAYLOAD_BYTES_MAX + 1))]),
    (GOOD, TreeList((0, 1)), [(0, b"x" * PAYLOAD_BYTES_MAX), (1, b"x" * PAYLOAD_BYTES_MAX)]),
]


@pytest.mark.parametrize(("ended", "tree", "values"), ENDS)
def test_what_was_foreseen_is_what_is_told(
    ended: RunEnded, tree: Tree | None, values: list[tuple[int, Value]]
) -> None:
    plain, foreseen = feed_of(ended, tree), feed_of(ended, tree)
    ready(foreseen, values)
    small = sum(len(value) for _, value in values if isinstance(value, bytes)) < PAYLOAD_BYTES_MAX
    assert (foreseen.record.foreseen is not None) is small
    wanted = told(plain, values)
    assert told(foreseen, values) == wanted
    assert plain.finished
    assert foreseen.finished


def test_a_line_that_comes_meanwhile_is_told_before_the_end() -> None:
    feed = feed_of(GOOD, 0)
    ready(feed, [(0, b"value")])
    feed.add_line(1, LogLine("r", 1.0, 0, "load", "w", 1, "hello"))
    updates = [message.update for message in told(feed, [(0, b"value")])]
    assert [line.text for update in updates for line in update.output] == ["hello"]
    assert updates[-1].HasField("finish")


def test_what_was_foreseen_of_another_end_is_forgotten() -> None:
    feed = feed_of(GOOD, 0)
    ready(feed, [(0, b"value")])
    feed.record.ending = (BAD, None, COUNTS)
    (message,) = told(feed, [])
    assert message.update.finish.failed_task == "load"


def test_nothing_is_told_before_it_has_landed() -> None:
    feed = feed_of(GOOD, 0)
    ready(feed, [(0, b"value")])
    assert list(feed.messages()) == []


@pytest.mark.parametrize("away", [False, True])
async def test_nothing_is_made_ready_while_the_store_is_away(away: bool) -> None:
    store = GatedStore()
    async with scheduler(store) as it, Client(it.address) as client, Worker(it.address) as worker:
        it.hub.writer.away = away
        await client.submit("r", one_task())
        await worker.report(done((await worker.work()).assignments[0].attempt, pickled(1)))
        record = it.hub.runs.get("r")
        assert record is not None
        async with asyncio.timeout(SECONDS):
            while record.ending is None:  # noqa: ASYNC110 - it ends in the core, and nobody is told
                await asyncio.sleep(0.01)
        assert (record.foreseen is None) is away
        store.gate.set()
        values, _ = await client.finish("r")
        assert values[0].inline == pickled(1)
