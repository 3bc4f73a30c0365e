"""Blobs in IPFS: what the scheduler holds in files, a node serves to whoever asks for the CID.

The files are the store; the node is given, and keeps pinned, what they hold. So a node that is down or hangs
is missed by nobody but those who would have fetched from it: they ask the scheduler. What came meanwhile is
given to the node when it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Iterable

from cascade_dist.codec.cid import cid_from_text, cid_to_text
from cascade_dist.storage.breaker import Breaker
from cascade_dist.storage.kubo import IpfsError, IpfsLacks, Kubo
from cascade_dist.storage.pin_names import left_by, may_take
from cascade_scheduler.blobs.base import (
    FIND_SECONDS,
    PIECE_BYTES,
    BlobError,
    BlobInfo,
    BlobMended,
    BlobUpload,
    BlobWrong,
)
from cascade_scheduler.blobs.files import FileBlobStore

__all__ = ["IpfsBlobStore"]

CATCH_UP_SECONDS = 5.0
"""How often the node is given what it missed."""
CLOSE_SECONDS = 5.0
COMPARE_SECONDS = 300.0
SAY_SECONDS = 60.0
"""The same trouble is told once in so long."""
SILENCE_SECONDS = 10.0

logger = logging.getLogger("cascade.scheduler")


class IpfsBlobStore:
    """`ipfs://host:port`.

    Args:
        local: the files.
        url: of the node's RPC.
        name: of this store's pins.
        temporary: the pins go with this process.
        lives: whether a process of this machine lives.
    """

    def __init__(
        self,
        local: FileBlobStore,
        url: str,
        *,
        name: str,
        temporary: bool = False,
        lives: Callable[[int], bool] = lambda pid: True,
    ) -> None:
        self._local = local
        self._kubo = Kubo(url, SILENCE_SECONDS)
        self._breaker = Breaker(CATCH_UP_SECONDS)
        self._name = name
        self._temporary = temporary
        self._lives = lives
        self._behind: set[bytes] = set()
        """What the node was not given yet."""
        self._to_unpin: set[bytes] = set()
        self._said = ("", 0.0)
        """The last warning, and when."""
        self._compare_at = 0.0
        """When the node's pins are to be compared with the files: others may drop what both have."""
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        local.on_gone = self._gone

    async def open(self) -> None:
        """Finds what is there, and begins to give it to the node."""
        await self._local.open()
        if self._task is None:
            self._task = asyncio.create_task(self._catch_up(), name="blobs to ipfs")

    @property
    def ipfs_url(self) -> str:
        """Of the node's RPC, which workers are told."""
        return self._kubo.url

    # --- as the files --------------------------------------------------------------------------------

    @property
    def bytes_held(self) -> int:
        """Bytes of all blobs held."""
        return self._local.bytes_held

    def has(self, cid: bytes) -> bool:
        """Whether the blob is here."""
        return self._local.has(cid)

    def size(self, cid: bytes) -> int:
        """Its length in bytes."""
        return self._local.size(cid)

    async def read(self, cid: bytes, piece_bytes: int = PIECE_BYTES) -> AsyncIterator[bytes]:
        """The blob in pieces. A file that has changed is replaced by what the node has."""
        try:
            async for piece in self._local.read(cid, piece_bytes):
                yield piece
        except BlobWrong as error:
            if await self.find(cid, FIND_SECONDS) is None:
                raise
            logger.warning("blobs in IPFS: %s; it was fetched again from the node", error)
            raise BlobMended(f"blob {cid_to_text(cid)} had changed on disk, and is whole again") from None

    def pin(self, cids: Iterable[bytes]) -> None:
        """Keeps these."""
        self._local.pin(cids)

    def unpin(self, cids: Iterable[bytes]) -> None:
        """Undoes one pin of each."""
        self._local.unpin(cids)

    async def keep(self, cid: bytes) -> None:
        """Keeps a blob."""
        await self._local.keep(cid)

    async def let_go(self, cid: bytes) -> bool:
        """Undoes `keep`."""
        return await self._local.let_go(cid)

    def listing(self) -> list[BlobInfo]:
        """What is here."""
        return self._local.listing()

    async def collect(
        self, named: Container[bytes], *, idle_seconds: float, dry_run: bool = False
    ) -> tuple[int, int]:
        """Deletes what nobody needs; the node unpins it."""
        return await self._local.collect(named, idle_seconds=idle_seconds, dry_run=dry_run)

    # --- the node ------------------------------------------------------------------------------------

    async def begin(self, cid: bytes, size: int) -> _Upload:
        """Starts to store a blob."""
        return _Upload(await self._local.begin(cid, size), self._give, cid)

    async def find(self, cid: bytes, seconds: float = 0.0) -> int | None:
        """The length of a blob; one that only the network has is fetched."""
        size = await self._local.find(cid)
        if size is not None or seconds <= 0 or not self._breaker.may_try():
            return size
        text = cid_to_text(cid)
        try:
            await self._kubo.version()
            size = await self._kubo.size(text, seconds)
            upload = await self.begin(cid, size)
            try:
                async with contextlib.aclosing(self._kubo.cat_pieces(text, size, seconds)) as pieces:
                    async for piece in pieces:
                        await upload.write(piece)
                await upload.finish()
            finally:
                await upload.abort()
        except IpfsLacks:
            self._answered()
            return None
        except (IpfsError, BlobError) as error:
            self._trouble(error)
            return None
        self._answered()
        return size

    async def _give(self, cid: bytes) -> None:
        """Has the node store and pin a blob, now or when it is back."""
        self._to_unpin.discard(cid)
        if self._breaker.may_try():
            await self._push(cid)
        else:
            self._behind.add(cid)

    async def _push(self, cid: bytes) -> None:
        try:
            size = self._local.size(cid)
            await self._kubo.version()  # one that hangs is told from one that is slow
            await self._kubo.add_pieces(cid_to_text(cid), size, lambda: self._local.read(cid), pin=self._name)
        except IpfsError as error:
            self._behind.add(cid)
            self._trouble(error)
        except (BlobError, KeyError):
            self._behind.discard(cid)  # it is gone, or damaged: whoever reads it is told
        else:
            self._behind.discard(cid)
            self._answered()

    def _trouble(self, error: Exception) -> None:
        self._breaker.failed()
        text, now = str(error), time.monotonic()
        if text == self._said[0] and now - self._said[1] < SAY_SECONDS:
            return
        self._said = (text, now)
        logger.warning("blobs in IPFS: %s; the scheduler serves what the node does not", text)

    def _answered(self) -> None:
        if self._breaker.worked():
            logger.info("blobs in IPFS: the node at %s answers again", self.ipfs_url)

    def _gone(self, cid: bytes) -> None:
        self._behind.discard(cid)
        self._to_unpin.add(cid)
        self._wake.set()

    async def _catch_up(self) -> None:
        """Gives the node what it missed, and unpins what is gone."""
        while True:
            try:
                if self._breaker.may_try():
                    if time.monotonic() >= self._compare_at:
                        await self._compare()
                    await self._unpin_gone()
                    for cid in list(self._behind):
                        await self._push(cid)
                        if self._breaker.away:
                            break
                    if self._breaker.away and not self._behind:
                        await self._kubo.version()
                        self._answered()
            except IpfsError as error:
                self._trouble(error)
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CATCH_UP_SECONDS):
                    await self._wake.wait()

    async def _compare(self) -> None:
        """What the node pins for this store, and what it should; what dead schedulers left is unpinned."""
        pinned = await self._kubo.pins()
        self._answered()
        ours, kept = set(), set()
        for text, name in pinned.items():
            if name == self._name:
                ours.add(cid_from_text(text))
            elif (pid := left_by(name)) is not None and not self._lives(pid):
                await self._kubo.unpin(text, name)
            elif not may_take(self._name, name):
                kept.add(text)
        held = {blob.cid for blob in self._local.listing()}
        self._behind |= {cid for cid in held - ours if cid_to_text(cid) not in kept}
        self._to_unpin |= ours - held
        self._compare_at = time.monotonic() + COMPARE_SECONDS

    async def _unpin_gone(self) -> None:
        while self._to_unpin:
            cid = self._to_unpin.pop()
            if self._local.has(cid):
                continue  # it has come again
            try:
                await self._kubo.unpin(cid_to_text(cid), self._name)
            except IpfsError:
                self._to_unpin.add(cid)
                raise
            self._answered()
            if self._local.has(cid):
                self._behind.add(cid)  # it has come again meanwhile, and its pin may have gone

    async def close(self) -> None:
        """Lets go of the node; a temporary store's pins go."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        if self._temporary and not self._breaker.away:
            with contextlib.suppress(IpfsError, TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    for blob in self._local.listing():
                        await self._kubo.unpin(cid_to_text(blob.cid), self._name)
        await self._kubo.close()
        await self._local.close()


class _Upload:
    """One blob on its way in, first to the files, then to the node."""

    def __init__(self, local: BlobUpload, give: Callable[[bytes], Awaitable[None]], cid: bytes) -> None:
        self._local = local
        self._give = give
        self._cid = cid

    async def write(self, data: bytes) -> None:
        """Takes the next bytes."""
        await self._local.write(data)

    async def finish(self) -> None:
        """Checks the bytes, keeps them, and gives them to the node."""
        await self._local.finish()
        await self._give(self._cid)

    async def abort(self) -> None:
        """Throws away what came."""
        await self._local.abort()
