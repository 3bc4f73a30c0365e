"""Lanes: plain connections for large objects, and what happens when something is wrong with them."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import socket
import struct
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from cascade_dist.codec.values import Packed
from cascade_dist.v1 import value_pb2, worker_pb2
from cascade_dist.wire import TokenAuth
from cascade_worker import lanes, object_service, peers
from cascade_worker.directories import Directories
from cascade_worker.executor.files import open_shared
from cascade_worker.executor.segments import ObjectWriter
from cascade_worker.lanes import Lane, LaneServer, NotHereError, Way
from cascade_worker.object_service import ObjectServer, ObjectServicer, start_object_server
from cascade_worker.objects import ObjectStore
from cascade_worker.peers import PeerFetcher, UnreachableError, split
from cascade_worker.pieces import BadPieceError, checksum_of
from tests.machine import lacking

MIB = 1 << 20
DATA = os.urandom(MIB) * 21 + b"end"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ObjectStore]:
    """A store with the object 7."""
    store = ObjectStore([Directories(tmp_path / name, "w") for name in ("fast", "slow")])
    ObjectWriter().write(store.object_dirs[0], f"{7:016x}", Packed.of(DATA))
    store.add_made(7, len(DATA))
    yield store
    store.close()


@pytest.fixture
def by_grpc(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What was asked for by gRPC: first byte, and how many."""
    asked: list[tuple[int, int]] = []
    fetch = ObjectServicer._fetch

    async def noted(self: ObjectServicer, request: Any, context: Any) -> None:
        asked.append((request.offset_bytes, request.length_bytes))
        await fetch(self, request, context)

    monkeypatch.setattr(ObjectServicer, "_fetch", noted)
    return asked


@pytest_asyncio.fixture
async def server(store: ObjectStore, by_grpc: list[tuple[int, int]]) -> AsyncIterator[ObjectServer]:
    """A worker's server."""
    server = await start_object_server(store, "127.0.0.1", TokenAuth("secret"), None)
    yield server
    await server.stop()


async def fetched(path: Path, port: int, *, token: str = "secret", attempt: int = 7) -> bytes:
    """What a fetch leaves in a file."""
    fetcher = PeerFetcher(TokenAuth(token).metadata, None)
    reference = value_pb2.ObjectRef(attempt=attempt, size_bytes=len(DATA), holders=[f"127.0.0.1:{port}"])
    try:
        await fetcher.fetch(reference, str(path))
    finally:
        await fetcher.close()
    return path.read_bytes()  # noqa: ASYNC240


async def test_a_large_object_takes_lanes_alone(
    server: ObjectServer, tmp_path: Path, by_grpc: list[tuple[int, int]]
) -> None:
    several = [fetched(tmp_path / str(number), server.port) for number in range(3)]
    assert await asyncio.gather(*several) == [DATA] * 3
    assert by_grpc == []


async def test_who_has_no_token_is_told_of_no_lanes(server: ObjectServer, tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="UNAUTHENTICATED"):
        await fetched(tmp_path / "x", server.port, token="other")


async def test_what_is_not_there_is_said_by_the_service(server: ObjectServer, tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="NOT_FOUND"):
        await fetched(tmp_path / "x", server.port, attempt=8)
    assert not (tmp_path / "x").exists()


async def test_lanes_that_cannot_be_reached_are_not_tried_again(
    server: ObjectServer, tmp_path: Path, by_grpc: list[tuple[int, int]]
) -> None:
    await server._lanes.close()
    fetcher = PeerFetcher(TokenAuth("secret").metadata, None)
    holder = f"127.0.0.1:{server.port}"
    reference = value_pb2.ObjectRef(attempt=7, size_bytes=len(DATA), holders=[holder])
    await fetcher.fetch(reference, str(tmp_path / "x"))
    assert (tmp_path / "x").read_bytes() == DATA
    assert sum(length for _, length in by_grpc) == len(DATA)
    assert await fetcher.way(holder) is None
    await fetcher.close()


async def test_lanes_that_cannot_be_reached_are_tried_again_later(
    server: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "_NO_WAY_SECONDS", 0.0)
    fetcher = PeerFetcher(TokenAuth("secret").metadata, None)
    holder = f"127.0.0.1:{server.port}"
    fetcher.no_way(holder)
    async with asyncio.timeout(20):
        while await fetcher.way(holder) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await fetcher.close()


