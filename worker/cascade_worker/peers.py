"""Fetching objects from other workers: ranges of one object at the same time, each piece checked.

A piece that was cut short or changed on the way is refused; its range goes on behind the last good piece, at
the same holder once more, then at the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
from collections import deque
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import grpc.aio

from cascade_dist.v1 import value_pb2, worker_pb2
from cascade_dist.wire import open_channel
from cascade_worker.executor.segments import claim
from cascade_worker.lanes import SILENCE, Lane, Way
from cascade_worker.pieces import FIND_LANES, METHOD, BadPieceError, Piece, decode_piece, write_all
from cascade_worker.threads import in_thread

__all__ = ["PAUSE", "SILENCE", "TRIES", "PeerFetcher", "UnreachableError", "pieces_of", "split"]

log = logging.getLogger("cascade.worker")

TRIES = 4
"""How often a holder that cannot be reached is tried."""
_BAD_TRIES = 2
"""How often a holder that sends wrong bytes is tried."""
PAUSE = 0.25
"""Seconds before the second try of a transfer; doubled for each further one."""
_CHANNELS_MAX = 64
_LANES = 4
"""Connections to one holder: each is served by another thread of gRPC."""
_TOGETHER = 2
"""Pieces that a thread checks and writes at a time."""
_THREADS_MAX = 16
_ASK_SECONDS = 10.0
_NO_WAY_SECONDS = 300.0
"""How long lanes are left alone that could not be reached."""
_LANE_BYTES_MIN = 4 << 20
"""A smaller range is not worth a connection of its own."""
_RANGE_BYTES_MIN = 4 << 20
_RANGE_BYTES_MAX = 32 << 20

Range = tuple[int, int]
"""First byte, and the one behind the last."""


class UnreachableError(Exception):
    """No holder gave it; the text says why, holder by holder."""


def split(size: int) -> list[Range]:
    """The ranges in which an object is fetched."""
    step = min(_RANGE_BYTES_MAX, max(_RANGE_BYTES_MIN, -(-size // _LANES)))
    return [(at, min(size, at + step)) for at in range(0, size, step)]


class PeerFetcher:
    """Fetches for one worker.

    Args:
        metadata: carries the cluster's token.
        credentials: for channels to other workers.
    """

    def __init__(self, metadata: Any, credentials: grpc.ChannelCredentials | None) -> None:
        self._metadata = metadata
        self._credentials = credentials
        self._channels: dict[tuple[str, int], grpc.aio.Channel] = {}
        self._ways: dict[str, Way | None] = {}
        """By holder; None: it has no lanes, or they cannot be reached."""
        self.threads = ThreadPoolExecutor(_THREADS_MAX, "lane")

    async def fetch(self, reference: value_pb2.ObjectRef, path: str) -> None:
        """Writes an object into a file, which gets its name when all is there and right.

        Raises:
            UnreachableError: no holder gave it.
            OSError: the file cannot be written.
        """
        claimed = claim(os.path.dirname(path), reference.size_bytes)
        if claimed is None:
            part = f"{path}.part"
            fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        else:
            fd, part = claimed
        try:
            loop = asyncio.get_running_loop()
            await in_thread(loop.run_in_executor(None, _fit_with_holes, fd, reference.size_bytes))
            await self._fill(reference, fd)
            os.rename(part, path)
        finally:
            os.close(fd)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part)

    async def _fill(self, reference: value_pb2.ObjectRef, fd: int) -> None:
        """Fetches all ranges, on several lanes."""
        ranges = deque(split(reference.size_bytes))
        lanes = [
            asyncio.create_task(self._lane(reference, number, ranges, fd))
            for number in range(min(_LANES, len(ranges)))
        ]
        try:
            await asyncio.gather(*lanes)
        finally:
            for lane in lanes:
                lane.cancel()
            # None may still write when the descriptor is closed.
            await asyncio.gather(*lanes, return_exceptions=True)

    async def _lane(self, reference: value_pb2.ObjectRef, number: int, ranges: deque[Range], fd: int) -> None:
        while ranges:
            await _RangeFetch(self, reference, number, ranges.popleft(), fd).run()

    def call(self, holder: str, lane: int, request: worker_pb2.FetchObjectRequest) -> Any:
        """Asks a holder for pieces, as messages that are not decoded."""
        ask: Any = self._channel(holder, lane).unary_stream(
            METHOD, request_serializer=worker_pb2.FetchObjectRequest.SerializeToString
        )
        return ask(request, metadata=self._metadata)

    async def way(self, holder: str) -> Way | None:
        """How to reach a holder's lanes, if it has some."""
        if self._credentials is not None:
            return None  # what they carry is not encrypted
        if holder not in self._ways:
            ask: Any = self._channel(holder, 0).unary_unary(
                FIND_LANES,
                request_serializer=worker_pb2.FindLanesRequest.SerializeToString,
                response_deserializer=worker_pb2.FindLanesResponse.FromString,
            )
            try:
                found = await ask(
                    worker_pb2.FindLanesRequest(), metadata=self._metadata, timeout=_ASK_SECONDS
                )
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.UNIMPLEMENTED:
                    return None  # the fetch itself says why
                found = worker_pb2.FindLanesResponse()
            host = holder.rpartition(":")[0].strip("[]")
            self._ways[holder] = Way(host, found.port, found.key) if found.port else None
            if len(self._ways) > _CHANNELS_MAX:
                del self._ways[next(iter(self._ways))]
        return self._ways.get(holder)

    def no_way(self, holder: str) -> None:
        """A holder's lanes cannot be reached now."""
        self._ways[holder] = None
        asyncio.get_running_loop().call_later(_NO_WAY_SECONDS, self._ways.pop, holder, None)

    def _channel(self, address: str, lane: int) -> grpc.aio.Channel:
        key = (address, lane)
        channel = self._channels.pop(key, None)
        if channel is None:
            channel = open_channel(address, self._credentials)
        self._channels[key] = channel
        if len(self._channels) > _CHANNELS_MAX:
            oldest = self._channels.pop(next(iter(self._channels)))
            asyncio.get_running_loop().create_task(oldest.close(SILENCE))
        return channel

    async def close(self) -> None:
        """Closes all channels."""
        for channel in self._channels.values():
            await channel.close()
        self._channels.clear()
        self.threads.shutdown(wait=False)


