"""The async executor: real processes, no scheduler, no worker."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import pytest
import pytest_asyncio

from cascade_dist.context import current_attempt
from tests.worker.children import Children

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared(children: Children) -> int:
    """An executor for tests that leave it as it was."""
    return await children.executor(asynchronous=True)


async def test_coroutines_run_side_by_side(children: Children, shared: int) -> None:
    async def work(number: int) -> int:
        import asyncio

        await asyncio.sleep(0.2)
        return number

    begun = time.monotonic()
    attempts = [children.send(shared, work, number) for number in range(300)]
    values = [(await children.answer(attempt)).value for attempt in attempts]
    assert values == list(range(300))
    assert time.monotonic() - begun < 2


async def test_each_coroutine_has_its_own_lines_and_its_own_context(children: Children, shared: int) -> None:
    async def talk(name: str) -> Any:
        import asyncio

        print(f"{name} begins")
        await asyncio.sleep(0.02)
        print(f"{name} goes", end=" ")
        await asyncio.sleep(0.02)
        print("on")
        await asyncio.create_task(shout(name))
        return current_attempt()

    async def shout(name: str) -> None:
        print(f"{name} in a child")

    attempts = {name: children.send(shared, talk, name, name=name) for name in ("a", "b", "c")}
    for name, attempt in attempts.items():
        info = (await children.answer(attempt)).value
        assert (info.task, info.node_id) == (name, f"node-{attempt}")
        assert children.lines_of(attempt) == [f"{name} begins", f"{name} goes on", f"{name} in a child"]


async def test_a_cancel_reaches_its_coroutine_alone(children: Children, shared: int) -> None:
    async def work() -> str:
        import asyncio

        try:
            print("up")
            await asyncio.sleep(60)
        finally:
            print("cleaned up")
        return "?"

    async def other() -> str:
        import asyncio

        await asyncio.sleep(0.1)
        return "fine"

    attempt, neighbour = children.send(shared, work), children.send(shared, other)
    await children.until(lambda: children.lines_of(attempt))
    children.pool.stop(shared, attempt, True)
    answer = await children.answer(attempt)
    assert answer.stopped
    assert children.lines_of(attempt) == ["up", "cleaned up"]
    assert (await children.answer(neighbour)).value == "fine"


async def test_a_cancel_that_is_swallowed_counts(children: Children, shared: int) -> None:
    async def work() -> str:
        import asyncio

        try:
            print("up")
            await asyncio.sleep(60)
        except BaseException:
            return "got away"
        return "?"

    attempt = children.send(shared, work)
    await children.until(lambda: children.lines_of(attempt))
    children.pool.stop(shared, attempt, True)
    assert (await children.answer(attempt)).stopped


async def test_a_cancel_of_something_unknown_is_nothing(children: Children, shared: int) -> None:
    children.pool.stop(shared, 12345, True)

    async def work() -> int:
        return 1

    assert (await children.run(shared, work)).value == 1


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt, asyncio.CancelledError])
async def test_what_a_coroutine_raises_is_its_own_affair(children: Children, shared: int, kind: type) -> None:
    async def fail() -> None:
        raise kind("x")

    async def fine() -> int:
        return 2

    answer = await children.run(shared, fail)
    assert answer.record.type.endswith(kind.__name__)
    assert not answer.stopped
    assert (await children.run(shared, fine)).value == 2


async def test_a_loop_that_is_blocked_takes_no_frames(children: Children) -> None:
    executor = await children.executor(asynchronous=True)

    async def block() -> None:
        print("up")
        time.sleep(60)  # noqa: ASYNC251 - that is what this is about

    async def fine() -> int:
        return 2

    attempt = children.send(executor, block)
    await children.until(lambda: children.lines_of(attempt))
    unread = children.send(executor, fine)
    children.pool.kill(executor)
    assert await children.death(executor) == ("killed by signal 9 (SIGKILL)", [unread])


async def test_a_coroutine_function_is_not_needed_for_a_coroutine(children: Children, shared: int) -> None:
    async def work() -> int:
        return 3

    assert (await children.run(shared, lambda: work())).value == 3


async def test_nothing_of_grpc_is_in_it(children: Children, shared: int) -> None:
    async def look() -> list[str]:
        return sorted({"grpc", "google"} & set(sys.modules))

    assert (await children.run(shared, look)).value == []
