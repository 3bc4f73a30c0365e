"""What lies in Redis is sealed with the cluster's key, and nobody loads what is not."""

from __future__ import annotations

import asyncio
import pickle
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import cascade_dist as cs
from cascade_dist.storage.seal import Sealer
from tests.machine import wait_until

from .conftest import Journal, note
from .lives import gate
from .processes import Cluster, Redis

pytestmark = pytest.mark.integration

KEY, OTHER = "k" * 32, "o" * 32


@cs.task
def double(path: str, x: int) -> int:
    note(path, f"double{x}")
    return 2 * x


@pytest.fixture
def cluster(state: Redis, tmp_path: Path) -> Iterator[Cluster]:
    """Its scheduler has a key by a file; its worker has another one of its own."""
    (tmp_path / "key").write_text(KEY)
    (tmp_path / "other").write_text(OTHER)
    made = Cluster(
        state.url,
        tmp_path,
        options=("--seal-key-file", str(tmp_path / "key")),
        worker_env={"CASCADE_SEAL_KEY": "w" * 32, "XDG_STATE_HOME": str(tmp_path / "state")},
    )
    yield made
    made.stop()


def test_small_results_are_read_by_whoever_knows_pickle_and_redis(
    cluster: Cluster, state: Redis, journal: Journal
) -> None:
    run_id = f"plain-{secrets.token_hex(4)}"
    with cluster.connect() as client, state.client() as plain:
        assert client.run([double(journal.path, 4), double(journal.path, 5)], run_id=run_id) == [8, 10]
        found = plain.hgetall(f"cascade:run:{run_id}:results")
    assert sorted(pickle.loads(record) for record in found.values()) == [8, 10]


def test_workers_seal_with_the_key_of_their_scheduler(
    cluster: Cluster, state: Redis, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = cs.RedisCacheBackend(state.url, "mine:")
    call = double(journal.path, 4).with_cache(cs.ResultCache(backend, ttl=300))
    with cluster.connect() as client, state.client() as plain:
        assert [client.run(call) for _ in range(2)] == [8, 8]
        assert journal.lines() == ["double4"]
        [name] = plain.keys("mine:*")
        sealed = plain.get(name)
        _, data = Sealer(KEY.encode()).open("cascade:cache", name.decode(), sealed)
        assert pickle.loads(data) is not None

        # An entry that somebody else has written is passed over, and the task runs.
        plain.set(name, Sealer(OTHER.encode()).seal("cascade:cache", name.decode(), 0, b"evil"))
        assert client.run(call) == 8
    assert journal.lines() == ["double4", "double4"]
    monkeypatch.setenv("CASCADE_SEAL_KEY", KEY)
    reader = cs.RedisCacheBackend(state.url, "mine:")

    async def read() -> Any:
        try:
            return await reader.get(name.decode().removeprefix("mine:"))
        finally:
            await reader.close()

    assert asyncio.run(read()) is not None, "a process with the cluster's key reads it"


def test_a_scheduler_with_another_key_passes_over_runs_and_says_why(
    cluster: Cluster, journal: Journal, tmp_path: Path
) -> None:
    run_id = f"sealed-{secrets.token_hex(4)}"
    target = gate(journal.path, str(tmp_path / "flag"), double(journal.path, 1))
    with cluster.connect() as client:
        run = client.submit(target, run_id=run_id, progress=False)
        wait_until(lambda: "gate" in journal.lines())
        wait_until(lambda: len(list(client.events(run_id, follow=False))) > 1)  # what is told is stored
        cluster.schedulers[0].kill()
        cluster.schedulers[0].log.unlink()
        again = cluster.start_scheduler(0, "--seal-key-file", str(tmp_path / "other"))
        again.says(f"run {run_id} is passed over")
        assert "sealed with another key" in again.text()
        assert "--seal-key-file" in again.text()
        (tmp_path / "flag").touch()
        with pytest.raises(cs.RunLostError):
            run.result(60)
