"""Fetching from peers: ranges, checks, holders that fail."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from cascade_dist.codec.values import Packed
from cascade_dist.v1 import value_pb2, worker_pb2
from cascade_dist.wire import TokenAuth
from cascade_worker import peers
from cascade_worker.directories import Directories
from cascade_worker.executor.segments import ObjectWriter
from cascade_worker.object_service import start_object_server
from cascade_worker.objects import ObjectStore
from cascade_worker.peers import PeerFetcher, UnreachableError, split
from cascade_worker.pieces import METHOD, BadPieceError, Piece, checksum_of, decode_piece, encode_piece

MIB = 1 << 20

# --- pieces -----------------------------------------------------------------------------------------


@given(size=st.integers(0, 2**64 - 1), data=st.binary(max_size=400))
def test_pieces_are_the_messages_that_protobuf_writes(size: int, data: bytes) -> None:
    checksum = checksum_of(data)
    message = encode_piece(Piece(size, data, checksum))
    parsed = worker_pb2.FetchObjectResponse.FromString(message)
    assert (parsed.size_bytes, parsed.data, parsed.checksum) == (size, data, checksum)
    found = decode_piece(parsed.SerializeToString())
    assert (found.size, bytes(found.data), found.checksum) == (size, data, checksum)
    found.check()


@given(data=st.binary(min_size=1, max_size=300), cut=st.integers(1, 300))
def test_a_piece_that_was_cut_short_is_refused(data: bytes, cut: int) -> None:
    message = encode_piece(Piece(7, data, checksum_of(data)))
    try:
        found = decode_piece(message[: -min(cut, len(message) - 1)])
        found.check()
    except BadPieceError:
        return
    assert not len(found.data), "it says nothing, which whoever fetches refuses"


def test_a_changed_byte_is_found_and_unknown_fields_are_passed_over() -> None:
    with pytest.raises(BadPieceError, match="checksum"):
        Piece(0, b"otherwise", checksum_of(b"something")).check()
    later = worker_pb2.FetchObjectRequest(length_bytes=5).SerializeToString()
    newer = encode_piece(Piece(3, b"abc", 9)) + b"\x22\x02hi" + b"\x29" + bytes(8) + b"\x30\x07"
    assert decode_piece(newer)[0] == 3
    with pytest.raises(BadPieceError, match="kind"):
        decode_piece(b"\x0b" + later)


@pytest.mark.parametrize("size", [1, MIB, 4 * MIB, 4 * MIB + 1, 16 * MIB, 100 * MIB + 3, 1000 * MIB])
def test_ranges_cover_an_object(size: int) -> None:
    ranges = split(size)
    assert ranges[0][0] == 0
    assert ranges[-1][1] == size
    assert all(one[1] == other[0] for one, other in itertools.pairwise(ranges))
    assert max(last - first for first, last in ranges) <= 32 * MIB


# --- holders ----------------------------------------------------------------------------------------

Answer = Callable[[worker_pb2.FetchObjectRequest, int], AsyncIterator[bytes]]


class Fake:
    """A holder that answers as it is told; it counts calls."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.requests: list[worker_pb2.FetchObjectRequest] = []

    async def serve(self) -> tuple[grpc.aio.Server, str]:
        server = grpc.aio.server()
        method: Any = grpc.unary_stream_rpc_method_handler(
            self._fetch, request_deserializer=worker_pb2.FetchObjectRequest.FromString
        )
        service, _, name = METHOD.strip("/").partition("/")
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {name: method}),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        return server, f"127.0.0.1:{port}"

    async def _fetch(self, request: worker_pb2.FetchObjectRequest, context: Any) -> None:
        self.requests.append(request)
        try:
            async for message in self._answer(request, len(self.requests)):
                await context.write(message)
        except LookupError:
            await context.abort(grpc.StatusCode.NOT_FOUND, "it is not here")


DATA = os.urandom(3 * MIB + 17)


async def good(request: worker_pb2.FetchObjectRequest, number: int) -> AsyncIterator[bytes]:
    """What is asked for."""
    end = request.offset_bytes + request.length_bytes
    for at in range(request.offset_bytes, end, MIB):
        data = DATA[at : min(end, at + MIB)]
        yield encode_piece(Piece(len(DATA), data, checksum_of(data)))


async def changed(request: worker_pb2.FetchObjectRequest, number: int) -> AsyncIterator[bytes]:
    """The second piece has a wrong byte."""
    place = 0
    async for message in good(request, number):
        place += 1
        yield message if place != 2 else message[:100] + bytes([message[100] ^ 1]) + message[101:]


async def short(request: worker_pb2.FetchObjectRequest, number: int) -> AsyncIterator[bytes]:
    """It ends after a piece."""
    async for message in good(request, number):
        yield message
        return


async def other(request: worker_pb2.FetchObjectRequest, number: int) -> AsyncIterator[bytes]:
    """Another object."""
    yield encode_piece(Piece(5, b"other", checksum_of(b"other")))


async def too_much(request: worker_pb2.FetchObjectRequest, number: int) -> AsyncIterator[bytes]:
    """More than was asked for."""
    async for message in good(request, number):
        yield message
    yield encode_piece(Piece(0, b"more", checksum_of(b"more")))


async def nothing(request: worker_pb2.FetchObjectRequest, number: int) -> AsyncIterator[bytes]:
    """It does not have it."""
    raise LookupError
    yield b""


