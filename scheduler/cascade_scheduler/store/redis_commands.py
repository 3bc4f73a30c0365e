"""The commands of a batch, and when keys are to be given a new time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import hiredis

__all__ = ["BATCH_KEY", "EPOCH_KEY", "Commands", "Lifetimes", "Packed", "key_of", "pack"]

EPOCH_KEY = "cascade:epoch"
BATCH_KEY = "cascade:batch"

AGAIN_SECONDS = 60.0
"""A key that is written to again gets a new time to live at most so often; more often, if that is short."""
RUNS_MAX = 100_000
_PACKED_LATE = frozenset(("attempts",))
"""When a run ends in the batch in which it begins, these are not stored."""
NEVER = float("-inf")

pack: Callable[[tuple[Any, ...]], bytes] = hiredis.pack_command
"""A command as it is sent."""


def key_of(run_id: str, part: str) -> str:
    """The key of a part of a run."""
    return f"cascade:run:{run_id}:{part}"


@lru_cache(maxsize=256)
def _deletion(size: int, parts: tuple[str, ...]) -> bytes:
    """Deletes these keys of a run whose id has so many bytes; a zero byte stands where the id belongs."""
    id_ = "\0" * size
    return pack(("DEL", *[key_of(id_, part) for part in parts])).replace(id_.encode(), b"\0")


class Lifetimes:
    """When the keys of runs were given their time to live, as far as this process has done it.

    Of a run that it has begun itself it knows all keys; of others it knows nothing, and renews what may be
    there.

    Args:
        ttl: seconds that keys live.
    """

    def __init__(self, ttl: float) -> None:
        self._again = min(AGAIN_SECONDS, ttl / 10)
        self._runs: dict[str, dict[str, float]] = {}

    def clear(self) -> None:
        """Nothing is known any more: another epoch begins."""
        self._runs.clear()

    def due(self, run_id: str, touched: Touched, now: float, *, began: bool) -> list[str]:
        """The parts of a run that are to be given a new time.

        Args:
            run_id: of the run.
            touched: what the batch does to it.
            now: seconds, monotonic.
            began: there is nothing else of the run.
        """
        if began:
            return list(touched.written)
        known = self._runs.get(run_id)
        if known is None:
            return list(dict.fromkeys((*touched.written, *touched.renewed)))
        before = now - self._again
        due = {
            part: None
            for part in touched.written
            if part in touched.deleted or known.get(part, NEVER) < before
        }
        renewed = {
            part: None
            for part, always in touched.renewed.items()
            if part in known and (always or known[part] < before)
        }
        return list(due | renewed)

    def began(self, run_id: str, parts: Iterable[str], now: float) -> None:
        """A run has begun: these are its parts, and have their time."""
        self._runs[run_id] = dict.fromkeys(parts, now)

    def over(self, run_id: str) -> None:
        """Nothing more is expected of a run."""
        self._runs.pop(run_id, None)

    def landed(self, batch: Commands, given: Mapping[str, Iterable[str]], now: float) -> None:
        """A batch is in the store.

        Args:
            batch: its commands.
            given: by run, the parts that it wrote to and gave a new time.
            now: seconds, monotonic.
        """
        over = batch.over
        for run_id in batch.began:
            if run_id not in over:
                self._runs[run_id] = {}
        for run_id, touched in batch.touched.items():
            known = self._runs.get(run_id)
            if known is not None and run_id not in over:
                for part in touched.deleted:
                    known.pop(part, None)
                known.update(dict.fromkeys(given.get(run_id, ()), now))
        for run_id in over:
            self._runs.pop(run_id, None)
        while len(self._runs) > RUNS_MAX:
            del self._runs[next(iter(self._runs))]


class Touched:
    """What a batch does to the keys of a run: parts, in their order."""

    __slots__ = ("deleted", "renewed", "timed", "written")

    def __init__(self) -> None:
        self.written: dict[str, None] = {}
        self.timed: dict[str, None] = {}
        """Those of them that are given a new time already."""
        self.renewed: dict[str, bool] = {}
        """Whether that is done always, or only when it was not done lately."""
        self.deleted: dict[str, None] = {}
        """Before they were written to, if they were."""


class Packed(NamedTuple):
    """Commands as they are sent."""

    data: bytes
    length: int
    """How many commands they are."""
    given: Mapping[str, Sequence[str]]
    """By run, the parts that are written to and given a new time."""


class Commands:
    """Commands in their order; writes to one hash become one command.

    Args:
        ttl: seconds that keys of runs live.
    """

    def __init__(self, ttl: int) -> None:
        self._ttl = ttl
        self._commands: list[list[Any] | bytes] = []
        """Some of them packed."""
        self._open: dict[tuple[str, str], list[Any]] = {}
        """Per run and part: the command that sets fields, which may still grow."""
        self._unpacked: list[tuple[str, str, int]] = []
        """Of those that `pack_early` packs: run, part, and which command it is."""
        self.touched: dict[str, Touched] = {}
        """By run."""
        self.began: dict[str, None] = {}
        """Runs of which there were no other keys."""
        self.others: dict[str, None] = {}
        """Keys that are not those of runs, or of which fields are deleted."""
        self.over: dict[str, None] = {}
        """Runs that nothing more is expected of, or of which there are others."""

    def _of(self, run_id: str) -> Touched:
        touched = self.touched.get(run_id)
        if touched is None:
            touched = self.touched[run_id] = Touched()
        return touched

    def set(self, run_id: str, part: str, *pairs: Any) -> None:
        """Sets fields of a run's hash: field, value, field, value…"""
        command = self._open.get((run_id, part))
        if command is None:
            command = self._open[run_id, part] = ["HSET", key_of(run_id, part)]
            if part not in _PACKED_LATE:
                self._unpacked.append((run_id, part, len(self._commands)))
            self._commands.append(command)
            self._of(run_id).written[part] = None
        command += pairs

    def leave_out(self, run_id: str, part: str) -> None:
        """What this batch sets in a run's hash, since it was last deleted, is not to be set.

        Of parts that `pack_early` packs, only what was set since.
        """
        command = self._open.pop((run_id, part), None)
        if command is not None:
            command.clear()
            del self._of(run_id).written[part]

    def begin(self, run_id: str, parts: tuple[str, ...]) -> None:
        """Deletes all keys of a run, which these parts are: there is nothing else of it."""
        if run_id in self.touched:
            self.delete(run_id, parts)
        else:  # a constant but for the id
            name = run_id.encode()
            self._commands.append(_deletion(len(name), parts).replace(b"\0", name))
            self.touched[run_id] = Touched()
        self.began[run_id] = None

    def delete(self, run_id: str, parts: Iterable[str]) -> None:
        """Deletes keys of a run."""
        touched = self._of(run_id)
        keys = []
        for part in parts:
            self._open.pop((run_id, part), None)  # what is set after this command may not move before it
            touched.written.pop(part, None)
            touched.timed.pop(part, None)
            touched.renewed.pop(part, None)
            touched.deleted[part] = None
            keys.append(key_of(run_id, part))
        self._commands.append(pack(("DEL", *keys)))

    def renew(self, run_id: str, parts: Iterable[str], *, always: bool = True) -> None:
        """Gives keys of a run a new time: all that are there, or only those that had theirs long ago."""
        self._of(run_id).renewed.update(dict.fromkeys(parts, always))

    def do(self, name: str, key: str, *values: Any) -> None:
        """Any command on a key that is none of a run."""
        self.others[key] = None
        self._commands.append(pack((name, key, *values)))

    def unset(self, run_id: str, part: str, fields: Iterable[Any]) -> None:
        """Deletes fields of a run's hash."""
        self._open.pop((run_id, part), None)
        self.do("HDEL", key_of(run_id, part), *fields)

    def pack_early(self) -> None:
        """Packs what is there, while there is time; what is set later is a command of its own."""
        for run_id, part, at in self._unpacked:
            self._open.pop((run_id, part), None)
            command = self._commands[at]
            if command:
                self._commands[at] = pack(tuple(command))
            if run_id in self.began:
                self._give_time(run_id, part)
        self._unpacked.clear()

    def _give_time(self, run_id: str, part: str) -> None:
        """Gives a key of a run that begins its time, unless it is not there or has one."""
        touched = self.touched[run_id]
        if part in touched.written and part not in touched.timed:
            touched.timed[part] = None
            self._commands.append(pack(("EXPIRE", key_of(run_id, part), self._ttl)))

    def packed(self, lifetimes: Lifetimes, now: float) -> Packed:
        """The commands as they are sent, and behind them those that give keys a new time."""
        packed = [
            command if type(command) is bytes else pack(tuple(command))
            for command in self._commands
            if command
        ]
        given: dict[str, list[str]] = {}
        for run_id, touched in self.touched.items():
            due = lifetimes.due(run_id, touched, now, began=run_id in self.began)
            if due:
                packed += [
                    pack(("EXPIRE", key_of(run_id, part), self._ttl))
                    for part in due
                    if part not in touched.timed
                ]
                given[run_id] = [part for part in due if part in touched.written]
        return Packed(b"".join(packed), len(packed), given)
