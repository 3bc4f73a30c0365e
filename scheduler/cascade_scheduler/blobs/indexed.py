"""What blob stores with an index of their own have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Container, Iterable

from cascade_scheduler.blobs.base import BlobInfo
from cascade_scheduler.blobs.index import BlobIndex

__all__ = ["IndexedBlobs"]


class IndexedBlobs(ABC):
    """Answers from the index.

    Args:
        bytes_max: of all blobs together.
    """

    def __init__(self, bytes_max: int) -> None:
        self._index = BlobIndex(bytes_max)

    @property
    def ipfs_url(self) -> str:
        """None has them."""
        return ""

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

    def pin(self, cids: Iterable[bytes]) -> None:
        """Keeps these."""
        self._index.pin(cids)

    def listing(self) -> list[BlobInfo]:
        """What is here."""
        return self._index.listing()

    async def collect(
        self, named: Container[bytes], *, idle_seconds: float, dry_run: bool = False
    ) -> tuple[int, int]:
        """Deletes what nobody needs."""
        gone = self._index.idle(named, idle_seconds)
        size = sum(map(self._index.size, gone))
        if not dry_run:
            await self.drop(gone)
        return len(gone), size

    @abstractmethod
    async def drop(self, cids: Iterable[bytes]) -> None:
        """Deletes blobs."""

    async def close(self) -> None:
        """Nothing is held open."""
        return
