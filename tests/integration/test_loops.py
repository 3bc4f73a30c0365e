"""Loops: tail calls, jumps and nested graphs, on real processes.

Every test runs four times: with the state in memory and in Redis, and with the fast way of loops on and off,
which must mean the same.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

import cascade_dist as cs

from .conftest import Journal, note

pytestmark = pytest.mark.integration

TIMEOUT = 60


# --- tail calls --------------------------------------------------------------------------------------


@cs.task
def countdown(n: int) -> Any:
    return "Done" if n == 0 else countdown(n - 1)


@cs.task
def is_even(n: int) -> Any:
    return True if n == 0 else is_odd(n - 1)


@cs.task
def is_odd(n: int) -> Any:
    return False if n == 0 else is_even(n - 1)


@cs.task
async def countdown_async(n: int) -> Any:
    await asyncio.sleep(0)
    return "Done" if n == 0 else countdown_async(n - 1)


@cs.task
def add(a: int, b: int) -> int:
    return a + b


@cs.task
def square(x: int) -> int:
    return x * x


@cs.task
def total(xs: list[int]) -> int:
    return sum(xs)


def test_s43_a_task_returns_itself_1500_times(loops: cs.Cluster) -> None:
    assert loops.run(countdown(1500), timeout=TIMEOUT) == "Done"


def test_s43_mutual_recursion_of_2000_steps(loops: cs.Cluster) -> None:
    assert loops.run(is_even(2000), timeout=TIMEOUT) is True


def test_a_coroutine_returns_itself(loops: cs.Cluster) -> None:
    assert loops.run(countdown_async(300), timeout=TIMEOUT) == "Done"


@cs.task
def collect(n: int, path: str, seen: Any = None) -> Any:
    note(path, n)
    return n if n == 0 else collect(n - 1, path, add(n, 1))


def test_s44_every_iteration_makes_its_fresh_dependency_anew(loops: cs.Cluster, journal: Journal) -> None:
    assert loops.run(collect(20, journal.path), timeout=TIMEOUT) == 0
    assert journal.lines() == [str(n) for n in range(20, -1, -1)]


@cs.task
def changing(n: int, *values: int) -> Any:
    """Each step needs one value more than the one before, and then the shape shrinks again."""
    if n == 0:
        return sum(values)
    width = n % 7
    return changing(n - 1, *[add(k, sum(values) % 3) for k in range(width)])


def plainly_changing(n: int, *values: int) -> int:
    while n:
        values = tuple(k + sum(values) % 3 for k in range(n % 7))
        n -= 1
    return sum(values)


def test_the_shape_may_change_from_step_to_step(loops: cs.Cluster) -> None:
    assert loops.run(changing(30), timeout=TIMEOUT) == plainly_changing(30)


@cs.task
def squares(n: int) -> Any:
    return square.map(x=list(range(n)))


@cs.task
def squares_of(xs: list[int], depth: int) -> Any:
    if depth:
        return squares_of(square.map(x=xs), depth - 1)
    return xs


def test_a_returned_map_is_the_value(loops: cs.Cluster) -> None:
    assert loops.run(squares(5), timeout=TIMEOUT) == [0, 1, 4, 9, 16]
    assert loops.run(squares(0), timeout=TIMEOUT) == []


def test_a_map_is_an_argument_of_the_next_step(loops: cs.Cluster) -> None:
    assert loops.run(squares_of([1, 2, 3], 3), timeout=TIMEOUT) == [1, 2**8, 3**8]


@cs.task
def routed(n: int) -> Any:
    return cs.Router(n % 3, {0: countdown(n), 1: routed(n - 1) if n > 1 else add(n, 0), 2: routed(n - 1)})


def test_a_returned_router_goes_on_with_its_route(loops: cs.Cluster) -> None:
    assert loops.run(routed(5), timeout=TIMEOUT) == "Done"
    assert loops.run(routed(1), timeout=TIMEOUT) == 1


def test_a_router_as_target_may_choose_a_task_that_goes_on(loops: cs.Cluster) -> None:
    target: Any = cs.Router(add(0, 1), {1: countdown(30), 2: add(1, 1)})
    assert loops.run(target, timeout=TIMEOUT) == "Done"


@cs.task
def greet(n: int) -> Any:
    return shout(n, cs.Param("name", default="nobody"))


@cs.task
def shout(n: int, name: str) -> Any:
    return f"hello {name}" if n == 0 else greet(n - 1)


def test_returned_targets_see_the_params_of_the_run(loops: cs.Cluster) -> None:
    target = cs.sequence([echo(cs.Param("name", default="nobody")), greet(3)])
    assert loops.run(target, params={"name": "Ada"}, timeout=TIMEOUT) == "hello Ada"
    assert loops.run(greet(2), timeout=TIMEOUT) == "hello nobody"


@cs.task
def environment(n: int) -> Any:
    return echo(cs.Env("PATH")) if n else ""


@cs.task
def echo(x: Any) -> Any:
    return x


def test_the_environment_of_a_returned_target_is_the_workers(loops: cs.Cluster) -> None:
    assert loops.run(environment(1), timeout=TIMEOUT)


@cs.task
def grown(n: int, data: bytes) -> Any:
    return len(data) if n == 0 else grown(n - 1, data)


def test_large_arguments_go_from_step_to_step(loops: cs.Cluster) -> None:
    assert loops.run(grown(5, b"x" * 300_000), timeout=TIMEOUT) == 300_000


def test_s46_a_shape_is_solved_once(loops: cs.Cluster) -> None:
    before = loops.status()
    for n in (40, 50, 60):
        assert loops.run(is_even(n), timeout=TIMEOUT) is True
    after = loops.status()
    assert after.plans_solved - before.plans_solved <= 2
    assert after.loop_steps - before.loop_steps == 150


def test_s46_a_stable_loop_with_lazy_arguments_is_solved_twice_at_most(
    loops: cs.Cluster, journal: Journal
) -> None:
    before = loops.status()
    assert loops.run(collect(50, journal.path), timeout=TIMEOUT) == 0
    after = loops.status()
    assert after.plans_solved - before.plans_solved <= 2
    assert after.plans_hit - before.plans_hit >= 49


# --- policies hold at each step ------------------------------------------------------------------------


@cs.task(retry=cs.RetryPolicy(3))
def flaky(n: int, path: str) -> Any:
    note(path, n)
    seen = Path(path).read_text().split().count(str(n))
    if n % 10 == 5 and seen < 3:
        raise ValueError(f"step {n} fails {seen} times")
    return "Done" if n == 0 else flaky(n - 1, path)


def test_retries_hold_at_each_step(loops: cs.Cluster, journal: Journal) -> None:
    run = loops.submit(flaky(40, journal.path))
    assert run.result(TIMEOUT) == "Done"
    counts = {n: journal.lines().count(str(n)) for n in range(41)}
    assert counts == {n: 3 if n % 10 == 5 else 1 for n in range(41)}
    retries = [e.attempt for e in run.events() if isinstance(e, cs.events.TaskRetrying)]
    assert retries == [1, 2] * 4


@cs.task
def breaks(n: int) -> Any:
    if n == 0:
        raise ZeroDivisionError("at the end")
    return breaks(n - 1)


def test_a_step_that_raises_fails_the_run(loops: cs.Cluster) -> None:
    with pytest.raises(ZeroDivisionError, match="at the end"):
        loops.run(breaks(120), timeout=TIMEOUT)


@cs.task(timeout=1.0)
def sleeps_at(n: int, seconds: float) -> Any:
    if n == 0:
        time.sleep(seconds)
        return "woke"
    time.sleep(0.02)
    return sleeps_at(n - 1, seconds)


def test_a_timeout_is_of_each_step(loops: cs.Cluster) -> None:
    assert loops.run(sleeps_at(80, 0.0), timeout=TIMEOUT) == "woke"
    with pytest.raises(cs.TaskTimeoutError, match="longer than its timeout of 1 s"):
        loops.run(sleeps_at(5, 30.0), timeout=TIMEOUT)


@cs.task
def endless(path: str) -> Any:
    if not os.path.exists(path):
        note(path, "started")
    return endless(path)


def test_a_loop_without_end_is_cancelled(loops: cs.Cluster, journal: Journal) -> None:
    run = loops.submit(endless(journal.path))
    while not journal.lines():
        time.sleep(0.02)
    time.sleep(0.3)
    run.cancel()
    with pytest.raises(CancelledError):
        run.result(TIMEOUT)
    assert loops.run(add(1, 2), timeout=TIMEOUT) == 3
    assert loops.status().runs_active == 0


def test_a_loop_leaves_room_for_others(loops: cs.Cluster, tmp_path: Path) -> None:
    """Two loops without end take both slots; other work gets its turn all the same."""
    runs = [loops.submit(endless(str(tmp_path / f"loop{number}"))) for number in range(2)]
    try:
        for number in range(2):
            while not (tmp_path / f"loop{number}").exists():
                time.sleep(0.02)
        time.sleep(0.3)
        for number in range(5):
            assert loops.run(add(number, 1), timeout=20) == number + 1
    finally:
        for run in runs:
            run.cancel()


@cs.task
def who(n: int, path: str) -> Any:
    attempt = cs.current_attempt()
    assert attempt is not None
    assert os.environ["CASCADE_NODE_ID"] == attempt.node_id
    note(path, f"{attempt.run_id}|{attempt.node_id}|{attempt.attempt}|{attempt.task}")
    print(f"step {n}")
    return n if n == 0 else who(n - 1, path)


def test_a_step_knows_who_it_is_and_what_it_prints_is_heard(loops: cs.Cluster, journal: Journal) -> None:
    run = loops.submit(who(30, journal.path))
    assert run.result(TIMEOUT) == 0
    rows = [line.split("|") for line in journal.lines()]
    assert {row[0] for row in rows} == {run.id}
    assert len({row[1] for row in rows}) == 31, "every step is a node of its own"
    assert {(row[2], row[3]) for row in rows} == {("1", "who")}
    lines = [event.text for event in run.events() if isinstance(event, cs.events.LogLine)]
    assert lines == [f"step {n}" for n in range(30, -1, -1)]


def test_hot_loops_have_few_events_and_say_how_far_they_are(loops: cs.Cluster) -> None:
    run = loops.submit(countdown(1500))
    assert run.result(TIMEOUT) == "Done"
    events = list(run.events())
    told = [event.iterations for event in events if isinstance(event, cs.events.LoopProgress)]
    assert told[-1] == 1500
    assert told == sorted(told)
    assert len(events) < 1000


# --- resources -----------------------------------------------------------------------------------------


def resource_journal(run_id: str) -> Path:
    return Path(tempfile.gettempdir()) / f"cascade-test-loops-{run_id}"


@cs.resource(name="loops_session", scope="task")
def loops_session() -> Iterator[str]:
    attempt = cs.current_attempt()
    assert attempt is not None
    path = str(resource_journal(attempt.run_id))
    note(path, "acquired")
    yield path
    note(path, "released")


@cs.task
def uses(n: int, path: Any = cs.inject("loops_session")) -> Any:
    note(path, f"step{n}")
    return "Done" if n == 0 else uses(n - 1)


def each_step_has_its_own(run_id: str, first: int) -> None:
    journal = resource_journal(run_id)
    words = journal.read_text().split()
    journal.unlink()
    steps = [["acquired", f"step{n}", "released"] for n in range(first, -1, -1)]
    assert words == [word for step in steps for word in step]


def test_s45_a_task_resource_is_released_before_the_next_step(loops: cs.Cluster) -> None:
    run = loops.submit(uses(30))
    assert run.result(TIMEOUT) == "Done"
    each_step_has_its_own(run.id, 30)


# --- errors --------------------------------------------------------------------------------------------


@cs.task
def returns_lazy() -> Any:
    return add(1, 2)


@cs.task
def returns_list_of_lazies() -> Any:
    return [add(1, 2)]


@cs.task
def returns_a_task() -> Any:
    return add


@cs.task
def grows(data: bytes) -> Any:
    return grows(data + data)


@cs.task
def returns_many(n: int) -> Any:
    return square.map(x=[str(k) * 50 for k in range(n)])


def test_a_lazy_value_of_another_node_than_the_target_is_an_error(loops: cs.Cluster) -> None:
    with pytest.raises(cs.GraphError, match=r"task 'returns_lazy' returned a lazy value .*spawn=True"):
        loops.run(total([returns_lazy(), 1]), timeout=TIMEOUT)


def test_a_list_with_lazy_values_is_an_error_that_names_the_task(loops: cs.Cluster) -> None:
    with pytest.raises(cs.SerializationError, match="returns_list_of_lazies"):
        loops.run(returns_list_of_lazies(), timeout=TIMEOUT)


def test_a_task_is_a_value_and_no_target(loops: cs.Cluster) -> None:
    assert isinstance(loops.run(returns_a_task(), timeout=TIMEOUT), cs.Task)


def test_arguments_that_grow_are_warned_of_and_stopped(loops: cs.Cluster) -> None:
    run = loops.submit(grows(b"x" * 400_000))
    with pytest.raises(cs.GraphTooLargeError, match=r"'grows' .* MiB of arguments, and the most is 64.0 MiB"):
        run.result(TIMEOUT)
    lines = [event.text for event in run.events() if isinstance(event, cs.events.LogLine)]
    assert any("MiB of arguments; if they grow" in line for line in lines)


def test_a_returned_target_above_the_bound_is_refused_with_its_size(loops: cs.Cluster) -> None:
    with pytest.raises(
        cs.GraphTooLargeError, match=r"'returns_many' returned a target of .* nodes and .* MiB"
    ):
        loops.run(returns_many(20_000), timeout=TIMEOUT)


@cs.task
def needs_param() -> Any:
    return echo(cs.Param("no_such_param"))


def test_a_returned_target_names_the_param_that_is_missing(loops: cs.Cluster) -> None:
    with pytest.raises(cs.ParamMissingError, match="no_such_param"):
        loops.run(needs_param(), timeout=TIMEOUT)


@cs.task
def needs_gpus() -> Any:
    return echo(1).with_constraints(cpu=1000)


# A cluster that was started by hand is open: the node waits there.
@pytest.mark.parametrize("loops", ["memory-fast", "memory-slow"], indirect=True)
def test_an_amount_that_cannot_be_had_fails_the_run_of_a_private_cluster(loops: cs.Cluster) -> None:
    with pytest.raises(ValueError, match="cpu=1000"):
        loops.run(needs_gpus(), timeout=TIMEOUT)


# --- both states and ways mean the same ------------------------------------------------------------------


@cs.task
def collatz(n: int, steps: int, odd: Any = None) -> Any:
    if n == 1:
        return steps
    if n % 2:
        return collatz(3 * n + 1, steps + 1, echo(n).run_if(n % 3 == 0))
    return collatz(n // 2, steps + 1)


def test_s47_the_same_loop_has_the_same_skips_and_results_everywhere(loops: cs.Cluster) -> None:
    run = loops.submit(cs.sequence([add(1, 1), collatz(7, 0)]))
    with pytest.raises(cs.DependencyMissingError, match="UpstreamSkipped_Data"):
        run.result(TIMEOUT)
    skips = [(e.task, e.reason) for e in run.events() if isinstance(e, cs.events.TaskSkipped)]
    assert skips == [("echo", "ConditionFalse"), ("collatz", "UpstreamSkipped_Data")]
    run = loops.submit(collatz(8, 0))
    assert run.result(TIMEOUT) == 3


def test_many_loops_at_once(loops: cs.Cluster) -> None:
    runs = [loops.submit(countdown(40 + number)) for number in range(8)]
    assert [run.result(TIMEOUT) for run in runs] == ["Done"] * 8


@cs.task(pure=True, cache="cluster")
def climb_cached(n: int, top: int) -> Any:
    return n * 10 if n == top else climb_cached(n + 1, top)


def test_each_step_of_a_cached_loop_has_a_key_of_its_own(loops: cs.Cluster) -> None:
    assert loops.run(climb_cached(0, 7), timeout=TIMEOUT) == 70
    assert loops.run(climb_cached(0, 3), timeout=TIMEOUT) == 30
    assert loops.run(climb_cached(1, 7), timeout=TIMEOUT) == 70


def test_a_submit_from_another_thread_goes_on_meanwhile(loops: cs.Cluster) -> None:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(loops.run(countdown(200), timeout=TIMEOUT)))
    thread.start()
    assert loops.run(total(square.map(x=[1, 2, 3])), timeout=TIMEOUT) == 14
    thread.join(TIMEOUT)
    assert found == ["Done"]
