"""Transactions behind a watch: a bound is a bound of the message that it was set for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
import redis.asyncio
from redis.exceptions import InvalidResponse, ResponseError

from cascade_scheduler.store import redis_transactions
from cascade_scheduler.store.redis_commands import BATCH_KEY, EPOCH_KEY, pack
from cascade_scheduler.store.redis_transactions import (
    Before,
    Transactions,
    TransactionTorn,
    WatchedKeysChanged,
)


class Line:
    """A connection on which nobody has answered yet."""

    free = True
    lost = False

    def __init__(self) -> None:
        self.dropped: list[Exception] = []
        self.answered: Any = None
        self.before: Before | None = None

    def call(self, packed: bytes, wanted: int, answered: Any) -> None:
        self.free = False
        self.answered = answered

    def drop(self, error: Exception) -> None:
        self.dropped.append(error)


async def test_the_timer_of_an_earlier_message_does_not_end_a_later_one() -> None:
    client = redis.asyncio.Redis()
    transactions, line = Transactions(client, 10.0), Line()
    transactions._line = line  # type: ignore[assignment]
    transactions._began = asyncio.get_running_loop().time() - 60  # a transaction that is over
    looking = asyncio.ensure_future(transactions.look())
    await asyncio.sleep(0)
    transactions._check_bound()
    assert not line.dropped
    line.answered([b"OK", [], b"OK", b"7", [b"7", b"3"]])
    assert await looking == Before(b"7", b"7", 3)
    assert transactions._timer is not None
    transactions._timer.cancel()
    await client.aclose()


async def test_an_answer_that_makes_no_sense_is_an_error() -> None:
    client = redis.asyncio.Redis()
    transactions, line, told = Transactions(client, 10.0), Line(), list[Exception | None]()
    transactions._line = line  # type: ignore[assignment]
    transactions.begin(b"", 0, Before(b"7", b"7", 1), told.append)
    line.answered([b"OK", b"what", b"OK", b"7"])
    assert [type(error) for error in told] == [InvalidResponse]
    assert line.before is None
    assert transactions._timer is not None
    transactions._timer.cancel()
    await client.aclose()


@pytest.fixture
async def client(redis_server: str) -> AsyncIterator[Any]:
    """A connection of somebody else."""
    client = redis.asyncio.Redis.from_url(redis_server)
    yield client
    await client.aclose()


@pytest.fixture(params=[2, 3])
async def transactions(
    redis_server: str, client: Any, request: pytest.FixtureRequest
) -> AsyncIterator[Transactions]:
    """To a Redis in epoch 7, in either protocol."""
    await client.flushdb()
    await client.set(EPOCH_KEY, 7)
    connecting = redis.asyncio.Redis.from_url(f"{redis_server}?protocol={request.param}")
    transactions = Transactions(connecting, 5.0)
    yield transactions
    await transactions.close()
    await connecting.aclose()


NEXT = pack(("HSET", BATCH_KEY, "epoch", 7, "number", 1))
AFTER = Before(b"7", b"7", 1)


async def test_what_is_watched_is_known_behind_each_transaction(transactions: Transactions) -> None:
    found = await transactions.look()
    assert found == Before(b"7", b"", 0) == transactions.before
    await transactions.run(NEXT, 1, AFTER)
    assert transactions.before == AFTER


@pytest.mark.parametrize("key", [EPOCH_KEY, BATCH_KEY])
async def test_nothing_happens_once_somebody_has_written(
    transactions: Transactions, client: Any, key: str
) -> None:
    await transactions.look()
    if key == EPOCH_KEY:
        await client.incr(key)
    else:
        await client.hset(key, "number", 5)
    with pytest.raises(WatchedKeysChanged):
        await transactions.run(pack(("SET", "cascade:test", 1)), 1, AFTER)
    assert not await client.exists("cascade:test")
    assert transactions.before is None, "it has to be looked at anew"


async def test_who_leads_is_seen_behind_each_transaction(transactions: Transactions) -> None:
    await transactions.look()
    await transactions.run(NEXT + pack(("INCR", EPOCH_KEY)), 2, AFTER)
    assert transactions.before is None
    assert await transactions.look() == Before(b"8", b"7", 1)


async def test_a_command_that_redis_does_not_take_stops_all(transactions: Transactions, client: Any) -> None:
    await transactions.look()
    with pytest.raises(ResponseError, match="wrong number of arguments"):
        await transactions.run(pack(("SET", "cascade:test", 1)) + pack(("HSET", "cascade:other")), 2, AFTER)
    assert not await client.exists("cascade:test")
    assert await transactions.look() == Before(b"7", b"", 0)


async def test_a_command_that_fails_tears_its_transaction(transactions: Transactions, client: Any) -> None:
    await transactions.look()
    await client.set("cascade:test", "text")
    with pytest.raises(TransactionTorn, match="WRONGTYPE") as caught:
        await transactions.run(pack(("HSET", "cascade:test", "a", 1)) + NEXT, 2, AFTER)
    assert isinstance(caught.value.__cause__, ResponseError)
    assert await transactions.look() == Before(b"7", b"7", 1)


async def test_without_the_right_to_transactions_nothing_is_written(redis_server: str, client: Any) -> None:
    await client.acl_setuser("few", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-multi"])
    try:
        connecting = redis.asyncio.Redis.from_url(redis_server, username="few", password="")
        transactions = Transactions(connecting, 5.0)
        with pytest.raises(ResponseError, match="multi"):
            await transactions.look()
        assert transactions.before is None
        await transactions.close()
        await connecting.aclose()
    finally:
        await client.acl_deluser("few")


@pytest.mark.parametrize("transactions", [3], indirect=True)
async def test_what_redis_says_without_being_asked_is_no_answer(transactions: Transactions) -> None:
    await transactions.look()
    asking = pack(("CLIENT", "TRACKING", "ON")) + pack(("GET", "cascade:test"))
    await transactions.run(asking + NEXT, 3, AFTER)
    line, after = transactions._line, Before(b"7", b"7", 2)
    changing = pack(("SET", "cascade:test", 1))  # is told behind the answer to EXEC
    await transactions.run(changing + pack(("HSET", BATCH_KEY, "number", 2)), 2, after)
    assert (transactions.before, transactions._line) == (after, line)


@pytest.fixture
async def limited(redis_server: str, transactions: Transactions, client: Any) -> AsyncIterator[Transactions]:
    """The same of a user whose rights are changed while it is connected."""
    await client.acl_setuser("limited", enabled=True, nopass=True, keys=["*"], commands=["+@all"])
    connecting = redis.asyncio.Redis.from_url(redis_server, username="limited", password="")
    limited = Transactions(connecting, 5.0)
    await limited.look()
    yield limited
    await limited.close()
    await connecting.aclose()
    await client.acl_deluser("limited")


async def test_who_may_not_watch_any_more_does_not_count_as_watching(
    limited: Transactions, client: Any
) -> None:
    await client.acl_setuser("limited", commands=["-watch"])
    await limited.run(NEXT, 1, AFTER)  # behind the watch that stands
    assert limited.before is None, "else the next one would be carried out whoever leads"
    with pytest.raises(ResponseError, match="watch"):
        await limited.look()


async def test_what_is_carried_out_although_a_transaction_is_refused_counts_as_torn(
    limited: Transactions, client: Any
) -> None:
    await client.acl_setuser("limited", commands=["-multi"])
    await client.set("cascade:test", "text")
    with pytest.raises(TransactionTorn, match="multi"):
        await limited.run(pack(("HSET", "cascade:test", "a", 1)) + NEXT, 2, AFTER)
    assert await client.hget(BATCH_KEY, "number") == b"1", "its number does not say that it has landed"
    assert limited.before is None


async def test_a_foreign_number_is_none(transactions: Transactions, client: Any) -> None:
    await client.hset(BATCH_KEY, mapping={"epoch": "7", "number": "many"})
    assert await transactions.look() == Before(b"7", b"7", 0)


class Transport:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.aborted = False

    def get_protocol(self) -> Transport:
        return self

    def set_protocol(self, protocol: object) -> None:
        pass

    def write(self, data: bytes) -> None:
        pass

    def abort(self) -> None:
        self.aborted = True


@pytest.fixture
def line() -> redis_transactions._Line:
    """A connection of which the test says what it brings."""
    parser = SimpleNamespace(parse_error=ResponseError)
    return redis_transactions._Line(
        SimpleNamespace(_writer=SimpleNamespace(transport=Transport()), _parser=parser)
    )


ANSWER = b"+OK\r\n$3\r\none\r\n*2\r\n:1\r\n-ERR no\r\n"


@pytest.mark.parametrize("at", range(len(ANSWER) + 1))
def test_replies_are_told_once_all_are_there_however_they_are_cut(
    line: redis_transactions._Line, at: int
) -> None:
    told: list[Any] = []
    line.call(b"", 3, told.append)
    line.data_received(ANSWER[:at])
    assert bool(told) == line.free == (at == len(ANSWER))
    line.data_received(ANSWER[at:])
    [[first, second, (one, error)]] = told
    assert (first, second, one, type(error)) == (b"OK", b"one", 1, ResponseError)


def test_what_nobody_has_asked_for_is_no_part_of_an_answer(line: redis_transactions._Line) -> None:
    told: list[Any] = []
    line.data_received(b"+before\r\n")
    line.call(b"", 1, told.append)
    line.data_received(b"+one\r\n+behind\r\n")
    line.data_received(b"+later\r\n")
    line.call(b"", 1, told.append)
    line.data_received(b"+two\r\n")
    assert told == [[b"one"], [b"two"]]


def test_bytes_that_are_no_replies_end_the_connection(line: redis_transactions._Line) -> None:
    told: list[Any] = []
    line.call(b"", 2, told.append)
    line.data_received(b"+one\r\nHTTP/1.1 400 Bad Request\r\n")
    assert [type(error) for error in told] == [InvalidResponse]
    assert line.lost
    assert not line.free
