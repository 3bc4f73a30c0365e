"""The scheduler stops after every record of a run's journal, one after the other; the next one goes on."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

import cascade_dist as cs
from tests.simulation.restarts import Verdict, play
from tests.simulation.worker import Depot


@pytest.fixture(scope="module")
def depot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Depot]:
    directory = tmp_path_factory.mktemp("depot")
    yield Depot(directory)
    shutil.rmtree(directory)


@cs.task
def num(value: Any = 1) -> Any:
    return value


@cs.task
def add(*values: Any) -> Any:
    return sum(values)


@cs.task
def double(value: int) -> int:
    return 2 * value


@cs.task
def upto(count: int) -> list[int]:
    return list(range(count))


@cs.task
def long_list(count: int) -> list[str]:
    return [f"item {number} " * 5 for number in range(count)]


@cs.task
def measure(text: str) -> int:
    return len(text)


@cs.task
def large(size: int) -> bytes:
    return b"x" * size


@cs.task
def countdown(n: int) -> Any:
    return "over" if n == 0 else further(n)


@cs.task
def further(n: int) -> Any:
    return countdown(add(n, -1))


@cs.task
def decide(n: int) -> Any:
    return cs.Jump("again", {"n": n - 1}) if n else cs.Jump("over", "done")


@cs.task(spawn=True)
def nested(n: int) -> Any:
    return add(double(n), double(n + 1), add(*[double(i) for i in range(2)]))


@cs.task(spawn=True)
def nested_maps(n: int) -> Any:
    return double.map(value=upto(n))


@cs.task
def total(values: list[int]) -> int:
    return sum(values)


@cs.task
def flaky(failures: int) -> int:
    info = cs.current_attempt()
    assert info is not None
    if info.attempt <= failures:
        raise LookupError(f"try {info.attempt}")
    return info.attempt


@cs.task
def bad(value: Any) -> Any:
    raise ValueError(f"no: {value}")


def one() -> Any:
    return num(7)


def one_again() -> Any:
    return flaky(1).with_retry(2)


def diamond() -> Any:
    a = num(3)
    return add(double(a), add(a, 4), num(7))


def mapped() -> Any:
    return add(*[double(n) for n in range(3)]), double.map(value=[4, 5, 6])


def lazy_map() -> Any:
    return double.map(value=double.map(value=upto(3)))


def map_of_an_object() -> Any:
    return measure.map(text=long_list(4))


def objects() -> Any:
    blob = large(5_000)
    return add(measure(blob), measure(blob).after(num()))


def router() -> Any:
    selector = num("b")
    chosen: Any = cs.Router(selector, {"a": double(num(1)), "b": double(num(2)), "c": add(num(5), 6)})
    return add(chosen, 1)


def pipeline() -> Any:
    lie = num(0)
    return cs.pipeline(num(10), [add, lambda value: double(value).run_if(lie), lambda value: add(value, 3)])


def skips() -> Any:
    truth, lie = num(True), num(0)
    middle = double(5).run_if(lie)
    return [num(1).run_if(truth), cs.sequence([num(2), double(middle).after(truth), num(3)])]


def loop() -> Any:
    return countdown(3)


def jump() -> Any:
    step = decide(num(3))
    cs.bind(step, cs.select_jump({"again": step, "over": None}))
    return step


def spawn() -> Any:
    return add(nested(1), nested(num(2)))


def spawn_maps() -> Any:
    return add(total(nested_maps(3)), total(nested_maps(num(2))))


def retry() -> Any:
    return add(flaky(2).with_retry(3, delay=0.01), flaky(1).with_retry(2))


def pools() -> Any:
    return add(*[double(n).with_constraints(cpu=0.5) for n in range(4)])


def failure() -> Any:
    return add(bad(num(1)), double(num(2)))


PROGRAMS = (
    *(one, one_again),
    *(diamond, mapped, lazy_map, map_of_an_object, objects, router, pipeline, skips),
    *(loop, jump, spawn, spawn_maps, retry, pools, failure),
)
EXACT = frozenset(PROGRAMS) - {failure, spawn, spawn_maps}
"""Of these it is known how often each node is executed."""


async def clean_and_stopped(url: str, depot: Depot, program: Any) -> tuple[Verdict, list[Verdict]]:
    clean = await play(url, depot, program())
    stops = range(1, clean.records + 1)
    return clean, [await play(url, depot, program(), stop_after=number) for number in stops]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
async def test_a_stop_after_any_record_changes_nothing(redis_server: str, depot: Depot, program: Any) -> None:
    clean, stopped = await clean_and_stopped(redis_server, depot, program)
    assert clean.records > 5
    for number, verdict in enumerate(stopped, 1):
        told = f"stopped after record {number} of {clean.records}"
        assert (verdict.state, verdict.value, verdict.error) == (clean.state, clean.value, clean.error), told
        assert not verdict.again, told
        more = sum(verdict.executed.values()) - sum(clean.executed.values())
        if program in EXACT:
            assert more == verdict.strangers, told
        assert verdict.events.count(("RunFinished", "")) == 1, told
        if program in EXACT and not verdict.cut:
            assert Counter(verdict.events) == Counter(clean.events), told


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
async def test_a_stop_with_a_worker_that_dies_too(redis_server: str, depot: Depot, program: Any) -> None:
    """Values that it alone had are made again; nothing that is stored is."""
    clean = await play(redis_server, depot, program())
    for number in range(1, clean.records + 1, 3):
        verdict = await play(redis_server, depot, program(), stop_after=number, dies=True)
        told = f"stopped after record {number} of {clean.records}"
        assert (verdict.state, verdict.value, verdict.error) == (clean.state, clean.value, clean.error), told
        assert not verdict.again, told
        assert verdict.events.count(("RunFinished", "")) == 1, told


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
async def test_all_is_lost_after_some_record_and_written_again(
    redis_server: str, depot: Depot, program: Any
) -> None:
    """What the scheduler holds is enough for the next one to go on with."""
    clean = await play(redis_server, depot, program())
    for number in range(1, clean.records, 3):
        verdict = await play(redis_server, depot, program(), stop_after=number, lose=True)
        told = f"lost after record {number} of {clean.records}"
        assert (verdict.state, verdict.value, verdict.error) == (clean.state, clean.value, clean.error), told
        # Values that were let go before the loss may have to be made again, once.
        assert all(verdict.executed[node] <= 2 * count for node, count in clean.executed.items()), told
        assert verdict.events.count(("RunFinished", "")) == 1, told
