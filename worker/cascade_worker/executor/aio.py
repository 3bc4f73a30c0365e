"""The executor of async tasks: an event loop, each task a coroutine on it."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import socket
import sys
import time
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any

from cascade_dist import context
from cascade_dist.errors import TaskCancelled
from cascade_dist.language.resources import within
from cascade_worker.executor.frames import (
    BEGUN,
    BROKEN,
    CANCEL,
    CLOSE_RUN,
    CLOSED,
    EXIT,
    LEASED,
    PACKET_BYTES_MAX,
    RECALL,
    SPILLED,
    TASK,
    loads,
)
from cascade_worker.executor.generators import LoopOfTheTask
from cascade_worker.executor.leases import Lease, NextStep
from cascade_worker.executor.output import LineWriter, Speaker
from cascade_worker.executor.resources import Keeper, Step
from cascade_worker.executor.sync import read_spilled
from cascade_worker.executor.work import Body, Frame, Task, Unloadable, Workbench

__all__ = ["AsyncExecutor", "current_attempt"]

_BATCH = 64
"""Frames taken in one go; then the loop's other work has its turn."""

_attempt: ContextVar[int] = ContextVar("cascade_attempt_number", default=0)


def current_attempt() -> int:
    """The attempt that the calling coroutine belongs to; 0 for none."""
    return _attempt.get()


