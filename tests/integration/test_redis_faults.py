"""What happens when the Redis that keeps the state is frozen, killed, full, or has lost something."""

from __future__ import annotations

import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest

import cascade_dist as cs
from tests.machine import wait_until

from .conftest import Journal, note
from .lives import gate, step
from .processes import Cluster, Redis

pytestmark = pytest.mark.integration

OPTIONS = ("--lease", "1s", "--heartbeat-period", "0.5s", "--heartbeat-timeout", "4s")


@cs.task
def number(n: int, *after: int) -> int:
    return n


@cs.task
def nap(n: int, seconds: float) -> int:
    time.sleep(seconds)
    return n


@cs.task
def total(*values: int) -> int:
    return sum(values)


@cs.task
def bulk(path: str, n: int, size: int) -> bytes:
    note(path, "bulk")
    return bytes([n % 256]) * size


@cs.task
def size(*values: bytes) -> int:
    return sum(map(len, values))


@pytest.fixture
def start(state: Redis, tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Starts a cluster on the state."""
    made: list[Cluster] = []

    def start(*options: str, **more: Any) -> Cluster:
        made.append(Cluster(state.url, tmp_path, options=(*OPTIONS, *options), **more))
        return made[-1]

    yield start
    for cluster in made:
        cluster.stop()


def fan(count: int, salt: int = 0) -> tuple[Any, int]:
    """Many small tasks and their sum; what it comes to."""
    return total(*(number(salt + n) for n in range(count))), sum(range(salt, salt + count))


class Load(threading.Thread):
    """Submits runs, one after the other, until it is told to stop."""

    def __init__(self, client: cs.Cluster) -> None:
        super().__init__()
        self._client = client
        self._enough = threading.Event()
        self.runs: list[tuple[Any, int]] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            while not self._enough.is_set():
                target, value = fan(20, 1000 * len(self.runs))
                run = self._client.submit(target, run_id=f"load-{secrets.token_hex(6)}", progress=False)
                self.runs.append((run, value))
                wait([run], timeout=0.2)
        except BaseException as error:
            self.error = error

    def settle(self) -> None:
        """All that was submitted ends, and ends right."""
        self._enough.set()
        self.join(120)
        assert not self.is_alive()
        assert self.error is None
        assert len(self.runs) > 3
        for run, value in self.runs:
            assert run.result(120) == value


def test_a_client_hears_of_a_result_when_redis_has_it(start: Callable[..., Cluster], state: Redis) -> None:
    with start().connect() as client:
        assert client.run(number(1)) == 1
        state.process.freeze()
        run = client.submit(number(2), progress=False)
        done, _ = wait([run], timeout=1.5)
        assert not done, "Redis has not said that it has it"
        state.process.thaw()
        assert run.result(60) == 2
        with state.client() as plain:
            plain.client_pause(1500)
            paused = time.monotonic()
            assert client.submit(number(3), progress=False).result(60) == 3
            assert time.monotonic() - paused > 1


def away(seconds: float) -> Callable[[Redis], None]:
    def freeze(state: Redis) -> None:
        state.process.freeze()
        time.sleep(seconds)
        state.process.thaw()

    return freeze


def killed(seconds: float) -> Callable[[Redis], None]:
    def kill(state: Redis) -> None:
        state.process.kill()
        time.sleep(seconds)
        state.start()

    return kill


def emptied(state: Redis) -> None:
    """It comes back without its file: a Redis that keeps nothing on disk."""
    state.process.kill()
    shutil.rmtree(state.directory / "appendonlydir")
    state.start()


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(emptied, id="emptied"),
        pytest.param(away(6), id="frozen"),
        pytest.param(killed(4), id="killed"),
        pytest.param(away(30), id="frozen for 30 s", marks=pytest.mark.long),
        pytest.param(killed(30), id="killed for 30 s", marks=pytest.mark.long),
    ],
)
def test_redis_goes_away_under_load_and_every_run_ends_right(
    start: Callable[..., Cluster], state: Redis, fault: Callable[[Redis], None]
) -> None:
    cluster = start(workers=2)
    with cluster.connect() as client:
        load = Load(client)
        load.start()
        wait_until(lambda: len(load.runs) > 3 or load.error)
        fault(state)
        before = len(load.runs)
        wait_until(lambda: len(load.runs) > before + 2 or load.error)
        load.settle()
    log = cluster.schedulers[0].text()
    if fault is emptied:
        assert "has again what is held" in log
    else:
        assert "results wait until the store is back" in log
        assert "is back" in log
    assert "off the books" not in log, "no worker was lost for it"


def test_past_the_bound_dispatch_holds_and_goes_on(
    start: Callable[..., Cluster], state: Redis, journal: Journal
) -> None:
    """The bound is soon met, and then workers are not heard for longer than the scheduler is patient."""
    count = 300
    cluster = start("--backlog-bytes-max", "200KiB", workers=2)
    with cluster.connect() as client:
        assert client.run(number(1)) == 1
        state.process.freeze()
        target = size(*(bulk(journal.path, n, 60_000) for n in range(count)))
        run = client.submit(target, run_id="held", progress=False)
        time.sleep(7)
        assert client.runs(), "what the scheduler knows, it still says"
        held = len(journal.lines())
        assert 0 < held < count
        time.sleep(1)
        assert len(journal.lines()) == held
        state.process.thaw()
        assert run.result(120) == count * 60_000
    assert len(journal.lines()) == count, "nothing ran twice"
    assert "off the books" not in cluster.schedulers[0].text()


def test_everything_in_redis_is_lost_while_runs_go_on(
    start: Callable[..., Cluster], state: Redis, journal: Journal, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    cluster = start()
    with cluster.connect() as client:
        target = gate(journal.path, str(flag), step(journal.path, 1), step(journal.path, 2))
        run = client.submit(target, run_id="kept", progress=False)
        wait_until(lambda: "gate" in journal.lines())
        with state.client() as plain:
            plain.flushall()
            cluster.schedulers[0].says("has again what is held")
            # The scheduler dies too: what was written again is enough to go on with.
            cluster.schedulers[0].kill()
            cluster.start_scheduler(0)
            wait_until(lambda: plain.exists("cascade:run:kept:meta"))
        flag.touch()
        assert run.result(60) == 3
    assert sorted(journal.lines()) == ["gate", "step1", "step2"]


def test_a_redis_that_comes_back_with_an_older_file_is_written_again(
    start: Callable[..., Cluster], state: Redis, journal: Journal, tmp_path: Path
) -> None:
    """Its directory is put back as it was: what a crash of the machine does with appendfsync no."""
    flag = tmp_path / "flag"
    cluster = start()
    files = next(tmp_path.glob("appendonlydir"))
    with cluster.connect() as client:
        assert client.run(number(1)) == 1
        state.process.freeze()
        before = {file: file.read_bytes() for file in files.iterdir()}
        state.process.thaw()
        target = gate(journal.path, str(flag), step(journal.path, 1))
        run = client.submit(target, run_id="later", progress=False)
        wait_until(lambda: "gate" in journal.lines())
        state.process.kill()
        for file, content in before.items():
            file.write_bytes(content)
        state.start()
        cluster.schedulers[0].says("has again what is held")
        flag.touch()
        assert run.result(60) == 1
        with state.client() as plain:
            assert plain.hget("cascade:run:later:meta", "state") == b"succeeded"
    assert sorted(journal.lines()) == ["gate", "step1"]


def test_a_full_redis_is_named_and_waited_for(start: Callable[..., Cluster], state: Redis) -> None:
    cluster = start()
    with cluster.connect() as client, state.client() as plain:
        assert client.run(number(1)) == 1
        plain.config_set("maxmemory", 1)
        run = client.submit(number(2), progress=False)
        cluster.schedulers[0].says("maxmemory")
        done, _ = wait([run], timeout=1)
        assert not done
        plain.config_set("maxmemory", 0)
        assert run.result(60) == 2
    assert "raise maxmemory" in cluster.schedulers[0].text()


def test_a_foreign_value_in_the_place_of_ours_is_named_and_waited_for(
    start: Callable[..., Cluster], state: Redis, journal: Journal, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    cluster = start()
    with cluster.connect() as client, state.client() as plain:
        run = client.submit(gate(journal.path, str(flag)), run_id="foreign", progress=False)
        wait_until(lambda: "gate" in journal.lines())
        plain.set("cascade:run:foreign:results", "something else")
        flag.touch()
        cluster.schedulers[0].says("cascade:run:foreign:results is a string")
        assert not run.done()
        plain.delete("cascade:run:foreign:results")
        assert run.result(60) == 0


def test_a_redis_that_becomes_a_replica_is_named_and_waited_for(
    start: Callable[..., Cluster], state: Redis
) -> None:
    cluster = start()
    with cluster.connect() as client, state.client() as plain:
        assert client.run(number(1)) == 1
        plain.replicaof("127.0.0.1", "1")
        run = client.submit(number(2), progress=False)
        cluster.schedulers[0].says("read only replica")
        plain.replicaof("NO", "ONE")
        assert run.result(60) == 2


def test_a_tampered_result_counts_as_lost_and_is_made_again(
    start: Callable[..., Cluster], state: Redis, journal: Journal, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    cluster = start("--recovery-grace", "2s")
    with cluster.connect() as client, state.client() as plain:
        target = gate(journal.path, str(flag), step(journal.path, 1), step(journal.path, 2))
        run = client.submit(target, run_id="tampered", progress=False)
        wait_until(lambda: "gate" in journal.lines())
        wait_until(lambda: plain.hlen("cascade:run:tampered:results") == 2)
        cluster.schedulers[0].kill()
        for worker in cluster.workers:
            worker.kill()
        results = plain.hgetall("cascade:run:tampered:results")
        [victim] = [key for key, record in results.items() if record.startswith(b"\x80\x05K\x02.")]
        plain.hset("cascade:run:tampered:results", victim, b"\x80\x05K\x63." + results[victim][5:])
        cluster.start_scheduler(0)
        cluster.start_worker()
        cluster.schedulers[0].says("counts as lost")
        flag.touch()
        assert run.result(60) == 3
    assert f"record of {victim.decode()!r} of run 'tampered'" in cluster.schedulers[0].text()
    assert sorted(journal.lines()) == ["gate", "gate", "step1", "step2", "step2"]
