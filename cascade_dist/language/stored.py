"""The handle of an object that was put into a cluster's blob store."""

from __future__ import annotations

from typing import Any

__all__ = ["Stored"]


class Stored:
    """An object that is in the blob store of a cluster, by the content id of its pickle.

    Where it is an argument of a task, alone or in lists, tuples, dicts, sets and dataclasses, the task gets
    the object. In a target's own containers and in what a task returns it stays a handle. Handles of equal
    pickles are equal. It may be pickled, and used in any number of graphs and processes.

    Args:
        cid: content id, as text.
        size: bytes of the pickle.
    """

    __slots__ = ("cid", "size")

    cid: str
    size: int

    def __init__(self, cid: str, size: int) -> None:
        object.__setattr__(self, "cid", cid)
        object.__setattr__(self, "size", size)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{self!r} cannot be changed")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{self!r} cannot be changed")

    def __reduce__(self) -> tuple[Any, ...]:
        return Stored, (self.cid, self.size)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stored) and other.cid == self.cid

    def __hash__(self) -> int:
        return hash(self.cid)

    def __repr__(self) -> str:
        return f"<Stored {self.cid}, {self.size:,} bytes>"
