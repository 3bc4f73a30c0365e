"""Bodies of users' functions by content id, bounded; bytes that nobody here ever loads."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

from cascade_dist.codec.cid import cid_of, cid_to_text

__all__ = ["FunctionBody", "FunctionStore", "WrongBytes"]


class WrongBytes(ValueError):
    """Bytes that do not hash to the CID they came under."""


class FunctionBody(NamedTuple):
    """One function as it travels."""

    cid: bytes
    body: bytes
    name: str
    code_hash: bytes


class FunctionStore:
    """Function bodies. What live runs name stays; of the rest, the least recently used goes first."""

    def __init__(self, bytes_max: int = 256 << 20) -> None:
        self._bodies: OrderedDict[bytes, FunctionBody] = OrderedDict()
        self._pins: dict[bytes, int] = {}
        self._bytes_max = bytes_max
        self.bytes = 0
        """Bytes of all bodies held."""

    def __contains__(self, cid: bytes) -> bool:
        return cid in self._bodies

    def __len__(self) -> int:
        return len(self._bodies)

    def has_all(self, cids: Iterable[bytes]) -> bool:
        """Whether all of these are here."""
        bodies = self._bodies
        for cid in cids:  # noqa: SIM110 - a loop is faster here, and this is hot
            if cid not in bodies:
                return False
        return True

    def get(self, cid: bytes) -> FunctionBody | None:
        """The function, if it is here."""
        found = self._bodies.get(cid)
        if found is not None:
            self._bodies.move_to_end(cid)
        return found

    def put(self, function: FunctionBody) -> None:
        """Keeps a function.

        Raises:
            WrongBytes: the body does not hash to the CID.
        """
        cid = function.cid
        if cid in self._bodies:
            self._bodies.move_to_end(cid)
            return
        if cid_of(function.body) != cid:
            raise WrongBytes(f"the body of function {function.name!r} is not that of {cid_to_text(cid)}")
        self._bodies[cid] = function
        self.bytes += len(function.body)
        self._trim()

    def put_reference(self, function: FunctionBody) -> None:
        """Keeps a function whose body is a blob of the same CID."""
        self._bodies.setdefault(function.cid, function)

    def pin(self, cids: Iterable[bytes]) -> None:
        """Keeps these for as long as they are pinned; every pin is to be undone."""
        for cid in cids:
            self._pins[cid] = self._pins.get(cid, 0) + 1

    def unpin(self, cids: Iterable[bytes]) -> None:
        """Undoes one pin of each."""
        pins = self._pins
        for cid in cids:
            left = pins.get(cid, 0) - 1
            if left > 0:
                pins[cid] = left
            else:
                pins.pop(cid, None)
        if self.bytes > self._bytes_max:
            self._trim()

    def _trim(self) -> None:
        if self.bytes <= self._bytes_max:
            return
        for cid in list(self._bodies):
            if self.bytes <= self._bytes_max:
                return
            if cid not in self._pins:
                self.bytes -= len(self._bodies.pop(cid).body)
