"""Frames: cut anywhere they are put together again; who is too fast waits; who stands still is given up."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_dist.wire import MESSAGE_BYTES_MAX
from cascade_dist.wire.frames import CLOSE, HEAD, MESSAGE, PING, PONG, QUEUE_BYTES_MAX, FrameSocket


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.reading = True
        self.aborted = False

    def write(self, data: bytes) -> None:
        self.sent.append(data)

    def writelines(self, parts: tuple[bytes, ...]) -> None:
        self.sent.append(b"".join(parts))

    def set_write_buffer_limits(self, high: int) -> None:
        assert high > 0

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        self.aborted = True

    abort = close


class End(FrameSocket):
    """One end, which writes down what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[tuple[int, bytes]] = []
        self.reasons: list[str] = []
        self.silent = False
        self.wire = Wire()
        self.connection_made(cast(Any, self.wire))

    def on_frame(self, kind: int, payload: bytes) -> None:
        self.frames.append((kind, payload))

    def on_broken(self, reason: str) -> None:
        self.reasons.append(reason)

    def on_silent(self, reason: str) -> None:
        self.silent = True
        self.reasons.append(reason)

    def over_with_it(self) -> None:
        self.connection_lost(None)


def frame(payload: bytes, kind: int = MESSAGE) -> bytes:
    return HEAD.pack(len(payload), kind) + payload


@given(st.lists(st.binary(max_size=40), max_size=12), st.lists(st.integers(1, 30), min_size=1, max_size=60))
def test_frames_that_are_cut_anywhere_are_put_together(payloads: list[bytes], cuts: list[int]) -> None:
    async def feed() -> list[bytes]:
        end = End()
        data = b"".join(map(frame, payloads))
        turn = 0
        while data:
            size = cuts[turn % len(cuts)]
            end.data_received(data[:size])
            data = data[size:]
            turn += 1
        end.over_with_it()
        return [end.take() for _ in range(len(end.messages))]

    assert asyncio.run(feed()) == payloads


async def test_a_large_message_comes_whole_between_small_ones() -> None:
    end, large = End(), bytes(range(256)) * 8_192
    data = frame(b"before") + frame(large) + frame(b"after") + frame(b"", CLOSE)
    for start in range(0, len(data), 65_536):
        end.data_received(data[start : start + 65_536])
    assert [end.take(), end.take(), end.take()] == [b"before", large, b"after"]
    assert end.frames == [(CLOSE, b"")]
    end.over_with_it()


async def test_what_is_sent_can_be_read() -> None:
    one, other = End(), End()
    for payload in (b"", b"small", b"x" * 100_000):
        one.send(MESSAGE, payload)
    other.data_received(b"".join(one.wire.sent))
    assert [other.take() for _ in range(3)] == [b"", b"small", b"x" * 100_000]
    one.over_with_it()
    one.send(MESSAGE, b"to nobody")
    assert len(one.wire.sent) == 3
    other.over_with_it()


async def test_a_frame_above_the_limit_breaks_the_stream() -> None:
    end = End()
    end.data_received(HEAD.pack(MESSAGE_BYTES_MAX + 1, MESSAGE))
    assert "16,777,217 bytes" in end.reasons[0]
    assert "16,777,216" in end.reasons[0]
    end.over_with_it()


