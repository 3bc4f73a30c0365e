"""What is Redis's own in the store: the layout, the lease, what is refused and what is warned of."""

from __future__ import annotations

import json
import secrets
from typing import Any

import pytest

from cascade_dist.storage.seal import Sealer
from cascade_scheduler.core.commands import (
    SaveConstraint,
    SaveResult,
    SaveSkip,
)
from cascade_scheduler.core.limits import PAUSE, Constraint
from cascade_scheduler.store.base import (
    RunRenewed,
    StoredResult,
    StoreError,
    StoreFenced,
    StoreGap,
    StoreUnavailable,
)
from cascade_scheduler.store.redis import RedisStore, masked
from cascade_scheduler.store.shared import RELEASED, Holder
from tests.contract.test_run_store import KEY, created, frame, land, load


async def test_s84_results_and_skips_lie_where_the_base_library_has_them(
    store: RedisStore, client: Any
) -> None:
    await land(
        store, 1, created(), SaveResult("r", 0, "aa", 1, b"\x80\x05K\x07."), SaveSkip("r", 1, "bb", "Pruned")
    )
    record = await client.hget("cascade:run:r:results", "aa")
    assert record.startswith(b"\x80\x05K\x07.")
    assert Sealer(KEY).open("r", "aa", record) == (1, b"\x80\x05K\x07.")
    assert await client.hgetall("cascade:run:r:skipped") == {b"bb": b"Pruned"}
    for key in await client.keys("cascade:run:*"):
        assert 86_390 < await client.ttl(key) <= 86_400, key


async def test_the_time_to_live_is_renewed(store: RedisStore, client: Any) -> None:
    await land(store, 1, created(), SaveResult("r", 0, "aa", 1, b"\x80"))
    for key in await client.keys("cascade:run:*"):
        await client.expire(key, 100)
    await land(store, 2, RunRenewed("r", 5000.0))
    for key in await client.keys("cascade:run:*"):
        assert await client.ttl(key) > 86_390, key
    assert await client.zscore("cascade:runs", "r") == 5000.0


async def test_a_run_whose_time_is_over_leaves_the_list(store: RedisStore, client: Any) -> None:
    await land(store, 1, created("old"), created("new", submitted=1234.5 + 100 * 3600))
    assert await client.zrange("cascade:runs", 0, -1) == [b"new"]


async def test_a_record_of_another_key_counts_as_lost(
    store: RedisStore, client: Any, redis_server: str
) -> None:
    await land(
        store, 1, created(), SaveResult("r", 0, "aa", 1, b"\x80"), SaveResult("r", 1, "bb", 2, b"\x80")
    )
    forged = Sealer(b"x" * 32).seal("r", "aa", 1, b"\x80evil")
    await client.hset("cascade:run:r:results", "aa", forged)
    assert list((await load(store))["r"].results) == ["bb"]
    other = RedisStore(redis_server, Sealer(b"x" * 32))
    await other.open()
    assert await load(other) == {}  # its graph is sealed with another key too
    await other.close()


async def test_a_lost_tail_and_a_lost_epoch_are_gaps(store: RedisStore, client: Any) -> None:
    await land(store, 1, created())
    await client.delete("cascade:batch")
    with pytest.raises(StoreGap, match=r"has lost results.*last batch is 0"):
        await land(store, 2, SaveSkip("r", 0, "aa", "Pruned"))
    await client.delete("cascade:epoch")
    with pytest.raises(StoreGap, match="missing"):
        await land(store, 1, SaveSkip("r", 0, "aa", "Pruned"))
    await client.set("cascade:epoch", 1)  # from a backup
    with pytest.raises(StoreGap, match="epoch is 1, ours"):
        await land(store, 1, SaveSkip("r", 0, "aa", "Pruned"))


async def test_after_a_gap_batches_land_again_from_the_first_on(store: RedisStore, client: Any) -> None:
    await land(store, 1, created())
    await client.flushdb()
    await store.take_again()
    await land(store, 1, created(), SaveResult("r", 0, "aa", 7, b"one"))
    found = await store.load_run("r")
    assert found is not None
    assert found.results == {"aa": StoredResult(7, b"one")}


async def test_after_a_gap_nothing_is_taken_from_another_leader(
    store: RedisStore, client: Any, redis_server: str
) -> None:
    other = RedisStore(redis_server, Sealer(KEY))
    await other.open()
    with pytest.raises(StoreFenced):
        await store.take_again()
    await land(other, 1, created())
    await other.close()


async def test_a_run_is_known_in_its_first_frame(store: RedisStore, redis_server: str) -> None:
    await land(store, 1, created())
    assert await store.has_run(created())
    assert not await store.has_run(created(submitted=1.0))
    assert not await store.has_run(created("other"))
    other = RedisStore(redis_server, Sealer(b"x" * 32))
    assert not await other.has_run(created()), "sealed with another key"
    await other.close()
    await land(store, 2, frame(1))
    assert not await store.has_run(created())


