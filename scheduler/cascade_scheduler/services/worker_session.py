"""One worker's stream: numbers, marks, heartbeats, and the orders that wait to be written."""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import grpc
import grpc.aio

from cascade_dist.v1 import client_pb2, worker_pb2
from cascade_scheduler.core.commands import (
    AskPromise,
    Assign,
    CancelAttempt,
    CloseRun,
    RecallLease,
    ReleaseObject,
    RetractAttempt,
)
from cascade_scheduler.functions import FunctionBody
from cascade_scheduler.outbox import Bell, Outbox
from cascade_scheduler.wire.work import WorkEncoder

__all__ = ["Whose", "WorkerSession"]

ATTEMPTS_REMEMBERED = 20_000
"""Attempts of runs whose lines are wanted, by which a line finds its task."""


class Whose(NamedTuple):
    """The task that an attempt belongs to."""

    run_id: str
    node: int
    task: str
    node_id: str


class WorkerSession:
    """The books of one `WorkerService.Connect` stream."""

    def __init__(
        self,
        context: grpc.aio.ServicerContext[Any, Any],
        bell: Bell,
        *,
        worker: str,
        name: str,
        versions: client_pb2.Versions,
        now: float,
        find_function: Callable[[bytes], FunctionBody | None],
        wants_logs: Callable[[str], bool],
        params: Callable[[str], bytes] = lambda run_id: b"",
        refuse: Callable[[Assign, Exception], None] | None = None,
        stall_seconds: float,
    ) -> None:
        self.worker = worker
        self.name = name
        self.versions = versions
        self.heard_at = now
        """When the worker last said something, on the loop's clock."""
        self.said_at = now
        self.draining = False
        """Its Hello said that it is going away."""
        self.taken = 0
        """Number of the worker's last message."""
        self.acked = 0
        """The worker's messages up to here are in the store."""
        self.session_id = secrets.token_hex(8)
        self.ended: asyncio.Future[tuple[grpc.StatusCode, str]] = asyncio.get_running_loop().create_future()
        """Set when the stream has to end, with the reason."""
        self._acked_said = 0
        self._sequence = 0
        self._encoder = WorkEncoder(find_function, wants_logs, params, refuse)
        self._opening: worker_pb2.ConnectResponse | None = None
        self._assigns: list[Assign] = []
        self._retract: list[int] = []
        self._recall: list[int] = []
        self._cancel: list[int] = []
        self._release: list[int] = []
        self._promise = 0
        self._ended: list[str] = []
        self._close: list[str] = []
        self._logs_changed: list[str] = []
        self._urgent = False
        """There is something to say beside assignments that should not wait for the next of them."""
        self._beat = False
        self._goodbye: worker_pb2.Goodbye | None = None
        self._whose: OrderedDict[int, Whose] = OrderedDict()
        self._now = now
        self.outbox: Outbox[worker_pb2.ConnectResponse] = Outbox(
            context, self._take, self._writing_ended, bell, stall_seconds=stall_seconds
        )

    def _writing_ended(self) -> None:
        self.end(f"the stream broke: {self.outbox.broken or 'it was closed'}", grpc.StatusCode.UNAVAILABLE)

    def end(self, reason: str, code: grpc.StatusCode = grpc.StatusCode.ABORTED) -> None:
        """The stream has to end."""
        if not self.ended.done():
            self.ended.set_result((code, reason))

    def welcome(self, welcome: worker_pb2.Welcome) -> None:
        """Answers Hello; nothing is said before."""
        self._opening = worker_pb2.ConnectResponse(welcome=welcome)
        self.outbox.ring()

    def assign(self, command: Assign, *, logs: bool) -> None:
        """Adds an assignment; it goes out behind the turn."""
        self._assigns.append(command)
        if logs:
            name, index = command.spec.name, command.map_index
            task = name if index < 0 else f"{name}[{index}]"
            self._whose[command.attempt] = Whose(command.run_id, command.node, task, command.node_id)
            if len(self._whose) > ATTEMPTS_REMEMBERED:
                self._whose.popitem(last=False)
        self.outbox.ring()

    def order(
        self,
        command: RetractAttempt | CancelAttempt | CloseRun | ReleaseObject | AskPromise | RecallLease,
    ) -> None:
        """Adds an order; it goes out behind the turn."""
        if isinstance(command, RetractAttempt):
            self._retract.append(command.attempt)
        elif isinstance(command, CancelAttempt):
            self._cancel.append(command.attempt)
        elif isinstance(command, AskPromise):
            self._promise = command.number
        elif isinstance(command, CloseRun):
            self._close.append(command.run_id)
        elif isinstance(command, RecallLease):
            self._recall.append(command.attempt)
        else:
            self._release.append(command.attempt)
        self._urgent = True
        self.outbox.ring()

    def run_id(self, number: int) -> str:
        """The run that has a number in this session; empty: none."""
        return self._encoder.run_id(number)

    def whose(self, attempt: int) -> Whose | None:
        """The task that an attempt belongs to, if it is still known."""
        return self._whose.get(attempt)

    def run_ended(self, run_id: str) -> None:
        """The worker may forget the run; said with whatever is said next."""
        self._ended.append(run_id)

    def logs_changed(self, run_id: str) -> None:
        """Whether lines of the run are wanted has changed."""
        self._logs_changed.append(run_id)
        self._urgent = True
        self.outbox.ring()

    def goodbye(self, reason: str, *, reconnect: bool) -> None:
        """Says good-bye behind everything else."""
        self._goodbye = worker_pb2.Goodbye(reason=reason, reconnect=reconnect)
        self.outbox.ring()

    def beat(self, now: float, period: float) -> None:
        """Called a few times per period: says what should not wait for an order."""
        self._now = now
        if self.acked != self._acked_said or self._ended or now - self.said_at >= period:
            self._beat = True
            self.outbox.ring()

    def _take(self) -> Iterator[worker_pb2.ConnectResponse]:
        if self._opening is not None:
            opening, self._opening = self._opening, None
            yield self._numbered(opening)
        elif not self._sequence:
            return  # everything waits for the Welcome
        while self._assigns or self._urgent:
            for message in self._orders():
                yield self._numbered(message)
        if self._beat:
            self._beat = False
            if self._ended:
                for message in self._orders():
                    yield self._numbered(message)
            if self.acked != self._acked_said or self._now > self.said_at:
                yield self._numbered(worker_pb2.ConnectResponse(heartbeat=worker_pb2.SchedulerHeartbeat()))
        if self._goodbye is not None:
            goodbye, self._goodbye = self._goodbye, None
            yield self._numbered(worker_pb2.ConnectResponse(goodbye=goodbye))

    def _orders(self) -> list[worker_pb2.ConnectResponse]:
        encoder = self._encoder
        if not self._urgent:
            assigns, self._assigns = self._assigns, []
            if not self._ended:
                return encoder.encode(assigns)
            ended, self._ended = self._ended, []
            return encoder.encode(assigns, ended=ended)
        changed = [encoder.logs_changed(run_id) for run_id in self._logs_changed]
        messages = encoder.encode(
            self._assigns,
            retract=self._retract,
            cancel=self._cancel,
            release=self._release,
            close=self._close,
            recall=self._recall,
            ended=self._ended,
            promise=self._promise,
        )
        self._assigns, self._retract, self._cancel, self._release = [], [], [], []
        self._recall = []
        self._urgent = False
        self._ended, self._close, self._logs_changed, self._promise = [], [], [], 0
        return [*(message for message in changed if message is not None), *messages]

    def _numbered(self, message: worker_pb2.ConnectResponse) -> worker_pb2.ConnectResponse:
        self._sequence += 1
        message.sequence = self._sequence
        message.acked_through = self._acked_said = self.acked
        self.said_at = self._now
        return message
