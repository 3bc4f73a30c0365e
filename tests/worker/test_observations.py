"""What is observed of values."""

from __future__ import annotations

import pickle
from collections.abc import AsyncIterator, Sequence
from decimal import Decimal
from typing import Any

import pytest
import pytest_asyncio

from cascade_dist.codec.exceptions import ErrorRecord
from cascade_dist.v1 import value_pb2, worker_pb2
from cascade_worker.executor.observations import (
    OBSERVE_AMOUNT,
    OBSERVE_DIGEST,
    OBSERVE_ROUTE,
    OBSERVE_SPLIT,
    OBSERVE_TRUTH,
    Keys,
    Seen,
    observe,
)
from tests.worker.processes import WorkerProcess
from tests.worker.scheduler import Scheduler, WorkerSession


def see(bits: int, value: Any, *routers: Sequence[Any], name: str = "task", inline_max: int = 1000) -> Seen:
    keys = [pickle.dumps(tuple(router)) for router in routers]
    return observe(
        bits, value, keys=Keys(), route_keys=keys, name=name, what="the value", inline_max=inline_max
    )


def more(seen: Seen) -> dict[str, Any]:
    assert seen.more is not None
    return seen.more


def error_of(seen: Seen) -> tuple[str, str]:
    assert seen.error is not None
    record = ErrorRecord(*seen.error)
    return record.type, record.message


class Ambiguous:
    """Neither true nor false."""

    def __bool__(self) -> bool:
        raise ValueError("ambiguous")


@pytest.mark.parametrize(
    ("value", "keys", "found"),
    [
        ("b", ("a", "b"), 2),
        (None, ("a", None), 2),
        (True, (1, True), 1),
        (1.0, (True,), 1),
        ((1, "x"), ((1, "x"),), 1),
        ("1", (1,), 0),
    ],
)
def test_a_route_is_found_as_in_a_dict(value: Any, keys: Sequence[Any], found: int) -> None:
    assert more(see(OBSERVE_ROUTE, value, keys))["routes_plus_one"] == [found]


def test_every_router_is_asked_and_those_without_a_route_say_so() -> None:
    seen = more(see(OBSERVE_ROUTE, "c", ("a", "b"), ("c",), range(100)))
    assert seen["routes_plus_one"] == [0, 1, 0]
    first, second = seen["route_text"].split("\n")
    assert first == "no route for 'c', the value of 'task': the keys are 'a', 'b'"
    assert second.endswith("18, 19 and 80 more")


def test_what_cannot_be_hashed_is_no_key() -> None:
    seen = see(OBSERVE_ROUTE | OBSERVE_TRUTH, [], ("a",))
    assert seen.truth is False
    assert error_of(seen) == (
        "TypeError",
        "the value of 'task' cannot be a router's key: unhashable type: 'list'",
    )


def test_a_truth_that_raises_is_reported_and_the_rest_is_observed() -> None:
    seen = see(OBSERVE_TRUTH | OBSERVE_ROUTE, Ambiguous(), ("a",))
    assert error_of(seen) == ("ValueError", "ambiguous")
    assert more(seen)["routes_plus_one"] == [0]


@pytest.mark.parametrize(
    ("value", "micros"),
    [(2, 2_000_000), (0.1, 100_000), (Decimal("0.3"), 300_000), (-1, -1_000_000), (0, 0)],
)
def test_numbers_are_amounts(value: Any, micros: int) -> None:
    assert more(see(OBSERVE_AMOUNT, value))["amount_micros"] == micros


@pytest.mark.parametrize(
    ("value", "type_"),
    [
        ("4", "TypeError"),
        (None, "TypeError"),
        (True, "TypeError"),
        (1j, "TypeError"),
        (float("nan"), "ValueError"),
        (Decimal("Infinity"), "ValueError"),
        (10**30, "ValueError"),
    ],
)
def test_other_values_are_no_amounts(value: Any, type_: str) -> None:
    seen = see(OBSERVE_AMOUNT, value)
    assert error_of(seen)[0] == type_
    assert seen.more is None


