"""Policies: what says whether a task has to run."""

from __future__ import annotations

import os
import pickle
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, final, runtime_checkable

from cascade_dist.caching.keys import content_key

if TYPE_CHECKING:
    from cascade_dist.caching.backends import CacheBackend

__all__ = [
    "MISS",
    "CacheHit",
    "CachePolicy",
    "FileExistenceCache",
    "Inputs",
    "Miss",
    "ResultCache",
    "hit_of",
]


@final
@dataclass(frozen=True, slots=True)
class CacheHit:
    """The answer of a policy that has the value; None is a value too."""

    value: Any


@final
class Miss:
    """The answer of a policy that does not have the value."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "MISS"

    def __reduce__(self) -> str:
        return "MISS"

    def __bool__(self) -> bool:
        return False


MISS: Final = Miss()
"""The answer of a policy that does not have the value."""


class Inputs(dict[str, Any]):
    """The inputs of one attempt, and the keys that were made of them before the task could change them."""

    __slots__ = ("keys_made",)

    def __init__(self, inputs: Mapping[str, Any]) -> None:
        super().__init__(inputs)
        self.keys_made: dict[int, str] = {}


@runtime_checkable
class CachePolicy(Protocol):
    """What is asked on the worker before a task runs, and told when it has run.

    A policy travels pickled; there is one instance per executor and run. One that raises counts as a miss,
    and what it raised is a line of the task's output.
    """

    def check(self, task_id: str, inputs: Mapping[str, Any]) -> Awaitable[Any]:
        """Whether the task has to run.

        Args:
            task_id: names the task and its code: ``name@hash``; the name alone where its code has no hash.
            inputs: every argument by parameter name, defaults among them, but for injected resources.

        Returns:
            `CacheHit` with the value, or `MISS`. Any other value is a hit too, and None a miss.
        """

    def save(self, task_id: str, inputs: Mapping[str, Any], output: Any) -> Awaitable[None]:
        """Takes the value of a task that has run."""


def hit_of(answer: Any) -> CacheHit | None:
    """What a policy's answer means; None for a miss."""
    if isinstance(answer, CacheHit):
        return answer
    if answer is None or isinstance(answer, Miss):
        return None
    return CacheHit(answer)


@dataclass(frozen=True)
class FileExistenceCache:
    """A task that makes a file does not run when the file is there: its value is then the path.

    Args:
        path: of the file, or a function that gets the inputs and returns it.
    """

    path: str | os.PathLike[str] | Callable[[Mapping[str, Any]], str | os.PathLike[str]]

    def __post_init__(self) -> None:
        if not isinstance(self.path, str | os.PathLike) and not callable(self.path):
            raise TypeError(f"path is {self.path!r}: give a path, or a function that makes one of the inputs")

    async def check(self, task_id: str, inputs: Mapping[str, Any]) -> CacheHit | Miss:
        """A hit when the file is there, with its path."""
        path = self.path
        if not isinstance(path, str | os.PathLike):
            path = path(inputs)
        there = os.path.exists(path)  # noqa: ASYNC240 - shorter than any way around it
        return CacheHit(path) if there else MISS

    async def save(self, task_id: str, inputs: Mapping[str, Any], output: Any) -> None:
        """Nothing: the file is what the task leaves."""


@dataclass(frozen=True)
class ResultCache:
    """Keeps a task's values by its code and the content of its inputs.

    Args:
        backend: where they are kept.
        ttl: seconds; None: as long as there is room.
        key: a function that gets the inputs and returns what is to count of them; None: all of them.
    """

    backend: CacheBackend
    ttl: float | None = None
    key: Callable[[Mapping[str, Any]], Any] | None = None

    by_content = True
    """The task's code has to have a hash."""

    def __post_init__(self) -> None:
        for method in ("get", "set", "delete"):
            if not callable(getattr(self.backend, method, None)):
                raise TypeError(
                    f"backend is {self.backend!r}, which has no {method}: give a cache backend, such as "
                    "cs.InMemoryCacheBackend()"
                )
        if self.ttl is not None and (isinstance(self.ttl, bool) or not self.ttl > 0):
            raise ValueError(f"ttl is {self.ttl!r}: give seconds, more than 0, or None for no end")
        if self.key is not None and not callable(self.key):
            raise TypeError(f"key is {self.key!r}: give a function that gets the inputs")

    def _key(self, task_id: str, inputs: Mapping[str, Any]) -> str:
        """The key of some inputs, made once: a task that changes its arguments is not to change its key."""
        made = inputs.keys_made if isinstance(inputs, Inputs) else {}
        known = made.get(id(self.key))
        if known is None:
            known = content_key(task_id, inputs if self.key is None else {"key": self.key(inputs)})
            made[id(self.key)] = known
        return known

    async def check(self, task_id: str, inputs: Mapping[str, Any]) -> CacheHit | Miss:
        """A hit when the backend has a value of this code and these inputs.

        Raises:
            Unencodable: an input's content has no canonical form; names the parameter.
        """
        found = await self.backend.get(self._key(task_id, inputs))
        return MISS if found is None else CacheHit(pickle.loads(found))

    async def save(self, task_id: str, inputs: Mapping[str, Any], output: Any) -> None:
        """Keeps a value, as its pickle: None is a value like any other."""
        await self.backend.set(self._key(task_id, inputs), pickle.dumps(output, 5), self.ttl)
