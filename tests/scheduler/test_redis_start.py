"""What a scheduler says of the Redis that it is given: what it refuses and warns of, how it reaches it."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cascade_dist.storage.seal import Sealer
from cascade_dist.v1 import worker_pb2
from cascade_scheduler.store.base import Batch, StoreError
from cascade_scheduler.store.redis import RedisStore
from cascade_scheduler.store.redis_checks import warnings_of
from tests.contract.test_run_store import KEY, created
from tests.integration.processes import Redis
from tests.machine import free_port, own_certificate
from tests.scheduler.peers import TIMES, Client, Worker, done, one_task, pickled, scheduler

Start = Callable[..., Redis]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a Redis of the test's own."""
    made: list[Redis] = []

    def start(*options: str, **more: str) -> Redis:
        made.append(Redis(tmp_path, "--save", "", "--appendonly", "yes", *options, **more))
        return made[-1]

    yield start
    for server in made:
        server.stop()


async def refused(url: str) -> str:
    """What a store says of a Redis that it cannot use."""
    store = RedisStore(url, Sealer(KEY))
    try:
        await store.open()
    except StoreError as error:
        return str(error)
    finally:
        await store.close()
    raise AssertionError("it was taken")


async def use(url: str) -> None:
    """Writes to a Redis, and reads what it wrote."""
    store = RedisStore(url, Sealer(KEY))
    await store.open()
    await store.commit(Batch(1, (created(),)))
    found = await store.load_run("r")
    assert found is not None
    assert found.created == created()
    await store.close()


async def test_a_wrong_password_is_named_and_not_told(start: Start) -> None:
    server = start("--requirepass", "right", password="right")
    for login in ("", ":wrong-one@", "nobody:wrong-one@"):
        text = await refused(f"redis://{login}127.0.0.1:{server.port}/0")
        assert "refuses us" in text
        assert "correct user and password in --state" in text
        assert "wrong-one" not in text
    await use(f"redis://:right@127.0.0.1:{server.port}/0")


async def test_a_user_who_may_not_write_is_named(start: Start) -> None:
    server = start()
    with server.client() as plain:
        plain.acl_setuser("reader", enabled=True, passwords=["+secret"], keys=["*"], categories=["+@read"])
        plain.acl_setuser("reader", enabled=True, commands=["+ping", "+info"])
    text = await refused(f"redis://reader:secret@127.0.0.1:{server.port}/0")
    assert "does not let its user do what a scheduler does" in text
    assert "cascade:*" in text


async def test_a_replica_is_refused_with_its_primary(start: Start) -> None:
    server = start("--replicaof", "127.0.0.1 1")
    text = await refused(server.url)
    assert "read-only replica of 127.0.0.1:1: name its primary in --state" in text


async def test_a_redis_cluster_is_refused_with_the_reason(start: Start) -> None:
    server = start("--cluster-enabled", "yes")
    text = await refused(server.url)
    assert "is a Redis Cluster" in text
    assert "keys of many runs" in text


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"appendonly": "no", "save": ""}, r"appendonly=no: everything is lost \(save is empty\)"),
        ({"appendonly": "no", "save": "3600 1"}, r"snapshot \(save='3600 1'\) is lost"),
        ({"appendfsync": "no"}, "appendfsync=no"),
        ({"no-appendfsync-on-rewrite": "yes"}, "no-appendfsync-on-rewrite=yes"),
        ({"maxmemory-policy": "volatile-ttl"}, "maxmemory-policy=volatile-ttl: results can be evicted"),
    ],
)
async def test_settings_that_lose_results_are_named(
    start: Start, caplog: pytest.LogCaptureFixture, settings: dict[str, str], said: str
) -> None:
    caplog.set_level(logging.WARNING)
    server = start()
    await use(server.url)
    assert not caplog.records
    with server.client() as plain:
        for name, value in settings.items():
            plain.config_set(name, value)
    await use(server.url)
    [record] = caplog.records
    assert re.search(said, record.getMessage())
    assert server.url in record.getMessage()


def test_replicas_that_need_not_hear_of_a_write_are_named() -> None:
    settings = {"appendonly": "yes", "appendfsync": "everysec", "min-replicas-to-write": "0"}
    assert warnings_of(settings, 0) == []
    [text] = warnings_of(settings, 1)
    assert "min-replicas-to-write=0" in text
    assert warnings_of({**settings, "min-replicas-to-write": "1"}, 1) == []


async def test_a_unix_socket(start: Start, tmp_path: Path) -> None:
    start("--unixsocket", str(tmp_path / "redis.sock"))
    await use(f"unix://{tmp_path}/redis.sock?db=3")


async def test_tls(start: Start, tmp_path: Path) -> None:
    own, key = await asyncio.to_thread(own_certificate, tmp_path)
    port = free_port()
    files = ["--tls-cert-file", str(own), "--tls-key-file", str(key)]
    files += ["--tls-ca-cert-file", str(own), "--tls-auth-clients", "no"]
    start("--tls-port", str(port), *files)
    await use(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={own}")
    text = await refused(f"rediss://127.0.0.1:{port}/0")
    assert "certificate" in text.lower()
    assert "ssl_ca_certs" in text, "the remedy"


async def test_what_is_stored_lives_as_long_as_its_run_goes_on_and_then_its_time(start: Start) -> None:
    server = start()
    store = RedisStore(server.url, Sealer(KEY), ttl_seconds=3)
    times = TIMES._replace(renew=0.3)
    with server.client() as plain:
        async with (
            scheduler(store, times=times) as made,
            Client(made.address) as client,
            Worker(made.address) as worker,
        ):
            await client.submitted("r", one_task())
            attempt = (await worker.work()).assignments[0].attempt
            keys = plain.keys("cascade:run:r:*")
            assert keys
            began = asyncio.get_running_loop().time()
            heartbeats = asyncio.create_task(worker.work())  # reads what comes: nothing but heartbeats
            while asyncio.get_running_loop().time() < began + 5:
                await asyncio.sleep(0.25)
                await worker.say(heartbeat=worker_pb2.WorkerHeartbeat())
            assert set(plain.keys("cascade:run:r:*")) >= set(keys), "longer than their time to live"
            assert all(0 < plain.pttl(key) <= 3000 for key in keys)
            await worker.report(done(attempt, pickled(1)))
            await client.finish("r")
            heartbeats.cancel()  # and the worker's stream with it
        async with asyncio.timeout(20):
            while plain.keys("cascade:run:r:*"):  # noqa: ASYNC110 - Redis does not tell
                await asyncio.sleep(0.1)
