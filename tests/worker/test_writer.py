"""How messages are written to the scheduler's stream."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import pytest

from cascade_worker.writer import StreamWriter


class Stream:
    """Takes messages; each write waits until it is let through."""

    def __init__(self) -> None:
        self.waiting: deque[str] = deque()
        self.written: list[str] = []
        self.open: asyncio.Future[None] | None = None
        self.gates: deque[asyncio.Future[None]] = deque()
        self.streaming = False
        self.broken: list[BaseException] = []

    async def write(self, message: str) -> None:
        """Waits at its gate; a message "no" fails, "now" waits for nothing."""
        if message == "no":
            raise asyncio.InvalidStateError
        if message != "now":
            gate = asyncio.get_running_loop().create_future()
            self.gates.append(gate)
            await gate
            await asyncio.sleep(0)
        self.written.append(message)

    def source(self, force: bool) -> str | None:
        """All that waits, as one message."""
        if not self.waiting:
            return "heartbeat" if force else None
        text = "+".join(self.waiting)
        self.waiting.clear()
        return text

    def say(self, writer: StreamWriter, text: str) -> None:
        """Something happened."""
        self.waiting.append(text)
        writer.poke()


async def settle() -> None:
    """Lets callbacks run."""
    for _ in range(5):
        await asyncio.sleep(0)


def make(stream: Stream) -> StreamWriter:
    """A writer on a stream."""
    return StreamWriter(stream.write, stream.source, lambda: stream.streaming, stream.broken.append)


async def test_a_write_begins_at_once_and_what_comes_meanwhile_is_the_next_message() -> None:
    stream = Stream()
    writer = make(stream)
    stream.say(writer, "a")
    assert len(stream.gates) == 1, "no iteration of the loop was needed"
    stream.say(writer, "b")
    stream.say(writer, "c")
    await settle()
    assert (stream.written, len(stream.gates)) == ([], 1), "one write at a time"
    stream.gates.popleft().set_result(None)
    await settle()
    assert stream.written == ["a"]
    stream.gates.popleft().set_result(None)
    await settle()
    assert stream.written == ["a", "b+c"]
    writer.close()


async def test_the_last_of_a_stream_waits_no_longer() -> None:
    stream = Stream()
    writer = make(stream)
    stream.say(writer, "now")
    stream.streaming = True
    stream.say(writer, "a")
    stream.say(writer, "b")
    assert not stream.gates, "more is to come"
    stream.streaming = False
    stream.say(writer, "c")
    assert len(stream.gates) == 1
    stream.gates.popleft().set_result(None)
    await settle()
    assert stream.written == ["now", "a+b+c"]
    writer.close()


async def test_a_write_that_waits_for_nothing() -> None:
    stream = Stream()
    writer = make(stream)
    stream.say(writer, "now")
    assert stream.written == ["now"]
    writer.close()


async def test_while_tasks_stream_through_reports_are_gathered() -> None:
    stream = Stream()
    stream.streaming = True
    writer = make(stream)
    writer.last_write += 0.01
    for text in "abc":
        stream.say(writer, text)
    assert not stream.gates
    async with asyncio.timeout(5):
        while not stream.gates:  # noqa: ASYNC110 - the timer is the loop's own
            await asyncio.sleep(0.001)
    stream.gates.popleft().set_result(None)
    await settle()
    assert stream.written == ["a+b+c"]
    writer.close()


async def test_a_heartbeat_is_sent_when_there_is_nothing_else() -> None:
    stream = Stream()
    writer = make(stream)
    writer.heartbeat()
    stream.gates.popleft().set_result(None)
    await settle()
    assert stream.written == ["heartbeat"]
    writer.close()


async def test_a_broken_stream_is_told_once_and_left_alone() -> None:
    stream = Stream()
    writer = make(stream)
    stream.say(writer, "no")
    stream.say(writer, "more")
    assert [type(error) for error in stream.broken] == [asyncio.InvalidStateError]
    assert stream.written == []


async def test_a_write_that_fails_later_is_told_too() -> None:
    stream = Stream()
    writer = make(stream)
    stream.say(writer, "a")
    stream.gates.popleft().set_exception(OSError("cut"))
    await settle()
    assert [type(error) for error in stream.broken] == [OSError]


@pytest.mark.filterwarnings("error")
async def test_closing_ends_a_write_that_is_under_way() -> None:
    stream = Stream()
    writer = make(stream)
    stream.say(writer, "a")
    writer.close()
    gate: Any = stream.gates.popleft()
    gate.set_result(None)
    await settle()
    assert stream.written == []
