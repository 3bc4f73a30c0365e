"""Blobs by way of an IPFS node: fetched from it, and given to it, where there is one that answers.

Whatever goes wrong here is no error: the scheduler has every blob.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator

from cascade_dist.codec.cid import cid_to_text
from cascade_dist.storage.breaker import Breaker
from cascade_dist.storage.kubo import IpfsAway, IpfsError, IpfsLacks, Kubo
from cascade_worker.executor.files import reserve

__all__ = ["BlobNode"]

log = logging.getLogger("cascade.worker")

FIND_SECONDS = 3.0
"""How long the node may look for a blob that it does not have; then the scheduler is asked."""
SILENCE_SECONDS = 10.0
AWAY_SECONDS = 30.0
"""A node that did not answer is left alone for so long."""
_PIECE_BYTES = 1 << 20


class BlobNode:
    """The node of this worker, or the one that the scheduler names; none while the scheduler has none, as no
    node would find what that keeps in files alone.

    Args:
        url: of the node's RPC; empty: none; None: as the scheduler says.

    Raises:
        ValueError: it is no URL.
        ImportError: aiohttp is not installed.
    """

    def __init__(self, url: str | None = None) -> None:
        self._own = url
        self._breaker = Breaker(AWAY_SECONDS)
        self._kubo: Kubo | None = None
        if url:
            Kubo(url)  # says what is wrong with it

    def told(self, url: str) -> None:
        """The scheduler's node, as `Welcome` says; empty: it has none."""
        if url and self._own is not None:
            url = self._own
        if url == (self._kubo.url if self._kubo is not None else ""):
            return
        old, self._kubo, self._breaker = self._kubo, None, Breaker(AWAY_SECONDS)
        if old is not None:
            asyncio.get_running_loop().create_task(old.close())
        if not url:
            return
        try:
            self._kubo = Kubo(url, SILENCE_SECONDS)
        except (ValueError, ImportError) as error:
            log.warning("blobs come from the scheduler: %s", error)

    async def fetch(self, cid: bytes, size: int, paths: list[str]) -> str | None:
        """Writes a blob into the first of some files that there is room for.

        Returns:
            The path; None when it could not be had, or there was no room.
        """
        kubo = self._kubo
        if kubo is None or not self._breaker.may_try():
            return None
        for path in paths:
            try:
                await kubo.version()  # one that hangs is told from one that looks for the blob
                await self._write(kubo, cid, size, path)
            except IpfsError as error:
                self._trouble("a blob is fetched from the scheduler", error)
                return None
            except OSError as error:
                log.debug("blob %s into %s: %s", cid_to_text(cid), path, error)
            else:
                self._breaker.worked()
                log.debug("blob %s came from IPFS", cid_to_text(cid))
                return path
        return None

    async def _write(self, kubo: Kubo, cid: bytes, size: int, path: str) -> None:
        part = f"{path}.ipfs"
        fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            reserve(fd, size)
            at = 0
            async with contextlib.aclosing(kubo.cat_pieces(cid_to_text(cid), size, FIND_SECONDS)) as pieces:
                async for piece in pieces:
                    os.pwrite(fd, piece, at)
                    at += len(piece)
            os.rename(part, path)  # all of them hash to the CID, so there are as many as were meant
        finally:
            os.close(fd)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part)

    async def read(self, cid: bytes, bytes_max: int) -> bytes | None:
        """A blob in memory; None when it could not be had."""
        kubo = self._kubo
        if kubo is None or not self._breaker.may_try():
            return None
        try:
            text = cid_to_text(cid)
            await kubo.version()
            async with contextlib.aclosing(kubo.cat_pieces(text, bytes_max, FIND_SECONDS)) as pieces:
                data = b"".join([piece async for piece in pieces])
        except IpfsError as error:
            self._trouble("a function is fetched from the scheduler", error)
            return None
        self._breaker.worked()
        log.debug("blob %s came from IPFS", text)
        return data

    async def give(self, path: str, cid: bytes, size: int) -> bool:
        """Has the node store a file; False when it did not. It stays there until the node cleans up."""
        kubo = self._kubo
        if kubo is None or not self._breaker.may_try():
            return False
        try:
            await kubo.version()
            await kubo.add_pieces(cid_to_text(cid), size, lambda: _pieces_of(path))
        except IpfsError as error:
            self._trouble("a blob is sent to the scheduler", error)
            return False
        self._breaker.worked()
        log.debug("blob %s was given to IPFS", cid_to_text(cid))
        return True

    def _trouble(self, instead: str, error: IpfsError) -> None:
        if isinstance(error, IpfsLacks):
            self._breaker.worked()
            log.debug("%s: %s", instead, error)
        elif not isinstance(error, IpfsAway):
            log.warning("%s: %s", instead, error)
        elif self._breaker.failed():
            log.warning("%s, like all others for a while: %s", instead, error)

    async def close(self) -> None:
        """Ends the session with the node."""
        if self._kubo is not None:
            await self._kubo.close()


async def _pieces_of(path: str) -> AsyncIterator[bytes]:
    with open(path, "rb", buffering=0) as file:  # noqa: ASYNC230 - shared memory, or the page cache
        while piece := file.read(_PIECE_BYTES):
            yield piece