HOLDER = Holder("one", "h:1", "h", "machine", 7, 9)


async def test_the_lease_is_one_scheduler_s_until_it_ends_or_is_given_back(
    store: RedisStore, client: Any, redis_server: str
) -> None:
    other = RedisStore(redis_server, Sealer(KEY))
    second = HOLDER._replace(owner="two")
    first = await store.claim(HOLDER, 60.0)
    assert first is not None
    assert await other.holder() == HOLDER
    assert await other.claim(second, 60.0) is None
    await land(store, 1, created())
    await client.pexpire("cascade:leader", 1000)
    await store.renew(60.0)
    assert await client.pttl("cascade:leader") > 50_000
    await store.release()
    assert await other.holder() == RELEASED
    epoch = await other.claim(second, 60.0)
    assert epoch is not None
    assert epoch > first
    with pytest.raises(StoreFenced, match="its epoch is"):
        await store.renew(60.0)
    with pytest.raises(StoreFenced):
        await land(store, 2, SaveSkip("r", 0, "aa", "Pruned"))
    await store.release()  # what is another's stays
    assert await other.holder() == second
    await other.close()


async def test_the_lease_of_a_dead_scheduler_is_taken_over_by_name(
    store: RedisStore, redis_server: str
) -> None:
    other = RedisStore(redis_server, Sealer(KEY))
    second = HOLDER._replace(owner="two")
    await store.claim(HOLDER, 60.0)
    assert await other.claim(second, 60.0, over=HOLDER._replace(pid=8)) is None
    assert await other.claim(second, 60.0, over=HOLDER) is not None
    await other.close()


async def test_a_lease_that_ended_unnoticed_is_renewed_all_the_same(store: RedisStore, client: Any) -> None:
    await store.claim(HOLDER, 60.0)
    await client.delete("cascade:leader")
    await store.renew(60.0)
    assert await store.holder() == HOLDER


async def test_whoever_renews_sees_what_is_lost(store: RedisStore, client: Any) -> None:
    await store.claim(HOLDER, 60.0)
    await land(store, 1, created())
    await client.delete("cascade:batch")
    with pytest.raises(StoreGap):
        await store.renew(60.0)
    await client.flushdb()
    with pytest.raises(StoreGap):
        await store.renew(60.0)


async def test_epochs_do_not_come_again_after_everything_was_lost(store: RedisStore, client: Any) -> None:
    await client.flushdb()
    seconds, _ = await client.time()
    assert await store.open() >= (seconds - 1735689600) // 60


async def test_a_lease_that_is_none_of_ours_is_waited_for_only_while_it_ends(
    store: RedisStore, client: Any
) -> None:
    await client.set("cascade:leader", b"\xff something else", px=60_000)
    found = await store.holder()
    assert found is not None
    assert "something else" in found.owner
    assert await store.claim(HOLDER, 60.0) is None
    await client.persist("cascade:leader")
    assert await store.holder() is None
    assert await store.claim(HOLDER, 60.0) is not None


