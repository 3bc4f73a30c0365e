"""One client's stream: what it wants to know, and what it has been told."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import grpc
import grpc.aio

from cascade_dist.v1 import client_pb2
from cascade_scheduler.core.commands import RunEnded, TargetValue
from cascade_scheduler.core.values import Value
from cascade_scheduler.core.views import Progress
from cascade_scheduler.eventlog import LogLine
from cascade_scheduler.outbox import Bell, Outbox
from cascade_scheduler.runs import RunBook, RunRecord
from cascade_scheduler.wire.updates import fill_finish, fill_progress, fill_results, output_to
from cascade_scheduler.wire.values import PAYLOAD_BYTES_MAX

__all__ = ["ClientSession", "Feed", "Foreseen", "accepted_message", "foresee"]

LINES_WAITING_MAX = 2_000
"""Lines that wait for a slow client; of more, the oldest are left out and counted."""
LINES_PER_MESSAGE = 500
RESULTS_PER_MESSAGE = 4_000
"""So that a long list does not hold the loop."""
ACCEPT_SECONDS = 0.005
"""A run that ends within this time is not accepted first."""
FORESEEN_MAX = 16
"""Of a turn that tells more, messages are made when they are sent."""
AT_ONCE_BYTES_MAX = 64 << 10
"""Larger messages go by the common way."""
FINISH_BYTES_AT_EASE = 64 << 10
"""A larger end goes by itself."""


class Foreseen(NamedTuple):
    """The one message of a run that clients hear of when it has ended."""

    response: client_pb2.OpenResponse
    ending: object
    results: int
    data: bytes
    """The same serialized, when it is small."""

    def is_all_of(self, record: RunRecord) -> bool:
        """Nothing else is to be told of the run."""
        return self.ending is record.ended and self.results == len(record.results)


def foresee(runs: RunBook, commands: Sequence[TargetValue | RunEnded]) -> None:
    """Clients may be told this soon: where it is all there is to tell of a run, makes the message ready."""
    ended = commands[-1]
    if type(ended) is not RunEnded or len(commands) > FORESEEN_MAX:
        return
    record = runs.get(ended.run_id)
    if record is None or record.ended is not None or record.ending is None or record.results:
        return
    told = [c for c in commands if type(c) is TargetValue and c.run_id == record.run_id]
    values: list[tuple[int, Value]] = [(node, value) for _, node, value in told]
    response = client_pb2.OpenResponse()
    update = response.update
    update.run_id = record.run_id
    if fill_results(update, values, 0, len(values)) == len(values):
        fill_finish(update.finish, *record.ending)
        size = update.ByteSize()
        if size <= PAYLOAD_BYTES_MAX:
            data = response.SerializeToString() if size <= AT_ONCE_BYTES_MAX else b""
            record.foreseen = Foreseen(response, record.ending, len(values), data)


class Feed:
    """How far one client has been told of one run; the rest is read from the run's record."""

    __slots__ = (
        "accepted",
        "finished",
        "left_out",
        "lines",
        "logs",
        "progress",
        "queued",
        "record",
        "results_told",
        "told",
    )

    def __init__(self, record: RunRecord, *, logs: bool) -> None:
        self.record = record
        self.logs = logs
        self.results_told = 0
        self.progress: Progress | None = None
        """Counts that wait to be told."""
        self.told: Progress | None = None
        self.lines: deque[tuple[int, LogLine]] = deque()
        """With their event ids."""
        self.left_out = 0
        self.finished = False
        self.queued = False
        self.accepted: bool | None = None
        """Whether the client joined the run, as long as it has to be told first that it is accepted."""

    def add_line(self, event_id: int, line: LogLine) -> None:
        """A line that a task printed."""
        if len(self.lines) >= LINES_WAITING_MAX:
            self.lines.popleft()
            self.left_out += 1
        self.lines.append((event_id, line))

    def messages(self) -> Iterator[client_pb2.OpenResponse]:
        """Everything that the client has not been told, in messages of bounded size."""
        record = self.record
        while not self.finished:
            # The end is looked at first: what is not there yet when the run ends must come before the end.
            ended = record.ended
            results = record.results
            start = self.results_told
            foreseen = record.foreseen
            if (
                foreseen is not None
                and foreseen.is_all_of(record)
                and not (start or self.lines or self.left_out)
            ):
                self.results_told, self.finished = len(results), True
                yield foreseen.response
                return
            if start == len(results) and not (self.lines or self.left_out or self.progress or ended):
                return
            response = client_pb2.OpenResponse()
            update = response.update
            update.run_id = record.run_id
            if start < len(results):
                upto = min(len(results), start + RESULTS_PER_MESSAGE)
                self.results_told = fill_results(update, results, start, upto)
            if self.lines or self.left_out:
                self._add_lines(update)
            if self.progress is not None and ended is None:
                fill_progress(update.progress, self.progress)
                self.told, self.progress = self.progress, None
            if ended is not None and self.results_told == len(results) and not self.lines:
                self.finished = True  # at once: while it is being written, the feed may be rung again
                fill_finish(update.finish, *ended)
                if update.ByteSize() > PAYLOAD_BYTES_MAX + FINISH_BYTES_AT_EASE:
                    yield from _in_two(response)
                    return
            yield response

    def _add_lines(self, update: client_pb2.RunUpdate) -> None:
        if self.left_out:
            update.output.add(task="", text=f"… {self.left_out} lines were left out: this client is too slow")
            self.left_out = 0
        for _ in range(min(len(self.lines), LINES_PER_MESSAGE)):
            update.output.append(output_to(*self.lines.popleft()))


