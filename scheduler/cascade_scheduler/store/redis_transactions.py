"""Batches as transactions behind a watch that stands already, with as little around them as there can be.

What a batch compares first (which epoch leads, and which batch was the last) is watched, and known, since the
transaction before it: that is one message, `MULTI … EXEC WATCH GET`. So a batch is one message too, and Redis
refuses it when somebody else has written one of the watched keys meanwhile.

The library's own way costs as much as the round trip itself: tasks, a pool, packing of arguments one by one
in Python, a stream reader that wakes whoever waits. So the library makes the connection and says who we are;
from then on its bytes are read here, and an answer is told in the iteration of the loop that reads it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import hiredis
import redis.asyncio
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import InvalidResponse, RedisError
from redis.exceptions import TimeoutError as NoAnswer

from cascade_scheduler.store.redis_commands import BATCH_KEY, EPOCH_KEY, pack

__all__ = ["Answered", "Before", "Transactions", "TransactionTorn"]

Replies: TypeAlias = list[Any]

Answered: TypeAlias = Callable[[Exception | None], None]
"""Is told that a transaction has been carried out, or why that has not happened, or is not known."""

_NOTHING = object()
_PUSHED: tuple[type, ...] = (hiredis.PushNotification,) if hasattr(hiredis, "PushNotification") else ()
"""What a server says without being asked, such as that it will be restarted."""

_MULTI = pack(("MULTI",))
_EXEC = pack(("EXEC",))
_WATCH = pack(("WATCH", EPOCH_KEY, BATCH_KEY)) + pack(("GET", EPOCH_KEY))
_WATCH_REPLIES = 2
_LOOK = _MULTI + _EXEC + _WATCH + pack(("HMGET", BATCH_KEY, "epoch", "number"))
_LOOK_REPLIES = 5
"""The empty transaction shows that we may have one: else what follows a MULTI would be done at once."""


class TransactionTorn(RedisError):
    """Some commands of a transaction were refused when it was carried out; the others were not."""


class WatchedKeysChanged(RedisError):
    """Somebody has written what was compared: the transaction was not carried out."""


class Before(NamedTuple):
    """What the watched keys hold."""

    epoch: bytes
    """The one that leads; empty: none."""
    of: bytes
    """The epoch of the last batch."""
    number: int
    """The last batch's."""


class _Line(asyncio.Protocol):
    """A connection that the library has made, and that is ours from now on. One message at a time.

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
        self._answered: Callable[[Replies | Exception], None] | None = None
        self._replies: Replies = []
        self._wanted = 0
        self.before: Before | None = None
        """What is watched, unless it is not known, or has been used up."""
        self.lost = False
        """It is of no more use."""
        self._transport.set_protocol(self)

    @property
    def free(self) -> bool:
        """A message may be sent."""
        return self._answered is None and not self.lost

    def call(self, packed: bytes, wanted: int, answered: Callable[[Replies | Exception], None]) -> None:
        """Sends commands; as many replies come later, always, or why they do not."""
        self._answered = answered
        self._replies, self._wanted = [], wanted
        self.before = None
        self._transport.write(packed)

    def data_received(self, data: bytes) -> None:
        """The transport has read something."""
        try:
            self._reader.feed(data)
            found = [reply for reply in iter(self._reader.gets, _NOTHING) if not isinstance(reply, _PUSHED)]
        except InvalidResponse as error:
            self.drop(error)
            return
        if self._answered is None:
            return
        replies = self._replies
        replies += found
        if len(replies) >= self._wanted:
            del replies[self._wanted :]
            self._tell(replies)

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is closed."""
        self.lost = True
        self._library.connection_lost(exc)  # the library waits for that when it closes
        self._tell(ConnectionLost(f"the connection broke: {exc}" if exc else "Connection closed by server."))

    def _tell(self, answer: Replies | Exception) -> None:
        answered, self._answered = self._answered, None
        if answered is not None:
            answered(answer)

    def drop(self, error: RedisError) -> None:
        """Ends at once; who waits for replies gets the error."""
        self.lost = True
        self._transport.abort()
        self._tell(error)

    async def close(self, *, nowait: bool = False) -> None:
        """Ends; with `nowait` without waiting for the other side."""
        self.lost = True
        await self._connection.disconnect(nowait=nowait)
        self._tell(ConnectionLost("the connection was closed here"))


