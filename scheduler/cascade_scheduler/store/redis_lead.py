"""The lease in Redis by which one of several schedulers leads.

`cascade:leader` holds JSON of who leads, with a time to live that the leader renews; empty text is a lease
that was given back. The lease says only who may begin an epoch. What keeps a leader that lost it from writing
is the epoch, which every batch compares.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from cascade_scheduler.store.base import StoreFenced, StoreGap, StoreUnavailable
from cascade_scheduler.store.redis_checks import unusable, why_not
from cascade_scheduler.store.redis_commands import BATCH_KEY, EPOCH_KEY
from cascade_scheduler.store.shared import RELEASED, Holder

__all__ = ["LEADER_KEY", "RedisLead"]

LEADER_KEY = "cascade:leader"
KEYS = (LEADER_KEY, EPOCH_KEY, BATCH_KEY)

# An epoch must never come again, also not after Redis has lost all it had: so it is at least the number of
# minutes since 2025.
_NEXT_EPOCH = """
local before = tonumber(redis.call('GET', KEYS[2]) or '0')
local minutes = math.floor((tonumber(redis.call('TIME')[1]) - 1735689600) / 60)
local epoch = string.format('%d', math.max(before + 1, minutes))
redis.call('SET', KEYS[2], epoch)
"""

# Arguments: the lease, its time in ms, the lease that may be replaced.
CLAIM = f"""
local held = redis.call('GET', KEYS[1])
if held and held ~= '' and held ~= ARGV[3] and redis.call('PTTL', KEYS[1]) >= 0 then return false end
{_NEXT_EPOCH}
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return epoch
"""

OPEN = f"""
{_NEXT_EPOCH}
redis.call('DEL', KEYS[1])
return epoch
"""

# Arguments: the lease, its time in ms, the epoch, the number of the last batch that was acknowledged.
RENEW = """
local epoch = redis.call('GET', KEYS[2])
if epoch ~= ARGV[3] then return {'EPOCH', epoch or ''} end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
local known = redis.call('HMGET', KEYS[3], 'epoch', 'number')
local last = 0
if known[1] == ARGV[3] then last = tonumber(known[2]) end
if last < tonumber(ARGV[4]) then return {'GAP', tostring(last)} end
return {'OK', ''}
"""

# Arguments: the lease, its time in ms, the epoch. An epoch that is older than ours is one that came back from
# a backup, or from a server that had not heard of ours.
TAKE_AGAIN = """
local epoch = redis.call('GET', KEYS[2])
local other = tonumber(epoch or '')
if other and other > tonumber(ARGV[3]) then return {'EPOCH', epoch} end
redis.call('SET', KEYS[2], ARGV[3])
if ARGV[1] ~= '' then redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) end
redis.call('HSET', KEYS[3], 'epoch', ARGV[3], 'number', 0)
return {'OK', ''}
"""

RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('SET', KEYS[1], '', 'PX', ARGV[2]) end
return false
"""


class RedisLead:
    """The lease of one store.

    Args:
        client: of Redis.
        url: as people may see it.
    """

    def __init__(self, client: Any, url: str) -> None:
        self._client = client
        self._url = url
        self._claim = client.register_script(CLAIM)
        self._open = client.register_script(OPEN)
        self._renew = client.register_script(RENEW)
        self._take_again = client.register_script(TAKE_AGAIN)
        self._release = client.register_script(RELEASE)
        self._mine = ""
        self._ttl_ms = 0

    async def holder(self) -> Holder | None:
        """Who holds the lease."""
        try:
            pipeline = self._client.pipeline(transaction=True)
            pipeline.get(LEADER_KEY)
            pipeline.pttl(LEADER_KEY)
            text, left = await pipeline.execute()
        except (RedisError, OSError) as error:
            raise self._away(error) from None
        return _holder(text) if left >= 0 else None  # a lease ends by itself, so what does not is none

    async def claim(self, mine: Holder, ttl: float, over: Holder | None) -> int | None:
        """Takes the lease, if nobody but `over` has it; returns the new epoch."""
        text, ttl_ms = _text(mine), max(1, round(ttl * 1000))
        replaced = "" if over is None or over == RELEASED else _text(over)
        epoch = await self._run(self._claim, [text, ttl_ms, replaced])
        if epoch is None:
            return None
        self._mine, self._ttl_ms = text, ttl_ms
        return int(epoch)

    async def open(self) -> int:
        """Begins a new epoch without a lease; RedisError when that cannot be."""
        return int(await self._open(keys=KEYS))

    async def renew(self, epoch: int, landed: int, ttl: float) -> None:
        """Lets the lease last again, and looks whether batches up to `landed` are still there.

        Who leads is whose epoch it is: nobody takes the lease without beginning one.
        """
        status, told = await self._run(self._renew, [self._mine, round(ttl * 1000), epoch, landed])
        if status == b"EPOCH":
            raise self.other_epoch(told, epoch)
        if status == b"GAP":
            raise self.gap(int(told))

    async def take_again(self, epoch: int) -> None:
        """After a gap: lease and epoch stand again."""
        status, told = await self._run(self._take_again, [self._mine, self._ttl_ms, epoch])
        if status == b"EPOCH":
            raise self.other_epoch(told, epoch)

    async def release(self) -> None:
        """Gives the lease back."""
        if self._mine:
            await self._run(self._release, [self._mine, self._ttl_ms])

    def other_epoch(self, told: bytes, ours: int) -> StoreFenced | StoreGap:
        """What it means that Redis is in another epoch than we are."""
        if told.isdigit() and int(told) > ours:
            return StoreFenced(
                f"Redis at {self._url} is led by another scheduler: its epoch is {int(told)}, ours {ours}"
            )
        found = told.decode(errors="replace") or "missing"
        return StoreGap(f"Redis at {self._url} has lost results: its epoch is {found}, ours {ours}")

    def gap(self, last: int) -> StoreGap:
        """What it means that Redis does not have the batches that it had acknowledged."""
        return StoreGap(
            f"Redis at {self._url} has lost results: its last batch is {last}, and later ones had "
            "landed; set appendonly yes and appendfsync always if that must not happen"
        )

    async def _run(self, script: Any, arguments: Sequence[Any]) -> Any:
        try:
            return await script(keys=KEYS, args=arguments)
        except (RedisError, OSError) as error:
            raise self._away(error) from None

    def _away(self, error: BaseException) -> StoreUnavailable:
        if isinstance(error, AuthenticationError | NoPermissionError):
            return StoreUnavailable(str(unusable(error, self._url)))
        return StoreUnavailable(f"Redis at {self._url}: {why_not(error)}")


def _text(holder: Holder) -> str:
    return json.dumps(holder._asdict())


def _holder(text: bytes | None) -> Holder | None:
    """Who wrote a lease; a text that is none of ours names nobody, and can be waited for like any other."""
    if text is None:
        return None
    if not text:
        return RELEASED
    try:
        told = json.loads(text)
        return Holder(
            str(told["owner"]),
            str(told["address"]),
            str(told["host"]),
            str(told["machine"]),
            int(told["pid"]),
            int(told["started"]),
        )
    except (ValueError, TypeError, KeyError):
        return Holder(text.decode(errors="replace"), "an unknown address", "an unknown host", "", 0, 0)
