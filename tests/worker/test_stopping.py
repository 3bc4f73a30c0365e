"""Stopping and killing what an executor runs, and what is left of it: real processes, no scheduler."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from cascade_dist.errors import TaskCancelled
from tests.worker.children import Children

pytestmark = pytest.mark.asyncio(loop_scope="module")


# --- stopping ---------------------------------------------------------------------------------------


def runs(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def started(children: Children, executor: int) -> None:
    """Waits until the last task that was sent has printed something."""
    before = len(children.lines)
    await children.until(lambda: len(children.lines) > before)


async def test_a_stop_raises_in_the_task_and_its_cleanup_runs(children: Children, shared: int) -> None:
    def work() -> None:
        try:
            print("up")
            time.sleep(60)
        finally:
            print("cleaned up")

    attempt = children.send(shared, work)
    await started(children, shared)
    children.pool.stop(shared, attempt, False)
    answer = await children.answer(attempt)
    assert answer.stopped
    assert isinstance(answer.error, TaskCancelled)
    assert children.lines_of(attempt) == ["up", "cleaned up"]
    assert (await children.run(shared, lambda: 1)).value == 1, "the next task is not touched"


async def test_a_task_that_swallows_the_stop_and_returns_counts_as_stopped(
    children: Children, shared: int
) -> None:
    def work() -> str:
        try:
            print("up")
            time.sleep(60)
        except BaseException:
            return "got away"
        return "?"

    attempt = children.send(shared, work)
    await started(children, shared)
    children.pool.stop(shared, attempt, False)
    answer = await children.answer(attempt)
    assert answer.stopped


async def test_a_stop_for_another_attempt_is_ignored(children: Children, shared: int) -> None:
    def work() -> int:
        print("up")
        time.sleep(0.2)
        return 7

    attempt = children.send(shared, work)
    await started(children, shared)
    children.pool.stop(shared, attempt - 1, False)
    assert (await children.answer(attempt)).value == 7


async def test_a_stop_before_the_start_counts(children: Children, shared: int) -> None:
    first = children.send(shared, time.sleep, 0.1)
    second = children.send(shared, time.sleep, 60)
    children.pool.stop(shared, second, False)
    assert (await children.answer(first)).done
    assert (await children.answer(second)).stopped


async def test_stops_at_any_moment_hit_their_attempt_alone(children: Children) -> None:
    """Many short tasks, each told to stop at about the time when it ends: all answer, none twice."""
    executor = await children.executor()
    body = lambda: sum(range(500))  # noqa: E731
    for pause in range(150):
        attempt = children.send(executor, body)
        for _ in range(pause % 10):
            os.getpid()
        children.pool.stop(executor, attempt, False)
        answer = await children.answer(attempt)
        assert answer.done or answer.stopped
    assert (await children.run(executor, lambda: 1)).value == 1


async def test_a_stop_while_a_line_is_printed_leaves_the_frames_whole(children: Children) -> None:
    executor = await children.executor()

    def shout() -> None:
        while True:
            print("x" * 1000)

    for _ in range(20):
        attempt = children.send(executor, shout)
        await started(children, executor)
        children.pool.stop(executor, attempt, False)
        assert (await children.answer(attempt)).stopped
    assert (await children.run(executor, lambda: 1)).value == 1


async def test_a_kill_takes_the_children_of_the_task_along(children: Children) -> None:
    executor = await children.executor()

    def work() -> None:
        child = subprocess.Popen(["sleep", "600"])
        print(child.pid)
        while True:
            try:
                time.sleep(60)
            except BaseException:
                pass

    attempt = children.send(executor, work)
    await started(children, executor)
    pid = int(children.lines_of(attempt)[0])
    children.pool.stop(executor, attempt, False)
    children.pool.kill(executor)
    reason, unread = await children.death(executor)
    assert (reason, unread) == ("killed by signal 9 (SIGKILL)", [])
    deadline = time.monotonic() + 5
    while psutil.pid_exists(pid) and time.monotonic() < deadline:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.01)
    assert not psutil.pid_exists(pid), "neither running nor a zombie"


# --- death ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("func", "text"),
    [
        (lambda: os._exit(3), "exited with code 3"),
        (lambda: __import__("ctypes").string_at(0), "killed by signal 11 (SIGSEGV)"),
        (lambda: os.kill(os.getpid(), 9), "out of memory"),
        (lambda: os.abort(), "killed by signal 6 (SIGABRT)"),
    ],
)
async def test_how_an_executor_died_is_told(children: Children, func: Any, text: str) -> None:
    executor = await children.executor()
    children.send(executor, func)
    behind = children.send(executor, time.sleep, 0)
    reason, unread = await children.death(executor)
    assert text in reason
    assert unread == [behind]


async def test_the_last_words_are_heard(children: Children) -> None:
    executor = await children.executor()

    def talk() -> None:
        print("last words")
        os.write(2, b"and more")
        os._exit(1)

    attempt = children.send(executor, talk)
    await children.death(executor)
    assert children.lines_of(attempt) == ["last words", "and more"]


async def test_an_executor_that_speaks_nonsense_is_killed(children: Children) -> None:
    executor = await children.executor()

    def scribble() -> None:
        for fd in range(3, 20):
            try:
                os.write(fd, b"\x05\x00\x00\x00hello" * 10)
            except OSError:
                pass
        time.sleep(60)

    children.send(executor, scribble)
    reason, _ = await children.death(executor)
    assert "killed by signal 9" in reason


async def test_a_task_that_closes_its_output_disturbs_nobody(children: Children) -> None:
    executor = await children.executor()

    def close() -> int:
        os.close(1)
        os.close(2)
        return 1

    assert (await children.run(executor, close)).value == 1
    assert (await children.run(executor, lambda: 2)).value == 2


async def test_an_executor_that_was_told_to_ends(children: Children) -> None:
    executor = await children.executor()
    children.pool.close_executor(executor)
    assert await children.death(executor) == ("exited with code 0", [])


async def test_what_was_not_taken_is_got_back_and_what_runs_is_not(children: Children) -> None:
    executor = await children.executor()

    def work() -> int:
        print("up")
        time.sleep(1.5)
        return 1

    first = children.send(executor, work)
    await started(children, executor)
    small = children.send(executor, time.sleep, 60)
    large = children.send(executor, len, b"x" * 200_000)
    assert children.pool.reclaim(executor) == [small, large]
    assert list((children.root / "frames").iterdir()) == []
    assert (await children.answer(first)).value == 1
    assert (await children.run(executor, lambda: 2)).value == 2


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_full_disk_fails_the_attempt_in_its_turn(children: Children, asynchronous: bool) -> None:
    async def size(data: bytes) -> int:
        return len(data)

    func: Any = size if asynchronous else len
    executor = await children.executor(asynchronous)
    first = children.send(executor, func, b"x")
    path = children.root / "frames" / f"{first + 1:016x}"
    path.symlink_to("/dev/full")  # every write to it says that the disk is full
    large = children.send(executor, func, b"x" * 200_000)
    last = children.send(executor, func, b"x" * 200_000)
    answer = await children.answer(large)
    assert isinstance(answer.error, OSError)
    assert answer.error.errno == errno.ENOSPC
    assert str(children.root / "frames") in answer.record.message
    assert "--object-dir" in answer.record.message
    assert answer.unloadable
    assert not path.is_symlink()
    assert (await children.answer(first)).value == 1
    assert (await children.answer(last)).value == 200_000


async def test_more_frames_than_the_socket_holds(children: Children) -> None:
    executor = await children.executor()
    first = children.send(executor, time.sleep, 0.2)
    rest = [children.send(executor, len, os.urandom(30_000)) for _ in range(60)]
    assert [(await children.answer(attempt)).done for attempt in (first, *rest)] == [True] * 61

    def nap() -> None:
        print("up")
        time.sleep(1.5)

    attempt = children.send(executor, nap)
    await started(children, executor)  # else it may be got back itself
    rest = [children.send(executor, len, os.urandom(30_000)) for _ in range(60)]
    back = children.pool.reclaim(executor)
    assert back == rest[-len(back) :]
    assert len(back) >= 59
    await children.answer(attempt)


async def test_a_fork_server_that_dies_takes_its_executors_along_and_is_replaced(tmp_path: Path) -> None:
    children = Children(tmp_path)
    executor = await children.executor()
    pid = (await children.run(executor, os.getpid)).value

    def work() -> None:
        print("up")
        time.sleep(60)

    attempt = children.send(executor, work)
    await started(children, executor)
    psutil.Process(children.pool.server_pid).kill()
    assert await children.death(executor) == ("the fork server has ended", [])
    assert attempt not in children.frames
    again = await children.executor()
    assert (await children.run(again, os.getpid)).value != pid
    assert not runs(pid)
    children.pool.close()