class Transactions:
    """Carries out transactions; one at a time.

    Args:
        client: makes connections, and knows who we are.
        timeout: seconds that one message may take.
    """

    def __init__(self, client: redis.asyncio.Redis, timeout: float) -> None:
        self._pool: Any = client.connection_pool
        self._timeout = timeout
        self._line: _Line | None = None
        self._began = 0.0
        """When the last message was sent, by the loop's clock."""
        self._timer: asyncio.TimerHandle | None = None

    @property
    def before(self) -> Before | None:
        """What the next transaction finds, if it can begin at once; else `look` has to be called first."""
        line = self._line
        return line.before if line is not None and line.free else None

    def begin(self, commands: bytes, count: int, after: Before, answered: Answered) -> None:
        """Sends a transaction, when `before` says that it can begin; how it went is told later.

        Args:
            commands: packed.
            count: how many they are.
            after: what they leave in the watched keys.
            answered: see there; `WatchedKeysChanged` and errors of Redis before the transaction mean that
                nothing has happened, `TransactionTorn` that some of it has, and others may mean anything.
        """
        line = self._line
        assert line is not None, "not ready"
        loop = asyncio.get_running_loop()
        self._began = loop.time()
        if self._timer is None:  # one lazy timer: transactions are far too many for a timer each
            self._timer = loop.call_later(self._timeout, self._check_bound)

        def replied(replies: Replies | Exception) -> None:
            answered(replies if isinstance(replies, Exception) else _outcome(line, replies, after))

        line.call(b"%b%b%b%b" % (_MULTI, commands, _EXEC, _WATCH), count + 2 + _WATCH_REPLIES, replied)

    def _check_bound(self) -> None:
        self._timer = None
        line = self._line
        if line is None or line.free or line.lost:
            return
        loop = asyncio.get_running_loop()
        left = self._began + self._timeout - loop.time()
        if left > 0:
            self._timer = loop.call_later(left, self._check_bound)
        else:
            line.drop(NoAnswer(f"no answer within {self._timeout:g} s"))

    async def look(self) -> Before:
        """Connects if need be, and looks what the next transaction finds.

        Raises:
            redis.RedisError, OSError: it cannot be seen.
        """
        held = self._line is not None
        async with asyncio.timeout(self._timeout):
            try:
                return await self._watch()
            except ConnectionLost:
                if not held:
                    raise
            return await self._watch()  # Redis closes connections that have been idle

    async def _watch(self) -> Before:
        line = self._line
        if line is None or not line.free:
            line = self._line = await self._connect()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Replies | Exception] = loop.create_future()
        self._began = loop.time()  # else the timer of an earlier message would end this one

        def replied(replies: Replies | Exception) -> None:
            if not future.done():
                future.set_result(replies)

        try:
            line.call(_LOOK, _LOOK_REPLIES, replied)
            replies = await future
            _raise_first(replies if isinstance(replies, list) else [replies])
            assert isinstance(replies, list)
            before = line.before = _before(replies)
        except BaseException:
            self._line = None
            await line.close(nowait=True)
            raise
        return before

    async def run(self, commands: bytes, count: int, after: Before) -> None:
        """Carries out a transaction behind what `look` has seen.

        Raises:
            redis.RedisError, OSError: as `begin` tells it.
        """
        future: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

        def answered(error: Exception | None) -> None:
            if not future.done():
                future.set_result(error)

        line = self._line
        if line is None or self.before is None:
            raise ConnectionLost("the connection broke")
        self.begin(commands, count, after, answered)
        try:
            error = await future  # the timer of `begin` bounds it
        except BaseException:
            self._line = None
            await line.close(nowait=True)
            raise
        if error is not None:
            raise error

    async def _connect(self) -> _Line:
        if self._line is not None:
            old, self._line = self._line, None
            await old.close(nowait=True)
        connection = self._pool.make_connection()
        connection.socket_timeout = None  # the whole message has a bound
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


def _outcome(line: _Line, replies: Replies, after: Before) -> Exception | None:
    """How a transaction went; what the next one finds is noted if that is watched, and nobody else leads."""
    done = replies[-1 - _WATCH_REPLIES]
    if type(done) is list:
        for reply in done:
            if isinstance(reply, Exception):
                return _torn(reply)
        if replies[-2:] == [b"OK", after.epoch]:
            line.before = after
        return None
    if done is None:
        return WatchedKeysChanged(f"{EPOCH_KEY} or {BATCH_KEY} was written by somebody else")
    nonsense = InvalidResponse(f"the answer to a transaction makes no sense: {done!r}")
    first: Exception = next((reply for reply in replies if isinstance(reply, Exception)), nonsense)
    if first is replies[0]:
        return _torn(first)  # there was no transaction: the commands were carried out one by one
    return first  # for which the transaction was given up


def _torn(cause: Exception) -> TransactionTorn:
    torn = TransactionTorn(str(cause))
    torn.__cause__ = cause
    return torn


def _before(replies: Sequence[Any]) -> Before:
    epoch, (of, number) = replies[-2:]
    return Before(epoch or b"", of or b"", int(number) if number and number.isdigit() else 0)


def _raise_first(replies: Sequence[Any]) -> None:
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
