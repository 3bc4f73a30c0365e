"""Calls of a script: a bound is a bound of the call that it was set for."""

from __future__ import annotations

import asyncio
from typing import Any

import redis.asyncio

from cascade_scheduler.store.redis_call import ScriptCall


class Line:
    """A connection on which nobody has answered yet."""

    free = lost = False

    def __init__(self) -> None:
        self.dropped: list[Exception] = []
        self.answered: Any = None

    def call(self, packed: bytes, answered: Any) -> None:
        self.answered = answered

    def drop(self, error: Exception) -> None:
        self.dropped.append(error)


async def test_the_timer_of_an_earlier_call_does_not_end_a_later_one() -> None:
    client = redis.asyncio.Redis()
    script, line = ScriptCall(client, "return 1", 10.0), Line()
    script._line = line  # type: ignore[assignment]
    script._began = asyncio.get_running_loop().time() - 60  # a call without a task, which is over
    calling = asyncio.ensure_future(script((), ()))
    await asyncio.sleep(0)
    script._look()
    assert not line.dropped
    line.answered(b"1")
    assert await calling == b"1"
    assert script._timer is not None
    script._timer.cancel()
    await client.aclose()