async def test_nothing_more_is_taken_while_much_waits_to_be_read() -> None:
    end, piece = End(), bytes(QUEUE_BYTES_MAX // 4)
    for _ in range(3):
        end.data_received(frame(piece))
    taking = [end.wire.reading]
    end.data_received(frame(piece))
    taking.append(end.wire.reading)
    end.take()
    taking.append(end.wire.reading)
    assert taking == [True, False, True]
    end.over_with_it()


async def test_who_writes_waits_for_room() -> None:
    end = End()
    await end.room()
    end.pause_writing()
    waiting = asyncio.ensure_future(end.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    end.resume_writing()
    await waiting
    end.pause_writing()
    lost = asyncio.ensure_future(end.room())
    await asyncio.sleep(0)
    end.over_with_it()
    await lost


async def test_who_reads_waits_for_a_message_or_the_end() -> None:
    end = End()
    waiting = asyncio.ensure_future(end.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    end.data_received(frame(b"news"))
    await waiting
    assert end.take() == b"news"
    last = asyncio.ensure_future(end.wait())
    await asyncio.sleep(0)
    end.over_with_it()
    await last
    assert (len(end.messages), end.lost) == (0, True)


async def test_a_peer_that_is_silent_is_asked_and_then_given_up() -> None:
    end = End()
    end._look()
    assert end.wire.sent == [frame(b"", PING)]
    end.data_received(frame(b"", PONG))
    end._look()
    assert len(end.wire.sent) == 1, "it has answered"
    end._look()
    assert len(end.wire.sent) == 2
    assert not end.reasons
    end._look()
    assert (end.silent, end.reasons) == (True, ["it was silent for 30 s"])
    end.over_with_it()


async def test_a_peer_that_is_not_listened_to_is_not_given_up() -> None:
    end = End()
    end.data_received(frame(bytes(QUEUE_BYTES_MAX)))
    assert not end.wire.reading
    for _ in range(5):
        end._look()
    assert not end.reasons
    assert not end.wire.sent
    end.over_with_it()


async def test_a_question_is_answered() -> None:
    end = End()
    end.data_received(frame(b"", PING))
    assert end.wire.sent == [frame(b"", PONG)]
    end.over_with_it()


async def test_who_asks_and_does_not_listen_is_not_answered() -> None:
    end = End()
    end.pause_writing()
    end.data_received(frame(b"", PING) * 1_000)
    assert end.wire.sent == [], "else answers would pile up without bound"
    end.resume_writing()
    end.data_received(frame(b"", PING))
    assert end.wire.sent == [frame(b"", PONG)]
    end.over_with_it()


@pytest.mark.parametrize("end_it", ["shut", "drop"])
async def test_either_way_to_end_it_closes_the_connection(end_it: str) -> None:
    end = End()
    getattr(end, end_it)()
    assert end.wire.aborted
    end.over_with_it()
    getattr(end, end_it)()


# --- giving messages to somebody ----------------------------------------------------------------------


async def test_messages_are_given_where_they_are_read() -> None:
    end, taken = End(), list[bytes]()
    end.data_received(frame(b"early"))
    pumping = asyncio.ensure_future(end.pump(taken.append))
    await asyncio.sleep(0)
    end.data_received(frame(b"one") + frame(b"two"))
    assert taken == [b"early", b"one", b"two"], "nobody had to be woken"
    assert not pumping.done()
    end.over_with_it()
    await pumping


async def test_what_comes_next_waits_for_what_a_message_began() -> None:
    end, taken, gate = End(), list[bytes](), asyncio.Event()

    async def slowly(message: bytes) -> None:
        await gate.wait()
        taken.append(message)

    def take(message: bytes) -> Any:
        return slowly(message) if message == b"slow" else taken.append(message)

    pumping = asyncio.ensure_future(end.pump(take))
    await asyncio.sleep(0)
    end.data_received(frame(b"slow") + frame(b"next"))
    end.over_with_it()
    await asyncio.sleep(0.01)
    assert taken == []
    gate.set()
    await pumping
    assert taken == [b"slow", b"next"]


async def test_nothing_is_taken_behind_the_last_one() -> None:
    async def last(message: bytes) -> bool:
        return True

    for take in (lambda message: message == b"last", last):
        end = End()
        end.data_received(frame(b"last") + frame(b"more"))
        await end.pump(take)
        assert list(end.messages) == [b"more"]
        end.over_with_it()


async def test_what_a_taker_raises_comes_out() -> None:
    async def slowly(message: bytes) -> None:
        raise ValueError("slowly")

    def at_once(message: bytes) -> None:
        raise ValueError("at once")

    for take, text in ((at_once, "at once"), (slowly, "slowly")):
        end = End()
        pumping = asyncio.ensure_future(end.pump(take))
        await asyncio.sleep(0)
        end.data_received(frame(b"one"))
        with pytest.raises(ValueError, match=text):
            await pumping
        end.over_with_it()


async def test_who_gives_up_takes_nothing_more() -> None:
    end, taken, begun = End(), list[bytes](), asyncio.Event()

    async def stuck(message: bytes) -> None:
        begun.set()
        await asyncio.Event().wait()

    pumping = asyncio.ensure_future(end.pump(stuck))
    end.data_received(frame(b"one"))
    await begun.wait()
    pumping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pumping
    end.data_received(frame(b"two"))
    assert taken == []
    assert list(end.messages) == [b"two"]
    end.over_with_it()


async def test_who_takes_a_message_may_end_the_stream() -> None:
    end, taken = End(), list[bytes]()

    def take(message: bytes) -> None:
        taken.append(message)
        end.over_with_it()

    pumping = asyncio.ensure_future(end.pump(take))
    await asyncio.sleep(0)
    end.data_received(frame(b"one"))
    assert await pumping
    assert taken == [b"one"]


async def test_a_coroutine_may_say_that_its_message_was_the_last() -> None:
    async def last(message: bytes) -> bool:
        return True

    end = End()
    end.data_received(frame(b"last"))
    assert not await end.pump(last), "the stream is not over"
    end.over_with_it()
