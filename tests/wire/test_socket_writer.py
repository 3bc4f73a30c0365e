"""What leaves by a socket, from several threads, in whole frames and in order."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Iterator

import pytest

from cascade_dist.wire.socket_writer import BUFFER_BYTES, SocketWriter

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    yield ours, theirs
    ours.close()
    theirs.close()


async def _read(theirs: socket.socket, size: int) -> bytes:
    loop, found = asyncio.get_running_loop(), bytearray()
    async with asyncio.timeout(30):
        while len(found) < size:
            found += await loop.sock_recv(theirs, 1 << 16)
    return bytes(found)


async def test_what_there_is_room_for_leaves_at_once(pair: Pair) -> None:
    writer = SocketWriter(asyncio.get_running_loop(), pair[0], lambda room: None)
    assert writer.send_now(b"one")
    writer.send(b"two")
    assert pair[1].recv(100) == b"onetwo", "nothing waited for the loop"
    writer.close()


async def test_what_there_is_no_room_for_leaves_later_and_in_order(pair: Pair) -> None:
    rooms: list[bool] = []
    writer = SocketWriter(asyncio.get_running_loop(), pair[0], rooms.append)
    parts = [bytes([number]) * 400_000 for number in range(8)]
    for part in parts:
        writer.send(part)
    assert rooms == [False], "more waits than should"
    assert not writer.send_now(b"behind the rest")
    whole = b"".join(parts)
    assert len(whole) > BUFFER_BYTES
    assert await _read(pair[1], len(whole)) == whole
    assert rooms == [False, True]
    assert writer.send_now(b"again")
    writer.close()


async def test_a_part_that_is_left_over_from_another_thread_leaves_too(pair: Pair) -> None:
    writer = SocketWriter(asyncio.get_running_loop(), pair[0], lambda room: None)
    data = b"x" * 2_000_000
    sent = await asyncio.to_thread(writer.send_now, data)
    assert sent
    assert not writer.send_now(b"y")
    assert await _read(pair[1], len(data)) == data
    writer.close()


async def test_messages_of_many_threads_stay_whole(pair: Pair) -> None:
    writer = SocketWriter(asyncio.get_running_loop(), pair[0], lambda room: None)
    loop, count, size = asyncio.get_running_loop(), 300, 1_000

    def work(mark: int) -> None:
        for _ in range(count):
            data = bytes([mark]) * size
            if not writer.send_now(data):
                loop.call_soon_threadsafe(writer.send, data)

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(4)]
    for thread in threads:
        thread.start()
    found = await _read(pair[1], 4 * count * size)
    for thread in threads:
        thread.join()
    pieces = [found[start : start + size] for start in range(0, len(found), size)]
    assert all(piece == piece[:1] * size for piece in pieces)
    assert [sum(piece[0] == mark for piece in pieces) for mark in range(4)] == [count] * 4
    writer.close()


async def test_nothing_is_sent_to_a_peer_that_is_gone_or_behind_the_end(pair: Pair) -> None:
    writer = SocketWriter(asyncio.get_running_loop(), pair[0], lambda room: None)
    pair[1].close()
    assert not writer.send_now(b"to nobody")
    writer.send(b"to nobody")
    await asyncio.sleep(0.05)
    writer.close()
    writer.close()
    writer.send(b"behind the end")
    assert not writer.send_now(b"behind the end")
    assert pair[0].fileno() == -1


async def test_a_signal_in_the_middle_of_sending_may_send_too(pair: Pair) -> None:
    class Interrupted:
        """A socket in whose `send` a signal arrives, whose handler sends something itself."""

        def send(self, data: bytes) -> int:
            sent = pair[0].send(data[:3])
            if not answers:
                answers.append(writer.send_now(b"of the handler"))
            return sent

        def fileno(self) -> int:
            return pair[0].fileno()

        def shutdown(self, how: int) -> None: ...

        def close(self) -> None: ...

    answers: list[bool] = []
    loop = asyncio.get_running_loop()
    writer = SocketWriter(loop, Interrupted(), lambda room: None)  # type: ignore[arg-type]
    sending = threading.Thread(target=writer.send_now, args=(b"whole",), daemon=True)
    sending.start()
    await asyncio.to_thread(sending.join, 10)
    assert answers == [False], "the loop is to send it, behind what is being sent"
    assert await _read(pair[1], 5) == b"whole"
    writer.close()


async def test_the_peer_sees_the_end_though_a_forked_child_has_the_socket_too(pair: Pair) -> None:
    inherited = socket.socket(fileno=os.dup(pair[0].fileno()))
    writer = SocketWriter(asyncio.get_running_loop(), pair[0], lambda room: None)
    writer.send(b"the last")
    writer.close()
    assert await _read(pair[1], 8) == b"the last"
    async with asyncio.timeout(10):
        assert await asyncio.get_running_loop().sock_recv(pair[1], 1) == b""
    inherited.close()
