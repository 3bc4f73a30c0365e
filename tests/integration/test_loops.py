"""Loops: tail calls, jumps and nested graphs, on real processes.

Every test runs four times: with the state in memory and in Redis, and with the fast way of loops on and off,
which must mean the same.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import cascade_dist as cs

from .conftest import Journal

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 60


def _private(fast: str) -> Iterator[cs.Cluster]:
    os.environ["CASCADE_FAST_LOOPS"] = fast
    try:
        cluster = cs.connect(None, workers=2, slots=1)
    finally:
        del os.environ["CASCADE_FAST_LOOPS"]
    with cluster:
        yield cluster


def _on_redis(fast: str) -> Iterator[cs.Cluster]:
    command = [sys.executable, str(ROOT / "scripts" / "cluster.py")]
    environment = {**os.environ, "CASCADE_FAST_LOOPS": fast}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        ready = next(line for line in process.stdout if line.startswith("ready "))
        words = dict(word.split("=", 1) for word in ready.split()[1:])
        with cs.connect(words["address"]) as cluster:
            yield cluster
    finally:
        process.terminate()
        process.wait(30)
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture(scope="module", params=["memory-fast", "memory-slow", "redis-fast", "redis-slow"])
def cluster(request: pytest.FixtureRequest) -> Iterator[cs.Cluster]:
    """Two workers with one slot each."""
    state, fast = request.param.split("-")
    make = _private if state == "memory" else _on_redis
    yield from make("true" if fast == "fast" else "false")


@pytest.fixture
def fast(request: pytest.FixtureRequest) -> bool:
    """Whether loops may go the fast way."""
    return "fast" in request.node.callspec.id


def note(path: str, word: Any) -> None:
    with open(path, "a") as file:
        file.write(f"{word}\n")


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


def test_s43_a_task_returns_itself_1500_times(cluster: cs.Cluster) -> None:
    assert cluster.run(countdown(1500), timeout=TIMEOUT) == "Done"


def test_s43_mutual_recursion_of_2000_steps(cluster: cs.Cluster) -> None:
    assert cluster.run(is_even(2000), timeout=TIMEOUT) is True


def test_a_coroutine_returns_itself(cluster: cs.Cluster) -> None:
    assert cluster.run(countdown_async(300), timeout=TIMEOUT) == "Done"


@cs.task
def collect(n: int, path: str, seen: Any = None) -> Any:
    note(path, n)
    return n if n == 0 else collect(n - 1, path, add(n, 1))


def test_s44_every_iteration_makes_its_fresh_dependency_anew(cluster: cs.Cluster, journal: Journal) -> None:
    assert cluster.run(collect(20, journal.path), timeout=TIMEOUT) == 0
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


def test_the_shape_may_change_from_step_to_step(cluster: cs.Cluster) -> None:
    assert cluster.run(changing(30), timeout=TIMEOUT) == plainly_changing(30)


@cs.task
def squares(n: int) -> Any:
    return square.map(x=list(range(n)))


@cs.task
def squares_of(xs: list[int], depth: int) -> Any:
    if depth:
        return squares_of(square.map(x=xs), depth - 1)
    return xs


def test_a_returned_map_is_the_value(cluster: cs.Cluster) -> None:
    assert cluster.run(squares(5), timeout=TIMEOUT) == [0, 1, 4, 9, 16]
    assert cluster.run(squares(0), timeout=TIMEOUT) == []


def test_a_map_is_an_argument_of_the_next_step(cluster: cs.Cluster) -> None:
    assert cluster.run(squares_of([1, 2, 3], 3), timeout=TIMEOUT) == [1, 2**8, 3**8]


@cs.task
def routed(n: int) -> Any:
    return cs.Router(n % 3, {0: countdown(n), 1: routed(n - 1) if n > 1 else add(n, 0), 2: routed(n - 1)})


def test_a_returned_router_goes_on_with_its_route(cluster: cs.Cluster) -> None:
    assert cluster.run(routed(5), timeout=TIMEOUT) == "Done"
    assert cluster.run(routed(1), timeout=TIMEOUT) == 1


def test_a_router_as_target_may_choose_a_task_that_goes_on(cluster: cs.Cluster) -> None:
    target = cs.Router(add(0, 1), {1: countdown(30), 2: add(1, 1)})
    assert cluster.run(target, timeout=TIMEOUT) == "Done"


@cs.task
def greet(n: int) -> Any:
    return shout(n, cs.Param("name", default="nobody"))


@cs.task
def shout(n: int, name: str) -> Any:
    return f"hello {name}" if n == 0 else greet(n - 1)


def test_returned_targets_see_the_params_of_the_run(cluster: cs.Cluster) -> None:
    target = cs.sequence([echo(cs.Param("name", default="nobody")), greet(3)])
    assert cluster.run(target, params={"name": "Ada"}, timeout=TIMEOUT) == "hello Ada"
    assert cluster.run(greet(2), timeout=TIMEOUT) == "hello nobody"


@cs.task
def environment(n: int) -> Any:
    return echo(cs.Env("PATH")) if n else ""


@cs.task
def echo(x: Any) -> Any:
    return x


def test_the_environment_of_a_returned_target_is_the_workers(cluster: cs.Cluster) -> None:
    assert cluster.run(environment(1), timeout=TIMEOUT)


@cs.task
def grown(n: int, data: bytes) -> Any:
    return len(data) if n == 0 else grown(n - 1, data)


def test_large_arguments_go_from_step_to_step(cluster: cs.Cluster) -> None:
    assert cluster.run(grown(5, b"x" * 300_000), timeout=TIMEOUT) == 300_000


def test_s46_a_shape_is_solved_once(cluster: cs.Cluster) -> None:
    before = cluster.status()
    for n in (40, 50, 60):
        assert cluster.run(is_even(n), timeout=TIMEOUT) is True
    after = cluster.status()
    assert after.plans_solved - before.plans_solved <= 2
    assert after.loop_steps - before.loop_steps == 150


def test_s46_a_stable_loop_with_lazy_arguments_is_solved_twice_at_most(
    cluster: cs.Cluster, journal: Journal
) -> None:
    before = cluster.status()
    assert cluster.run(collect(50, journal.path), timeout=TIMEOUT) == 0
    after = cluster.status()
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


def test_retries_hold_at_each_step(cluster: cs.Cluster, journal: Journal) -> None:
    run = cluster.submit(flaky(40, journal.path))
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


def test_a_step_that_raises_fails_the_run(cluster: cs.Cluster) -> None:
    with pytest.raises(ZeroDivisionError, match="at the end"):
        cluster.run(breaks(120), timeout=TIMEOUT)


@cs.task(timeout=1.0)
def sleeps_at(n: int, seconds: float) -> Any:
    if n == 0:
        time.sleep(seconds)
        return "woke"
    time.sleep(0.02)
    return sleeps_at(n - 1, seconds)


def test_a_timeout_is_of_each_step(cluster: cs.Cluster) -> None:
    assert cluster.run(sleeps_at(80, 0.0), timeout=TIMEOUT) == "woke"
    with pytest.raises(cs.TaskTimeoutError, match="longer than its timeout of 1 s"):
        cluster.run(sleeps_at(5, 30.0), timeout=TIMEOUT)


@cs.task
def endless(path: str) -> Any:
    if not os.path.exists(path):
        note(path, "started")
    return endless(path)


def test_a_loop_without_end_is_cancelled(cluster: cs.Cluster, journal: Journal) -> None:
    run = cluster.submit(endless(journal.path))
    while not journal.lines():
        time.sleep(0.02)
    time.sleep(0.3)
    run.cancel()
    with pytest.raises(BaseException):  # noqa: B017 - CancelledError of concurrent.futures
        run.result(TIMEOUT)
    assert cluster.run(add(1, 2), timeout=TIMEOUT) == 3
    assert cluster.status().runs_active == 0


def test_a_loop_leaves_room_for_others(cluster: cs.Cluster, tmp_path: Path) -> None:
    """Two loops without end take both slots; other work gets its turn all the same."""
    runs = [cluster.submit(endless(str(tmp_path / f"loop{number}"))) for number in range(2)]
    try:
        for number in range(2):
            while not (tmp_path / f"loop{number}").exists():
                time.sleep(0.02)
        time.sleep(0.3)
        for number in range(5):
            assert cluster.run(add(number, 1), timeout=20) == number + 1
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


def test_a_step_knows_who_it_is_and_what_it_prints_is_heard(cluster: cs.Cluster, journal: Journal) -> None:
    run = cluster.submit(who(30, journal.path))
    assert run.result(TIMEOUT) == 0
    rows = [line.split("|") for line in journal.lines()]
    assert {row[0] for row in rows} == {run.id}
    assert len({row[1] for row in rows}) == 31, "every step is a node of its own"
    assert {(row[2], row[3]) for row in rows} == {("1", "who")}
    lines = [event.text for event in run.events() if isinstance(event, cs.events.LogLine)]
    assert lines == [f"step {n}" for n in range(30, -1, -1)]


def test_hot_loops_have_few_events_and_say_how_far_they_are(cluster: cs.Cluster) -> None:
    run = cluster.submit(countdown(1500))
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


@cs.task
def uses_and_jumps(n: int, path: Any = cs.inject("loops_session")) -> Any:
    note(path, f"step{n}")
    return cs.Jump("exit", "Done") if n == 0 else cs.Jump("continue", n - 1)


def each_step_has_its_own(run_id: str, first: int) -> None:
    journal = resource_journal(run_id)
    words = journal.read_text().split()
    journal.unlink()
    steps = [["acquired", f"step{n}", "released"] for n in range(first, -1, -1)]
    assert words == [word for step in steps for word in step]


def test_s45_a_task_resource_is_released_before_the_next_step(cluster: cs.Cluster) -> None:
    run = cluster.submit(uses(30))
    assert run.result(TIMEOUT) == "Done"
    each_step_has_its_own(run.id, 30)


def test_s41_with_an_injected_resource(cluster: cs.Cluster) -> None:
    start = uses_and_jumps(cs.Param("n"))
    bound(start, **{"continue": start, "exit": None})
    run = cluster.submit(start, params={"n": 3})
    assert run.result(TIMEOUT) == "Done"
    each_step_has_its_own(run.id, 3)


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


def test_a_lazy_value_of_another_node_than_the_target_is_an_error(cluster: cs.Cluster) -> None:
    with pytest.raises(cs.GraphError, match=r"task 'returns_lazy' returned a lazy value .*spawn=True"):
        cluster.run(total([returns_lazy(), 1]), timeout=TIMEOUT)


def test_a_list_with_lazy_values_is_an_error_that_names_the_task(cluster: cs.Cluster) -> None:
    with pytest.raises(cs.SerializationError, match="returns_list_of_lazies"):
        cluster.run(returns_list_of_lazies(), timeout=TIMEOUT)


def test_a_task_is_a_value_and_no_target(cluster: cs.Cluster) -> None:
    assert isinstance(cluster.run(returns_a_task(), timeout=TIMEOUT), cs.Task)


def test_arguments_that_grow_are_warned_of_and_stopped(cluster: cs.Cluster) -> None:
    run = cluster.submit(grows(b"x" * 400_000))
    with pytest.raises(cs.GraphTooLargeError, match=r"'grows' .* MiB of arguments, and the most is 64.0 MiB"):
        run.result(TIMEOUT)
    lines = [event.text for event in run.events() if isinstance(event, cs.events.LogLine)]
    assert any("MiB of arguments; if they grow" in line for line in lines)


def test_a_returned_target_above_the_bound_is_refused_with_its_size(cluster: cs.Cluster) -> None:
    with pytest.raises(
        cs.GraphTooLargeError, match=r"'returns_many' returned a target of .* nodes and .* MiB"
    ):
        cluster.run(returns_many(20_000), timeout=TIMEOUT)


@cs.task
def needs_param() -> Any:
    return echo(cs.Param("no_such_param"))


def test_a_returned_target_names_the_param_that_is_missing(cluster: cs.Cluster) -> None:
    with pytest.raises(cs.ParamMissingError, match="no_such_param"):
        cluster.run(needs_param(), timeout=TIMEOUT)


@cs.task
def needs_gpus() -> Any:
    return echo(1).with_constraints(cpu=1000)


def test_an_amount_that_cannot_be_had_fails_the_run_of_a_private_cluster(
    cluster: cs.Cluster, request: pytest.FixtureRequest
) -> None:
    if "redis" in request.node.callspec.id:
        pytest.skip("a cluster that was started by hand is open: the node waits")
    with pytest.raises(ValueError, match="cpu=1000"):
        cluster.run(needs_gpus(), timeout=TIMEOUT)


# --- jumps ---------------------------------------------------------------------------------------------


@cs.task
def counter(n: int, path: str = "") -> Any:
    if path:
        note(path, n)
    return cs.Jump("exit", n) if n <= 0 else cs.Jump("continue", n - 1)


@cs.task
def stepper(n: int, path: str) -> Any:
    note(path, n)
    return cs.Jump("exit", "Done") if n == 0 else cs.Jump("continue", {"n": n - 1})


@cs.task
def noted(path: str, word: str, x: Any) -> Any:
    note(path, word)
    return x


@cs.task
def two(a: int, b: int, path: str) -> Any:
    note(path, f"{a},{b}")
    if a == 0:
        return cs.Jump("end", b)
    return cs.Jump("again", {"a": a - 1})


def bound(source: Any, **routes: Any) -> Any:
    return cs.bind(source, cs.select_jump({**routes}))


def test_s40_a_counter_jumps_to_itself_until_it_exits(cluster: cs.Cluster) -> None:
    start = counter(5)
    bound(start, **{"continue": start, "exit": None})
    assert cluster.run(start, timeout=TIMEOUT) == 0


def test_s41_jump_data_replaces_the_param(cluster: cs.Cluster, journal: Journal) -> None:
    start = stepper(cs.Param("n"), journal.path)
    bound(start, **{"continue": start, "exit": None})
    assert cluster.run(start, params={"n": 3}, timeout=TIMEOUT) == "Done"
    assert journal.lines() == ["3", "2", "1", "0"]


def test_s42_an_unknown_key_is_named_with_the_known_ones(cluster: cs.Cluster) -> None:
    start = counter(5)
    bound(start, other=start, exit=None)
    with pytest.raises(cs.GraphError, match=r"'continue'.*'other', 'exit'"):
        cluster.run(start, timeout=TIMEOUT)


def test_s42_a_selector_with_an_exit_alone_ends_with_the_data(cluster: cs.Cluster) -> None:
    assert cluster.run(bound(counter(0), exit=None), timeout=TIMEOUT) == 0


def test_upstreams_of_replaced_parameters_alone_are_not_run_again(
    cluster: cs.Cluster, journal: Journal
) -> None:
    start = two(noted(journal.path, "A", 2), noted(journal.path, "B", 7), journal.path)
    bound(start, again=start, end=None)
    assert cluster.run(start, timeout=TIMEOUT) == 7
    words = journal.lines()
    assert words.count("A") == 1
    assert words.count("B") == 3, "the other argument is made anew for every step"
    assert [word for word in words if "," in word] == ["2,7", "1,7", "0,7"]


@cs.task
def first(x: int) -> Any:
    return cs.Jump("b", x + 1)


@cs.task
def second(y: int, z: int = 10) -> Any:
    if y > 3:
        return cs.Jump("end", (y, z))
    return cs.Jump("a", None) if z > 100 else cs.Jump("b", {"y": y + 1, "z": z + 1})


def test_overrides_do_not_add_up(cluster: cs.Cluster) -> None:
    start, other = first(0), second(add(100, 100), add(5, 5))
    selector = cs.select_jump({"a": start, "b": other, "end": None})
    cs.bind(start, selector)
    cs.bind(other, selector)
    # 0 → b(y=1), z is 10 → b(y=2, z=11) → b(y=3, z=12) → b(y=4, z=13) → the end
    assert cluster.run(start, timeout=TIMEOUT) == (4, 13)


def test_what_only_jumps_reach_does_not_run_before(cluster: cs.Cluster, journal: Journal) -> None:
    start = counter(1)
    other = noted(journal.path, "other", 1)
    bound(start, **{"continue": add(other, 41), "exit": None})
    assert cluster.run(bound(counter(0), exit=None, other=other), timeout=TIMEOUT) == 0
    assert journal.lines() == []
    assert cluster.run(start, timeout=TIMEOUT) == 41 + 0


def test_a_jump_to_a_name_that_there_is_not_is_an_error(cluster: cs.Cluster) -> None:
    @cs.task
    def jumps() -> Any:
        return cs.Jump("on", {"nope": 1})

    with pytest.raises(cs.GraphError, match=r"'nope'.*'a', 'b'"):
        cluster.run(bound(jumps(), on=add(1, 2)), timeout=TIMEOUT)


def test_a_jump_without_a_selector_is_an_error_with_the_remedy(cluster: cs.Cluster) -> None:
    with pytest.raises(cs.GraphError, match=r"bound to no selector.*cs\.bind"):
        cluster.run(counter(1), timeout=TIMEOUT)


# --- nested graphs -------------------------------------------------------------------------------------


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
def spawned_endless(path: str) -> Any:
    return echo([spawned_pair(path), endless(path)])


@cs.task(spawn=True)
def spawned_pair(path: str) -> Any:
    return echo([endless(path), endless(path)])


@cs.task(spawn=True)
def spawned_flag(x: bool) -> Any:
    return echo(x)


def test_a_nested_graph_takes_the_place_of_its_node(cluster: cs.Cluster) -> None:
    assert cluster.run(add(factorial(6), 1), timeout=TIMEOUT) == 721
    assert cluster.run(factorial(5), timeout=TIMEOUT) == 120, "a target goes on with it instead"


def test_nested_graphs_in_containers_maps_and_conditions(cluster: cs.Cluster) -> None:
    assert cluster.run([factorial(3), spawned_squares(3)], timeout=TIMEOUT) == [6, [0, 1, 4]]
    assert cluster.run(factorial.map(n=[1, 2, 3, 4]), timeout=TIMEOUT) == [1, 2, 6, 24]
    assert cluster.run(total(spawned_squares(4)), timeout=TIMEOUT) == 14
    assert cluster.run(total(square.map(x=spawned_squares(3))), timeout=TIMEOUT) == 17
    assert cluster.run(add(1, 2).run_if(spawned_flag(True)), timeout=TIMEOUT) == 3
    with pytest.raises(cs.DependencyMissingError):
        cluster.run(add(1, 2).run_if(spawned_flag(False)), timeout=TIMEOUT)
    routed_by = cs.Router(spawned_flag(True), {True: add(1, 1), False: add(2, 2)})
    assert cluster.run(echo(routed_by), timeout=TIMEOUT) == 2


def test_a_loop_inside_a_nested_graph(cluster: cs.Cluster) -> None:
    assert cluster.run(echo([spawned_loop(200), add(1, 1)]), timeout=TIMEOUT) == ["Done", 2]


def test_a_failure_inside_a_nested_graph_is_the_nodes(cluster: cs.Cluster) -> None:
    with pytest.raises(ZeroDivisionError, match="at the end"):
        cluster.run(echo([spawned_failure()]), timeout=TIMEOUT)


def test_a_skip_of_the_nested_target_is_a_failure(cluster: cs.Cluster) -> None:
    with pytest.raises(cs.DependencyMissingError):
        cluster.run(echo([spawned_skip()]), timeout=TIMEOUT)


def test_a_cancel_stops_nested_graphs(cluster: cs.Cluster, journal: Journal) -> None:
    run = cluster.submit(echo([spawned_endless(journal.path)]))
    while not journal.lines():
        time.sleep(0.02)
    run.cancel()
    with pytest.raises(BaseException):  # noqa: B017 - CancelledError of concurrent.futures
        run.result(TIMEOUT)
    assert cluster.run(add(1, 2), timeout=TIMEOUT) == 3


def test_deeply_nested_graphs(cluster: cs.Cluster) -> None:
    expected = 1
    for n in range(2, 61):
        expected *= n
    assert cluster.run(add(factorial(60), 0), timeout=TIMEOUT) == expected


# --- both states and ways mean the same ------------------------------------------------------------------


@cs.task
def collatz(n: int, steps: int, odd: Any = None) -> Any:
    if n == 1:
        return steps
    if n % 2:
        return collatz(3 * n + 1, steps + 1, echo(n).run_if(n % 3 == 0))
    return collatz(n // 2, steps + 1)


def test_s47_the_same_loop_has_the_same_skips_and_results_everywhere(cluster: cs.Cluster) -> None:
    run = cluster.submit(cs.sequence([add(1, 1), collatz(7, 0)]))
    with pytest.raises(cs.DependencyMissingError, match="UpstreamSkipped_Data"):
        run.result(TIMEOUT)
    skips = [(e.task, e.reason) for e in run.events() if isinstance(e, cs.events.TaskSkipped)]
    assert skips == [("echo", "ConditionFalse"), ("collatz", "UpstreamSkipped_Data")]
    run = cluster.submit(collatz(8, 0))
    assert run.result(TIMEOUT) == 3


def test_many_loops_at_once(cluster: cs.Cluster) -> None:
    runs = [cluster.submit(countdown(40 + number)) for number in range(8)]
    assert [run.result(TIMEOUT) for run in runs] == ["Done"] * 8


def test_a_submit_from_another_thread_goes_on_meanwhile(cluster: cs.Cluster) -> None:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(cluster.run(countdown(200), timeout=TIMEOUT)))
    thread.start()
    assert cluster.run(total(square.map(x=[1, 2, 3])), timeout=TIMEOUT) == 14
    thread.join(TIMEOUT)
    assert found == ["Done"]
