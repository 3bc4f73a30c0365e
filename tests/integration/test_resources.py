"""Resources on clusters of real processes: set up, injected, torn down, and told of."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psutil
import pytest

import cascade_dist as cs
from tests.machine import wait_until

from .conftest import Journal

pytestmark = pytest.mark.integration


def note(path: str, word: str) -> None:
    with open(path, "a") as file:
        file.write(f"{word}\n")


def changes(run: cs.Run) -> list[str]:
    """What became of resources, in order: "+db" and "-db"."""
    signs = {"ResourceAcquired": "+", "ResourceReleased": "-"}
    kinds = [(type(event).__name__, event) for event in run.events()]
    return [f"{signs[kind]}{event.resource}" for kind, event in kinds if kind in signs]


def kinds(run: cs.Run) -> list[str]:
    return [type(event).__name__ for event in run.events()]


def noted(name: str, path: str, scope: str, *, needs: str = "", fails: str = "") -> cs.Resource:
    """A resource that notes what becomes of it; its value is its name behind those of what it needs."""

    def make(before: str = cs.inject(needs) if needs else "") -> Iterator[str]:
        note(path, f"+{name}")
        if fails:
            raise ConnectionError(fails)
        try:
            yield f"{before}/{name}"
        except BaseException as error:
            note(path, f"!{type(error).__name__}")
            raise
        finally:
            note(path, f"-{name}")

    return cs.Resource(make, name=name, scope=scope)


@cs.task
def value(x: Any) -> Any:
    return x


# --- scenarios ---------------------------------------------------------------------------------------


def test_s41_a_loop_of_jumps_with_an_injected_resource(cluster: cs.Cluster, journal: Journal) -> None:
    tmp = noted("tmp", journal.path, "task")
    pool = noted("pool", journal.path, "run")

    @cs.task
    def count(n: int, label: str, tmp: str = cs.inject(tmp), pool: str = cs.inject(pool)) -> Any:
        note(journal.path, f"{n}{label}{tmp}{pool}")
        return cs.Jump("again", n - 1) if n else cs.Jump("done", "Done")

    step = count(cs.Param("n", type=int), "x")
    run = cluster.submit(cs.bind(step, cs.select_jump({"again": step, "done": None})), params={"n": 3})
    assert run.result(60) == "Done"
    lines = journal.lines()
    assert [line for line in lines if line[0].isdigit()] == [f"{n}x/tmp/pool" for n in (3, 2, 1, 0)]
    assert [line for line in lines if "tmp" in line and not line[0].isdigit()] == ["+tmp", "-tmp"] * 4
    steps = [f"{n}x/tmp/pool" for n in (3, 2, 1, 0)]
    assert [line for line in lines if "pool" not in line or line in steps] == [
        word for step_ in steps for word in ("+tmp", step_, "-tmp")
    ]
    assert lines.count("+pool") == lines.count("-pool") <= 2


def test_s45_a_task_scoped_resource_ends_before_the_next_step(cluster: cs.Cluster, journal: Journal) -> None:
    tmp = noted("tmp", journal.path, "task")

    @cs.task
    def second(x: str, tmp: str = cs.inject(tmp)) -> str:
        note(journal.path, "second")
        return x + tmp

    @cs.task
    def first(tmp: str = cs.inject(tmp)) -> Any:
        note(journal.path, "first")
        return second(tmp)

    run = cluster.submit(first())
    assert run.result(60) == "/tmp/tmp"
    assert journal.lines() == ["+tmp", "first", "-tmp", "+tmp", "second", "-tmp"]
    assert changes(run) == ["+tmp", "-tmp"] * 2


def test_s57_every_child_of_a_map_gets_it(cluster: cs.Cluster) -> None:
    @cs.resource(name="base57", scope="run")
    def base() -> Iterator[int]:
        yield 100

    @cs.task
    def add(x: int, base: int = cs.inject("base57")) -> int:
        return x + base

    assert cluster.run(add.map(x=range(20))) == list(range(100, 120))
    assert cluster.run(add.map(x=value([1, 2]))) == [101, 102]
    assert cluster.run(add.map(x=[1, 2], base=cs.inject(base))) == [101, 102]
    assert cluster.run(add.map(x=[1, 2], base=cs.unmapped(5))) == [6, 7]


@pytest.mark.parametrize("scope", ["task", "run"])
def test_s63_what_is_needed_comes_first_and_goes_last(
    cluster: cs.Cluster, journal: Journal, scope: str
) -> None:
    config = noted("config", journal.path, scope)
    db = noted("db", journal.path, scope, needs="config")
    cluster.register(config)

    @cs.task
    def query(db: str = cs.inject(db)) -> str:
        return db

    run = cluster.submit(query())
    assert run.result(60) == "/config/db"
    assert journal.lines() == ["+config", "+db", "-db", "-config"]
    assert changes(run) == ["+config", "+db", "-db", "-config"]
    order = [kind for kind in kinds(run) if kind != "LogLine"]
    released = ["ResourceReleased"] * 2
    finished = ["TaskExecutionFinished"]
    assert order == [
        "RunStarted",
        "ResourceAcquired",
        "ResourceAcquired",
        "TaskExecutionStarted",
        *(released + finished if scope == "task" else finished + released),
        "RunFinished",
    ]
    events = [event for event in run.events() if type(event).__name__ == "ResourceAcquired"]
    assert [event.task for event in events] == ["query", "query"]
    assert all(event.duration >= 0 and event.worker for event in events)


def test_s64_what_is_no_generator_function_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match="'plain' is a plain function"):

        @cs.resource
        def plain() -> int:
            return 1


def test_s65_an_override_holds_inside_its_block(cluster: cs.Cluster, journal: Journal) -> None:
    cluster.register(noted("api65", journal.path, "worker"))

    @cs.task
    def call(api: Any = cs.inject("api65")) -> Any:
        return api

    def fake() -> Iterator[str]:
        note(journal.path, "+fake")
        yield "fake"
        note(journal.path, "-fake")

    assert cluster.run(call()) == "/api65"
    with cs.override_resource("api65", {"a": "mock"}):
        assert cluster.run(call()) == {"a": "mock"}
        with cs.override_resource("api65", fake):
            assert cluster.run(call()) == "fake"
        assert cluster.run(call()) == {"a": "mock"}
        with cs.override_resource("api65", cs.Resource(fake, name="x", scope="task")) as replaced:
            assert (replaced.name, replaced.scope) == ("api65", "task")
            run = cluster.submit(call())
            assert run.result(60) == "fake"
            assert changes(run) == ["+api65", "-api65"]
    run = cluster.submit(call())
    assert run.result(60) == "/api65"
    assert "-api65" not in changes(run), "it has its own scope again"


def test_s66_what_is_not_registered_is_told_before_anything_starts(
    cluster: cs.Cluster, journal: Journal
) -> None:
    @cs.task
    def first(path: str) -> None:
        note(path, "ran")

    @cs.task
    def second(x: None, api: Any = cs.inject("nobody made this")) -> None:
        pass

    with pytest.raises(cs.ResourceNotFoundError, match=r"'second'.*'nobody made this'.*known: ") as caught:
        cluster.submit(second(first(journal.path)))
    assert isinstance(caught.value, LookupError)
    assert journal.lines() == []


# --- values ------------------------------------------------------------------------------------------


def test_markers_at_any_depth_and_every_kind_of_task(cluster: cs.Cluster) -> None:
    @cs.resource(name="deep")
    async def deep() -> AsyncIterator[str]:
        await asyncio.sleep(0)
        yield "R"

    @cs.task
    async def later(x: Any) -> Any:
        await asyncio.sleep(0)
        return x

    marker = cs.inject(deep)
    for task in (value, later):
        assert cluster.run(task([1, {"k": (marker, value(2))}])) == [1, {"k": ("R", 2)}]


def test_a_resource_that_cannot_travel_reaches_every_task_all_the_same(cluster: cs.Cluster) -> None:
    @cs.resource(name="lock", scope="run")
    def lock() -> Iterator[Any]:
        yield threading.Lock()

    @cs.task
    def locked(x: int, lock: Any = cs.inject("lock")) -> int:
        with lock:
            return x

    assert cluster.run([locked(n) for n in range(5)]) == list(range(5))


# --- scopes ------------------------------------------------------------------------------------------


def test_scope_run_is_once_per_executor(cluster: cs.Cluster, journal: Journal) -> None:
    @cs.resource(name="pool", scope="run")
    def pool() -> Iterator[int]:
        note(journal.path, f"+{os.getpid()}")
        yield os.getpid()
        note(journal.path, f"-{os.getpid()}")

    @cs.task
    def use(n: int, pool: int = cs.inject("pool")) -> bool:
        time.sleep(0.05)
        return pool == os.getpid()

    @cs.task
    async def use_async(n: int, pool: int = cs.inject("pool")) -> bool:
        return pool == os.getpid()

    run = cluster.submit([use.map(n=range(10)), use_async.map(n=range(10))])
    assert run.result(60) == [[True] * 10, [True] * 10]
    lines = journal.lines()
    pids = {line[1:] for line in lines}
    assert sorted(lines) == sorted(f"{sign}{pid}" for pid in pids for sign in "+-")
    assert 2 <= len(pids) <= 4, "the slots of two workers, and their async executors"
    assert kinds(run)[-1 - len(pids) :] == ["ResourceReleased"] * len(pids) + ["RunFinished"]


def test_scope_worker_outlives_runs(cluster: cs.Cluster, journal: Journal) -> None:
    @cs.resource(name="model", scope="worker")
    def model() -> Iterator[int]:
        note(journal.path, str(os.getpid()))
        yield os.getpid()

    @cs.task
    def use(n: int, model: int = cs.inject("model")) -> bool:
        return model == os.getpid()

    for _ in range(5):
        assert all(cluster.run(use.map(n=range(6))))
    lines = journal.lines()
    assert len(lines) == len(set(lines)) <= 4


# --- how tasks end -----------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["task", "run"])
def test_a_failure(cluster: cs.Cluster, journal: Journal, scope: str) -> None:
    db = noted("db", journal.path, scope)

    @cs.task
    def fail(db: str = cs.inject(db)) -> None:
        raise KeyError("mine")

    run = cluster.submit(fail())
    with pytest.raises(KeyError, match="mine"):
        run.result(60)
    assert journal.lines() == ["+db", *(["!KeyError"] if scope == "task" else []), "-db"]
    assert changes(run) == ["+db", "-db"]
    assert kinds(run)[-1] == "RunFinished"


@pytest.mark.parametrize("scope", ["task", "run"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_cancel(cluster: cs.Cluster, journal: Journal, scope: str, asynchronous: bool) -> None:
    db = noted("db", journal.path, scope)

    @cs.task
    def sleep(db: str = cs.inject(db)) -> None:
        note(journal.path, "up")
        time.sleep(60)

    @cs.task
    async def sleep_async(db: str = cs.inject(db)) -> None:
        note(journal.path, "up")
        await asyncio.sleep(60)

    run = cluster.submit(sleep_async() if asynchronous else sleep())
    wait_until(lambda: "up" in journal.lines())
    run.cancel()
    wait_until(run.done)
    wait_until(lambda: kinds(run)[-1] == "RunFinished")
    thrown = "!CancelledError" if asynchronous else "!TaskCancelled"
    assert journal.lines() == ["+db", "up", *([thrown] if scope == "task" else []), "-db"]
    assert changes(run) == ["+db", "-db"]


def test_a_timeout(cluster: cs.Cluster, journal: Journal) -> None:
    db = noted("db", journal.path, "task")

    @cs.task
    def sleep(db: str = cs.inject(db)) -> None:
        time.sleep(60)

    with pytest.raises(cs.TaskTimeoutError):
        cluster.run(sleep().with_timeout(1.5))  # it has begun by then
    assert journal.lines() == ["+db", "!TaskCancelled", "-db"]


def test_a_kill_runs_no_teardown_and_says_so(cluster: cs.Cluster, journal: Journal) -> None:
    model, db = noted("model", journal.path, "worker"), noted("db", journal.path, "run")
    tmp = noted("tmp", journal.path, "task")

    @cs.task
    def stubborn(model: str = cs.inject(model), db: str = cs.inject(db), tmp: str = cs.inject(tmp)) -> None:
        note(journal.path, str(os.getpid()))
        while True:
            try:
                while True:
                    pass
            except BaseException:
                note(journal.path, "no")

    run = cluster.submit(stubborn())
    wait_until(lambda: len(journal.lines()) == 4)
    pid = int(journal.lines()[-1])
    run.cancel()
    wait_until(lambda: not psutil.pid_exists(pid))
    wait_until(lambda: kinds(run)[-1] == "RunFinished")
    assert [line for line in journal.lines() if line.startswith("-")] == []
    released = [event for event in run.events() if type(event).__name__ == "ResourceReleased"]
    assert [event.reason for event in released] == ["killed"] * 3
    assert sorted(event.resource for event in released) == ["db", "model", "tmp"]


def test_a_drain_tears_everything_down(journal: Journal) -> None:
    model, db = noted("model", journal.path, "worker"), noted("db", journal.path, "run")

    @cs.task
    def use(model: str = cs.inject(model), db: str = cs.inject(db)) -> None:
        note(journal.path, "up")
        time.sleep(0.5)

    @cs.task
    async def use_async(db: str = cs.inject(db)) -> None:
        pass

    with cs.connect(None, workers=2, slots=1) as cluster:
        run = cluster.submit([use(), use(), use_async()])
        wait_until(lambda: journal.lines().count("up") == 2)
        [pid, _] = [worker.pid for worker in cluster.workers()]
        os.kill(pid, signal.SIGTERM)
        run.result(60)
        wait_until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie")
        wait_until(lambda: journal.lines().count("-model") == 1)
        assert journal.lines().count("-db") == journal.lines().count("+db")
    wait_until(lambda: journal.lines().count("-model") == 2)


def test_yielding_twice_or_never(cluster: cs.Cluster) -> None:
    @cs.resource(name="twice", scope="task")
    def twice() -> Iterator[int]:
        yield 1
        yield 2

    @cs.resource(name="never", scope="task")
    def never() -> Iterator[int]:
        if os.getpid() < 0:
            yield 1

    run = cluster.submit(value(cs.inject("twice")))
    assert run.result(60) == 1
    [released] = [event for event in run.events() if type(event).__name__ == "ResourceReleased"]
    assert released.reason.startswith("RuntimeError: resource 'twice' yields a second time")
    lines = [event.text for event in run.events() if type(event).__name__ == "LogLine"]
    assert any("teardown of resource 'twice'" in line for line in lines)
    with pytest.raises(RuntimeError, match="'never' ended without a yield"):
        cluster.run(value(cs.inject("never")))


def test_a_setup_that_raises_fails_the_attempt_and_is_tried_again(
    cluster: cs.Cluster, journal: Journal
) -> None:
    config = noted("config", journal.path, "task")
    broken = noted("broken", journal.path, "task", needs="config", fails="no host")
    cluster.register(config)

    @cs.task
    def use(db: str = cs.inject(broken)) -> None:
        pass

    run = cluster.submit(use().with_retry(2))
    with pytest.raises(ConnectionError, match="no host"):
        run.result(60)
    assert journal.lines() == ["+config", "+broken", "!ConnectionError", "-config"] * 2
    assert changes(run) == ["+config", "-config"] * 2
    assert kinds(run).count("TaskRetrying") == 1


def test_a_run_teardown_that_takes_too_long_holds_up_its_run_for_the_grace_alone(
    cluster: cs.Cluster, journal: Journal
) -> None:
    @cs.resource(name="hangs", scope="run")
    def hangs() -> Iterator[int]:
        yield os.getpid()
        time.sleep(3600)

    run = cluster.submit(value(cs.inject("hangs")))
    pid = run.result(60)
    wait_until(lambda: not psutil.pid_exists(pid))
    wait_until(lambda: kinds(run)[-1] == "RunFinished")
    [released] = [event for event in run.events() if type(event).__name__ == "ResourceReleased"]
    assert released.reason == "killed"


def test_teardowns_print_too(cluster: cs.Cluster) -> None:
    @cs.resource(name="talks", scope="run")
    def talks() -> Iterator[int]:
        print("hello")
        yield 1
        print("bye")

    run = cluster.submit(value(cs.inject("talks")))
    run.result(60)
    lines = [event.text for event in run.events() if type(event).__name__ == "LogLine"]
    assert lines == ["hello", "bye"]