class _RangeFetch:
    """One range of one object, from whichever holder gives it."""

    def __init__(
        self, peers: PeerFetcher, reference: value_pb2.ObjectRef, lane: int, wanted: Range, fd: int
    ) -> None:
        self._peers = peers
        self._reference = reference
        self._lane = lane
        self._at, self._end = wanted
        self._fd = fd

    async def run(self) -> None:
        """Fetches all of it.

        Raises:
            UnreachableError: no holder gave it.
            OSError: the file cannot be written.
        """
        reasons = []
        for holder in self._reference.holders:
            reason = await self._from(holder)
            if not reason:
                return
            reasons.append(f"{holder}: {reason}")
        raise UnreachableError("; ".join(reasons) or "it has no holder")

    async def _from(self, holder: str) -> str:
        """Fetches the rest from one holder; why that did not succeed."""
        if self._end - self._at >= _LANE_BYTES_MIN:
            await self._by_lane(holder)
        reason, refused = "", 0
        for number in range(TRIES):
            if number:
                await asyncio.sleep(PAUSE * 2 ** (number - 1))
            try:
                if self._at < self._end:
                    await self._stream(holder)
                return ""
            except grpc.aio.AioRpcError as error:
                reason = f"{error.code().name} {error.details()}"
                if error.code() == grpc.StatusCode.NOT_FOUND:
                    break
            except TimeoutError:
                reason = f"nothing came for {SILENCE:g} s"
            except BadPieceError as error:
                reason = str(error)
                refused += 1
                if refused == _BAD_TRIES:
                    break
            log.debug("object %x from %s: %s", self._reference.attempt, holder, reason)
        return reason

    async def _by_lane(self, holder: str) -> None:
        """Fetches as much as goes over a plain connection."""
        way = await self._peers.way(holder)
        if way is None:
            return
        lane, reference = Lane(way), self._reference
        what = (reference.attempt, reference.size_bytes, self._at, self._end, self._fd, self._written)
        try:
            job = self._peers.threads.submit(lane.fetch, *what)

            def stop() -> None:
                lane.close()
                job.cancel()  # one that has not begun would wait for a free thread

            await in_thread(asyncio.wrap_future(job), stop)
        except Exception as error:  # whatever it is, gRPC may do better
            lane.close()  # what no thread could be started for may be done by another one later
            log.debug("object %x from %s by a lane: %s", reference.attempt, holder, error)
            if lane.unreachable and isinstance(error, OSError):
                log.info("the lanes of %s cannot be reached (%s): it is asked by gRPC", holder, error)
                self._peers.no_way(holder)

    def _written(self, at: int) -> None:
        self._at = at

    async def _stream(self, holder: str) -> None:
        """Reads pieces while those before them are checked and written."""
        request = worker_pb2.FetchObjectRequest(
            attempt=self._reference.attempt, offset_bytes=self._at, length_bytes=self._end - self._at
        )
        call = self._peers.call(holder, self._lane, request)
        at = self._at
        held: list[Piece] = []
        writing: asyncio.Future[None] | None = None
        try:
            async with contextlib.aclosing(pieces_of(call)) as messages:
                async for message in messages:
                    piece = self._placed(message, at)
                    at += len(piece.data)
                    held.append(piece)
                    if len(held) == _TOGETHER:
                        await _written_by(writing)
                        writing, held = self._start_writing(held), []
        finally:  # what came is good whatever came after it, unless its check says otherwise
            await _written_by(writing)
            await _written_by(self._start_writing(held))
        if self._at < self._end:
            raise BadPieceError(f"it ended {self._end - self._at:,} bytes too early")

    def _placed(self, message: bytes, at: int) -> Piece:
        """A piece that belongs there.

        Raises:
            BadPieceError: it does not.
        """
        piece = decode_piece(message)
        size = self._reference.size_bytes
        if piece.size and piece.size != size:
            raise BadPieceError(f"it has {piece.size:,} bytes there, not {size:,}")
        if not len(piece.data) or at + len(piece.data) > self._end:
            raise BadPieceError(f"{len(piece.data):,} bytes came where {self._end - at:,} are wanted")
        return piece

    def _start_writing(self, pieces: list[Piece]) -> asyncio.Future[None] | None:
        if not pieces:
            return None
        return asyncio.get_running_loop().run_in_executor(None, self._write, pieces)

    def _write(self, pieces: list[Piece]) -> None:
        """In a thread: checks and writes pieces, up to the first that is wrong."""
        for piece in pieces:
            piece.check()
            self._at = write_all(self._fd, piece.data, self._at)


def _fit_with_holes(fd: int, size: int) -> None:
    """Gives a file its size when there seems to be room for it; pages come with the bytes.

    Reserving them would write each page once more. Nobody maps the file before all is there.

    Raises:
        OSError: there is no room.
    """
    found, room = os.fstat(fd), os.fstatvfs(fd)
    missing = size - min(found.st_blocks * 512, found.st_size)
    # Those without bounds, like tmpfs with size=0, tell of no blocks at all.
    if room.f_blocks and missing > room.f_bavail * room.f_frsize:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if found.st_size != size:
        os.ftruncate(fd, size)


async def _written_by(writing: asyncio.Future[None] | None) -> None:
    if writing is not None:
        await in_thread(writing)


async def pieces_of(call: Any) -> AsyncGenerator[Any, None]:
    """The messages of a stream, none later than the bound after the one before."""
    try:
        while True:
            async with asyncio.timeout(SILENCE):
                message = await call.read()
            if message is grpc.aio.EOF:
                return
            yield message
    finally:
        call.cancel()
