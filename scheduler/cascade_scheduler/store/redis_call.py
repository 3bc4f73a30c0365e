"""One script, called on a connection of its own, with as little around it as there can be.

The library's own way costs as much as the round trip itself: a task for each write, a pool, and packing of
arguments one by one in Python.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Any

import redis.asyncio
from hiredis import pack_command
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import NoScriptError

__all__ = ["ScriptCall"]


class ScriptCall:
    """Calls a script; one call at a time.

    Args:
        client: makes connections, and knows who we are.
        script: in Lua.
        timeout: seconds that a call may take.
    """

    def __init__(self, client: redis.asyncio.Redis, script: str, timeout: float) -> None:
        self._pool: Any = client.connection_pool
        self._script = script
        self._sha = hashlib.sha1(script.encode()).hexdigest()
        self._timeout = timeout
        self._connection: Any = None

    async def __call__(self, keys: Sequence[Any], args: Sequence[Any]) -> Any:
        """What the script returns.

        Raises:
            redis.RedisError, OSError: it may or may not have run.
        """
        held = self._connection is not None
        async with asyncio.timeout(self._timeout):
            try:
                return await self._run(keys, args)
            except ConnectionLost:
                if not held:
                    raise
            return await self._run(keys, args)  # Redis closes connections that have been idle

    async def _run(self, keys: Sequence[Any], args: Sequence[Any]) -> Any:
        try:
            return await self._call(("EVALSHA", self._sha, len(keys), *keys, *args))
        except NoScriptError:
            return await self._call(("EVAL", self._script, len(keys), *keys, *args))

    async def _call(self, command: tuple[Any, ...]) -> Any:
        connection = self._connection
        if connection is None:
            connection = self._connection = self._pool.make_connection()
            connection.socket_timeout = None  # the whole call has a bound
        try:
            await connection.send_packed_command(pack_command(command), check_health=False)
            return await connection.read_response()
        except NoScriptError:
            raise
        except BaseException:
            self._connection = None
            await connection.disconnect(nowait=True)
            raise

    async def close(self) -> None:
        """Lets go of the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect()
