"""The protocol of every blob store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Protocol

__all__ = ["BlobError", "BlobStore", "BlobTooLarge", "BlobUpload", "BlobWrong"]

PIECE_BYTES = 1 << 20


class BlobError(Exception):
    """A blob that cannot be stored or read; names it and the remedy."""


class BlobWrong(BlobError):
    """The bytes are not those of the CID they came under."""


class BlobTooLarge(BlobError):
    """There is no room: what is in use fills the bound."""


class BlobUpload(Protocol):
    """One blob on its way in. `finish` or `abort` ends it."""

    async def write(self, data: bytes) -> None:
        """Takes the next bytes.

        Raises:
            BlobWrong: there are more bytes than were announced.
        """

    async def finish(self) -> None:
        """Checks the bytes and keeps them.

        Raises:
            BlobWrong: they do not hash to the CID, or are fewer than were announced.
        """

    async def abort(self) -> None:
        """Throws away what came; after `finish` it does nothing."""


class BlobStore(Protocol):
    """Keeps blobs up to a bound in bytes. The least recently used go first, and never one that is pinned."""

    @property
    def bytes_held(self) -> int:
        """Bytes of all blobs held."""

    def has(self, cid: bytes) -> bool:
        """Whether the blob is here; it then counts as used."""

    async def begin(self, cid: bytes, size: int) -> BlobUpload:
        """Starts to store a blob.

        Raises:
            BlobTooLarge: there is no room for it.
        """

    def read(self, cid: bytes, piece_bytes: int = PIECE_BYTES) -> AsyncIterator[bytes]:
        """The blob in pieces of at most `piece_bytes`.

        Raises:
            KeyError: it is not here.
        """

    def size(self, cid: bytes) -> int:
        """Its length in bytes.

        Raises:
            KeyError: it is not here.
        """

    def pin(self, cids: Iterable[bytes]) -> None:
        """Keeps these until each pin is undone. They need not be here yet."""

    def unpin(self, cids: Iterable[bytes]) -> None:
        """Undoes one pin of each."""

    async def close(self) -> None:
        """Lets go of what the store holds open."""