def test_lists_are_split() -> None:
    seen = see(OBSERVE_SPLIT, [1, "b"])
    assert (seen.length, seen.packed) == (2, None)
    assert [pickle.loads(item) for item in seen.items or ()] == [1, "b"]
    large = see(OBSERVE_SPLIT, ["x" * 2000])
    assert (large.length, large.items) == (1, None)
    assert large.packed is not None
    assert error_of(see(OBSERVE_SPLIT, 3))[0] == "TypeError"


def test_a_list_that_is_too_long_is_not_split() -> None:
    seen = see(OBSERVE_SPLIT, range(10**12))
    assert (seen.length, seen.items, seen.packed) == (None, None, None)
    assert error_of(seen)[0] == "ValueError"
    assert "1,000,000,000,000 items" in error_of(seen)[1]


def test_equal_content_has_an_equal_digest() -> None:
    digests = [more(see(OBSERVE_DIGEST, value))["digest"] for value in ([1, 2], [1, 2], (1, 2))]
    assert digests[0] == digests[1] != digests[2]
    assert len(digests[0]) == 16
    assert more(see(OBSERVE_DIGEST, iter([])))["digest"] == b"", "no canonical form"


# --- through a worker ----------------------------------------------------------------------------


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def scheduler() -> AsyncIterator[Scheduler]:
    """A scheduler with no mind of its own."""
    made = Scheduler()
    await made.start()
    yield made
    await made.stop()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def worker(
    scheduler: Scheduler, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[WorkerSession]:
    """A worker."""
    process = await WorkerProcess.start(scheduler.address, tmp_path_factory.mktemp("worker"), "--slots", "1")
    yield await scheduler.worker()
    await process.stop()


@pytest.mark.asyncio(loop_scope="module")
async def test_a_task_is_observed_where_it_runs(scheduler: Scheduler, worker: WorkerSession) -> None:
    keys = [pickle.dumps(("x", "y")), pickle.dumps(("z",))]
    task = scheduler.task(
        lambda: "y", observe=OBSERVE_ROUTE | OBSERVE_TRUTH | OBSERVE_DIGEST, route_keys=keys
    )
    amount = scheduler.task(lambda: 2, observe=OBSERVE_AMOUNT)
    first, second = await worker.submit(task, amount)
    assert list(first.done.routes_plus_one) == [2, 0]
    assert first.done.route_text == "no route for 'y', the value of '<lambda>': the keys are 'z'"
    assert (first.done.truth, len(first.done.digest)) == (True, 16)
    assert second.done.amount_micros == 2_000_000
    assert pickle.loads(first.done.value.inline) == "y"


@pytest.mark.asyncio(loop_scope="module")
async def test_a_value_is_observed_without_user_code(scheduler: Scheduler, worker: WorkerSession) -> None:
    def only(value: Any, bits: int, **fields: Any) -> worker_pb2.Assignment:
        inputs = [value_pb2.Value(inline=pickle.dumps(value, 5))]
        task = scheduler.task(print, inputs=inputs, amounts=(), observe=bits, observe_only=True, **fields)
        spec, _, _, run_id = scheduler._specs[task.attempt]
        scheduler._specs[task.attempt] = (spec, b"", b"", run_id)
        return task

    truth, route, small, large = await worker.submit(
        only([], OBSERVE_TRUTH),
        only("x", OBSERVE_ROUTE, route_keys=[pickle.dumps(("y",))]),
        only([1, 2], OBSERVE_SPLIT, publish=True),
        only(["x" * 1000] * 100, OBSERVE_SPLIT, publish=True),
    )
    assert (truth.done.truth, truth.done.preview) == (False, "")
    assert (list(route.done.routes_plus_one), route.done.route_text) == (
        [0],
        "no route for 'x': the keys are 'y'",
    )
    assert [pickle.loads(item) for item in small.done.items] == [1, 2]
    assert (large.done.length, large.done.value.WhichOneof("form")) == (100, "blob")


@pytest.mark.parametrize("value", ["text", b"bytes", bytearray(), {1, 2}, frozenset(), 5])
def test_what_the_client_would_not_map_over_is_no_list_here_either(value: Any) -> None:
    seen = see(OBSERVE_SPLIT, value)
    assert seen.length is None
    assert error_of(seen)[0] == "TypeError"