def accepted_message(record: RunRecord, joined: bool) -> client_pb2.OpenResponse:
    """The message that says that a run is accepted."""
    return client_pb2.OpenResponse(
        accepted=client_pb2.Accepted(run_id=record.run_id, joined=joined, node_count=record.facts.node_count)
    )


def _in_two(response: client_pb2.OpenResponse) -> Iterator[client_pb2.OpenResponse]:
    """Results and lines, then the end: together they are large."""
    last = client_pb2.OpenResponse()
    last.update.run_id = response.update.run_id
    last.update.finish.CopyFrom(response.update.finish)
    response.update.ClearField("finish")
    yield response
    yield last


class ClientSession:
    """The books of one `ClientService.Open` stream."""

    def __init__(
        self, context: grpc.aio.ServicerContext[Any, Any], bell: Bell, *, stall_seconds: float = 60.0
    ) -> None:
        self._queue: deque[client_pb2.OpenResponse | Feed] = deque()
        self.feeds: dict[str, Feed] = {}
        self.outbox: Outbox[client_pb2.OpenResponse] = Outbox(
            context, self._take, self._writing_ended, bell, stall_seconds=stall_seconds
        )
        self.owned: set[RunRecord] = set()
        """Runs that this session is the owner of."""
        self.closed = False
        self._accepted: list[Feed] = []
        self._accept_timer: asyncio.TimerHandle | None = None
        self.ended: asyncio.Future[tuple[grpc.StatusCode, str]] = asyncio.get_running_loop().create_future()
        """Set when the stream has to end, with the reason."""

    def _writing_ended(self) -> None:
        self.end(f"the stream broke: {self.outbox.broken or 'it was closed'}")

    def end(self, reason: str, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> None:
        """The stream has to end."""
        if not self.ended.done():
            self.ended.set_result((code, reason))

    def say(self, message: client_pb2.OpenResponse) -> None:
        """Says something, behind everything that was said before."""
        self._queue.append(message)
        self.outbox.ring()

    def follow(self, record: RunRecord, *, logs: bool) -> Feed:
        """From now on the client is told what happens to the run, from its beginning."""
        feed = self.feeds.get(record.run_id)
        if feed is not None and feed.record is record:
            feed.logs = feed.logs or logs
            feed.results_told = 0  # it asks again, so it may have lost what it had
            feed.finished = False
        else:
            feed = self.feeds[record.run_id] = Feed(record, logs=logs)
        record.feeds[self] = feed
        return feed

    def enter(self, record: RunRecord, *, logs: bool, joined: bool, soon: bool) -> None:
        """Tells that a run is accepted, and from then on what happens to it."""
        feed = self.follow(record, logs=logs)
        if soon:
            self.say(accepted_message(record, joined))
        else:
            self.accept(feed, joined)
        if record.results or record.ended is not None:
            self.news(feed)

    def accept(self, feed: Feed, joined: bool) -> None:
        """Says that a run is accepted with its first update, or soon; when that says its end, not at all.

        Most of the time that a short run takes is that of messages, and this is one fewer.
        """
        feed.accepted = joined
        self._accepted.append(feed)
        if self._accept_timer is None:
            self._accept_timer = asyncio.get_running_loop().call_later(ACCEPT_SECONDS, self._accept_now)

    def _accept_now(self) -> None:
        self._accept_timer = None
        feeds, self._accepted = self._accepted, []
        for feed in feeds:
            if feed.accepted is not None:
                self.news(feed)

    def unfollow(self, run_id: str) -> None:
        """The client wants no more of the run."""
        feed = self.feeds.pop(run_id, None)
        if feed is not None:
            feed.record.feeds.pop(self, None)

    def news(self, feed: Feed) -> None:
        """There is something new in the feed."""
        if not feed.queued:
            feed.queued = True
            self._queue.append(feed)
            self.outbox.ring()

    def _take(self) -> Iterator[client_pb2.OpenResponse]:
        queue = self._queue
        while queue:
            item = queue.popleft()
            if not isinstance(item, Feed):
                yield item
                continue
            item.queued = False
            if item.accepted is not None and item.record.ended is None:
                yield accepted_message(item.record, item.accepted)
            item.accepted = None
            yield from item.messages()
            if item.finished:
                self.unfollow(item.record.run_id)

    def close(self) -> None:
        """The stream is over."""
        self.closed = True
        for run_id in list(self.feeds):
            self.unfollow(run_id)
        self._queue.clear()
        if self._accept_timer is not None:
            self._accept_timer.cancel()
        self.outbox.cancel()
