"""Nested graphs: the value of a spawning task's target takes its place, on four clusters (see `loops`)."""

from __future__ import annotations

import time
from concurrent.futures import CancelledError
from typing import Any

import pytest

import cascade_dist as cs

from .conftest import Journal, note

pytestmark = pytest.mark.integration

TIMEOUT = 60


@cs.task
def add(a: int, b: int) -> int:
    return a + b


@cs.task
def echo(x: Any) -> Any:
    return x


@cs.task
def square(x: int) -> int:
    return x * x


@cs.task
def total(xs: list[int]) -> int:
    return sum(xs)


@cs.task
def countdown(n: int) -> Any:
    return "Done" if n == 0 else countdown(n - 1)


@cs.task
def breaks(n: int) -> Any:
    if n == 0:
        raise ZeroDivisionError("at the end")
    return breaks(n - 1)


@cs.task
def endless(path: str) -> Any:
    note(path, "started")
    while True:
        time.sleep(0.01)


@cs.task(spawn=True)
def factorial(n: int) -> Any:
    return 1 if n <= 1 else multiply(n, factorial(n - 1))


@cs.task
def multiply(a: int, b: int) -> int:
    return a * b


@cs.task(spawn=True)
def spawned_squares(n: int) -> Any:
    return square.map(x=list(range(n)))


@cs.task(spawn=True)
def spawned_loop(n: int) -> Any:
    return countdown(n)


@cs.task(spawn=True)
def spawned_failure() -> Any:
    return breaks(2)


@cs.task(spawn=True)
def spawned_skip() -> Any:
    return add(1, 2).run_if(False)


@cs.task(spawn=True)
def spawned_sequence() -> Any:
    return cs.sequence([add(1, 1).run_if(False), add(1, 2)])


@cs.task(spawn=True)
def spawned_endless(path: str) -> Any:
    return echo([spawned_pair(path), endless(path)])


@cs.task(spawn=True)
def spawned_pair(path: str) -> Any:
    return echo([endless(path), endless(path)])


@cs.task(spawn=True)
def spawned_flag(x: bool) -> Any:
    return echo(x)


def test_a_nested_graph_takes_the_place_of_its_node(loops: cs.Cluster) -> None:
    assert loops.run(add(factorial(6), 1), timeout=TIMEOUT) == 721
    assert loops.run(factorial(5), timeout=TIMEOUT) == 120, "a target goes on with it instead"


def test_nested_graphs_in_containers_maps_and_conditions(loops: cs.Cluster) -> None:
    assert loops.run([factorial(3), spawned_squares(3)], timeout=TIMEOUT) == [6, [0, 1, 4]]
    assert loops.run(factorial.map(n=[1, 2, 3, 4]), timeout=TIMEOUT) == [1, 2, 6, 24]
    assert loops.run(total(spawned_squares(4)), timeout=TIMEOUT) == 14
    assert loops.run(total(square.map(x=spawned_squares(3))), timeout=TIMEOUT) == 17
    assert loops.run(add(1, 2).run_if(spawned_flag(True)), timeout=TIMEOUT) == 3
    with pytest.raises(cs.DependencyMissingError):
        loops.run(add(1, 2).run_if(spawned_flag(False)), timeout=TIMEOUT)
    routed_by: Any = cs.Router(spawned_flag(True), {True: add(1, 1), False: add(2, 2)})
    assert loops.run(echo(routed_by), timeout=TIMEOUT) == 2


def test_a_loop_inside_a_nested_graph(loops: cs.Cluster) -> None:
    assert loops.run(echo([spawned_loop(200), add(1, 1)]), timeout=TIMEOUT) == ["Done", 2]


def test_a_failure_inside_a_nested_graph_is_the_nodes(loops: cs.Cluster) -> None:
    with pytest.raises(ZeroDivisionError, match="at the end"):
        loops.run(echo([spawned_failure()]), timeout=TIMEOUT)


def test_a_skip_of_the_nested_target_is_a_failure(loops: cs.Cluster) -> None:
    with pytest.raises(cs.DependencyMissingError):
        loops.run(echo([spawned_skip()]), timeout=TIMEOUT)


def test_a_nested_sequence_that_was_skipped_is_none(loops: cs.Cluster) -> None:
    run = loops.submit(echo({"k": spawned_sequence(), "other": add(1, 1)}))
    assert run.result(TIMEOUT) == {"k": None, "other": 2}
    with pytest.raises(cs.DependencyMissingError, match="ConditionFalse"):
        loops.run(add(2, 2).run_if(spawned_sequence()), timeout=TIMEOUT)


def test_a_cancel_stops_nested_graphs(loops: cs.Cluster, journal: Journal) -> None:
    run = loops.submit(echo([spawned_endless(journal.path)]))
    end = time.monotonic() + TIMEOUT
    while not journal.lines() and time.monotonic() < end:
        time.sleep(0.02)
    run.cancel()
    with pytest.raises(CancelledError):
        run.result(TIMEOUT)
    assert loops.run(add(1, 2), timeout=TIMEOUT) == 3


def test_deeply_nested_graphs(loops: cs.Cluster) -> None:
    expected = 1
    for n in range(2, 61):
        expected *= n
    assert loops.run(add(factorial(60), 0), timeout=TIMEOUT) == expected
