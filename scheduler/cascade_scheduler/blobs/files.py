"""Blobs as files of a directory: one file per blob, named by its CID in text.

A file's time of change is when its blob was last used. An empty file ``<CID>.kept`` says that somebody has
pinned it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import BinaryIO

from cascade_dist.codec.cid import CidHasher, cid_from_text, cid_to_text
from cascade_dist.config import format_size
from cascade_scheduler.blobs.base import PIECE_BYTES, BlobError, BlobTooLarge, BlobWrong
from cascade_scheduler.blobs.index import BlobIndex
from cascade_scheduler.blobs.indexed import IndexedBlobs
from cascade_scheduler.blobs.memory import check_whole

__all__ = ["FileBlobStore"]

_PARTIAL = ".partial"
_KEPT = ".kept"
_PARTIAL_SECONDS = 3600.0
"""An unfinished file that was not written to for so long belongs to a scheduler that died."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class FileBlobStore(IndexedBlobs):
    """`file://`. A blob appears under its name whole and checked, or not at all.

    Reads and writes of files run in threads, piece by piece: a disk that hangs holds the one transfer, not
    the scheduler.

    Args:
        directory: made if need be.
        bytes_max: of all blobs together.
        lasting: a blob that was taken is on the disk, also when the machine loses its power.

    Raises:
        BlobError: the directory cannot be used.
    """

    def __init__(self, directory: Path, bytes_max: int, *, lasting: bool = True) -> None:
        super().__init__(bytes_max)
        self._directory = directory
        self._lasting = lasting
        self.on_gone: Callable[[bytes], None] = lambda cid: None
        """Told of each blob that is deleted."""
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._scan()
        except OSError as error:
            raise self._unusable(error) from None

    def _scan(self) -> None:
        entries = [(entry.stat(), entry.name) for entry in os.scandir(self._directory) if entry.is_file()]
        for stat, name in sorted(entries, key=lambda entry: (entry[0].st_mtime, entry[1])):
            if name.endswith(_PARTIAL):
                if time.time() - stat.st_mtime > _PARTIAL_SECONDS:
                    (self._directory / name).unlink(missing_ok=True)
                continue
            with contextlib.suppress(ValueError):  # not ours: it is left alone
                if name.endswith(_KEPT):
                    self._index.kept.add(cid_from_text(name.removesuffix(_KEPT)))
                else:
                    self._index.found(cid_from_text(name), stat.st_size, stat.st_mtime)

    def _unusable(self, error: OSError) -> BlobError:
        return BlobError(
            f"the blob directory {self._directory} cannot be used: {error.strerror or error}; "
            f"name another with --blobs"
        )

    @property
    def directory(self) -> Path:
        """Where the files are."""
        return self._directory

    async def open(self) -> None:
        """Finds what came since."""
        try:
            self._scan()
        except OSError as error:
            raise self._unusable(error) from None

    async def find(self, cid: bytes, seconds: float = 0.0) -> int | None:
        """The length of a blob; one that another scheduler has put into the directory is found too."""
        if not self._index.use(cid):
            try:
                found = await asyncio.to_thread(self._path(cid).stat)
            except OSError:
                return None
            self._index.found(cid, found.st_size)
        return self._index.size(cid)

    # --- writing -------------------------------------------------------------------------------------

    async def begin(self, cid: bytes, size: int) -> _Upload:
        """Starts to store a blob."""
        await self._delete(self._index.reserve(cid, size))
        upload = _Upload(self._index, self._path(cid), cid, size, self._lasting)
        try:
            try:
                await upload.open()
            except OSError as error:
                if error.errno not in _FULL or not (free := self._index.oldest(size)):
                    raise
                # The disk has less room than our bound allows: what nobody needs goes first.
                await self.drop(free)
                await upload.open()
        except OSError as error:
            await upload.abort()
            raise _failed(cid, size, self._directory, error) from None
        return upload

    async def drop(self, cids: Iterable[bytes]) -> None:
        """Deletes blobs."""
        cids = list(cids)
        for cid in cids:
            self._index.remove(cid)
        await self._delete(cids)

    async def _delete(self, cids: Iterable[bytes]) -> None:
        """Deletes the files of blobs that the index has given up."""
        aside = []
        for cid in cids:
            aside.append(self._set_aside(cid))
            self.on_gone(cid)
        if aside:
            await asyncio.to_thread(_unlink, aside)

    def _set_aside(self, cid: bytes) -> Path:
        """Takes a blob's name away at once, so that it may come back while the old file is being deleted."""
        aside = self._directory / f"{cid_to_text(cid)}.{secrets.token_hex(6)}{_PARTIAL}"
        with contextlib.suppress(FileNotFoundError):
            self._path(cid).rename(aside)
        return aside

    # --- reading -------------------------------------------------------------------------------------

    async def read(self, cid: bytes, piece_bytes: int = PIECE_BYTES) -> AsyncIterator[bytes]:
        """The blob in pieces."""
        if not self._index.use(cid):
            raise KeyError(cid)
        try:
            file = await asyncio.to_thread(self._path(cid).open, "rb")
        except FileNotFoundError:
            self._index.remove(cid)
            raise KeyError(cid) from None
        hasher = CidHasher()
        held = b""
        try:
            while piece := await asyncio.to_thread(_read_piece, file, piece_bytes, hasher):
                if held:
                    yield held
                held = piece
        except OSError as error:
            raise BlobError(
                f"blob {cid_to_text(cid)} cannot be read from {self._directory}: {error.strerror or error}"
            ) from None
        finally:
            file.close()
        if hasher.digest() != cid:
            self._index.remove(cid)
            await asyncio.to_thread(self._set_aside(cid).unlink, missing_ok=True)
            raise BlobWrong(
                f"blob {cid_to_text(cid)} has changed on disk: the {hasher.size:,} bytes in "
                f"{self._directory} do not hash to its name; the file is removed. Submit again what needs it"
            )
        if held:
            yield held

    # --- what stays ----------------------------------------------------------------------------------

    def unpin(self, cids: Iterable[bytes]) -> None:
        """Undoes one pin of each. From now on their time runs, also for a scheduler that comes after this."""
        for cid in self._index.unpin(cids):
            with contextlib.suppress(OSError):
                os.utime(self._path(cid))

    async def keep(self, cid: bytes) -> None:
        """Keeps a blob."""
        self._index.size(cid)
        try:
            self._path(cid, _KEPT).touch(0o600)
            if self._lasting:
                await asyncio.to_thread(_sync, self._directory)
        except OSError as error:
            raise BlobError(
                f"blob {cid_to_text(cid)} cannot be pinned in {self._directory}: {error.strerror or error}"
            ) from None
        self._index.kept.add(cid)

    async def let_go(self, cid: bytes) -> bool:
        """Undoes `keep`."""
        kept = cid in self._index.kept
        self._index.kept.discard(cid)
        self._path(cid, _KEPT).unlink(missing_ok=True)
        if self._index.use(cid):
            with contextlib.suppress(OSError):
                os.utime(self._path(cid))
        return kept

    def _path(self, cid: bytes, suffix: str = "") -> Path:
        return self._directory / (cid_to_text(cid) + suffix)


