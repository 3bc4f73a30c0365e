"""Two schedulers on one Redis: one leads, the other waits and takes over. Real processes, really killed."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import cascade_dist as cs
from tests.machine import wait_until

from .conftest import Journal
from .lives import gate, step
from .processes import Cluster, Redis

pytestmark = pytest.mark.integration

OPTIONS = ("--lease", "1s", "--heartbeat-period", "0.5s", "--drain-timeout", "0.5s")


@pytest.fixture
def cluster(state: Redis, tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(state.url, tmp_path, schedulers=2, workers=2, options=OPTIONS)
    yield made
    made.stop()


def health(port: int, service: str = "") -> str:
    """What the health service says of one scheduler."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def begun(cluster: Cluster, journal: Journal, flag: Path) -> Any:
    """A run of which one step is done and one blocks."""
    with_client = cluster.connect()
    target = gate(journal.path, str(flag), step(journal.path, 1))
    run = with_client.submit(target, run_id=f"r-{secrets.token_hex(4)}", progress=False)
    wait_until(lambda: "gate" in journal.lines())
    return with_client, run


def test_a_standby_says_that_it_is_one(cluster: Cluster) -> None:
    first, second = cluster.ports
    cluster.schedulers[1].says(f"standing by: the scheduler at 127.0.0.1:{first}")
    wait_until(lambda: health(first, "cascade.Scheduler") == "SERVING")
    assert health(first) == "SERVING"
    assert [health(second, name) for name in ("", "ready", "cascade.Scheduler")] == ["NOT_SERVING"] * 3
    assert health(second, "live") == "SERVING"
    with pytest.raises(cs.ConnectionFailedError, match=rf"standby; the leader is at 127.0.0.1:{first}"):
        cs.connect(f"127.0.0.1:{second}", connect_timeout=1)
    with cs.connect(f"127.0.0.1:{second},127.0.0.1:{first}") as client:
        assert client.run(step(os.devnull, 1)) == 1


def kill(cluster: Cluster) -> None:
    cluster.schedulers[0].kill()


def stop(cluster: Cluster) -> None:
    assert cluster.schedulers[0].stop() == 0


@pytest.mark.parametrize("end", [kill, stop])
def test_the_standby_takes_over_and_nothing_runs_twice(
    cluster: Cluster, journal: Journal, tmp_path: Path, end: Callable[[Cluster], None]
) -> None:
    flag = tmp_path / "flag"
    client, run = begun(cluster, journal, flag)
    end(cluster)
    cluster.schedulers[1].says("this scheduler leads now")
    flag.touch()
    assert run.result(60) == 1
    assert sorted(journal.lines()) == ["gate", "step1"]
    assert client.run(step(journal.path, 7)) == 7
    assert health(cluster.ports[1], "cascade.Scheduler") == "SERVING"
    client.close()


def test_a_leader_that_slept_commits_nothing_and_ends(
    cluster: Cluster, journal: Journal, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    client, run = begun(cluster, journal, flag)
    old, new = cluster.schedulers
    old.freeze()
    new.says("this scheduler leads now")
    for worker in cluster.workers:
        worker.says(f"connected to 127.0.0.1:{cluster.ports[1]}")
    flag.touch()
    with cs.connect(f"127.0.0.1:{cluster.ports[1]}") as other:
        assert other.attach(run.id).result(60) == 1
        old.thaw()
        assert old.ended() == 75
        assert "led by another scheduler" in old.text()
        assert other.run(step(journal.path, 7)) == 7
    assert run.result(60) == 1, "the client of the old one has found the new one"
    assert sorted(journal.lines()) == ["gate", "step1", "step7"]
    client.close()
    again = cluster.start_scheduler(0)
    again.says(f"standing by: the scheduler at 127.0.0.1:{cluster.ports[1]}")


def emptied(state: Redis) -> None:
    with state.client() as plain:
        plain.flushall()


def restarted(state: Redis) -> None:
    state.process.kill()
    time.sleep(2)
    state.start()


def frozen(state: Redis) -> None:
    state.process.freeze()
    time.sleep(3)
    state.process.thaw()


@pytest.mark.parametrize("fault", [emptied, restarted, frozen])
def test_a_leader_that_lives_keeps_the_lead_when_redis_loses_the_lease(
    cluster: Cluster, state: Redis, journal: Journal, tmp_path: Path, fault: Callable[[Redis], None]
) -> None:
    """It is the better one: it still holds what Redis may have lost."""
    flag = tmp_path / "flag"
    client, run = begun(cluster, journal, flag)
    fault(state)
    with state.client() as plain:
        wait_until(lambda: plain.get("cascade:leader"))
    time.sleep(1.5)
    flag.touch()
    assert run.result(60) == 1
    assert "leads now" not in cluster.schedulers[1].text()
    wait_until(lambda: health(cluster.ports[0], "cascade.Scheduler") == "SERVING")
    assert sorted(journal.lines()) == ["gate", "step1"]
    client.close()


@pytest.mark.long
def test_a_client_leaves_a_leader_that_never_wakes(
    cluster: Cluster, journal: Journal, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    client, run = begun(cluster, journal, flag)
    cluster.schedulers[0].freeze()
    flag.touch()
    assert run.result(60) == 1
    client.close()


def test_a_scheduler_that_was_killed_does_not_wait_for_its_own_lease(state: Redis, tmp_path: Path) -> None:
    alone = Cluster(state.url, tmp_path, workers=0, options=("--lease", "60s"))
    try:
        alone.schedulers[0].kill()
        alone.schedulers[0].log.unlink()
        alone.start_scheduler(0).says("cascade-scheduler listening on")
        assert "standing by" not in alone.schedulers[0].text()
    finally:
        alone.stop()


def test_a_private_cluster_does_not_wait_for_a_leader(cluster: Cluster, state: Redis) -> None:
    with pytest.raises(
        cs.CascadeError, match=rf"the scheduler at 127.0.0.1:{cluster.ports[0]} leads the state in redis://"
    ):
        cs.run(step(os.devnull, 1), state_backend=state.url)
