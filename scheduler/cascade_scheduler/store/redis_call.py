"""One script, called on a connection of its own, with as little around it as there can be.

The library's own way costs as much as the round trip itself: tasks, a pool, packing of arguments one by one
in Python, a stream reader that wakes whoever waits. So the library makes the connection and says who we are;
from then on its bytes are read here, and an answer is told in the iteration of the loop that reads it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import hiredis
import redis.asyncio
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import InvalidResponse, NoScriptError, RedisError
from redis.exceptions import TimeoutError as NoAnswer

__all__ = ["Answered", "ScriptCall"]

Answered: TypeAlias = Callable[[Any], None]
"""Takes what a script returned, or the exception with which it may or may not have run."""

_NOTHING = object()
_PUSHED: tuple[type, ...] = (hiredis.PushNotification,) if hasattr(hiredis, "PushNotification") else ()
"""What a server says without being asked, such as that it will be restarted."""


class _Line(asyncio.Protocol):
    """A connection that the library has made, and that is ours from now on. One call at a time.

    Args:
        connection: of the library, connected.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._transport: asyncio.Transport = connection._writer.transport  # there is no public way to it
        self._library = self._transport.get_protocol()
        self._reader: Any = hiredis.Reader(
            protocolError=InvalidResponse,
            replyError=connection._parser.parse_error,
            notEnoughData=_NOTHING,
        )
        self._answered: Answered | None = None
        self.lost = False
        """It is of no more use."""
        self._transport.set_protocol(self)

    @property
    def free(self) -> bool:
        """A call may be made."""
        return self._answered is None and not self.lost

    def call(self, packed: bytes, answered: Answered) -> None:
        """Sends a command; the answer comes later, always."""
        self._answered = answered
        self._transport.write(packed)

    def data_received(self, data: bytes) -> None:
        """The transport has read something."""
        try:
            self._reader.feed(data)
            answer = self._reader.gets(False)
            while answer is not _NOTHING:
                if not isinstance(answer, _PUSHED):
                    self._tell(answer)
                answer = self._reader.gets(False)
        except InvalidResponse as error:
            self.drop(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is closed."""
        self.lost = True
        self._library.connection_lost(exc)  # the library waits for that when it closes
        self._tell(ConnectionLost(f"the connection broke: {exc}" if exc else "Connection closed by server."))

    def _tell(self, answer: Any) -> None:
        answered, self._answered = self._answered, None
        if answered is not None:
            answered(answer)

    def drop(self, error: RedisError) -> None:
        """Ends at once; who waits for an answer gets the error."""
        self.lost = True
        self._transport.abort()
        self._tell(error)

    async def close(self, *, nowait: bool = False) -> None:
        """Ends; with `nowait` without waiting for the other side."""
        self.lost = True
        await self._connection.disconnect(nowait=nowait)
        self._tell(ConnectionLost("the connection was closed here"))


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
        self._line: _Line | None = None
        self._began = 0.0
        """When the last call was begun, by the loop's clock."""
        self._timer: asyncio.TimerHandle | None = None

    @property
    def ready(self) -> bool:
        """A call can begin at once."""
        return self._line is not None and self._line.free

    def begin(self, keys: Sequence[Any], args: Sequence[Any], answered: Answered) -> None:
        """Calls the script when it is `ready`; the answer, or why there is none, comes later."""
        line = self._line
        assert line is not None, "not ready"
        loop = asyncio.get_running_loop()
        self._began = loop.time()
        if self._timer is None:  # one lazy timer: calls are far too many for a timer each
            self._timer = loop.call_later(self._timeout, self._look)
        line.call(hiredis.pack_command(("EVALSHA", self._sha, len(keys), *keys, *args)), answered)

    def _look(self) -> None:
        self._timer = None
        line = self._line
        if line is None or line.free or line.lost:
            return
        loop = asyncio.get_running_loop()
        left = self._began + self._timeout - loop.time()
        if left > 0:
            self._timer = loop.call_later(left, self._look)
        else:
            line.drop(NoAnswer(f"no answer within {self._timeout:g} s"))

    async def __call__(self, keys: Sequence[Any], args: Sequence[Any]) -> Any:
        """What the script returns.

        Raises:
            redis.RedisError, OSError: it may or may not have run.
        """
        held = self._line is not None
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
        line = self._line
        if line is None or line.lost:
            line = self._line = await self._connect()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._began = loop.time()  # else the timer of an earlier call would end this one

        def answered(answer: Any) -> None:
            if not future.done():
                future.set_result(answer)

        try:
            line.call(hiredis.pack_command(command), answered)
            answer = await future
            if isinstance(answer, Exception):
                raise answer
        except NoScriptError:
            raise
        except BaseException:
            self._line = None
            await line.close(nowait=True)
            raise
        return answer

    async def _connect(self) -> _Line:
        if self._line is not None:
            old, self._line = self._line, None
            await old.close(nowait=True)
        connection = self._pool.make_connection()
        connection.socket_timeout = None  # the whole call has a bound
        try:
            await connection.connect()
            return _Line(connection)
        except BaseException:
            await connection.disconnect(nowait=True)
            raise

    async def close(self) -> None:
        """Lets go of the connection."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        line, self._line = self._line, None
        if line is not None:
            await line.close()
