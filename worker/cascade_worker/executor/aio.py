"""The executor of async tasks: an event loop, each task a coroutine on it."""

from __future__ import annotations

import asyncio
import inspect
import os
import socket
import sys
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from cascade_dist import context
from cascade_dist.errors import TaskCancelled
from cascade_worker.executor.frames import BROKEN, CANCEL, EXIT, PACKET_BYTES_MAX, SPILLED, TASK, loads
from cascade_worker.executor.output import LineWriter, Speaker
from cascade_worker.executor.sync import read_spilled
from cascade_worker.executor.work import Frame, Task, Unloadable, Workbench

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
            frame: Any = loads(view[:size]) if size else (EXIT,)
            if frame[0] == SPILLED:
                frame = read_spilled(frame[2])
            if frame[0] == TASK:
                self._start(Task(frame))
            elif frame[0] == BROKEN:
                self._say(frame[2])
            elif frame[0] == CANCEL:
                self._cancel(frame[1])
            elif frame[0] == EXIT:
                if not self._ended.done():
                    self._ended.set_result(None)
                return

    def _start(self, task: Task) -> None:
        running = asyncio.get_running_loop().create_task(self._attempt(task))
        self._running[task.attempt] = running

    def _cancel(self, attempt: int) -> None:
        running = self._running.get(attempt)
        if running is not None and attempt not in self._cancelled:
            self._cancelled.add(attempt)
            running.cancel()

    async def _attempt(self, task: Task) -> None:
        attempt, bench = task.attempt, self._bench
        _attempt.set(attempt)
        started = time.perf_counter_ns()
        try:
            body = task.body = bench.body(task.key)
            info = body.info
            context._of_coroutine.set(
                (info.run_id, task.node_id, task.try_, info.name, task.map_index, self._worker_id, attempt)
            )
            args, kwargs = bench.arguments(task)
            value = body.func(*args, **kwargs)
            if inspect.isawaitable(value):
                value = await value
            if attempt in self._cancelled:
                raise TaskCancelled("it was told to stop, and returned")
            answer = bench.done(task, value, time.perf_counter_ns() - started)
        except (KeyboardInterrupt, SystemExit) as error:
            # Out of a coroutine these would end the loop, and with it the neighbours.
            answer = bench.failed(task, error, time.perf_counter_ns() - started, False)
        except BaseException as error:
            stopped = attempt in self._cancelled and not isinstance(error, Unloadable)
            answer = bench.failed(task, error, time.perf_counter_ns() - started, stopped)
        self._running.pop(attempt, None)
        self._cancelled.discard(attempt)
        for writer in self.writers:
            writer.ended(attempt)
        self._say(answer)

    def _say(self, answer: Frame) -> None:
        try:
            self._speaker.say(answer)
        except OSError as error:  # the worker is gone
            print(f"no worker to answer to: {error}", file=sys.__stderr__)
            os._exit(1)
