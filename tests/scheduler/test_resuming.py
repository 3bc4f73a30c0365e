"""What a resumed run finds in the store, and what it does not."""

from __future__ import annotations

from typing import Any

import pytest

from cascade_dist.codec.cid import cid_of
from cascade_scheduler import resuming
from cascade_scheduler.core.cached import Recovered, StoredValue
from cascade_scheduler.core.graph import Graph, NodeKind
from cascade_scheduler.core.values import BlobValue, ObjectValue
from cascade_scheduler.runs import SubmitFacts
from cascade_scheduler.store.base import RunCreated, StoredResult, StoredRun, StoreUnavailable
from cascade_scheduler.store.memory import MemoryStore
from cascade_scheduler.store.writer import StoreWriter
from tests.scheduler.core.harness import GraphMaker

CREATED = RunCreated("r", "", "cancel", False, 0.0, "ab" * 16, 3, b"params", b"template", (), b"", ())
HERE = BlobValue(cid_of(b"here"), 4)


def graph() -> Graph:
    make = GraphMaker()
    items = make.call("items")
    message = make.wait(topic="go")
    mapped = make.call("double", items=[items], kind=NodeKind.MAP)
    make.gather(mapped, message)
    return make.graph()


def key(node: int, index: int = -1) -> str:
    text = node.to_bytes(16, "big").hex()
    return text if index < 0 else f"{text}[{index}]"


async def found(results: dict[str, StoredResult], frame: int = 0) -> Recovered | None:
    stored = StoredRun(CREATED, results=results, frame=frame)
    return await resuming.recovered_from(stored, graph(), {HERE.cid}.__contains__)


async def test_results_are_found_by_structural_id() -> None:
    results = {
        key(0): StoredResult(7, b"items", True, 3),
        key(1): StoredResult(0, b"message"),
        key(2, 0): StoredResult(8, b"zero"),
        key(2, 11): StoredResult(9, HERE, False),
        key(77): StoredResult(10, b"of no node"),
        key(78, 0): StoredResult(11, b"of no map"),
    }
    recovered = await found(results)
    assert recovered == Recovered(
        {0: StoredValue(b"items", True, 3, 7), 1: StoredValue(b"message")},
        {2: {0: StoredValue(b"zero", attempt=8), 11: StoredValue(HERE, False, attempt=9)}},
    )
    assert list(resuming.blobs_of(recovered)) == [HERE.cid]


async def test_objects_and_blobs_that_are_gone_do_not_count() -> None:
    results = {
        key(0): StoredResult(7, ObjectValue(7, 1 << 20, "w", "w:1")),
        key(2, 0): StoredResult(8, BlobValue(cid_of(b"gone"), 4)),
    }
    assert await found(results) == Recovered({}, {})


async def test_results_of_a_later_frame_do_not_count() -> None:
    assert await found({key(0): StoredResult(7, b"items")}, frame=2) is None


async def test_a_structural_node_has_no_result() -> None:
    assert await found({key(3): StoredResult(7, b"a list"), key(1): StoredResult(0, HERE)}) == Recovered(
        {}, {}
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, []),
        ({"params_digest": b"others"}, ["the params"]),
        ({"template_id": b"other"}, ["the target's code or shape"]),
        ({"target_id": "cd" * 16}, ["the target's arguments"]),
        ({"node_count": 4}, ["the number of nodes (3, now 4)"]),
        ({"on_failure": "finish"}, ["the option on_failure ('cancel', now 'finish')"]),
    ],
)
def test_what_differs_is_named(changes: dict[str, Any], told: list[str]) -> None:
    facts: dict[str, Any] = {
        "target_id": "ab" * 16,
        "template_id": b"template",
        "params_digest": b"params",
        "node_count": 3,
        "on_failure": "cancel",
    }
    assert resuming.differences(CREATED, SubmitFacts(**{**facts, **changes})) == told


class AwayStore(MemoryStore):
    """A store that does not answer the first times that it is asked."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    async def load_run(self, run_id: str) -> StoredRun | None:
        if self.times:
            self.times -= 1
            raise StoreUnavailable("the test took it away")
        return StoredRun(CREATED)


async def test_a_store_that_is_away_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resuming, "AGAIN_SECONDS", 0.0)
    store = AwayStore(3)
    writer = StoreWriter(store, on_fenced=lambda error: None)
    assert await resuming.load(writer, "r") == StoredRun(CREATED)
    assert not store.times


async def test_a_store_that_stays_away_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resuming, "LOAD_SECONDS", 0.0)
    writer = StoreWriter(AwayStore(1_000_000), on_fenced=lambda error: None)
    with pytest.raises(StoreUnavailable):
        await resuming.load(writer, "r")
