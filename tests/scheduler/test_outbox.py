"""Outboxes: what gathers is one message, writes are one at a time, slow and broken peers are cut off."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from cascade_scheduler.outbox import Bell, Outbox, PeerTooSlow


class Slow:
    """A stream whose writes end when the test says so."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.waiting: list[asyncio.Future[None]] = []
        self.instant = False
        self.error: Exception | None = None
        self.closed = 0

    async def write(self, message: str) -> None:
        """Notes a message, and waits."""
        if self.error is not None:
            raise self.error
        self.written.append(message)
        if self.instant:
            return
        waiting = asyncio.get_running_loop().create_future()
        self.waiting.append(waiting)
        try:
            await waiting
        except GeneratorExit:
            self.closed += 1
            raise

    async def release(self) -> None:
        """The write that waits has left."""
        self.waiting.pop(0).set_result(None)
        await asyncio.sleep(0)


class Peer:
    """A stream, what waits for it, and its outbox."""

    def __init__(self, **options: float) -> None:
        self.stream = Slow()
        self.bell = Bell()
        self.words: list[str] = []
        self.takes = 0
        self.ends = 0
        self.outbox: Outbox[str] = Outbox(self.stream, self.take, self.on_end, self.bell, **options)

    def take(self) -> Iterator[str]:
        """Everything that waits, in one message."""
        self.takes += 1
        while self.words:
            words, self.words = self.words, []
            yield "+".join(words)

    def on_end(self) -> None:
        """Counts ends."""
        self.ends += 1

    def say(self, word: str) -> None:
        """Leaves a word and rings."""
        self.words.append(word)
        self.outbox.ring()


async def test_a_write_begins_at_once() -> None:
    peer = Peer()
    peer.say("a")
    assert peer.stream.written == ["a"]


async def test_what_gathers_during_a_write_is_one_message() -> None:
    peer = Peer()
    for word in "abc":
        peer.say(word)
    assert peer.stream.written == ["a"]
    await peer.stream.release()
    assert peer.stream.written == ["a", "b+c"]
    await peer.stream.release()
    assert peer.stream.written == ["a", "b+c"]
    peer.say("d")
    assert peer.stream.written == ["a", "b+c", "d"]


async def test_what_is_said_in_a_turn_is_one_message() -> None:
    peer, other = Peer(), Peer()
    other.outbox._bell = peer.bell
    with peer.bell:
        with peer.bell:
            for word in "abc":
                peer.say(word)
                other.say(word)
        assert peer.stream.written == []
    assert peer.stream.written == other.stream.written == ["a+b+c"]


async def test_writes_that_do_not_wait_follow_each_other() -> None:
    peer = Peer()
    peer.stream.instant = True
    for word in "abc":
        peer.say(word)
    assert peer.stream.written == ["a", "b", "c"]


async def test_a_broken_stream_ends_it_once() -> None:
    peer = Peer()
    peer.stream.error = ConnectionError("reset")
    peer.say("a")
    peer.say("b")
    assert (peer.ends, peer.outbox.alive, peer.outbox.broken) == (1, False, peer.stream.error)


async def test_a_write_that_fails_later_ends_it() -> None:
    peer = Peer()
    peer.say("a")
    peer.stream.waiting.pop().set_exception(ConnectionError("reset"))
    await asyncio.sleep(0)
    assert (peer.ends, str(peer.outbox.broken)) == (1, "reset")


async def test_a_message_that_cannot_be_made_ends_it_loudly(caplog: pytest.LogCaptureFixture) -> None:
    peer = Peer()

    def take() -> Iterator[str]:
        raise ZeroDivisionError
        yield

    peer.outbox._take = take
    peer.say("a")
    assert isinstance(peer.outbox.broken, ZeroDivisionError)
    assert "could not be made" in caplog.text


async def test_a_peer_that_takes_nothing_is_cut_off() -> None:
    peer = Peer(stall_seconds=0.02)
    ended = asyncio.Event()
    peer.outbox._on_end = ended.set
    peer.say("a")
    await peer.stream.release()
    peer.say("b")
    await asyncio.wait_for(ended.wait(), 5)
    assert isinstance(peer.outbox.broken, PeerTooSlow)
    assert peer.stream.closed == 1


async def test_close_says_what_is_left() -> None:
    peer = Peer()
    peer.say("a")
    peer.words.append("b")
    closing = asyncio.create_task(peer.outbox.close(5))
    await asyncio.sleep(0)
    await peer.stream.release()
    assert not closing.done()
    await peer.stream.release()
    await asyncio.wait_for(closing, 5)
    assert peer.stream.written == ["a", "b"]
    assert peer.ends == 1
    await peer.outbox.close()


async def test_close_does_not_wait_for_ever() -> None:
    peer = Peer()
    peer.say("a")
    await asyncio.wait_for(peer.outbox.close(0.01), 5)
    assert peer.stream.closed == 1
    peer.say("b")
    assert peer.stream.written == ["a"]
