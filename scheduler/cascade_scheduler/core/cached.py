"""What a run has values of without running it: hits of the cluster's cache, results of an earlier life.

And what the cluster remembers of keys for people.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple

from cascade_scheduler.core.values import BlobValue, ErrorInfo, ObjectValue

__all__ = ["Cached", "Facts", "KeyMemory", "NestedResults", "Parts", "Recovered", "StoredValue"]

Parts = tuple[tuple[str, bytes], ...]
"""The parts of a key: names and digests."""


class Facts(NamedTuple):
    """What has been observed of a value."""

    truth: bool | None = None
    length: int | None = None
    amount: int | None = None
    """In micros."""
    digest: bytes = b""
    routes: tuple[tuple[int, int | str], ...] = ()
    """(router, index of the key that the value is, or why it is none)."""
    error: ErrorInfo | None = None
    """Why something could not be observed."""
    observed: int = 0
    """Bits of what an observation of its own has looked for."""
    items: tuple[bytes, ...] | None = None
    """The pickles of a small list's items."""
    split: BlobValue | None = None
    """The list, in a form that has its items apart."""


class StoredValue(NamedTuple):
    """A result that the store had, and what was observed of it."""

    value: bytes | BlobValue | ObjectValue
    truth: bool | None = None
    length: int | None = None
    attempt: int = 0
    """By which it was made."""


class NestedResults(NamedTuple):
    """What is stored of a nested graph, by the keys of its nodes."""

    values: dict[str, StoredValue]
    facts: dict[str, Facts]


class Recovered(NamedTuple):
    """What an earlier life of a run has left."""

    nodes: Mapping[int, StoredValue]
    children: Mapping[int, Mapping[int, StoredValue]] = {}
    """Map → index of a child → its result."""
    facts: Mapping[int, Facts] = {}
    """What was observed of values beyond truth and length."""
    skipped: frozenset[int] = frozenset()
    """Nodes of which it was told that they were skipped."""
    finished: frozenset[int] = frozenset()
    """Maps of which it was told that they have finished."""
    waits: Mapping[int, float] = {}
    """Waits and recvs that had begun, and when they are over."""
    nested: Mapping[str, NestedResults] = {}
    """Results within nested graphs, by what names the graph."""


class Cached:
    """The books of a run whose graph has value keys, or that is resumed."""

    __slots__ = (
        "asked",
        "children",
        "hits",
        "keys",
        "misses",
        "nested",
        "parts",
        "recovered",
        "skipped",
        "waits",
    )

    def __init__(self) -> None:
        self.keys: dict[int, bytes] = {}
        """Value keys that are known."""
        self.parts: dict[int, Parts] = {}
        """What they were made of, of nodes that were looked up."""
        self.hits: dict[int, bytes | BlobValue] = {}
        """Values that the cache had, and recovered ones."""
        self.recovered: dict[int, None] = {}
        """Nodes with results of an earlier life of the run."""
        self.children: Mapping[int, Mapping[int, StoredValue]] = {}
        """Such results of children, by map and index, until the map has become its children."""
        self.skipped: frozenset[int] = frozenset()
        """Nodes of which an earlier life has told that they were skipped."""
        self.waits: Mapping[int, float] = {}
        """Waits and recvs that began in an earlier life, and when they are over."""
        self.nested: Mapping[str, NestedResults] = {}
        """Of a run: results of an earlier life within graphs that are nested in it."""
        self.misses: dict[int, str] = {}
        """Nodes that are run, because the cache had nothing for them: why."""
        self.asked: dict[int, int] = {}
        """Nodes that wait for an answer of the cache → the number of the question."""


class KeyMemory:
    """The last key of each task, by which a miss is explained; bounded, the oldest goes first."""

    def __init__(self, tasks_max: int = 1_000) -> None:
        self._last: OrderedDict[str, Parts] = OrderedDict()
        self._tasks_max = tasks_max

    def difference(self, task: str, parts: Parts) -> str:
        """What is new in a key, in words."""
        last = self._last.get(task)
        if last is None:
            return f"no value of {task!r} was looked for before"
        before, now = _by_name(last), _by_name(parts)
        changed = [name for name in now if name in before and before[name] != now[name]]
        new = [name for name in now if name not in before]
        gone = [name for name in before if name not in now]
        told = [f"{_called(name)} has changed" for name in changed]
        told += [f"{_called(name)} is new" for name in new]
        told += [f"{_called(name)} is left out" for name in gone]
        if not told:
            return f"the key is that of the last call of {task!r}, so its value has not been kept, or is gone"
        return f"since the last call of {task!r}, {', and '.join(told)}"

    def note(self, task: str, parts: Parts) -> None:
        """Remembers a key."""
        self._last[task] = parts
        self._last.move_to_end(task)
        if len(self._last) > self._tasks_max:
            self._last.popitem(last=False)


def _by_name(parts: Parts) -> dict[str, tuple[bytes, ...]]:
    found: dict[str, tuple[bytes, ...]] = {}
    for name, digest in parts:
        found[name] = (*found.get(name, ()), digest)
    return found


def _called(name: str) -> str:
    if name == "code":
        return "its code, or a helper, default or closure value that it reaches,"
    if name.startswith("resource "):
        return f"the code of {name}"
    return f"argument {name!r}"
