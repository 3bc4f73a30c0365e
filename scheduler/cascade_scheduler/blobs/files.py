"""Blobs as files of a directory: one file per blob, named by its CID in text."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import BinaryIO

from cascade_dist.codec.cid import CidHasher, cid_from_text, cid_to_text
from cascade_scheduler.blobs.base import PIECE_BYTES, BlobError, BlobWrong
from cascade_scheduler.blobs.index import BlobIndex
from cascade_scheduler.blobs.memory import check_whole

__all__ = ["FileBlobStore"]

_PARTIAL = ".partial"
_PARTIAL_SECONDS = 3600.0
"""An unfinished file that was not written to for so long belongs to a scheduler that died."""


class FileBlobStore:
    """`file://`. A blob appears under its name whole and checked, or not at all.

    Reads and writes of files run in threads, piece by piece: a disk that hangs holds the one transfer, not
    the scheduler.
    """

    def __init__(self, directory: Path, bytes_max: int) -> None:
        self._directory = directory
        self._index = BlobIndex(bytes_max)
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            entries = [(entry.stat(), entry.name) for entry in os.scandir(directory) if entry.is_file()]
        except OSError as error:
            raise BlobError(
                f"the blob directory {directory} cannot be used: {error.strerror or error}; "
                f"name another with --blob-dir"
            ) from None
        for stat, name in sorted(entries, key=lambda entry: (entry[0].st_mtime, entry[1])):
            if name.endswith(_PARTIAL):
                if time.time() - stat.st_mtime > _PARTIAL_SECONDS:
                    (directory / name).unlink(missing_ok=True)
                continue
            with contextlib.suppress(ValueError):  # not ours: it is left alone
                self._index.found(cid_from_text(name), stat.st_size)

    @property
    def bytes_held(self) -> int:
        """Bytes of all blobs held."""
        return self._index.bytes

    def has(self, cid: bytes) -> bool:
        """Whether the blob is here."""
        return self._index.use(cid)

    def size(self, cid: bytes) -> int:
        """Its length in bytes."""
        return self._index.size(cid)

    async def begin(self, cid: bytes, size: int) -> _Upload:
        """Starts to store a blob."""
        gone = [self._set_aside(old) for old in self._index.reserve(cid, size)]
        if gone:
            await asyncio.to_thread(_unlink, gone)
        upload = _Upload(self._index, self._path(cid), cid, size)
        try:
            await upload.open()
        except OSError as error:
            self._index.release(size)
            raise BlobError(f"the blob directory {self._directory}: {error.strerror or error}") from None
        return upload

    def _set_aside(self, cid: bytes) -> Path:
        """Takes a blob's name away at once, so that it may come back while the old file is being deleted."""
        aside = self._directory / f"{cid_to_text(cid)}.{secrets.token_hex(6)}{_PARTIAL}"
        with contextlib.suppress(FileNotFoundError):
            self._path(cid).rename(aside)
        return aside

    async def read(self, cid: bytes, piece_bytes: int = PIECE_BYTES) -> AsyncIterator[bytes]:
        """The blob in pieces."""
        if not self._index.use(cid):
            raise KeyError(cid)
        try:
            file = await asyncio.to_thread(self._path(cid).open, "rb")
        except FileNotFoundError:
            self._index.remove(cid)
            raise KeyError(cid) from None
        try:
            while piece := await asyncio.to_thread(file.read, piece_bytes):
                yield piece
        finally:
            file.close()

    def pin(self, cids: Iterable[bytes]) -> None:
        """Keeps these."""
        self._index.pin(cids)

    def unpin(self, cids: Iterable[bytes]) -> None:
        """Undoes one pin of each."""
        self._index.unpin(cids)

    async def close(self) -> None:
        """Does nothing."""

    def _path(self, cid: bytes) -> Path:
        return self._directory / cid_to_text(cid)


def _unlink(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


class _Upload:
    """One blob on its way in, under a name of its own: the same blob may come twice at the same time."""

    def __init__(self, index: BlobIndex, path: Path, cid: bytes, size: int) -> None:
        self._index = index
        self._path = path
        self._partial = path.with_name(f"{path.name}.{secrets.token_hex(6)}{_PARTIAL}")
        self._cid = cid
        self._size = size
        self._hasher = CidHasher()
        self._file: BinaryIO | None = None

    async def open(self) -> None:
        """Makes the file."""
        self._file = await asyncio.to_thread(self._partial.open, "xb")

    async def write(self, data: bytes) -> None:
        """Takes the next bytes."""
        if self._hasher.size + len(data) > self._size:
            raise BlobWrong(f"blob {cid_to_text(self._cid)} has more than the {self._size} bytes announced")
        await asyncio.to_thread(self._write, data)

    def _write(self, data: bytes) -> None:
        assert self._file is not None, "the upload is over"
        self._hasher.update(data)
        try:
            self._file.write(data)
        except OSError as error:
            raise BlobError(f"blob {cid_to_text(self._cid)}: {error.strerror or error}") from None

    async def finish(self) -> None:
        """Checks the bytes and keeps them."""
        check_whole(self._hasher, self._cid, self._size)
        assert self._file is not None, "the upload is over"
        try:
            await asyncio.to_thread(self._file.close)
            if self._cid in self._index:
                self._partial.unlink()
            else:
                self._partial.replace(self._path)
        except OSError as error:
            raise BlobError(f"blob {cid_to_text(self._cid)}: {error.strerror or error}") from None
        self._index.keep(self._cid, self._size)
        self._file = None

    async def abort(self) -> None:
        """Throws away what came."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self._partial.unlink(missing_ok=True)
            self._index.release(self._size)
