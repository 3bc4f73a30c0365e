"""The scenarios of the language that this version covers, on clusters of real processes."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import pytest

import cascade_dist as cs

from .conftest import Journal

pytestmark = pytest.mark.integration


def note(path: str, word: str) -> None:
    with open(path, "a") as file:
        file.write(f"{word}\n")


@cs.task
def value(x: Any) -> Any:
    return x


@cs.task
def add(a: int, b: int) -> int:
    return a + b


@cs.task
def double(x: int) -> int:
    return 2 * x


@cs.task
def total(xs: list[int]) -> int:
    return sum(xs)


@cs.task
def noted(path: str, word: str, *needs: Any) -> str:
    note(path, word)
    return word


@cs.task
async def slowly(seconds: float, x: Any) -> Any:
    await asyncio.sleep(seconds)
    return x


@cs.task
def sleeps(seconds: float, path: str = "", word: str = "") -> str:
    time.sleep(seconds)
    if path:
        note(path, word)
    return word


def skips(run: cs.Run) -> list[tuple[str, str]]:
    return [(e.task, e.reason) for e in run.events() if type(e).__name__ == "TaskSkipped"]


def kinds(run: cs.Run) -> list[str]:
    return [type(event).__name__ for event in run.events()]


def test_s1_calling_runs_nothing(journal: Journal) -> None:
    lazy = noted(journal.path, "ran")
    assert isinstance(lazy, cs.LazyResult)
    assert not journal.lines()


def test_s5_values_at_any_depth(cluster: cs.Cluster) -> None:
    assert cluster.run(value([value(1), {"k": value(2)}, (value(3), {value(4)})])) == [1, {"k": 2}, (3, {4})]


def test_s6_equal_impure_calls_both_run(cluster: cs.Cluster, journal: Journal) -> None:
    cluster.run([noted(journal.path, "x"), noted(journal.path, "x")])
    assert journal.lines() == ["x", "x"]


def test_s7_equal_pure_calls_run_once(cluster: cs.Cluster, journal: Journal) -> None:
    pure = cs.task(pure=True)(noted.func)
    assert cluster.run([pure(journal.path, "x"), pure(journal.path, "x")]) == ["x", "x"]
    assert journal.lines() == ["x"]


def test_s8_one_lazy_result_runs_once(cluster: cs.Cluster, journal: Journal) -> None:
    once = noted(journal.path, "x")
    assert cluster.run(add(once, once)) == "xx"
    assert journal.lines() == ["x"]


def test_s11_a_chain_of_5000(cluster: cs.Cluster) -> None:
    @cs.task
    def inc(x: int) -> int:
        return x + 1

    target = inc(0)
    for _ in range(4999):
        target = inc(target)
    assert cluster.run(target) == 5000


def test_s12_a_cycle_is_named_before_anything_starts(cluster: cs.Cluster, journal: Journal) -> None:
    a, b = noted(journal.path, "a"), noted(journal.path, "b")
    a.after(b)
    b.after(a)
    with pytest.raises(cs.CycleError, match="noted"):
        cluster.run(a)
    assert not journal.lines()


def test_s14_one_shape_is_solved_once(cluster: cs.Cluster) -> None:
    @cs.task
    def shape(x: int) -> int:
        return x

    cluster.run(shape(1))
    before = cluster.status().plans_solved
    for i in range(5):
        assert cluster.run(shape(i)) == i
    assert cluster.status().plans_solved == before


def test_s16_s17_params(cluster: cs.Cluster) -> None:
    assert cluster.run(double(cs.Param("count")), params={"count": 10}) == 20
    n = cs.Param("n", default=3, type=int)
    assert cluster.run(value(n)) == 3
    assert cluster.run(value(n), params={"n": "9"}) == 9


def test_s18_a_missing_param_is_named_first(cluster: cs.Cluster, journal: Journal) -> None:
    with pytest.raises(cs.ParamMissingError, match="count"):
        cluster.run([noted(journal.path, "x"), double(cs.Param("count"))])
    assert not journal.lines()


def test_s19_env(cluster: cs.Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATLAS_X", "here")
    assert cluster.run(value(cs.Env("ATLAS_X"))) == "here"
    monkeypatch.delenv("ATLAS_X")
    assert cluster.run(value(cs.Env("ATLAS_X", default="there"))) == "there"


def test_s20_containers_as_targets(cluster: cs.Cluster) -> None:
    assert cluster.run([value(1), "lit", value(2)]) == [1, "lit", 2]
    assert cluster.run((value(1), "lit")) == [1, "lit"]
    assert cluster.run({"a": value(1), "b": [value(2)]}) == {"a": 1, "b": [2]}
    assert cluster.run([]) == []


def test_s23_a_true_condition(cluster: cs.Cluster) -> None:
    run = cluster.submit(value("done").run_if(value(True)))
    assert run.result(30) == "done"
    assert not skips(run)


def test_s24_a_skip_names_what_is_to_blame(cluster: cs.Cluster) -> None:
    with pytest.raises(cs.DependencyMissingError) as caught:
        cluster.run(value("never").run_if(value([])), name="nightly")
    told = "'nightly' has no value for 'target': it was skipped (ConditionFalse, because of 'value')"
    assert str(caught.value) == told


def test_s24_a_false_condition_on_the_target(cluster: cs.Cluster) -> None:
    run = cluster.submit(value("never").run_if(value([])))
    with pytest.raises(cs.DependencyMissingError, match="ConditionFalse"):
        run.result(30)
    assert [reason for _, reason in skips(run)] == ["ConditionFalse"]


def test_s25_a_consumer_of_a_skipped_node(cluster: cs.Cluster) -> None:
    run = cluster.submit(double(value(1).run_if(False)))
    with pytest.raises(cs.DependencyMissingError, match="UpstreamSkipped_Data"):
        run.result(30)
    assert skips(run) == [("value", "ConditionFalse"), ("double", "UpstreamSkipped_Data")]


def test_s26_a_skipped_condition(cluster: cs.Cluster) -> None:
    condition = value(True).run_if(value(0))
    run = cluster.submit(double(1).run_if(condition))
    with pytest.raises(cs.DependencyMissingError):
        run.result(30)
    assert skips(run)[-1] == ("double", "UpstreamSkipped_Condition")


def test_a_skipped_predecessor_ends_without_a_value(cluster: cs.Cluster) -> None:
    run = cluster.submit(double(1).after(value(1).run_if(False)))
    assert run.result(30) is None
    assert [reason for _, reason in skips(run)] == ["ConditionFalse", "UpstreamSkipped_Sequence"]


def test_after_orders(cluster: cs.Cluster, journal: Journal) -> None:
    a = sleeps(0.1, journal.path, "a")
    b = noted(journal.path, "b").after(a)
    cluster.run(noted(journal.path, "c").after(b))
    assert journal.lines() == ["a", "b", "c"]


class Ambiguous:
    def __bool__(self) -> bool:
        raise ValueError("truth is ambiguous")


def test_a_truth_that_raises_fails_the_consumer(cluster: cs.Cluster) -> None:
    @cs.task
    def ambiguous() -> Ambiguous:
        return Ambiguous()

    with pytest.raises(ValueError, match="ambiguous"):
        cluster.run(double(1).run_if(ambiguous()))


@cs.task
def flaky(path: str, times: int) -> str:
    note(path, "try")
    with open(path) as file:
        if len(file.readlines()) <= times:
            raise RuntimeError("not yet")
    return "ok"


def test_s48_retry_until_success(cluster: cs.Cluster, journal: Journal) -> None:
    run = cluster.submit(flaky(journal.path, 2).with_retry(max_attempts=3, delay=0.02))
    assert run.result(30) == "ok"
    retries = [e.attempt for e in run.events() if type(e).__name__ == "TaskRetrying"]
    assert retries == [1, 2]
    assert kinds(run).count("TaskExecutionFinished") == 1


def test_s49_always_failing(cluster: cs.Cluster, journal: Journal) -> None:
    @cs.task
    def fails(path: str) -> None:
        note(path, "try")
        raise ValueError("always")

    run = cluster.submit(fails(journal.path).with_retry(max_attempts=2))
    with pytest.raises(ValueError, match="always"):
        run.result(30)
    assert len(journal.lines()) == 2
    assert kinds(run).count("TaskRetrying") == 1
    [finished] = [e for e in run.events() if type(e).__name__ == "TaskExecutionFinished"]
    assert finished.status == "Failed"
    assert "ValueError: always" in finished.error


def test_retry_only_what_is_named(cluster: cs.Cluster, journal: Journal) -> None:
    with pytest.raises(RuntimeError, match="not yet"):
        cluster.run(flaky(journal.path, 2).with_retry(max_attempts=5, on=(KeyError,)))
    assert len(journal.lines()) == 1


def test_s55_map(cluster: cs.Cluster) -> None:
    @cs.task
    def numbers(n: int) -> list[int]:
        return list(range(n))

    assert cluster.run(total(double.map(x=[1, 2, 3]))) == 12
    assert cluster.run(total(double.map(x=[]))) == 0
    assert cluster.run(double.map(x=numbers(4))) == [0, 2, 4, 6]
    assert cluster.run(double.map(x=numbers(0))) == []
    assert cluster.run(add.map(a=[1, 2], b=numbers(2))) == [1, 3]
    assert cluster.run(add.map(a=numbers(3), b=cs.unmapped(value(10)))) == [10, 11, 12]
    assert cluster.run(total(double.map(x=double.map(x=numbers(3))))) == 12
    with pytest.raises(ValueError, match=r"2.*3|3.*2"):
        cluster.run(add.map(a=[1, 2], b=[1, 2, 3]))
    with pytest.raises(ValueError, match=r"2.*3|3.*2"):
        cluster.run(add.map(a=numbers(2), b=numbers(3)))


def test_s55_a_map_over_a_large_lazy_list(cluster: cs.Cluster) -> None:
    @cs.task
    def blocks() -> list[bytes]:
        return [bytes([i]) * 50_000 for i in range(20)]

    @cs.task
    def size(block: bytes) -> int:
        return len(block)

    assert cluster.run(size.map(block=blocks())) == [50_000] * 20


def test_s56_map_retries_each_child(cluster: cs.Cluster, journal: Journal) -> None:
    @cs.task
    def once_flaky(path: str, i: int) -> int:
        mine = f"{path}-{i}"
        note(path, "call")
        if not os.path.exists(mine):
            note(mine, "x")
            raise RuntimeError("first time")
        return i

    target = once_flaky.map(path=cs.unmapped(journal.path), i=[1, 2, 3]).with_retry(max_attempts=2)
    run = cluster.submit(target)
    assert run.result(30) == [1, 2, 3]
    assert kinds(run).count("TaskRetrying") == 3
    assert len(journal.lines()) == 6


def test_s58_a_map_finishes_once(cluster: cs.Cluster) -> None:
    @cs.task
    def numbers(n: int) -> list[int]:
        return list(range(n))

    for target in (double.map(x=[1, 2]), double.map(x=numbers(2)), double.map(x=[])):
        run = cluster.submit([target, value(0)])
        run.result(30)
        ends = [e.task for e in run.events() if type(e).__name__ == "TaskExecutionFinished"]
        assert ends.count("double.map") == 1
        assert "gather" not in ends


def test_a_failing_child_names_its_index(cluster: cs.Cluster) -> None:
    @cs.task
    def picky(x: int) -> int:
        if x == 2:
            raise ValueError("not two")
        return x

    run = cluster.submit(picky.map(x=[0, 1, 2]))
    with pytest.raises(ValueError, match="not two") as caught:
        run.result(30)
    assert "picky[2]" in "\n".join(getattr(caught.value, "__notes__", [])) + str(caught.value.__cause__)


def test_a_map_with_a_false_condition(cluster: cs.Cluster) -> None:
    run = cluster.submit(double.map(x=[1, 2, 3]).run_if(False))
    with pytest.raises(cs.DependencyMissingError):
        run.result(30)
    assert [reason for _, reason in skips(run)] == ["ConditionFalse"]


def test_s59_no_stage_barrier(cluster: cs.Cluster, journal: Journal) -> None:
    slow = sleeps(1.0, journal.path, "slow")
    fast = noted(journal.path, "fast")
    cluster.run([slow, noted(journal.path, "next", fast)])
    assert journal.lines() == ["fast", "next", "slow"]


def test_s60_a_blocking_task_does_not_hold_an_async_one(cluster: cs.Cluster) -> None:
    cluster.run([sleeps(0), slowly(0, 1)])  # executors are forked on demand
    run = cluster.submit([sleeps(0.5), slowly(0.1, 1)])
    run.result(30)
    ends = [e.task for e in run.events() if type(e).__name__ == "TaskExecutionFinished"]
    assert ends == ["slowly", "sleeps"]


def test_many_async_tasks_wait_side_by_side(cluster: cs.Cluster) -> None:
    start = time.monotonic()
    assert cluster.run([slowly(0.5, i) for i in range(100)]) == list(range(100))
    assert time.monotonic() - start < 25, "one after the other they would take 50 s"


class Odd(Exception):
    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(f"odd {code}")

    def __reduce__(self) -> tuple[type[Odd], tuple[int]]:
        return type(self), (self.code,)


def test_s61_the_exception_comes_with_its_type_and_the_users_lines(cluster: cs.Cluster) -> None:
    @cs.task
    def explode() -> None:
        raise Odd(7)

    run = cluster.submit(explode())
    with pytest.raises(Odd) as caught:
        run.result(30)
    assert caught.value.code == 7
    assert "raise Odd(7)" in str(caught.value.__cause__)
    [finish] = [e for e in run.events() if type(e).__name__ == "RunFinished"]
    assert (finish.status, finish.error) == ("Failed", "Odd: odd 7")


def test_a_task_called_inside_a_task_is_named_as_an_error(cluster: cs.Cluster) -> None:
    @cs.task
    def confused() -> list[Any]:
        return [double(1)]

    with pytest.raises(Exception, match="confused"):
        cluster.run(confused())


def test_on_failure_finish(cluster: cs.Cluster, journal: Journal) -> None:
    @cs.task
    def bad() -> None:
        raise ValueError("bad")

    slow = noted(journal.path, "b", sleeps(0.2, journal.path, "a"))
    with pytest.raises(ValueError, match="bad"):
        cluster.run([bad(), slow], on_failure="finish")
    assert journal.lines() == ["a", "b"]


def test_on_failure_cancel(cluster: cs.Cluster, journal: Journal) -> None:
    @cs.task
    def bad() -> None:
        raise ValueError("bad")

    start = time.monotonic()
    with pytest.raises(ValueError, match="bad"):
        cluster.run([bad(), noted(journal.path, "b", sleeps(20, journal.path, "a"))])
    assert time.monotonic() - start < 15
    assert not journal.lines()


def test_priority_goes_first(cluster: cs.Cluster, journal: Journal) -> None:
    many = [sleeps(0.05, journal.path, "low") for _ in range(20)]
    high = [sleeps(0.01, journal.path, "high").with_priority(9) for _ in range(4)]
    cluster.run([*many, *high])
    assert "high" not in journal.lines()[10:], journal.lines()
