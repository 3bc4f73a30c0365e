"""The protocol of every blob store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Container, Iterable
from time import monotonic
from typing import NamedTuple, Protocol

__all__ = [
    "BlobError",
    "BlobInfo",
    "BlobMended",
    "BlobStore",
    "BlobTooLarge",
    "BlobUpload",
    "BlobWrong",
    "find_all",
]

PIECE_BYTES = 1 << 20
FIND_SECONDS = 10.0
"""How long the network may be asked for one of many blobs."""
FIND_ALL_SECONDS = 60.0


class BlobError(Exception):
    """A blob that cannot be stored or read; names it and the remedy."""


class BlobWrong(BlobError):
    """The bytes are not those of the CID they came under."""


class BlobMended(BlobError):
    """The bytes had changed, and have been fetched from elsewhere: read again, they are right."""


class BlobTooLarge(BlobError):
    """There is no room: what is in use fills the bound, or the disk is full."""


class BlobInfo(NamedTuple):
    """A blob that a store holds."""

    cid: bytes
    size: int
    """Bytes."""
    used: float
    """When it was last used, in seconds since the Unix epoch."""
    in_use: bool
    """Something that the scheduler knows needs it: a run, a transfer."""
    kept: bool
    """Somebody has pinned it."""


class BlobUpload(Protocol):
    """One blob on its way in. `finish` or `abort` ends it."""

    async def write(self, data: bytes) -> None:
        """Takes the next bytes.

        Raises:
            BlobWrong: there are more bytes than were announced.
            BlobTooLarge: the disk is full.
        """

    async def finish(self) -> None:
        """Checks the bytes and keeps them.

        Raises:
            BlobWrong: they do not hash to the CID, or are fewer than were announced.
        """

    async def abort(self) -> None:
        """Throws away what came; after `finish` it does nothing."""


class BlobStore(Protocol):
    """Keeps blobs up to a bound in bytes. The least recently used go first, and never one that is pinned.

    What it knows it answers at once (`has`, `size`, `pin`, `listing`); what has to be looked at is awaited.
    Pins are counted and end with the process; what is kept is kept until it is let go, through restarts.
    """

    @property
    def ipfs_url(self) -> str:
        """Of the RPC of an IPFS node that has the blobs too; empty: none."""

    @property
    def bytes_held(self) -> int:
        """Bytes of all blobs held."""

    async def open(self) -> None:
        """Finds what is there, as far as it came after this was made: another scheduler may have led before.

        Raises:
            BlobError: the place cannot be read.
        """

    def has(self, cid: bytes) -> bool:
        """Whether the blob is known to be here; it then counts as used."""

    async def find(self, cid: bytes, seconds: float = 0.0) -> int | None:
        """The length of a blob, which is looked for where `has` does not look; None when it is not there.

        Args:
            cid: which.
            seconds: how long the network may be asked for it, where there is one.
        """

    async def begin(self, cid: bytes, size: int) -> BlobUpload:
        """Starts to store a blob.

        Raises:
            BlobTooLarge: there is no room for it.
        """

    def read(self, cid: bytes, piece_bytes: int = PIECE_BYTES) -> AsyncIterator[bytes]:
        """The blob in pieces of at most `piece_bytes`. The last comes when all have been checked.

        Raises:
            KeyError: it is not here.
            BlobWrong: its bytes have changed; it is not here any more.
            BlobMended: its bytes had changed; it is whole again.
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

    async def keep(self, cid: bytes) -> None:
        """Keeps a blob, through restarts, until it is let go.

        Raises:
            KeyError: it is not here.
        """

    async def let_go(self, cid: bytes) -> bool:
        """Undoes `keep`; False when it was not kept."""

    def listing(self) -> list[BlobInfo]:
        """What is here, the least recently used first."""

    async def collect(
        self, named: Container[bytes], *, idle_seconds: float, dry_run: bool = False
    ) -> tuple[int, int]:
        """Deletes what is not pinned, kept or named and was not used for so long; count and bytes of it."""

    async def close(self) -> None:
        """Lets go of what the store holds open."""


async def find_all(store: BlobStore, cids: Iterable[bytes]) -> None:
    """Looks for blobs that the store does not know, wherever it can; `has` then says which are there.

    Another scheduler may have stored them: one that led before this one took over.
    """
    deadline = monotonic() + FIND_ALL_SECONDS
    for cid in cids:
        if not store.has(cid):
            await store.find(cid, min(FIND_SECONDS, max(0.0, deadline - monotonic())))