class AsyncExecutor:
    """Starts a coroutine for every task frame and answers when it ends."""

    def __init__(self, tasks: socket.socket, speaker: Speaker, bench: Workbench, worker_id: str) -> None:
        self._tasks = tasks
        self._speaker = speaker
        self._bench = bench
        self._worker_id = worker_id
        self._running: dict[int, asyncio.Task[None]] = {}
        self._cancelled: set[int] = set()
        self._recalled: set[int] = set()
        """Leases that the worker wants back."""
        self._keeper = Keeper(self._say, self._speak_for, LoopOfTheTask())
        self._closing: set[asyncio.Task[None]] = set()
        self._buffer = bytearray(PACKET_BYTES_MAX + 1024)
        self.writers: tuple[LineWriter, ...] = ()

    def run(self) -> None:
        """Serves until the worker closes its end."""
        loop_factory: Callable[[], asyncio.AbstractEventLoop]
        try:
            import uvloop

            loop_factory = uvloop.new_event_loop
        except ImportError:
            loop_factory = asyncio.new_event_loop
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        self._ended = loop.create_future()
        self._tasks.setblocking(False)
        loop.add_reader(self._tasks.fileno(), self._read)
        try:
            await self._ended
        finally:
            loop.remove_reader(self._tasks.fileno())

    def _read(self) -> None:
        view = memoryview(self._buffer)
        for _ in range(_BATCH):
            try:
                size = self._tasks.recv_into(self._buffer)
            except BlockingIOError:
                return
            frame: Any = loads(view[:size]) if size else (EXIT, 0.0)
            if frame[0] == SPILLED:
                frame = read_spilled(frame[2])
            if frame[0] == TASK:
                self._start(Task(frame))
            elif frame[0] == BROKEN:
                self._say(frame[2])
            elif frame[0] == CANCEL:
                self._cancel(frame[1])
            elif frame[0] == RECALL:
                if frame[1] in self._running:
                    self._recalled.add(frame[1])
            elif frame[0] == CLOSE_RUN:
                self._close(self._close_run(frame[1], frame[2]))
            elif frame[0] == EXIT:
                asyncio.get_running_loop().remove_reader(self._tasks.fileno())
                self._close(self._close_all(frame[1]))
                return

    def _close(self, work: Coroutine[Any, Any, None]) -> None:
        closing = asyncio.get_running_loop().create_task(work)
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def _close_run(self, run_id: str, grace: float) -> None:
        await self._keeper.close_run(run_id, grace)
        self._say((CLOSED, run_id))

    async def _close_all(self, grace: float) -> None:
        await self._keeper.close_all(grace)
        if not self._ended.done():
            self._ended.set_result(None)

    def _start(self, task: Task) -> None:
        running = asyncio.get_running_loop().create_task(self._attempt(task))
        self._running[task.attempt] = running

    def _cancel(self, attempt: int) -> None:
        running = self._running.get(attempt)
        if running is not None and attempt not in self._cancelled:
            self._cancelled.add(attempt)
            running.cancel()

    async def _attempt(self, task: Task) -> None:
        attempt, recalled = task.attempt, self._recalled
        _attempt.set(attempt)
        if not task.flags & LEASED:
            answer = await self._run_step(task)
        else:
            lease = task.lease = Lease(attempt, lambda: attempt in recalled, self._say)
            while isinstance(answer := await self._run_step(task), NextStep):
                for writer in self.writers:
                    writer.ended(attempt)
                task.go_on(answer)
                lease.step(answer)
                with contextlib.suppress(asyncio.CancelledError):  # the step sees that it was told to stop
                    await asyncio.sleep(0)
            answer = lease.ending(answer)
        self._running.pop(attempt, None)
        self._cancelled.discard(attempt)
        recalled.discard(attempt)
        for writer in self.writers:
            writer.ended(attempt)
        assert not isinstance(answer, NextStep)
        self._say(answer)

    async def _run_step(self, task: Task) -> Frame | NextStep:
        """Runs a task, or one step of its leased loop."""
        attempt, bench = task.attempt, self._bench
        started = time.perf_counter_ns()
        step: Step | None = None
        raised: BaseException | None = None
        answer: Frame | NextStep
        try:
            if attempt in self._cancelled:
                raise TaskCancelled("stopped before it started")
            body = task.body = bench.body(task.key)
            info = body.info
            context._of_coroutine.set(
                (
                    task.run_id,
                    task.node_id,
                    task.try_,
                    info.name,
                    task.map_index,
                    self._worker_id,
                    attempt,
                    task.place(),
                )
            )
            step = bench.step(task)
            if step is None:
                answer = await self._call(task, body, None)
            else:
                with within(step.resources):
                    await self._keeper.begin_step(step)
                    answer = await self._call(task, body, step)
        except (KeyboardInterrupt, SystemExit) as error:
            # Out of a coroutine these would end the loop, and with it the neighbours.
            raised = error
            answer = bench.failed(task, error, time.perf_counter_ns() - started, False)
        except BaseException as error:
            raised = error
            stopped = attempt in self._cancelled and not isinstance(error, Unloadable)
            answer = bench.failed(task, error, time.perf_counter_ns() - started, stopped)
        if step is not None:
            await self._end_step(step, raised)
        return answer

    async def _call(self, task: Task, body: Body, step: Step | None) -> Frame | NextStep:
        bench = self._bench
        started = time.perf_counter_ns()
        args, kwargs = bench.arguments(task, step)
        if body.info.cache_policy or step is not None:
            value = await self._begin(body, task, args, kwargs)
        else:
            value = body.func(*args, **kwargs)
            if inspect.isawaitable(value):
                value = await value
        if task.attempt in self._cancelled:
            raise TaskCancelled("it was told to stop, and returned")
        return bench.done(task, value, time.perf_counter_ns() - started - task.aside_ns)

    async def _end_step(self, step: Step, raised: BaseException | None) -> None:
        """Tears down what was set up for a step, even when the attempt is cancelled meanwhile."""
        error = raised.error if isinstance(raised, Unloadable) else raised
        work = asyncio.get_running_loop().create_task(self._keeper.end_step(step, error))
        while not work.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(work)

    async def _begin(self, body: Body, task: Task, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the caching policy has; else what the function returns, which the policy is told."""
        policy = self._bench.policies.of(body.info, body.func) if body.info.cache_policy else None
        if policy is None:
            self._say((BEGUN, task.attempt))
            value = body.func(*args, **kwargs)
            return await value if inspect.isawaitable(value) else value
        began = time.perf_counter_ns()
        inputs = policy.inputs(args, kwargs)
        hit = await policy.check(inputs)
        task.aside_ns = time.perf_counter_ns() - began
        if hit is not None:
            return hit.value
        self._say((BEGUN, task.attempt))
        value = body.func(*args, **kwargs)
        if inspect.isawaitable(value):
            value = await value
        if task.attempt not in self._cancelled:
            returned = time.perf_counter_ns()
            await policy.save(inputs, value)
            task.aside_ns += time.perf_counter_ns() - returned
        return value

    def _speak_for(self, attempt: int) -> None:
        _attempt.set(attempt)

    def _say(self, answer: Frame, sent: Callable[[], None] | None = None) -> None:
        try:
            self._speaker.say(answer, sent)
        except OSError as error:  # the worker is gone
            print(f"no worker to answer to: {error}", file=sys.__stderr__)
            os._exit(1)
