"""The commands of a batch, in the short form that its script takes, and when keys are to be given a new time.

A batch is one script with few arguments, because each costs more than the work that it asks for:

    R run                      of this run are the commands that follow
    H part count field value…  sets fields of one of its hashes
    D parts                    deletes some of its keys
    E seconds parts            gives them a new time to live
    C name key count argument… any other command

Names of keys are made in the script of a run and a part, so it does not say beforehand which they are. A
Redis Cluster would want that; it is refused at start.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["ARGUMENTS_MAX", "COMMIT", "Commands", "Lifetimes"]

ARGUMENTS_MAX = 7_000
"""Of one command: Lua's `unpack` stops near 8,000. Even, so that pairs stay together."""
AGAIN_SECONDS = 60.0
"""A key that is written to again gets a new time to live at most so often; more often, if that is short."""
RUNS_MAX = 100_000
NEVER = float("-inf")

# Nothing happens unless this epoch leads and the number follows the last one.
COMMIT = """
local epoch = redis.call('GET', KEYS[1])
if epoch ~= ARGV[1] then return {'EPOCH', epoch or ''} end
local known = redis.call('HMGET', KEYS[2], 'epoch', 'number')
local last = 0
if known[1] == ARGV[1] then last = tonumber(known[2]) end
local number = tonumber(ARGV[2])
if number == last then return {'LANDED', ''} end
if number ~= last + 1 then return {'GAP', tostring(last)} end
-- A full Redis refuses a script at its first command that needs memory, and nothing once it has written.
redis.call('HSET', KEYS[2], 'begun', ARGV[2])
local most, at, run = tonumber(ARGV[3]), 4, ''
local function many(name, key, first, upto)
  if upto < first then redis.call(name, key) end
  while first <= upto do
    local to = math.min(first + most - 1, upto)
    redis.call(name, key, unpack(ARGV, first, to))
    first = to + 1
  end
end
while at <= #ARGV do
  local what = ARGV[at]
  if what == 'H' then
    local upto = at + 2 + ARGV[at + 2]
    many('HSET', run .. ARGV[at + 1], at + 3, upto)
    at = upto + 1
  elseif what == 'R' then
    run = 'cascade:run:' .. ARGV[at + 1] .. ':'
    at = at + 2
  elseif what == 'E' then
    for part in string.gmatch(ARGV[at + 2], '%S+') do redis.call('EXPIRE', run .. part, ARGV[at + 1]) end
    at = at + 3
  elseif what == 'D' then
    local keys = {}
    for part in string.gmatch(ARGV[at + 1], '%S+') do keys[#keys + 1] = run .. part end
    redis.call('DEL', unpack(keys))
    at = at + 2
  else
    local upto = at + 3 + ARGV[at + 3]
    many(ARGV[at + 1], ARGV[at + 2], at + 4, upto)
    at = upto + 1
  end
end
redis.call('HSET', KEYS[2], 'epoch', ARGV[1], 'number', ARGV[2])
return {'OK', ''}
"""


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
        return list(due | {part: None for part in touched.renewed if part in known})

    def landed(self, batch: Commands, given: Mapping[str, Iterable[str]], now: float) -> None:
        """A batch is in the store.

        Args:
            batch: its commands.
            given: by run, the parts that it wrote to and gave a new time.
            now: seconds, monotonic.
        """
        for run_id in batch.began:
            self._runs[run_id] = {}
        for run_id, touched in batch.touched.items():
            known = self._runs.get(run_id)
            if known is not None:
                for part in touched.deleted:
                    known.pop(part, None)
                known.update(dict.fromkeys(given.get(run_id, ()), now))
        for run_id in batch.over:
            self._runs.pop(run_id, None)
        while len(self._runs) > RUNS_MAX:
            del self._runs[next(iter(self._runs))]


class Touched:
    """What a batch does to the keys of a run: parts, in their order."""

    __slots__ = ("deleted", "renewed", "written")

    def __init__(self) -> None:
        self.written: dict[str, None] = {}
        self.renewed: dict[str, None] = {}
        self.deleted: dict[str, None] = {}
        """Before they were written to, if they were."""


class Commands:
    """Commands in their order; writes to one hash become one command."""

    def __init__(self) -> None:
        self._commands: list[tuple[str, list[Any]]] = []
        """The run, or "", and the command."""
        self._open: dict[tuple[str, str], list[Any]] = {}
        """Per run and part: the command that sets fields, which may still grow."""
        self.touched: dict[str, Touched] = {}
        """By run."""
        self.began: dict[str, None] = {}
        """Runs of which there were no other keys."""
        self.others: dict[str, None] = {}
        """Keys that are not those of runs."""
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
            command = self._open[run_id, part] = ["H", part, 0]
            self._commands.append((run_id, command))
            self._of(run_id).written[part] = None
        command += pairs

    def leave_out(self, run_id: str, part: str) -> None:
        """What this batch sets in a run's hash, since it was last deleted, is not to be set."""
        command = self._open.pop((run_id, part), None)
        if command is not None:
            command.clear()
            del self._of(run_id).written[part]

    def delete(self, run_id: str, parts: Iterable[str]) -> None:
        """Deletes keys of a run."""
        parts = tuple(parts)
        touched = self._of(run_id)
        for part in parts:
            self._open.pop((run_id, part), None)  # what is set after this command may not move before it
            touched.written.pop(part, None)
            touched.renewed.pop(part, None)
            touched.deleted[part] = None
        self._commands.append((run_id, ["D", " ".join(parts)]))

    def renew(self, run_id: str, parts: Iterable[str]) -> None:
        """Gives keys of a run a new time, those that are there."""
        self._of(run_id).renewed.update(dict.fromkeys(parts))

    def do(self, name: str, key: str, *values: Any) -> None:
        """Any command on a key that is none of a run."""
        self.others[key] = None
        self._commands.append(("", ["C", name, key, len(values), *values]))

    def unset(self, run_id: str, part: str, key: str, fields: Iterable[Any]) -> None:
        """Deletes fields of a run's hash."""
        self._open.pop((run_id, part), None)
        self.do("HDEL", key, *fields)

    def arguments(self, lifetimes: Lifetimes, ttl: int, now: float) -> tuple[list[Any], dict[str, list[str]]]:
        """The script's arguments, and by run the written parts that are given a new time."""
        flat: list[Any] = []
        current = ""
        for run_id, command in self._commands:
            if run_id and run_id != current:
                flat += ("R", run_id)
                current = run_id
            if command and command[0] == "H":
                command[2] = len(command) - 3
            flat += command
        given: dict[str, list[str]] = {}
        for run_id, touched in self.touched.items():
            due = lifetimes.due(run_id, touched, now, began=run_id in self.began)
            if due:
                if run_id != current:
                    flat += ("R", run_id)
                    current = run_id
                flat += ("E", ttl, " ".join(due))
                given[run_id] = [part for part in due if part in touched.written]
        return flat, given
