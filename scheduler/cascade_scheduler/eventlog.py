"""The events of one run, bounded in number and in bytes of log lines."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple, TypeAlias, Union

from cascade_scheduler.core.commands import EventRecord

__all__ = ["EventLog", "LogLine", "Logged"]

EVENTS_MAX = 100_000
TEXT_BYTES_MAX = 16 << 20
LINE_BYTES = 1
"""What a line counts as beside its text, so that empty ones are bounded too."""


class LogLine(NamedTuple):
    """A line that a task printed; `stream` is 1 for standard output, 2 for standard error."""

    run_id: str
    at: float
    node: int
    task: str
    worker: str
    stream: int
    text: str
    node_id: str = ""
    """As of `EventRecord`."""


Logged: TypeAlias = Union[EventRecord, LogLine]
"""One event as it is kept."""


class EventLog:
    """Events numbered from 1 without gaps; the oldest go first.

    Lines of text have a bound of their own: past it the oldest lines go, and leave a hole.
    """

    def __init__(self, *, events_max: int = EVENTS_MAX, text_bytes_max: int = TEXT_BYTES_MAX) -> None:
        self._events: deque[Logged | None] = deque()
        self._events_max = events_max
        self._text_bytes_max = text_bytes_max
        self._lines: deque[tuple[int, int]] | None = None  # most runs print nothing
        self._text_bytes = 0
        self._holes_through = 0
        self._news: asyncio.Event | None = None
        self.last = 0
        """Id of the newest event."""
        self.published = 0
        """Id of the newest event that watchers may see."""

    def __len__(self) -> int:
        return len(self._events)

    @property
    def has_lines(self) -> bool:
        """Some lines of text are kept."""
        return bool(self._lines)

    def append(self, event: Logged) -> int:
        """Adds an event; returns its id."""
        self._events.append(event)
        self.last += 1
        if type(event) is LogLine:
            self._add_line(event)
        if len(self._events) > self._events_max:
            self._events.popleft()
        return self.last

    def extend(self, events: Sequence[EventRecord]) -> None:
        """Adds events that are no lines of text."""
        kept = self._events
        kept.extend(events)
        self.last += len(events)
        while len(kept) > self._events_max:
            kept.popleft()

    def restore(self, events: Iterable[tuple[int, Logged]]) -> None:
        """Begins with events of an earlier life, oldest first; numbers that are missing are holes."""
        for number, event in events:
            while self._events and self.last < number - 1:
                self._events.append(None)
                self.last += 1
                self._holes_through = self.last
            self.last = number - 1
            self.append(event)
        self.published = self.last

    def publish(self, through: int) -> None:
        """Watchers may see the events up to this id."""
        if through > self.published:
            self.published = through
            self.wake()

    def _add_line(self, line: LogLine) -> None:
        lines = self._lines
        if lines is None:
            lines = self._lines = deque()
        size = len(line.text) + LINE_BYTES
        lines.append((self.last, size))
        self._text_bytes += size
        while self._text_bytes > self._text_bytes_max:
            self._drop_line(*lines.popleft())

    def _drop_line(self, event_id: int, size: int) -> None:
        self._text_bytes -= size
        at = event_id - self.first
        if at >= 0:
            self._events[at] = None
            self._holes_through = event_id

    @property
    def first(self) -> int:
        """Id of the oldest event that is kept."""
        return self.last - len(self._events) + 1

    def since(self, after: int, limit: int) -> tuple[list[tuple[int, Logged]], bool]:
        """Up to `limit` events with a greater id than `after`, and whether some before them are gone."""
        first = self.first
        start = max(after + 1, first)
        gone = start > after + 1 or after < self._holes_through
        found: list[tuple[int, Logged]] = []
        events: Iterable[Logged | None]
        wanted = self.last - start + 1
        if wanted < start - first:  # a deque is walked from its ends: what is new is near the last one
            events = list(islice(reversed(self._events), max(0, wanted)))
            events.reverse()
        else:
            events = islice(self._events, start - first, None)
        for event_id, event in enumerate(events, start):
            if event is not None:
                found.append((event_id, event))
                if len(found) >= limit:
                    break
        return found, gone

    def cut(self, keep: int) -> None:
        """Forgets all but the newest `keep` events."""
        while len(self._events) > keep:
            self._events.popleft()
        while self._lines and self._lines[0][0] < self.first:
            self._text_bytes -= self._lines.popleft()[1]

    async def news(self, after: int) -> None:
        """Waits until watchers may see an event after `after`, or for `wake`; the caller bounds the wait."""
        if self.published > after:
            return
        if self._news is None:
            self._news = asyncio.Event()
        self._news.clear()
        await self._news.wait()

    def wake(self) -> None:
        """Wakes whoever waits, such as when the run has ended."""
        if self._news is not None:
            self._news.set()
