"""Which blobs there are, which of them are in use, and which go when there is no room."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Container, Iterable

from cascade_dist.codec.cid import cid_to_text
from cascade_dist.config import format_size
from cascade_scheduler.blobs.base import BlobInfo, BlobTooLarge

__all__ = ["BlobIndex"]


class BlobIndex:
    """CIDs and sizes, least recently used first, with a bound in bytes.

    Args:
        bytes_max: the bound.
        clock: seconds since the Unix epoch.
    """

    def __init__(self, bytes_max: int, clock: Callable[[], float] = time.time) -> None:
        self._sizes: OrderedDict[bytes, int] = OrderedDict()
        self._used: dict[bytes, float] = {}
        self._pins: dict[bytes, int] = {}
        self.kept: set[bytes] = set()
        """Blobs that stay until somebody lets them go."""
        self._bytes_max = bytes_max
        self._clock = clock
        self.bytes = 0
        """Bytes of all blobs, those on their way in among them."""

    def __contains__(self, cid: bytes) -> bool:
        return cid in self._sizes

    def __len__(self) -> int:
        return len(self._sizes)

    def size(self, cid: bytes) -> int:
        """The blob's length; KeyError when it is not here."""
        return self._sizes[cid]

    def used(self, cid: bytes) -> float:
        """When the blob was last used; KeyError when it is not here."""
        return self._used[cid]

    def use(self, cid: bytes) -> bool:
        """Whether the blob is here; it then counts as used."""
        if cid not in self._sizes:
            return False
        self._sizes.move_to_end(cid)
        self._used[cid] = self._clock()
        return True

    def reserve(self, cid: bytes, size: int) -> list[bytes]:
        """Makes room for a blob that is on its way in; returns those that have to go for it.

        Raises:
            BlobTooLarge: what is in use leaves no room.
        """
        if size > self._bytes_max:
            raise BlobTooLarge(
                f"blob {cid_to_text(cid)} of {format_size(size)} does not fit: it is larger than the whole "
                f"blob store, which holds at most {format_size(self._bytes_max)}; raise --blob-bytes-max of "
                "the scheduler, or pass less"
            )
        excess = self.bytes + size - self._bytes_max
        gone = self.oldest(excess)
        if sum(self._sizes[c] for c in gone) < excess:
            raise BlobTooLarge(
                f"blob {cid_to_text(cid)} of {format_size(size)} does not fit: the blob store holds at most "
                f"{format_size(self._bytes_max)}, and {format_size(self.bytes)} are in use by runs or pinned"
                f"; raise --blob-bytes-max of the scheduler, let runs finish, or unpin (cascade blobs unpin)"
            )
        for old in gone:
            self.remove(old)
        self.bytes += size
        return gone

    def oldest(self, size: int) -> list[bytes]:
        """The least recently used blobs that nobody needs, as many as take `size` bytes, if there are."""
        gone: list[bytes] = []
        for cid, held in self._sizes.items():
            if size <= 0:
                break
            if self._is_free(cid):
                gone.append(cid)
                size -= held
        return gone

    def _is_free(self, cid: bytes) -> bool:
        return cid not in self._pins and cid not in self.kept

    def idle(self, named: Container[bytes], idle_seconds: float) -> list[bytes]:
        """The blobs that nobody needs or names, and that were not used for so long."""
        before = self._clock() - idle_seconds
        return [
            cid
            for cid, used in self._used.items()
            if used <= before and self._is_free(cid) and cid not in named
        ]

    def release(self, size: int) -> None:
        """A blob that was on its way in does not come."""
        self.bytes -= size

    def keep(self, cid: bytes, size: int) -> bool:
        """A blob whose room was reserved is in; False when it was here already."""
        if cid in self._sizes:
            self.bytes -= size
            return False
        self._sizes[cid] = size
        self._used[cid] = self._clock()
        return True

    def found(self, cid: bytes, size: int, used: float | None = None) -> None:
        """A blob was there already; it counts, whatever the bound."""
        if cid not in self._sizes:
            self._sizes[cid] = size
            self._used[cid] = self._clock() if used is None else used
            self.bytes += size

    def remove(self, cid: bytes) -> None:
        """The blob is gone."""
        size = self._sizes.pop(cid, None)
        if size is not None:
            del self._used[cid]
            self.bytes -= size

    def pin(self, cids: Iterable[bytes]) -> None:
        """Keeps these."""
        for cid in cids:
            self._pins[cid] = self._pins.get(cid, 0) + 1

    def unpin(self, cids: Iterable[bytes]) -> list[bytes]:
        """Undoes one pin of each; returns those that are here and in use no more."""
        free = []
        for cid in cids:
            left = self._pins.get(cid, 0) - 1
            if left > 0:
                self._pins[cid] = left
            else:
                self._pins.pop(cid, None)
                if self.use(cid):
                    free.append(cid)
        return free

    def listing(self) -> list[BlobInfo]:
        """What is here, the least recently used first."""
        return [
            BlobInfo(cid, size, self._used[cid], cid in self._pins, cid in self.kept)
            for cid, size in self._sizes.items()
        ]