def _sync(path: Path) -> None:
    """Brings a file or the names in a directory to the disk."""
    there = os.open(path, os.O_RDONLY)
    try:
        os.fsync(there)
    finally:
        os.close(there)


def _unlink(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _read_piece(file: BinaryIO, size: int, hasher: CidHasher) -> bytes:
    piece = file.read(size)
    hasher.update(piece)
    return piece


def _failed(cid: bytes, size: int, directory: Path, error: OSError) -> BlobError:
    """The error of a write: which blob, where, and what to do."""
    name, reason = cid_to_text(cid), error.strerror or str(error)
    if error.errno not in _FULL:
        return BlobError(f"blob {name} cannot be stored in {directory}: {reason}")
    return BlobTooLarge(
        f"blob {name} of {format_size(size)} cannot be stored: the disk of the blob directory "
        f"{directory} is full ({reason}); free space there, or start the scheduler with --blobs naming "
        "a larger disk"
    )


class _Upload:
    """One blob on its way in, under a name of its own: the same blob may come twice at the same time."""

    def __init__(self, index: BlobIndex, path: Path, cid: bytes, size: int, lasting: bool) -> None:
        self._index = index
        self._lasting = lasting
        self._path = path
        self._partial = path.with_name(f"{path.name}.{secrets.token_hex(6)}{_PARTIAL}")
        self._cid = cid
        self._size = size
        self._hasher = CidHasher()
        self._file: BinaryIO | None = None
        self._over = False

    async def open(self) -> None:
        """Makes the file, and room for all of it."""
        self._file = await asyncio.to_thread(self._make)

    def _make(self) -> BinaryIO:
        file = self._partial.open("xb", buffering=0)
        try:
            if self._size and hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, self._size)
        except OSError as error:
            if error.errno in _FULL:
                file.close()
                self._partial.unlink(missing_ok=True)
                raise
        return file

    async def write(self, data: bytes) -> None:
        """Takes the next bytes."""
        if self._hasher.size + len(data) > self._size:
            raise BlobWrong(f"blob {cid_to_text(self._cid)} has more than the {self._size} bytes announced")
        await asyncio.to_thread(self._write, data)

    def _write(self, data: bytes) -> None:
        assert self._file is not None, "the upload is over"
        self._hasher.update(data)
        left = memoryview(data)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise _failed(self._cid, self._size, self._path.parent, error) from None

    async def finish(self) -> None:
        """Checks the bytes and keeps them."""
        check_whole(self._hasher, self._cid, self._size)
        assert self._file is not None, "the upload is over"
        try:
            await asyncio.to_thread(self._file.close)
            if self._lasting:
                await asyncio.to_thread(_sync, self._partial)
            if self._cid in self._index:
                self._partial.unlink()
            else:
                self._partial.replace(self._path)
            self._index.keep(self._cid, self._size)
            self._file = None
            self._over = True
            if self._lasting:
                await asyncio.to_thread(_sync, self._path.parent)
        except OSError as error:
            raise _failed(self._cid, self._size, self._path.parent, error) from None

    async def abort(self) -> None:
        """Throws away what came."""
        if self._over:
            return
        self._over = True
        if self._file is not None:
            self._file.close()
            self._file = None
        self._partial.unlink(missing_ok=True)
        self._index.release(self._size)
