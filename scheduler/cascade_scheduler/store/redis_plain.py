"""Runs of one task as commands for Redis, piece by piece.

The general way makes commands of records one by one, and keeps account of which keys they touch, since any
record may follow any other. A run of one task comes in three pieces that are always the same: that it begins,
that it has its value, and how it has ended. Each is made in one go here, for who waits for nothing else.
`tests/contract` holds both ways to leave the same in Redis.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from cascade_dist.storage.records import encode_record
from cascade_dist.storage.seal import Sealer
from cascade_scheduler.core.commands import SaveAttempt, SaveOutcome, SaveResult
from cascade_scheduler.store.base import Record, RunAnswered, RunCreated, RunEnding, RunEvents
from cascade_scheduler.store.forms import answer_to
from cascade_scheduler.store.redis_batch import PARTS, RUNS_KEY
from cascade_scheduler.store.redis_commands import key_of, pack
from cascade_scheduler.store.run_forms import SMALL_BYTES, functions_to, is_whole, run_to

__all__ = ["BEGUN", "ENDED", "OVER", "PLAIN_PARTS", "Piece", "PlainRuns", "is_plain"]

BEGUN = (RunCreated, SaveAttempt)
ENDED = (SaveResult, RunEnding)
OVER = (RunAnswered, SaveOutcome, RunEvents)
PLAIN_PARTS = ("meta", "results")
"""What the keys of such a run end with."""
_BATCHES = ((OVER,), (BEGUN, ENDED), (OVER, BEGUN, ENDED))

_Kinds: TypeAlias = tuple[type[Any], ...]


class Piece(NamedTuple):
    """Some commands of a batch."""

    kinds: _Kinds
    """Which of the three it is."""
    run_id: str
    data: bytes
    length: int
    """How many commands they are."""


def is_plain(pieces: Sequence[Piece]) -> bool:
    """These pieces may be a batch: a run that begins in it has its value in it, and one before it may end."""
    kinds = tuple([piece.kinds for piece in pieces])
    return kinds in _BATCHES and (kinds[-1] is OVER or pieces[-2].run_id == pieces[-1].run_id)


class PlainRuns:
    """Makes the pieces.

    Args:
        sealer: seals what is stored.
        ttl: seconds that keys live.
    """

    def __init__(self, sealer: Sealer, ttl: int) -> None:
        self._seal = sealer.seal
        self._ttl = ttl

    def piece(self, records: Sequence[Record]) -> Piece | None:
        """The commands of these records; None when they are no such piece, or not of the simplest form."""
        make: Any = _MAKERS.get(tuple(map(type, records)))
        return None if make is None else make(self, *records)

    def _begun(self, created: RunCreated, attempt: SaveAttempt) -> Piece | None:
        """The attempt is not stored: nobody waits for it when the run has ended."""
        if created.imported or created.resumed or not is_whole(created) or attempt.run_id != created.run_id:
            return None
        run_id, functions = created.run_id, functions_to(created.functions)
        if functions is None:
            return None
        deletion, expiry = _constant(len(name := run_id.encode()), self._ttl)
        begun = self._seal(run_id, "meta", 0, run_to(created))
        meta = ("HSET", key_of(run_id, "meta"), "state", "running", "run", begun, "functions", functions)
        data = b"%b%b%b%b" % (
            deletion.replace(b"\0", name),
            pack(meta),
            pack(("ZADD", RUNS_KEY, created.submitted, run_id)),
            expiry.replace(b"\0", name),
        )
        return Piece(BEGUN, run_id, data, 4)

    def _ended(self, result: SaveResult, ending: RunEnding) -> Piece | None:
        run_id, _, key, attempt, value, truth, length = result
        if type(value) is not bytes or truth is not None or length is not None or ending.run_id != run_id:
            return None
        sealed = self._seal(run_id, key, attempt, encode_record(value))
        name = key_of(run_id, "results")
        return Piece(ENDED, run_id, pack(("HSET", name, key, sealed)) + pack(("EXPIRE", name, self._ttl)), 2)

    def _over(self, answered: RunAnswered, outcome: SaveOutcome, events: RunEvents) -> Piece | None:
        """The keys are there, and have their time to live."""
        run_id, first, payload, _, whole = events
        if not whole or len(payload) > SMALL_BYTES or not run_id == answered.run_id == outcome.run_id:
            return None
        answer = self._seal(run_id, "answer", 0, answer_to(answered.finish, answered.keys))
        told = b"%d %d\n%b" % (first, len(payload), payload)
        state = ("state", outcome.state, "error", outcome.error, "answer", answer, "events", told)
        return Piece(OVER, run_id, pack(("HSET", key_of(run_id, "meta"), *state)), 1)


_MAKERS: dict[_Kinds, Any] = {
    BEGUN: PlainRuns._begun,
    ENDED: PlainRuns._ended,
    OVER: PlainRuns._over,
}


@lru_cache(maxsize=256)
def _constant(size: int, ttl: int) -> tuple[bytes, bytes]:
    """How the beginning of a run begins and ends, by how long its id is; 0 stands where that belongs."""
    id_ = "\0" * size
    commands = ("DEL", *[key_of(id_, part) for part in PARTS]), ("EXPIRE", key_of(id_, "meta"), ttl)
    deletion, expiry = [pack(command).replace(id_.encode(), b"\0") for command in commands]
    return deletion, expiry