def once(bad: Answer) -> Answer:
    """Answers badly the first time."""

    async def answer(request: worker_pb2.FetchObjectRequest, number: int) -> AsyncIterator[bytes]:
        async for message in (bad if number == 1 else good)(request, number):
            yield message

    return answer


Serve = Callable[..., Awaitable[list[str]]]


@pytest_asyncio.fixture
async def serve(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Serve]:
    """Starts fake holders; gives their addresses."""
    monkeypatch.setattr(peers, "PAUSE", 0.01)
    servers = []

    async def start(*fakes: Fake) -> list[str]:
        addresses = []
        for fake in fakes:
            server, address = await fake.serve()
            servers.append(server)
            addresses.append(address)
        return addresses

    yield start
    for server in servers:
        await server.stop(None)


async def fetched(path: Path, holders: list[str], size: int = len(DATA)) -> bytes:
    """What a fetch leaves in a file."""
    fetcher = PeerFetcher((), None)
    try:
        await fetcher.fetch(value_pb2.ObjectRef(attempt=7, size_bytes=size, holders=holders), str(path))
    finally:
        await fetcher.close()
    return path.read_bytes()  # noqa: ASYNC240


@pytest.mark.parametrize("bad", [changed, short, too_much], ids=lambda bad: bad.__name__)
async def test_wrong_bytes_are_fetched_again_behind_the_last_good_piece(
    serve: Serve, tmp_path: Path, bad: Answer
) -> None:
    fake = Fake(once(bad))
    assert await fetched(tmp_path / "x", await serve(fake)) == DATA
    assert [request.offset_bytes for request in fake.requests] == ([0] if bad is too_much else [0, MIB])


@pytest.mark.parametrize("bad", [changed, short, other, nothing], ids=lambda bad: bad.__name__)
async def test_a_holder_that_fails_again_is_left_for_the_next(
    serve: Serve, tmp_path: Path, bad: Answer
) -> None:
    first, second = Fake(bad), Fake(good)
    assert await fetched(tmp_path / "x", await serve(first, second)) == DATA
    assert 1 <= len(first.requests) <= 3
    assert len(second.requests) == 1


async def test_without_a_good_holder_all_are_named_and_no_file_is_left(serve: Serve, tmp_path: Path) -> None:
    holders = [*await serve(Fake(changed), Fake(nothing), Fake(other)), "127.0.0.1:1"]
    with pytest.raises(UnreachableError) as caught:
        await fetched(tmp_path / "x", holders)
    for holder, reason in zip(holders, ["checksum", "NOT_FOUND", "5 bytes", "UNAVAILABLE"], strict=True):
        assert f"{holder}: " in str(caught.value)
        assert reason in str(caught.value)
    assert os.listdir(tmp_path) == []


async def test_a_large_object_comes_in_ranges_from_a_real_worker(tmp_path: Path) -> None:
    store = ObjectStore([Directories(tmp_path / name, "w") for name in ("fast", "slow")])
    data = os.urandom(MIB) * 21 + b"end"
    ObjectWriter().write(store.object_dirs[0], f"{7:016x}", Packed.of(data))
    store.add_made(7, len(data))
    server = await start_object_server(store, "127.0.0.1", TokenAuth(None), None)
    try:
        holders = [f"127.0.0.1:{server.port}"]
        assert await fetched(tmp_path / "x", holders, len(data)) == data
        with pytest.raises(UnreachableError, match="not 23"):
            await fetched(tmp_path / "y", holders, 23)
        several = [fetched(tmp_path / str(number), holders, len(data)) for number in range(3)]
        assert await asyncio.gather(*several) == [data] * 3
        store.release(7)
        with pytest.raises(UnreachableError, match="NOT_FOUND"):
            await fetched(tmp_path / "z", holders, len(data))
    finally:
        await server.stop()
        store.close()


async def test_what_is_sent_is_not_written_again_meanwhile(tmp_path: Path) -> None:
    store = ObjectStore([Directories(tmp_path / name, "w") for name in ("fast", "slow")])
    writer, data = ObjectWriter(), os.urandom(MIB) * 16
    writer.write(store.object_dirs[0], f"{7:016x}", Packed.of(data))
    store.add_made(7, len(data))
    server = await start_object_server(store, "127.0.0.1", TokenAuth(None), None)
    fetcher = PeerFetcher((), None)
    try:
        call = fetcher.call(f"127.0.0.1:{server.port}", 0, worker_pb2.FetchObjectRequest(attempt=7))
        parts = [decode_piece(await call.read()).data]
        store.release(7)
        writer.write(store.object_dirs[0], f"{8:016x}", Packed.of(bytes(len(data))))
        while (message := await call.read()) is not grpc.aio.EOF:
            piece = decode_piece(message)
            piece.check()
            parts.append(piece.data)
        assert b"".join(parts) == data
    finally:
        await fetcher.close()
        await server.stop()
        store.close()


async def test_a_copy_goes_into_a_file_of_one_that_was_dropped(serve: Serve, tmp_path: Path) -> None:
    store = ObjectStore([Directories(tmp_path / name, "w") for name in ("fast", "slow")])
    addresses = await serve(Fake(good))
    inodes = []
    for _ in range(2):
        path = store.paths_for(7)[0]
        assert await fetched(Path(path), addresses) == DATA
        inodes.append(os.stat(path).st_ino)
        store.add_cached(7, path, len(DATA))
        store.release(7)
        assert not os.listdir(os.path.dirname(path))
    assert inodes[0] == inodes[1]