async def test_without_a_thread_for_a_lane_all_is_fetched_by_grpc(
    server: ObjectServer, tmp_path: Path, by_grpc: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Poor(ThreadPoolExecutor):
        def submit(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(peers, "ThreadPoolExecutor", Poor)
    assert await fetched(tmp_path / "x", server.port) == DATA
    assert sum(length for _, length in by_grpc) == len(DATA)


async def test_with_tls_nobody_is_asked_for_lanes() -> None:
    fetcher = PeerFetcher((), object())  # type: ignore[arg-type]
    assert await fetcher.way("127.0.0.1:1") is None, "nobody was asked"
    await fetcher.close()


# --- a lane of which the other side is no good ----------------------------------------------------------


def piece(data: bytes) -> bytes:
    """As it is sent."""
    return struct.pack("<Q", checksum_of(data)) + data


def head(size: int = len(DATA)) -> bytes:
    """What goes before pieces."""
    return struct.pack("<Q", size)


Wrong = Callable[[int], bytes]
"""What is sent of a range that begins there."""

WRONG: dict[str, tuple[Wrong, int]] = {
    "ends at once": (lambda at: b"", 0),
    "ends within its head": (lambda at: head()[:5], 0),
    "has another size": (lambda at: head(3) + piece(b"abc"), 0),
    "changes a byte": (lambda at: head() + piece(DATA[at : at + MIB]) + piece(b"x" * MIB)[:-1] + b"y", MIB),
    "ends within a piece": (lambda at: head() + piece(DATA[at : at + MIB]) + piece(b"x" * MIB)[:-1], MIB),
}
"""With how much of it is right."""


@pytest.mark.parametrize("wrong", WRONG)
async def test_what_a_lane_does_not_bring_is_fetched_behind_the_last_good_piece(
    server: ObjectServer, tmp_path: Path, by_grpc: list[tuple[int, int]], wrong: str
) -> None:
    sends, good = WRONG[wrong]
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        for _ in range(4):
            sock, _ = listener.accept()
            with sock:
                asked = sock.recv(32 + 24, socket.MSG_WAITALL)
                sock.sendall(sends(struct.unpack("<QQQ", asked[32:])[1]))

    thread = threading.Thread(target=serve)
    thread.start()
    server._lanes.port = listener.getsockname()[1]
    assert await fetched(tmp_path / "x", server.port) == DATA
    await asyncio.to_thread(thread.join, 20)
    listener.close()
    ranges = split(len(DATA))
    assert sorted(by_grpc) == [(first + good, last - first - good) for first, last in ranges]


# --- one connection -------------------------------------------------------------------------------------


@pytest_asyncio.fixture
async def lane_server(store: ObjectStore) -> AsyncIterator[LaneServer]:
    """The side that has objects."""
    server = LaneServer(store)
    server.start("127.0.0.1")
    yield server
    await server.close()


def target(tmp_path: Path) -> int:
    """A file to be written."""
    return os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT, 0o600)


async def take(
    server: LaneServer, fd: int, *, attempt: int = 7, size: int = len(DATA), key: bytes = b""
) -> None:
    """Fetches all but the first 5 bytes."""
    lane = Lane(Way("127.0.0.1", server.port, key or server.key))
    await asyncio.to_thread(lane.fetch, attempt, size, 5, len(DATA), fd, lambda at: None)


async def test_a_range_comes_over_one_connection(lane_server: LaneServer, tmp_path: Path) -> None:
    fd = target(tmp_path)
    await take(lane_server, fd)
    os.close(fd)
    assert (tmp_path / "target").read_bytes() == bytes(5) + DATA[5:]


async def test_a_wrong_key_opens_nothing(lane_server: LaneServer, tmp_path: Path) -> None:
    fd = target(tmp_path)
    with pytest.raises(OSError):
        await take(lane_server, fd, key=b"k" * 32)
    os.close(fd)
    assert (tmp_path / "target").stat().st_size == 0


async def test_what_is_asked_for_has_to_be_there_and_of_that_size(
    lane_server: LaneServer, tmp_path: Path
) -> None:
    fd = target(tmp_path)
    with pytest.raises(NotHereError):
        await take(lane_server, fd, attempt=8)
    with pytest.raises(BadPieceError, match="not 3"):
        await take(lane_server, fd, size=3)
    os.close(fd)


async def test_who_says_nothing_is_let_go(lane_server: LaneServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "CONNECT_SECONDS", 0.05)
    with socket.create_connection(("127.0.0.1", lane_server.port)) as sock:
        sock.settimeout(20)
        assert await asyncio.to_thread(sock.recv, 1) == b""


async def test_of_too_many_connections_the_last_are_closed(
    lane_server: LaneServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "LANES_MAX", 1)
    with socket.create_connection(("127.0.0.1", lane_server.port)) as first:
        first.sendall(lane_server.key)
        with socket.create_connection(("127.0.0.1", lane_server.port)) as second:
            second.settimeout(20)
            assert await asyncio.to_thread(second.recv, 1) == b""
        first.sendall(struct.pack("<QQQ", 7, 0, 3))
        first.settimeout(20)
        assert await asyncio.to_thread(first.recv, 8, socket.MSG_WAITALL) == head()


@pytest.mark.parametrize("side", ["fetcher", "server"])
async def test_nobody_waits_for_one_that_stands_still(
    lane_server: LaneServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: str
) -> None:
    monkeypatch.setattr(lanes, "SILENCE", 0.5)
    if side == "server":
        with socket.create_connection(("127.0.0.1", lane_server.port)) as sock:
            sock.sendall(lane_server.key + struct.pack("<QQQ", 7, 0, len(DATA)))
            while not lane_server._open:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            while lane_server._open:  # nobody takes what it sends  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        return
    listener = socket.create_server(("127.0.0.1", 0))
    lane = Lane(Way("127.0.0.1", listener.getsockname()[1], lane_server.key))
    fd = target(tmp_path)
    with pytest.raises(TimeoutError, match="nothing came"):
        await asyncio.to_thread(lane.fetch, 7, len(DATA), 0, len(DATA), fd, lambda at: None)
    os.close(fd)
    listener.close()


async def test_a_fetch_that_is_given_up_leaves_no_thread_behind(server: ObjectServer, tmp_path: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))  # it takes connections, and says nothing
    server._lanes.port = listener.getsockname()[1]
    fetcher = PeerFetcher(TokenAuth("secret").metadata, None)
    holders = [f"127.0.0.1:{server.port}"]
    reference = value_pb2.ObjectRef(attempt=7, size_bytes=len(DATA), holders=holders)
    fetching = asyncio.create_task(fetcher.fetch(reference, str(tmp_path / "x")))
    sock, _ = await asyncio.to_thread(listener.accept)
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(fetching, 20)
    assert fetcher.threads._work_queue.empty()
    assert not (tmp_path / "x").exists()
    await fetcher.close()
    sock.close()
    listener.close()