async def test_settings_that_can_lose_results_are_named(
    store: RedisStore, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await store.open()
    assert "can be" not in caplog.text
    await client.config_set("appendonly", "no")
    await client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        await store.open()
    finally:
        await client.config_set("appendonly", "yes")
        await client.config_set("maxmemory-policy", "noeviction")
    assert "appendonly=no" in caplog.text
    assert "maxmemory-policy=allkeys-lru" in caplog.text


async def test_constraints_are_readable_json_without_a_time_to_live(store: RedisStore, client: Any) -> None:
    await land(store, 1, SaveConstraint(Constraint("pause:global", "global", PAUSE)))
    told = json.loads(await client.hget("cascade:constraints", "pause:global"))
    assert (told["scope"], told["type"], told["expires_at"]) == ("global", "pause", None)
    assert await client.ttl("cascade:constraints") == -1


@pytest.mark.parametrize(
    "text", [b"no json", b"[]", b"{}", b'{"id":"x","scope":"nowhere","type":"pause","limit":0}', b"\xff\xfe"]
)
async def test_a_constraint_that_makes_no_sense_is_passed_over(
    store: RedisStore, client: Any, caplog: pytest.LogCaptureFixture, text: bytes
) -> None:
    await land(store, 1, SaveConstraint(Constraint("good", "global", PAUSE)))
    await client.hset("cascade:constraints", "bad", text)
    assert [found.id for found in await store.constraints()] == ["good"]
    assert "constraint 'bad'" in caplog.text


async def test_another_kind_of_key_in_the_place_of_the_constraints_is_named(
    store: RedisStore, client: Any
) -> None:
    await client.set("cascade:constraints", "no hash")
    with pytest.raises(StoreError, match="cascade:constraints"):
        await store.constraints()


async def test_what_is_resumed_lives_as_long_as_its_run(store: RedisStore, client: Any) -> None:
    await land(store, 1, created(), SaveResult("r", 0, "aa", 7, b"one", True))
    for part in ("results", "facts"):
        await client.expire(f"cascade:run:r:{part}", 10)
    await land(store, 2, created(resumed=True))
    for part in ("results", "facts"):
        assert await client.ttl(f"cascade:run:r:{part}") > 80_000


async def test_a_result_that_is_not_sealed_is_not_resumed(
    store: RedisStore, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await land(store, 1, created(), SaveResult("r", 0, "aa", 7, b"one"), SaveResult("r", 1, "bb", 8, b"two"))
    await client.hset("cascade:run:r:results", "aa", b"\x80\x05N.")
    found = await store.load_run("r")
    assert found is not None
    assert list(found.results) == ["bb"]
    assert "counts as lost" in caplog.text


async def test_no_redis_is_named_without_its_password(unused_tcp_port: int) -> None:
    url = f"redis://user:{secrets.token_hex(4)}@127.0.0.1:{unused_tcp_port}/0"
    lost = RedisStore(url, Sealer(KEY))
    with pytest.raises(
        StoreError, match=rf"no Redis at redis://user:\*\*\*@127.0.0.1:{unused_tcp_port}/0.*--state"
    ):
        await lost.open()
    with pytest.raises(StoreUnavailable):
        await land(lost, 1, created())
    with pytest.raises(StoreUnavailable):
        await lost.load_run("r")
    await lost.close()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h:1/0", "redis://h:1/0"),
        ("redis://:secret@h:1/0", "redis://:***@h:1/0"),
        ("rediss://u:secret@h/2", "rediss://u:***@h/2"),
        ("unix://:secret@/run/redis.sock?db=1", "unix://:***@/run/redis.sock?db=1"),
    ],
)
def test_passwords_are_masked(url: str, shown: str) -> None:
    assert masked(url) == shown


async def test_a_foreign_value_in_the_place_of_a_part_is_named_and_its_run_passed_over(
    store: RedisStore, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await land(store, 1, created("r"), created("other"), SaveSkip("r", 0, "aa", "Pruned"))
    await client.delete("cascade:run:r:skipped")
    await client.set("cascade:run:r:skipped", "something else")
    with pytest.raises(StoreUnavailable, match=r"cascade:run:r:skipped is a string: another program"):
        await land(store, 2, SaveSkip("r", 1, "bb", "Pruned"))
    assert await store.load_run("r") is None
    assert "run r is passed over: Redis at" in caplog.text
    await client.set("cascade:run:r:meta", "something else")
    assert [head.run_id for head in await store.heads()] == ["other"]
    assert "cascade:run:r:meta is a string" in caplog.text
    await client.delete("cascade:run:r:skipped", "cascade:run:r:meta")
    await land(store, 2, SaveSkip("r", 1, "bb", "Pruned"))


@pytest.mark.parametrize("key", ["cascade:epoch", "cascade:batch", "cascade:runs", "cascade:leader"])
async def test_a_foreign_value_in_the_place_of_what_all_share_is_named_at_start(
    client: Any, redis_server: str, key: str
) -> None:
    await client.rpush(key, "something else")
    store = RedisStore(redis_server, Sealer(KEY))
    with pytest.raises(StoreError, match=rf"the key {key} in Redis at .* is a list and not a .*rename it"):
        await store.connect()
    await store.close()


@pytest.mark.parametrize("text", ["abc", "9" * 30, "-1", "2147483648"])
async def test_an_epoch_that_is_none_is_named_at_start_and_mended_later(
    store: RedisStore, client: Any, redis_server: str, text: str
) -> None:
    await client.set("cascade:epoch", text)
    other = RedisStore(redis_server, Sealer(KEY))
    with pytest.raises(StoreError, match=r"the key cascade:epoch in Redis at .* delete it"):
        await other.open()
    await other.close()
    if text.isdigit():
        return  # one that is higher is another leader's
    with pytest.raises(StoreGap):
        await land(store, 1, created())
    await store.take_again()
    await land(store, 1, created())


async def test_a_large_run_is_read_piece_by_piece(store: RedisStore) -> None:
    results = [SaveResult("r", node, f"{node:032x}", node + 1, b"\x80%d" % node) for node in range(1_001)]
    many = created(chunks=tuple(b"chunk %d" % number for number in range(19)))
    await land(store, 1, many, *results, SaveSkip("r", 2_000, "x", "Pruned"))
    found = await store.load_run("r")
    assert found is not None
    assert found.created == many
    assert found.results == {result.key: StoredResult(result.attempt, result.value) for result in results}
    assert found.skipped == {"x": "Pruned"}
