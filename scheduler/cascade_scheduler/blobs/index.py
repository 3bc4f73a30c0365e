"""Which blobs there are, which of them are in use, and which go when there is no room."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from cascade_dist.codec.cid import cid_to_text
from cascade_dist.config import format_size
from cascade_scheduler.blobs.base import BlobTooLarge

__all__ = ["BlobIndex"]


class BlobIndex:
    """CIDs and sizes, least recently used first, with a bound in bytes."""

    def __init__(self, bytes_max: int) -> None:
        self._sizes: OrderedDict[bytes, int] = OrderedDict()
        self._pins: dict[bytes, int] = {}
        self._bytes_max = bytes_max
        self.bytes = 0
        """Bytes of all blobs, those on their way in among them."""

    def __contains__(self, cid: bytes) -> bool:
        return cid in self._sizes

    def __len__(self) -> int:
        return len(self._sizes)

    def size(self, cid: bytes) -> int:
        """The blob's length; KeyError when it is not here."""
        return self._sizes[cid]

    def use(self, cid: bytes) -> bool:
        """Whether the blob is here; it then counts as used."""
        if cid not in self._sizes:
            return False
        self._sizes.move_to_end(cid)
        return True

    def reserve(self, cid: bytes, size: int) -> list[bytes]:
        """Makes room for a blob that is on its way in; returns those that have to go for it.

        Raises:
            BlobTooLarge: what is in use leaves no room.
        """
        gone = self._to_go(size)
        if self.bytes + size - sum(self._sizes[c] for c in gone) > self._bytes_max:
            raise BlobTooLarge(
                f"blob {cid_to_text(cid)} of {format_size(size)} does not fit: the blob store holds at most "
                f"{format_size(self._bytes_max)}, and {format_size(self.bytes)} are in use by runs; "
                f"raise --blob-bytes-max of the scheduler, or let runs finish"
            )
        for old in gone:
            self.remove(old)
        self.bytes += size
        return gone

    def _to_go(self, size: int) -> list[bytes]:
        gone: list[bytes] = []
        excess = self.bytes + size - self._bytes_max
        for cid, held in self._sizes.items():
            if excess <= 0:
                break
            if cid not in self._pins:
                gone.append(cid)
                excess -= held
        return gone

    def release(self, size: int) -> None:
        """A blob that was on its way in does not come."""
        self.bytes -= size

    def keep(self, cid: bytes, size: int) -> bool:
        """A blob whose room was reserved is in; False when it was here already."""
        if cid in self._sizes:
            self.bytes -= size
            return False
        self._sizes[cid] = size
        return True

    def found(self, cid: bytes, size: int) -> None:
        """A blob was there at the start; it counts, whatever the bound."""
        if cid not in self._sizes:
            self._sizes[cid] = size
            self.bytes += size

    def remove(self, cid: bytes) -> None:
        """The blob is gone."""
        size = self._sizes.pop(cid, None)
        if size is not None:
            self.bytes -= size

    def pin(self, cids: Iterable[bytes]) -> None:
        """Keeps these."""
        for cid in cids:
            self._pins[cid] = self._pins.get(cid, 0) + 1

    def unpin(self, cids: Iterable[bytes]) -> None:
        """Undoes one pin of each."""
        for cid in cids:
            left = self._pins.get(cid, 0) - 1
            if left > 0:
                self._pins[cid] = left
            else:
                self._pins.pop(cid, None)
