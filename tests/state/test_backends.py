"""The state of a run in a real Redis: its layout, its seals, and what is refused. See also tests/contract."""

from __future__ import annotations

import pickle
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio

import cascade_dist as cs
from cascade_dist.codec.cid import cid_of
from cascade_dist.storage.records import BlobRecord, ObjectRecord, encode_record
from cascade_dist.storage.seal import Sealer, SealError

KEY = b"k" * 32


@pytest.fixture(autouse=True)
def seal_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASCADE_SEAL_KEY", KEY.decode())


@pytest.fixture
async def client(redis_server: str) -> AsyncIterator[Any]:
    """A client of a database that is empty."""
    made = redis.asyncio.Redis.from_url(redis_server)
    await made.flushdb()
    yield made
    await made.aclose()


async def test_s89_nothing_of_them_is_left_in_redis(client: Any) -> None:
    state = cs.RedisStateBackend("r", client)
    await state.put_result("n", 1)
    await state.mark_skipped("m", "Pruned")
    await client.hset("cascade:run:r:facts", "n", '{"truth": true}')
    await client.set("another", "one")
    await state.clear()
    assert await client.keys() == [b"another"]


async def test_s84_hashes_and_their_expiry(client: Any) -> None:
    state = cs.RedisStateBackend("R", client)
    await state.put_result("n", 1)
    assert await client.hkeys("cascade:run:R:results") == [b"n"]
    assert 86_390 < await client.ttl("cascade:run:R:results") <= 86_400
    await client.expire("cascade:run:R:results", 100)
    await state.mark_skipped("m", "Pruned")
    assert await client.hgetall("cascade:run:R:skipped") == {b"m": b"Pruned"}
    for part in ("results", "skipped"):
        assert 86_390 < await client.ttl(f"cascade:run:R:{part}") <= 86_400
    await cs.RedisStateBackend("R", client, ttl=50).put_result("n", 2)
    assert await client.ttl("cascade:run:R:skipped") <= 50


async def test_a_stored_value_is_its_pickle_for_all_who_read_hashes(client: Any) -> None:
    await cs.RedisStateBackend("r", client).put_result("n", [1, 2])
    assert pickle.loads(await client.hget("cascade:run:r:results", "n")) == [1, 2]


async def test_what_was_observed_of_a_value_goes_with_it(client: Any) -> None:
    await client.hset("cascade:run:r:facts", "n", '{"truth": true}')
    await cs.RedisStateBackend("r", client).put_result("n", 0)
    assert not await client.hexists("cascade:run:r:facts", "n")


async def test_what_others_wrote_is_not_loaded(client: Any) -> None:
    state = cs.RedisStateBackend("r", client)
    await client.hset("cascade:run:r:results", "bare", pickle.dumps(1))
    record = Sealer(b"o" * 32).seal("r", "theirs", 1, pickle.dumps(1))
    await client.hset("cascade:run:r:results", "theirs", record)
    for node, words in (("bare", "no seal"), ("theirs", "another key")):
        with pytest.raises(SealError, match=words):
            await state.get_result(node)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (BlobRecord(cid_of(b"x"), 70_000), "70,000 bytes and is the blob bafk"),
        (ObjectRecord(7, 70_000, "worker-1", "host:9"), "object on worker worker-1 at host:9"),
    ],
)
async def test_a_value_that_is_elsewhere_says_where(client: Any, record: Any, words: str) -> None:
    sealed = Sealer(KEY).seal("r", "n", 7, encode_record(record))
    await client.hset("cascade:run:r:results", "n", sealed)
    state = cs.RedisStateBackend("r", client)
    assert await state.has_result("n")
    with pytest.raises(cs.ResultMissingError, match=words):
        await state.get_result("n")


async def test_a_url_does(redis_server: str, client: Any) -> None:
    state = cs.RedisStateBackend("r", redis_server)
    try:
        await state.put_result("n", 1)
        assert await cs.RedisStateBackend("r", client).get_result("n") == 1
    finally:
        await state.close()


def test_what_cannot_be_is_refused() -> None:
    made = redis.asyncio.Redis()
    with pytest.raises(TypeError, match="run_id"):
        cs.RedisStateBackend("", made)
    with pytest.raises(ValueError, match="ttl"):
        cs.RedisStateBackend("r", made, ttl=0)
    with pytest.raises(TypeError, match=r"redis\.asyncio"):
        cs.RedisStateBackend("r", redis.Redis())
