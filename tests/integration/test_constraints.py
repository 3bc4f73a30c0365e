"""Scenarios 67-76 and 82: amounts, limits set while runs go on, and the commands for them.

Times are those of the scenarios: nothing may happen earlier than they say. Upper bounds are generous.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import cascade_dist as cs
from cascade_dist.cli.__main__ import run as run_cascade

from .conftest import Journal

pytestmark = pytest.mark.integration

SOON = 20.0
"""What anything may take on a machine that is busy."""


@cs.task
def sleeps(seconds: float, path: str = "") -> float:
    began = time.time()
    if path:
        with open(path, "a") as file:
            file.write(f"{began!r}\n")
    time.sleep(seconds)
    return began


@cs.task(name="other")
def other(seconds: float, path: str = "") -> float:
    return sleeps.func(seconds, path)


@cs.task(name="follows")
def follows(x: Any, path: str = "") -> Any:
    if path:
        with open(path, "a") as file:
            file.write("follows\n")
    return x


@cs.task
async def quick(x: Any) -> Any:
    return x


@cs.task
def number(x: int) -> int:
    return x


@pytest.fixture(autouse=True)
def no_limits(cluster: cs.Cluster) -> Iterator[None]:
    """Each test begins and ends without limits."""
    cluster.clear_constraints()
    yield
    cluster.clear_constraints()


def until(happens: Callable[[], object], what: str) -> None:
    """Waits for something that is bound to happen."""
    deadline = time.monotonic() + SOON
    while not happens():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.01)


def blocked(run: cs.Run[Any]) -> list[tuple[str, str]]:
    found = [event for event in run.events(follow=False) if type(event).__name__ == "TaskBlocked"]
    return [(event.task, event.reason) for event in found]  # type: ignore[attr-defined]


def says(run: cs.Run[Any], task: str) -> Callable[[], bool]:
    return lambda: (task, "ConstraintViolation") in blocked(run)


# --- amounts -----------------------------------------------------------------------------------------


def test_s67_two_tasks_that_need_the_one_slot_run_one_after_the_other(cluster: cs.Cluster) -> None:
    target = [sleeps(0.1).with_constraints(slots=1) for _ in range(2)]
    first, second = sorted(cluster.run(target, system_resources={"slots": 1}))
    assert second - first >= 0.1


def test_s68_a_lazy_requirement_within_the_capacity_runs(cluster: cs.Cluster) -> None:
    target = quick(1).with_constraints(slots=number(2))
    assert cluster.run(target, system_resources={"slots": 4}) == 1


def test_s68_a_lazy_requirement_above_the_capacity_is_an_error_at_once(cluster: cs.Cluster) -> None:
    target = quick(1).with_constraints(slots=number(64))
    with pytest.raises(ValueError, match=r"slots=64.*the most there is in this run's pool is 16") as raised:
        cluster.run(target, system_resources={"slots": 16}, timeout=SOON)
    assert isinstance(raised.value, cs.AmountError)


def test_s68_a_lazy_amount_of_a_worker_is_held_there(private_cluster: cs.Cluster) -> None:
    with pytest.raises(cs.AmountError, match=r"cpu=64.*the most that one worker has is 1"):
        private_cluster.run(sleeps(0).with_constraints(cpu=number(64)))
    half = [sleeps(0.05).with_constraints(cpu=number(0)) for _ in range(4)]
    assert len(private_cluster.run(half)) == 4


def test_amounts_that_cannot_be_had_are_refused_at_submit(cluster: cs.Cluster) -> None:
    with pytest.raises(cs.AmountError, match=r"slots=2, but the most there is in this run's pool is 1"):
        cluster.run(quick(1).with_constraints(slots=2), system_resources={"slots": 1})
    with pytest.raises(cs.AmountError, match=r"no worker declares 'slot'"):
        cluster.run(quick(1).with_constraints(slot=1), system_resources={"slots": 1})
    for wrong in ({"slots": -1}, {"slots": "many"}, {"": 1}):
        with pytest.raises(ValueError, match=r"slots|name"):
            cluster.run(quick(1), system_resources=wrong)


def test_a_pool_of_one_run_is_no_other_runs(cluster: cs.Cluster) -> None:
    hold = cluster.submit(sleeps(2 * SOON).with_constraints(cpu=0, slots=1), system_resources={"slots": 1})
    run = cluster.submit(quick(2).with_constraints(slots=1), system_resources={"slots": 1})
    assert run.result(SOON) == 2
    assert not hold.done()
    hold.cancel()


def test_an_async_task_holds_amounts_too(cluster: cs.Cluster) -> None:
    @cs.task
    async def naps(n: int) -> float:
        began = time.time()
        await asyncio.sleep(0.1)
        return began

    target = [naps(n).with_constraints(slots=1) for n in range(3)]
    times = sorted(cluster.run(target, system_resources={"slots": 1}))
    assert all(b - a >= 0.1 for a, b in itertools.pairwise(times))


# --- pauses ------------------------------------------------------------------------------------------


def test_s69_a_pause_set_before_holds_a_run_until_it_is_resumed(
    cluster: cs.Cluster, journal: Journal
) -> None:
    cluster.pause()
    run = cluster.submit(sleeps(0, journal.path))
    until(says(run, "sleeps"), "a word about the pause")
    assert not journal.lines()
    assert not run.done()
    assert cluster.resume() is True
    run.result(SOON)
    assert blocked(run) == [("sleeps", "ConstraintViolation")]


def test_s70_a_pause_during_a_task_holds_what_follows(cluster: cs.Cluster, journal: Journal) -> None:
    run = cluster.submit(follows(sleeps(0.3, journal.path), journal.path))
    until(journal.lines, "the first task")
    cluster.pause()
    until(says(run, "follows"), "a word about the pause")
    assert len(journal.lines()) == 1, "the task that ran goes on, the next one does not start"
    cluster.resume()
    run.result(SOON)
    assert journal.lines()[1:] == ["follows"]


def test_s70_a_pause_of_one_task_holds_it_alone(cluster: cs.Cluster) -> None:
    cluster.pause("task:follows")
    run = cluster.submit([follows(quick(1)), quick(2), number(3)])
    until(says(run, "follows"), "a word about the pause")
    until(lambda: run.progress.done == 3, "the other tasks")
    assert not run.done()
    cluster.resume("task:follows")
    assert run.result(SOON) == [1, 2, 3]
    assert blocked(run) == [("follows", "ConstraintViolation")]


def test_a_pause_of_one_run_holds_it_alone(cluster: cs.Cluster) -> None:
    run_id = f"paused-{time.time_ns()}"
    cluster.pause(f"run:{run_id}")
    run = cluster.submit(quick(1), run_id=run_id)
    assert cluster.run(quick(2)) == 2
    assert not run.done()
    cluster.resume(f"run:{run_id}")
    assert run.result(SOON) == 1


def test_s71_a_pause_with_a_time_to_live_ends_by_itself(cluster: cs.Cluster) -> None:
    cluster.run(quick(0))
    began = time.monotonic()
    cluster.pause(ttl=0.25)
    cluster.run(quick(1), timeout=SOON)
    assert time.monotonic() - began >= 0.24
    assert cluster.constraints() == []


def test_nothing_starts_once_a_pause_is_answered(cluster: cs.Cluster, journal: Journal) -> None:
    cluster.run(sleeps.map(seconds=[0.2] * 4))  # an executor that loads a function has started the attempt
    run = cluster.submit(sleeps.map(seconds=[0.001] * 300, path=[journal.path] * 300))
    until(journal.lines, "the first task")
    cluster.pause("task:sleeps")
    answered = time.time()
    time.sleep(0.2)
    started = list(map(float, journal.lines()))
    assert len(started) < 300
    assert max(started) <= answered + 0.05, "what an executor had taken begins at once"
    cluster.resume("task:sleeps")
    assert len(run.result(SOON)) == 300


# --- concurrency -------------------------------------------------------------------------------------


def test_s72_one_at_a_time_of_a_mapped_task(cluster: cs.Cluster) -> None:
    cluster.set_concurrency("task:sleeps", 1)
    times = sorted(cluster.run(sleeps.map(seconds=[0.05] * 4)))
    assert times[-1] - times[0] + 0.05 >= 0.18
    assert all(b - a >= 0.05 for a, b in itertools.pairwise(times))


def test_s72_one_at_a_time_of_all_tasks(cluster: cs.Cluster) -> None:
    cluster.set_concurrency("global", 1)
    one, two = sorted(cluster.run([sleeps(0.1), other(0.1)]))
    assert two - one >= 0.1


# --- rates -------------------------------------------------------------------------------------------


def test_s73_five_a_second_with_two_at_once(cluster: cs.Cluster) -> None:
    cluster.run(quick(0))
    cluster.set_rate_limit("task:quick", "5/s", capacity=2)
    run = cluster.submit([quick(n) for n in range(4)])
    run.result(SOON)
    starts = sorted(
        event.timestamp.timestamp()
        for event in run.events(follow=False)
        if type(event).__name__ == "TaskExecutionStarted"
    )
    ends = [
        event.timestamp.timestamp()
        for event in run.events(follow=False)
        if type(event).__name__ == "RunFinished"
    ]
    assert ends[0] - starts[0] >= 0.38
    assert len(starts) == 4


@pytest.mark.parametrize("same", ["scope and type", "id"])
def test_s74_a_slow_rate_is_replaced_by_a_fast_one(cluster: cs.Cluster, same: str) -> None:
    by_id = "the one" if same == "id" else None
    cluster.set_rate_limit("task:quick", "1/m", id=by_id)
    run = cluster.submit([quick(n) for n in range(6)])
    until(lambda: run.progress.done == 1, "the first task")
    cluster.set_rate_limit("task:quick" if same != "id" else "task:qu*", 100, id=by_id)
    assert len(cluster.constraints()) == 1
    assert run.result(SOON) == list(range(6))


# --- what is malformed -------------------------------------------------------------------------------


def test_s75_a_malformed_rate_is_an_error_and_a_later_pause_works(cluster: cs.Cluster) -> None:
    for rate in ("fast", "5/fortnight", "-1/s", "0/s", "/s", "", 0, -1, float("nan"), True, None, "1e400/s"):
        with pytest.raises(ValueError, match="is no rate"):
            cluster.set_rate_limit("global", rate)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="capacity"):
        cluster.set_rate_limit("global", "1/s", capacity=0)
    for limit in (0, -1, 1.5, "2", None, True):
        with pytest.raises(ValueError, match="the limit is"):
            cluster.set_concurrency("global", limit)  # type: ignore[arg-type]
    for scope in ("", "all", "task:", "run:", "task", None):
        with pytest.raises(ValueError, match="is no scope"):
            cluster.pause(scope)  # type: ignore[arg-type]
    for ttl in (0, -1, "soon"):
        with pytest.raises(ValueError, match=r"time to live|duration"):
            cluster.pause(ttl=ttl)
    assert cluster.constraints() == []
    cluster.pause()
    run = cluster.submit(quick(1))
    until(says(run, "quick"), "a word about the pause")
    cluster.resume()
    assert run.result(SOON) == 1


# --- many at once ------------------------------------------------------------------------------------


def test_s76_limits_come_and_go_while_runs_do(cluster: cs.Cluster) -> None:
    stop = threading.Event()

    def trouble() -> None:
        while not stop.is_set():
            cluster.pause("task:quick")
            cluster.set_concurrency("global", 1)
            cluster.resume("task:quick")
            cluster.set_rate_limit("task:number", 200, capacity=5)
            cluster.clear_constraints()

    thread = threading.Thread(target=trouble)
    thread.start()
    try:
        runs = [
            cluster.submit([number.map(x=range(20)), quick.map(x=range(20)), follows(quick(n))])
            for n in range(6)
        ]
        results = [run.result(60) for run in runs]
    finally:
        stop.set()
        thread.join()
    assert results == [[list(range(20)), list(range(20)), n] for n in range(6)]


def test_s76_a_resume_wakes_all_runs(cluster: cs.Cluster) -> None:
    cluster.pause()
    runs = [cluster.submit(number.map(x=range(5))) for _ in range(8)]
    cluster.resume()
    assert [run.result(SOON) for run in runs] == [list(range(5))] * 8


async def test_the_async_client_sets_limits_too(cluster: cs.Cluster) -> None:
    async with cs.aio.connect(cluster.address, token_file=token_of(cluster)) as there:
        made = await there.set_concurrency("task:number", 2, ttl="1h")
        assert made.limit == 2
        await there.set_rate_limit("task:quick", "300/h", capacity=2)
        await there.pause("run:nobody", id="mine")
        assert [limit.id for limit in await there.constraints()] == [
            "mine",
            "concurrency:task:number",
            "rate_limit:task:quick",
        ]
        assert await there.resume("run:nobody")
        assert not await there.resume("run:nobody")
        assert len(await there.clear_constraints(scope="task:quick")) == 1
        assert await there.run(number(1)) == 1


def token_of(cluster: cs.Cluster) -> str | None:
    return None if cluster._local is None else cluster._local.token_file


# --- commands ----------------------------------------------------------------------------------------


@pytest.fixture
def cascade(cluster: cs.Cluster, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command on the cluster: exit code, stdout, stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        options = ["--address", cluster.address]
        if token := token_of(cluster):
            options += ["--token-file", token]
        code = run_cascade([*options, *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


Cascade = Callable[..., tuple[int, str, str]]


def test_s82_a_pause_has_a_deterministic_id_and_is_listed(cascade: Cascade) -> None:
    code, out, _ = cascade("pause", "task:api_call")
    assert code == 0
    assert "pause:task:api_call" in out
    assert cascade("pause", "task:api_call")[1] == out
    code, out, _ = cascade("constraint", "list")
    assert (code, out.count("pause:task:api_call")) == (0, 1)
    code, out, _ = cascade("-o", "json", "constraint", "list")
    [told] = json.loads(out)
    assert (told["id"], told["scope"], told["type"]) == ("pause:task:api_call", "task:api_call", "pause")


def test_s82_a_limit_is_set_listed_and_cleared(cascade: Cascade) -> None:
    assert cascade("constraint", "set", "task:f", "--limit", "3")[0] == 0
    assert cascade("constraint", "set", "task:f", "--rate", "10/m", "--capacity", "2", "--ttl", "1h")[0] == 0
    out = cascade("constraint", "list")[1]
    assert " 3 " in out
    assert "10/m" in out
    assert cascade("constraint", "clear", "task:f", "--type", "concurrency")[0] == 0
    out = cascade("constraint", "list")[1]
    assert "concurrency" not in out
    assert cascade("constraint", "clear", "--all")[0] == 0
    assert "no constraints" in cascade("constraint", "list")[1]


def test_s82_resume_removes_a_pause_and_nothing_else(cascade: Cascade) -> None:
    cascade("constraint", "set", "global", "--limit", "5")
    cascade("constraint", "set", "global", "--pause")
    cascade("pause", "task:f")
    assert cascade("resume", "global")[:2] == (0, "global: goes on\n")
    assert cascade("resume", "global")[:2] == (0, "global: was not paused\n")
    told = json.loads(cascade("constraint", "list", "-o", "json")[1])
    assert [limit["id"] for limit in told] == ["concurrency:global", "pause:task:f"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["set", "global"],
        ["set", "global", "--limit", "1", "--pause"],
        ["set", "global", "--limit", "0"],
        ["set", "global", "--rate", "often"],
        ["set", "global", "--pause", "--capacity", "2"],
        ["set", "everywhere", "--pause"],
        ["set", "global", "--pause", "--ttl", "0s"],
        ["clear"],
        ["clear", "global", "--all"],
        ["clear", "--type", "brake"],
    ],
)
def test_s82_what_makes_no_sense_exits_2(cascade: Cascade, arguments: list[str]) -> None:
    code, out, err = cascade("constraint", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert json.loads(cascade("constraint", "list", "-o", "json")[1]) == []