async def test_a_file_is_open_as_long_as_a_thread_writes_however_often_that_is_given_up(
    server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of a process cancels what was cancelled before."""
    begun, go = threading.Semaphore(0), threading.Event()
    written: list[object] = []
    complaints: list[object] = []

    def fetch(self: Lane, attempt: int, size: int, at: int, end: int, fd: int, done: object) -> None:
        begun.release()
        go.wait(20)
        try:
            written.append(os.pwrite(fd, b"x", at))
        except OSError as error:
            written.append(error)
        raise ConnectionAbortedError

    monkeypatch.setattr(Lane, "fetch", fetch)
    asyncio.get_running_loop().set_exception_handler(lambda loop, what: complaints.append(what))
    fetching = asyncio.create_task(fetched(tmp_path / "x", server.port))
    for _ in split(len(DATA)):
        assert await asyncio.to_thread(begun.acquire, timeout=20)
    for _ in range(3):
        fetching.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
    early = fetching.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(fetching, 20)
    assert not early
    assert written == [1] * len(split(len(DATA)))
    gc.collect()
    assert complaints == []


async def test_who_sends_learns_at_once_that_nobody_reads(tmp_path: Path) -> None:
    fd = target(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        lane = Lane(Way("127.0.0.1", listener.getsockname()[1], b"k" * 32))
        fetching = asyncio.create_task(
            asyncio.to_thread(lane.fetch, 7, len(DATA), 0, len(DATA), fd, lambda at: None)
        )
        sock, _ = await asyncio.to_thread(listener.accept)
        with sock:
            sock.settimeout(20)
            await asyncio.to_thread(sock.recv, 32 + 24, socket.MSG_WAITALL)
            sock.sendall(head(3))
            with pytest.raises(BadPieceError, match="has 3 bytes"):
                await fetching
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
    os.close(fd)


def test_a_lane_that_was_given_up_before_it_began_goes_nowhere(tmp_path: Path) -> None:
    lane = Lane(Way("127.0.0.1", 1, b""))
    lane.close()
    with pytest.raises(ConnectionAbortedError):
        lane.fetch(7, 1, 0, 1, -1, lambda at: None)


class SlowOpening:
    """Opens a file once it may `go` on, and says when it has `begun`."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self.opened: list[int] = []

    def __call__(self, path: str) -> int:
        self.begun.set()
        self.go.wait(20)
        self.opened.append(open_shared(path))
        return self.opened[0]


async def test_what_is_opened_while_all_ends_is_closed(
    lane_server: LaneServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = SlowOpening()
    monkeypatch.setattr(lanes, "open_shared", slow)
    with socket.create_connection(("127.0.0.1", lane_server.port)) as sock:
        sock.sendall(lane_server.key + struct.pack("<QQQ", 7, 0, 9))
        assert await asyncio.to_thread(slow.begun.wait, 20)
        closing = asyncio.create_task(lane_server.close())
        for _ in range(10):
            await asyncio.sleep(0)
        slow.go.set()
        await asyncio.wait_for(closing, 20)
        while not slow.opened:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    with pytest.raises(OSError):
        os.fstat(slow.opened[0])


async def test_what_is_opened_for_a_call_that_is_cancelled_is_closed(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = SlowOpening()
    monkeypatch.setattr(object_service, "open_shared", slow)
    servicer: Any = ObjectServicer(store, LaneServer(store))
    request = worker_pb2.FetchObjectRequest(attempt=7)
    fetching = asyncio.create_task(servicer._fetch(request, None))
    assert await asyncio.to_thread(slow.begun.wait, 20)
    fetching.cancel()
    await asyncio.wait([fetching])
    slow.go.set()
    await asyncio.get_running_loop().shutdown_default_executor()
    await asyncio.sleep(0.01)
    with pytest.raises(OSError):
        os.fstat(slow.opened[0])


async def test_without_descriptors_nobody_is_asked_again_at_once(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "_SCARCE_PAUSE", 0.2, raising=False)
    asked = []

    class Counted(LaneServer):
        def _accept(self, *listener: Any) -> None:
            asked.append(1)
            super()._accept(*listener)

    server = Counted(store)
    server.start("127.0.0.1")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as sock:
        free = os.dup(sock.fileno())
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            sock.connect(("127.0.0.1", server.port))
            for _ in range(50):
                await asyncio.sleep(0)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert len(asked) == 1
        sock.sendall(server.key + struct.pack("<QQQ", 7, 0, 0))
        sock.settimeout(20)
        assert await asyncio.to_thread(sock.recv, 8, socket.MSG_WAITALL) == head()
    await server.close()


async def test_an_end_of_the_server_ends_its_lanes(store: ObjectStore) -> None:
    server = LaneServer(store)
    server.start("127.0.0.1")
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(server.key + struct.pack("<QQQ", 7, 0, len(DATA)))
        sock.settimeout(20)
        await asyncio.to_thread(sock.recv, 8, socket.MSG_WAITALL)
        await asyncio.wait_for(server.close(), 20)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port))


async def test_lanes_by_ipv6(store: ObjectStore, tmp_path: Path) -> None:
    server = LaneServer(store)
    try:
        server.start("::1")
    except OSError as error:
        lacking(f"this machine has no ::1: {error}")
    fd = target(tmp_path)
    lane = Lane(Way("::1", server.port, server.key))
    await asyncio.to_thread(lane.fetch, 7, len(DATA), 0, 9, fd, lambda at: None)
    os.close(fd)
    await server.close()
    assert (tmp_path / "target").read_bytes() == DATA[:9]


# --- where they listen ----------------------------------------------------------------------------------


def by_ipv6() -> None:
    """Ends a test where there is no ::1."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        lacking(f"this machine has no ::1: {error}")


async def test_all_addresses_of_a_name_are_taken(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others may try any of them, and show the key there."""
    by_ipv6()
    find = socket.getaddrinfo

    def both(host: str, *args: Any, **options: Any) -> list[Any]:
        hosts = ("::1", "127.0.0.1") if host == "localhost" else (host,)
        return [found for each in hosts for found in find(each, *args, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    server = LaneServer(store)
    server.start("localhost")
    for host in ("::1", "127.0.0.1"):
        socket.create_connection((host, server.port), 20).close()
    await server.close()


@pytest.mark.parametrize("everywhere", ["0.0.0.0", "::"])
async def test_the_address_of_all_is_that_of_both_protocols(store: ObjectStore, everywhere: str) -> None:
    by_ipv6()
    server = LaneServer(store)
    server.start(everywhere)
    for host in ("::1", "127.0.0.1"):
        socket.create_connection((host, server.port), 20).close()
    await server.close()


async def test_where_there_can_be_no_lanes_grpc_serves_alone(
    store: ObjectStore, tmp_path: Path, by_grpc: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("not here")

    with monkeypatch.context() as patch:
        patch.setattr(socket, "create_server", refuse)
        server = await start_object_server(store, "127.0.0.1", TokenAuth("secret"), None)
    assert await fetched(tmp_path / "x", server.port) == DATA
    assert sum(length for _, length in by_grpc) == len(DATA)
    await server.stop()


def test_a_file_system_that_tells_no_bound_has_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such is a tmpfs with size=0."""
    monkeypatch.setattr(os, "fstatvfs", lambda fd: os.statvfs_result((4096, 4096, *[0] * 7, 255)))
    fd = target(tmp_path)
    peers._fit_with_holes(fd, MIB)
    assert os.fstat(fd).st_size == MIB
    os.close(fd)
