"""Executors without a worker: real child processes of a real fork server, and somebody who listens."""

from __future__ import annotations

import asyncio
import itertools
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cloudpickle

from cascade_dist.codec.cid import cid_of
from cascade_dist.codec.exceptions import ErrorRecord, decode_exception
from cascade_dist.language.resources import SCOPES, Resource
from cascade_worker.executor import frames
from cascade_worker.executors import ExecutorPool

PATIENCE = 30.0


class Children:
    """A pool, and everything that its executors say."""

    def __init__(self, root: Path) -> None:
        for room in ("objects", "functions", "frames"):
            (root / room).mkdir()
        self.root = root
        self.objects = root / "objects"
        self.frames: dict[int, tuple[Any, ...]] = {}
        self.lines: list[tuple[int, int, str]] = []
        self.order: list[tuple[str, int]] = []
        self.told: list[tuple[Any, ...]] = []
        self._bodies: dict[Resource, bytes] = {}
        self.up: set[int] = set()
        self.dead: dict[int, tuple[str, list[int]]] = {}
        self._changed = asyncio.Event()
        self._attempts = itertools.count(1)
        self._executors = itertools.count(1)
        self.pool = ExecutorPool(
            self, "worker-1", (str(self.objects),), str(root / "functions"), str(root / "frames")
        )

    # --- what the pool tells ------------------------------------------------------------------------

    def executor_started(self, executor: int) -> None:
        """It is there."""
        self.up.add(executor)
        self._changed.set()

    def executor_answered(self, executor: int, answers: list[tuple[Any, ...]]) -> None:
        """Attempts have ended."""
        for frame in answers:
            self.frames[frame[1]] = frame
            self.order.append(("answer", frame[1]))
        self._changed.set()

    def executor_told(self, executor: int, frame: tuple[Any, ...]) -> None:
        """Of resources; kept with the executor behind the frame's own fields."""
        self.told.append((*frame, executor))
        self.order.append(("told", frame[1] if isinstance(frame[1], int) else 0))
        self._changed.set()

    def executor_asked(self, executor: int, asked: Any) -> None:
        """Something of the cluster's cache, which has nothing here."""
        asyncio.get_running_loop().create_task(self.pool.answer(executor, asked.number, None, ""))

    def executor_printed(self, attempt: int, stream: int, text: str) -> None:
        """A line."""
        self.lines.append((attempt, stream, text))
        self.order.append(("line", attempt))
        self._changed.set()

    def executor_died(self, executor: int, reason: str, unread: list[int]) -> None:
        """It has ended."""
        self.dead[executor] = (reason, unread)
        self._changed.set()

    # --- what tests ask -----------------------------------------------------------------------------

    async def until(self, condition: Callable[[], Any]) -> Any:
        """Waits until something is true; returns it."""
        async with asyncio.timeout(PATIENCE):
            while not (found := condition()):
                self._changed.clear()
                await self._changed.wait()
        return found

    async def executor(self, asynchronous: bool = False) -> int:
        """A new executor that is up."""
        executor = next(self._executors)
        self.pool.start(executor, asynchronous)
        await self.until(lambda: executor in self.up)
        return executor

    def send(
        self,
        executor: int,
        func: Callable[..., Any],
        *args: Any,
        payload: bytes | None = None,
        inputs: list[Any] | None = None,
        body: bytes | None = None,
        name: str = "f",
        retry_on: bytes | None = None,
        threads: int = 0,
        inline_max: int = 65_536,
        observe: int = 0,
        publish: bool = False,
        inline_bytes_max: int = 0,
        map_index: int = -1,
        try_: int = 1,
        run_id: str = "run-1",
        resources: Sequence[Resource] = (),
    ) -> int:
        """Sends a task; returns its attempt."""
        body = cloudpickle.dumps(func) if body is None else body
        info = frames.BodyInfo(name, run_id, self._function(body), retry_on, threads, inline_max)
        if resources:
            info = info._replace(resources=tuple(map(self._described, resources)))
        attempt = next(self._attempts)
        if payload is None:
            payload = pickle.dumps((args, {}), 5) if args else b""
        frame = (
            frames.TASK,
            attempt,
            frames.body_key(info),
            payload,
            inputs,
            f"node-{attempt}",
            try_,
            map_index,
            observe,
            publish,
            inline_bytes_max,
            0,
            None,
            run_id,
        )
        self.pool.send(executor, attempt, frames.dumps(frame))
        return attempt

    def _function(self, body: bytes) -> bytes:
        cid = cid_of(body)
        path = self.root / "functions" / cid.hex()
        if not path.exists():
            path.write_bytes(body)
        return cid

    def _described(self, resource: Resource) -> tuple[str, int, bytes, tuple[str, ...]]:
        if resource not in self._bodies:
            self._bodies[resource] = cloudpickle.dumps(resource.func)
        cid = self._function(self._bodies[resource])
        requires = tuple(marker.name for marker in resource.requires)
        return resource.name, 1 + SCOPES.index(resource.scope), cid, requires

    async def answer(self, attempt: int) -> Answer:
        """The answer to a task."""
        return Answer(await self.until(lambda: self.frames.get(attempt)))

    async def run(self, executor: int, func: Callable[..., Any], *args: Any, **fields: Any) -> Answer:
        """Sends a task and waits for its answer."""
        return await self.answer(self.send(executor, func, *args, **fields))

    async def death(self, executor: int) -> tuple[str, list[int]]:
        """How an executor ended."""
        found: tuple[str, list[int]] = await self.until(lambda: self.dead.get(executor))
        return found

    def lines_of(self, attempt: int) -> list[str]:
        """What an attempt printed."""
        return [text for of, _, text in self.lines if of == attempt]


class Answer:
    """A DONE or FAILED frame."""

    def __init__(self, frame: tuple[Any, ...]) -> None:
        self.frame = frame
        self.done = frame[0] == frames.DONE

    @property
    def value(self) -> Any:
        """The inline value."""
        assert self.done, self.error
        return pickle.loads(self.frame[3])

    @property
    def size(self) -> int:
        """Of an object; 0 for an inline value."""
        return int(self.frame[4])

    @property
    def error(self) -> BaseException:
        """What it raised."""
        assert not self.done, self.frame
        return decode_exception(self.record)

    @property
    def record(self) -> ErrorRecord:
        """What it raised, as it travels."""
        return ErrorRecord(*self.frame[5:9])

    @property
    def stopped(self) -> bool:
        """It was told to stop."""
        return bool(self.frame[3])

    @property
    def unloadable(self) -> bool:
        """It was not user code's own fault."""
        return bool(self.frame[4])

    @property
    def retryable(self) -> bool:
        """Its retry policy names the exception."""
        return bool(self.frame[9])
