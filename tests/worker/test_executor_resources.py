"""Resources in executors: real processes, no scheduler, no worker."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from cascade_dist import Resource, inject
from cascade_dist.errors import TaskCancelled
from cascade_worker.executor import frames
from tests.worker.children import Children

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=["sync", "async"])
async def executor(children: Children, request: pytest.FixtureRequest) -> int:
    """An executor of either kind; tasks of both are plain functions here."""
    return await children.executor(request.param == "async")


def changes(children: Children, attempt: int) -> list[tuple[str, str]]:
    """(name, "+", or "-" and the reason) of what was set up and torn down for an attempt."""
    told = [frame for frame in children.told if frame[0] == frames.RESOURCE and frame[1] == attempt]
    return [(frame[4], f"-{frame[7]}" if frame[6] else "+") for frame in told]


def of_number(children: Children, attempt: int, name: str) -> tuple[int, int]:
    """Executor and number of the instance that an attempt had set up."""
    found = [f for f in children.told if f[0] == frames.RESOURCE and f[1] == attempt and f[4] == name]
    return found[0][-1], found[0][2]


def released(children: Children, number: tuple[int, int]) -> list[str]:
    """The reasons with which an instance was torn down."""
    told = [f for f in children.told if f[0] == frames.RESOURCE and (f[-1], f[2]) == number]
    return [frame[7] for frame in told if frame[6]]


# --- around one attempt ------------------------------------------------------------------------------


async def test_one_is_set_up_given_and_torn_down_before_the_answer(children: Children, executor: int) -> None:
    def open_() -> Iterator[dict[str, int]]:
        print("open")
        yield {"n": 41}
        print("close")

    def work(extra: int, db: dict[str, int] = inject("db")) -> int:
        print("work")
        return db["n"] + extra

    db = Resource(open_, name="db", scope="task")
    answer = await children.run(executor, work, 1, resources=[db])
    attempt = answer.frame[1]
    assert answer.value == 42
    assert children.lines_of(attempt) == ["open", "work", "close"]
    assert changes(children, attempt) == [("db", "+"), ("db", "-")]
    assert children.order.index(("answer", attempt)) > max(
        at for at, entry in enumerate(children.order) if entry == ("told", attempt)
    )
    begun = children.told.index((frames.BEGUN, attempt, executor))
    assert [frame[6] for frame in children.told[begun - 1 : begun + 2 : 2]] == [False, True]


async def test_what_is_needed_comes_first_and_goes_last(children: Children, executor: int) -> None:
    def make_config() -> Iterator[str]:
        print("config")
        yield "url"
        print("no config")

    async def make_db(url: str = inject("config")) -> AsyncIterator[str]:
        print("db")
        await asyncio.sleep(0)
        yield f"db at {url}"
        await asyncio.sleep(0)
        print("no db")

    config = Resource(make_config, name="config", scope="task")
    db = Resource(make_db, name="db", scope="task")
    work = lambda db=inject("db"): db  # noqa: E731
    answer = await children.run(executor, work, resources=[config, db])
    assert answer.value == "db at url"
    assert children.lines_of(answer.frame[1]) == ["config", "db", "no db", "no config"]


async def test_the_failure_is_thrown_in_and_comes_out(children: Children, executor: int) -> None:
    def transaction() -> Iterator[str]:
        try:
            yield "t"
        except ValueError as error:
            print(f"rolled back: {error}")
            raise

    async def session() -> AsyncIterator[str]:
        try:
            yield "s"
        except ValueError as error:
            print(f"dropped: {error}")

    def work(t: str = inject("t"), s: str = inject("s")) -> None:
        raise ValueError("no")

    resources = [Resource(transaction, name="t", scope="task"), Resource(session, name="s", scope="task")]
    answer = await children.run(executor, work, resources=resources)
    assert isinstance(answer.error, ValueError)
    assert children.lines_of(answer.frame[1]) == ["dropped: no", "rolled back: no"]
    assert changes(children, answer.frame[1]) == [("t", "+"), ("s", "+"), ("s", "-"), ("t", "-")]


async def test_a_teardown_that_raises_hides_nothing(children: Children, executor: int) -> None:
    def bad() -> Iterator[int]:
        try:
            yield 1
        finally:
            raise OSError("cannot close")

    def good() -> Iterator[int]:
        yield 2
        print("closed")

    def work(fail: bool, a: int = inject("good"), b: int = inject("bad")) -> int:
        if fail:
            raise KeyError("mine")
        return a + b

    resources = [Resource(good, scope="task"), Resource(bad, scope="task")]
    answer = await children.run(executor, work, False, resources=resources)
    assert answer.value == 3
    assert changes(children, answer.frame[1])[2:] == [("bad", "-OSError: cannot close"), ("good", "-")]
    lines = children.lines_of(answer.frame[1])
    assert lines == ["teardown of resource 'bad': OSError: cannot close", "closed"]
    failed = await children.run(executor, work, True, resources=resources)
    assert isinstance(failed.error, KeyError)
    assert changes(children, failed.frame[1])[2] == ("bad", "-OSError: cannot close")


async def test_yielding_twice_or_never(children: Children, executor: int) -> None:
    def twice() -> Iterator[int]:
        yield 1
        yield 2

    async def twice_async() -> AsyncIterator[int]:
        yield 1
        yield 2

    def never() -> Iterator[int]:
        if os.getpid() < 0:
            yield 1

    async def never_async() -> AsyncIterator[int]:
        if os.getpid() < 0:
            yield 1

    for func in (twice, twice_async):
        resource = Resource(func, name="odd", scope="task")
        answer = await children.run(executor, lambda x=inject("odd"): x, resources=[resource])
        assert answer.value == 1
        [_, (_, reason)] = changes(children, answer.frame[1])
        assert reason.startswith("-RuntimeError: resource 'odd' yields a second time")
    for func in (never, never_async):
        resource = Resource(func, name="odd", scope="task")
        answer = await children.run(executor, lambda x=inject("odd"): x, resources=[resource])
        assert isinstance(answer.error, RuntimeError)
        assert "resource 'odd' ended without a yield" in str(answer.error)
        assert changes(children, answer.frame[1]) == []


async def test_a_setup_that_raises_takes_down_what_was_there(children: Children, executor: int) -> None:
    def first() -> Iterator[int]:
        try:
            yield 1
        except ConnectionError:
            print("heard")
            raise

    def second(first: int = inject("first")) -> Iterator[int]:
        raise ConnectionError("no host")
        yield

    resources = [Resource(first, scope="task"), Resource(second, scope="task")]
    answer = await children.run(executor, lambda x=inject("second"): x, resources=resources, retry_on=b"")
    assert isinstance(answer.error, ConnectionError)
    assert answer.retryable
    assert not answer.unloadable
    assert changes(children, answer.frame[1]) == [("first", "+"), ("first", "-")]
    assert children.lines_of(answer.frame[1]) == ["heard"]


async def test_the_value_is_pickled_while_its_resource_is_there(children: Children, executor: int) -> None:
    class Late:
        def __init__(self, state: dict[str, bool]) -> None:
            self.state = state

        def __reduce__(self) -> Any:
            return bool, (self.state["open"],)

    def open_() -> Iterator[dict[str, bool]]:
        state = {"open": True}
        yield state
        state["open"] = False

    db = Resource(open_, name="db", scope="task")
    assert (await children.run(executor, lambda db=inject("db"): Late(db), resources=[db])).value is True


async def test_parameters_of_every_kind(children: Children, executor: int) -> None:
    def a(x: int, r: str = inject("r"), /, y: int = 5, *, z: str = inject("r")) -> Any:
        return x, r, y, z

    def b(x: int = 1, r: str = inject("r"), *rest: int) -> Any:
        return x, r, rest

    def one() -> Iterator[str]:
        yield "R"

    r = Resource(one, name="r", scope="task")
    assert (await children.run(executor, a, 1, resources=[r])).value == (1, "R", 5, "R")
    assert (await children.run(executor, a, 1, "mine", resources=[r])).value == (1, "mine", 5, "R")
    assert (await children.run(executor, b, resources=[r])).value == (1, "R", ())
    assert (await children.run(executor, b, 2, "mine", 3, resources=[r])).value == (2, "mine", (3,))


# --- what lives longer -------------------------------------------------------------------------------


def counted(name: str, scope: str) -> Resource:
    """A resource that says which instance it is."""

    def make() -> Iterator[int]:
        print(f"up {name}")
        yield os.getpid()
        print(f"down {name}")

    return Resource(make, name=name, scope=scope)


async def test_scope_run_lives_until_the_run_ends(children: Children, executor: int) -> None:
    resource = counted("r", "run")
    work = lambda r=inject("r"): r  # noqa: E731
    attempts = [children.send(executor, work, resources=[resource], run_id="a") for _ in range(3)]
    for attempt in attempts:
        assert (await children.answer(attempt)).done
    other = await children.run(executor, work, resources=[resource], run_id="b")
    assert [len(changes(children, attempt)) for attempt in (*attempts, other.frame[1])] == [1, 0, 0, 1]
    first, second = (of_number(children, attempt, "r") for attempt in (attempts[0], other.frame[1]))
    assert first != second
    for run_id, number in (("a", first), ("b", second)):
        assert released(children, number) == []
        children.pool.close_run(executor, run_id, 5.0)
        await children.until(lambda run_id=run_id: (frames.CLOSED, run_id, executor) in children.told)
        assert released(children, number) == [""]


async def test_scope_worker_lives_until_the_executor_ends(children: Children) -> None:
    for asynchronous in (False, True):
        executor = await children.executor(asynchronous)
        model, cache = counted("model", "worker"), counted("cache", "run")
        work = lambda m=inject("model"), c=inject("cache"): m == c  # noqa: E731
        first = await children.run(executor, work, resources=[model, cache], run_id="a")
        second = await children.run(executor, work, resources=[model, cache], run_id="b")
        assert first.value
        assert changes(children, second.frame[1]) == [("cache", "+")]
        numbers = [
            of_number(children, answer.frame[1], name)
            for answer, name in ((first, "model"), (second, "cache"))
        ]
        children.pool.close_executor(executor, 5.0)
        assert await children.death(executor) == ("exited with code 0", [])
        assert [released(children, number) for number in numbers] == [[""], [""]]


async def test_old_definitions_of_a_name_go_when_newer_ones_come(children: Children, executor: int) -> None:
    numbers = []
    for version in range(4):

        def make(version: int = version) -> Iterator[int]:
            yield version

        model = Resource(make, name="m", scope="worker")
        answer = await children.run(executor, lambda m=inject("m"): m, resources=[model])
        assert answer.value == version
        numbers.append(of_number(children, answer.frame[1], "m"))
    assert [released(children, number) for number in numbers] == [[""], [""], [], []]


async def test_async_neighbours_share_one_setup(children: Children) -> None:
    executor = await children.executor(True)

    async def slow() -> AsyncIterator[list[int]]:
        print("setting up")
        await asyncio.sleep(0.05)
        yield []

    async def work(shared: list[int] = inject("slow")) -> int:
        shared.append(1)
        await asyncio.sleep(0.05)
        return len(shared)

    resource = Resource(slow, scope="run")
    attempts = [children.send(executor, work, resources=[resource]) for _ in range(5)]
    assert [(await children.answer(attempt)).value for attempt in attempts] == [5] * 5
    assert sum(len(children.lines_of(attempt)) for attempt in attempts) == 1


async def test_a_failed_setup_is_tried_again_by_the_next(children: Children, executor: int) -> None:
    def flaky() -> Iterator[int]:
        if not hasattr(threading, "cascade_tried"):
            threading.cascade_tried = True  # type: ignore[attr-defined]
            raise OSError("not yet")
        yield 7

    resource = Resource(flaky, scope="run")
    work = lambda x=inject("flaky"): x  # noqa: E731
    assert isinstance((await children.run(executor, work, resources=[resource], run_id="f")).error, OSError)
    assert (await children.run(executor, work, resources=[resource], run_id="f")).value == 7


async def test_an_async_generator_stays_in_one_task(children: Children, executor: int) -> None:
    async def grouped() -> AsyncIterator[str]:
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            child = group.create_task(asyncio.sleep(60))
            yield "up"
            child.cancel()

    resource = Resource(grouped, scope="task")
    answer = await children.run(executor, lambda g=inject("grouped"): g, resources=[resource])
    assert answer.value == "up"
    assert changes(children, answer.frame[1]) == [("grouped", "+"), ("grouped", "-")]


async def test_what_is_bound_to_its_thread_can_be_used(children: Children, executor: int) -> None:
    def connect() -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(":memory:")
        yield connection
        connection.close()

    work = lambda db=inject("db"): db.execute("select 1 + 1").fetchone()[0]  # noqa: E731
    resource = Resource(connect, name="db", scope="run")
    assert (await children.run(executor, work, resources=[resource])).value == 2


# --- stopping ----------------------------------------------------------------------------------------


async def up(children: Children, attempt: int, word: str) -> None:
    """Waits until an attempt has printed something."""
    await children.until(lambda: word in children.lines_of(attempt))


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_stop_is_thrown_in(children: Children, executor: int, kind: str) -> None:
    def plain() -> Iterator[int]:
        try:
            yield 1
        except BaseException as error:
            print(type(error).__name__)
            raise

    async def asynchronous() -> AsyncIterator[int]:
        try:
            yield 1
        except BaseException as error:
            print(type(error).__name__)
            raise

    is_async = children.pool._executors[executor].asynchronous

    def sleep(x: int = inject("x")) -> None:
        print("up")
        time.sleep(60)

    async def sleep_async(x: int = inject("x")) -> None:
        print("up")
        await asyncio.sleep(60)

    resource = Resource(plain if kind == "sync" else asynchronous, name="x", scope="task")
    attempt = children.send(executor, sleep_async if is_async else sleep, resources=[resource])
    await up(children, attempt, "up")
    children.pool.stop(executor, attempt, is_async)
    answer = await children.answer(attempt)
    assert answer.stopped
    assert children.lines_of(attempt)[1] == ("CancelledError" if is_async else "TaskCancelled")
    assert changes(children, attempt) == [("x", "+"), ("x", "-")]


@pytest.mark.parametrize("scope", ["task", "run"])
async def test_a_stop_during_setup(children: Children, executor: int, scope: str) -> None:
    def first() -> Iterator[int]:
        yield 1

    async def slow(first: int = inject("first")) -> AsyncIterator[int]:
        try:
            print("up")
            await asyncio.sleep(60)
            yield 1
        finally:
            print("cleaned up")

    is_async = children.pool._executors[executor].asynchronous
    resources = [Resource(first, scope=scope), Resource(slow, scope=scope)]
    run_id = f"stopped-{executor}"
    attempt = children.send(executor, lambda x=inject("slow"): x, resources=resources, run_id=run_id)
    await up(children, attempt, "up")
    children.pool.stop(executor, attempt, is_async)
    assert (await children.answer(attempt)).stopped
    assert children.lines_of(attempt) == ["up", "cleaned up"]
    assert changes(children, attempt)[0] == ("first", "+")
    if scope == "run":
        number = of_number(children, attempt, "first")
        children.pool.close_run(executor, run_id, 5.0)
        await children.until(lambda: released(children, number))
    else:
        assert changes(children, attempt)[1:] == [("first", "-")]
    assert (await children.run(executor, lambda: 1)).value == 1


async def test_a_stop_during_teardown_waits_for_it(children: Children, executor: int) -> None:
    async def slow() -> AsyncIterator[int]:
        yield 1
        print("down")
        await asyncio.sleep(0.2)
        print("clean")

    is_async = children.pool._executors[executor].asynchronous
    resource = Resource(slow, scope="task")
    attempt = children.send(executor, lambda x=inject("slow"): x, resources=[resource])
    await up(children, attempt, "down")
    children.pool.stop(executor, attempt, is_async)
    assert (await children.answer(attempt)).value == 1
    assert children.lines_of(attempt) == ["down", "clean"]


async def test_stops_at_any_moment_leave_nothing_set_up(children: Children) -> None:
    executor = await children.executor()

    def plain() -> Iterator[int]:
        yield 1

    async def other(plain: int = inject("plain")) -> AsyncIterator[int]:
        await asyncio.sleep(0)
        yield 2

    resources = [Resource(plain, scope="task"), Resource(other, scope="task")]
    work = lambda x=inject("other"): sum(range(200))  # noqa: E731
    for pause in range(120):
        attempt = children.send(executor, work, resources=resources)
        for _ in range(pause % 12 * 10):
            os.getpid()
        children.pool.stop(executor, attempt, False)
        answer = await children.answer(attempt)
        assert answer.done or answer.stopped, answer.error
        found = changes(children, attempt)
        assert sorted(found) == sorted((name, sign) for name, _ in found[: len(found) // 2] for sign in "+-")
    assert (await children.run(executor, lambda: 1)).value == 1


async def test_an_async_teardown_that_hangs_is_cancelled_after_the_grace(children: Children) -> None:
    for asynchronous in (False, True):
        executor = await children.executor(asynchronous)

        async def hangs() -> AsyncIterator[int]:
            yield 1
            await asyncio.sleep(3600)

        resource = Resource(hangs, scope="run")
        answer = await children.run(executor, lambda x=inject("hangs"): x, resources=[resource])
        number = of_number(children, answer.frame[1], "hangs")
        children.pool.close_run(executor, "run-1", 0.05)
        [reason] = await children.until(lambda number=number: released(children, number))
        assert reason == "TimeoutError: it took longer than the grace of 0.05 s"


async def test_a_task_that_swallows_the_stop_is_stopped_all_the_same(children: Children) -> None:
    executor = await children.executor()

    def work(x: int = inject("one")) -> str:
        try:
            print("up")
            time.sleep(60)
        except TaskCancelled:
            return "got away"
        return ""

    def one() -> Iterator[int]:
        yield 1

    attempt = children.send(executor, work, resources=[Resource(one, scope="task")])
    await up(children, attempt, "up")
    children.pool.stop(executor, attempt, False)
    assert (await children.answer(attempt)).stopped
    assert changes(children, attempt) == [("one", "+"), ("one", "-")]
