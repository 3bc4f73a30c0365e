"""Blobs by way of real IPFS nodes: nodes that serve, hang, die, come back, and are joined."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

import cascade_dist as cs
from cascade_dist.storage.kubo import Kubo
from tests.integration.conftest import Journal, note
from tests.kubo import KuboNode, find_ipfs
from tests.machine import wait_until
from tests.worker.tmpfs import on_tmpfs

pytestmark = pytest.mark.integration

SECONDS = 60.0
LARGE = 3_000_000
ALONE = {"Routing.Type": "none", "Bootstrap": []}
"""A node that is online and knows nobody."""


@cs.task
def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@cs.task(durable=True)
def make(size: int, seed: int) -> bytes:
    return bytes([seed]) * size


class Processes:
    """A scheduler and workers, with what they log."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self._processes: list[subprocess.Popen[bytes]] = []
        self.address = ""

    def scheduler(self, *options: str, before: Sequence[str] = ()) -> None:
        """Starts the scheduler, with what stands before its command."""
        ready = self.directory / "ready.json"
        common = ["--port", "0", "--ready-file", str(ready)]
        self._start("scheduler", "cascade_scheduler", *common, *options, before=before)
        wait_until(lambda: ready.exists() or self._processes[-1].poll() is not None)
        assert ready.exists(), self.log("scheduler")
        self.address = json.loads(ready.read_text())["address"]

    def worker(self, name: str, *options: str) -> None:
        """Starts a worker."""
        local = self.directory / name
        local.mkdir()
        common = ["--name", name, "--local-dir", str(local), "--slots", "2"]
        self._start(name, "cascade_worker", self.address, *common, *options)

    def _start(self, name: str, module: str, *options: str, before: Sequence[str] = ()) -> None:
        command = [*before, sys.executable, "-m", module, *options, "--log-level", "debug"]
        with (self.directory / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        self._processes.append(process)

    def log(self, name: str) -> str:
        """What a process has logged."""
        return (self.directory / f"{name}.log").read_text()

    def connect(self, workers: int) -> cs.Cluster:
        """A client, when all workers are there."""
        cluster = cs.connect(self.address, logs=False)
        wait_until(lambda: cluster.status().workers == workers)
        return cluster

    def kill(self) -> None:
        """The way a machine goes down."""
        for process in self._processes:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(20)
        self._processes.clear()

    def stop(self) -> None:
        """Ends all."""
        for process in reversed(self._processes):
            process.terminate()
        for process in reversed(self._processes):
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """A cluster to be started."""
    made = Processes(tmp_path)
    yield made
    made.stop()


@pytest.fixture
def new_node(
    tmp_path_factory: pytest.TempPathFactory, lacking: Callable[[str], NoReturn]
) -> Iterator[Callable[..., KuboNode]]:
    """Starts an IPFS node."""
    nodes: list[KuboNode] = []
    ipfs, reason = find_ipfs()
    if not ipfs:
        lacking(reason)

    def start(*, online: bool = False) -> KuboNode:
        settings: dict[str, Any] = dict(ALONE) if online else {}
        nodes.append(KuboNode(ipfs, tmp_path_factory.mktemp("kubo"), settings, online=online))
        nodes[-1].start()
        return nodes[-1]

    yield start
    for node in nodes:
        node.stop()


def large_function(seed: int) -> Any:
    """A task whose code is above what goes inline."""
    table = os.urandom(LARGE)

    @cs.task
    def look_up(x: int) -> str:
        return hashlib.sha256(table).hexdigest() + str(x + seed)

    return look_up(1), hashlib.sha256(table).hexdigest() + str(1 + seed)


def came(log: str) -> set[str]:
    """The CIDs that a worker has fetched from IPFS."""
    return set(re.findall(r"blob (\S+) came from IPFS", log))


def given(log: str) -> set[str]:
    """The CIDs that a worker has given to IPFS."""
    return set(re.findall(r"blob (\S+) was given to IPFS", log))


async def pinned(url: str) -> set[str]:
    """What a node keeps."""
    async with Kubo(url) as node:
        return set(await node.pins())


async def test_code_arguments_and_results_go_by_their_content_ids(
    processes: Processes, new_node: Callable[..., KuboNode]
) -> None:
    node = new_node()
    processes.scheduler("--blobs", node.uri)
    processes.worker("worker")
    with processes.connect(1) as cluster:
        target, wanted = large_function(5)
        assert cluster.run(target) == wanted
        data = os.urandom(LARGE)
        assert cluster.run(digest(data)) == hashlib.sha256(data).hexdigest()
        assert cluster.run(make(LARGE, 7)) == bytes([7]) * LARGE
        log = processes.log("worker")
        assert len(came(log)) == 2, "the function and the argument"
        assert len(given(log)) == 1, "the result"
        assert came(log) | given(log) <= await pinned(node.url)
        assert "the scheduler" not in "".join(re.findall(r"a (?:blob|function) is .*", log))


async def test_a_worker_may_do_without_the_node(
    processes: Processes, new_node: Callable[..., KuboNode]
) -> None:
    node = new_node()
    processes.scheduler("--blobs", node.uri)
    processes.worker("worker", "--ipfs", "none")
    with processes.connect(1) as cluster:
        target, wanted = large_function(6)
        assert cluster.run(target) == wanted
        assert cluster.run(make(LARGE, 8)) == bytes([8]) * LARGE
    assert not came(processes.log("worker"))
    assert not given(processes.log("worker"))
    assert len(await pinned(node.url)) >= 2, "the scheduler gives it what it has"


def test_a_node_that_hangs_under_a_run_fails_nothing(
    processes: Processes, new_node: Callable[..., KuboNode]
) -> None:
    node = new_node()
    processes.scheduler("--blobs", node.uri)
    processes.worker("worker")
    with processes.connect(1) as cluster:
        assert cluster.run(make(LARGE, 1)) == bytes([1]) * LARGE
        node.send(signal.SIGSTOP)
        target, wanted = large_function(7)
        data = os.urandom(LARGE)
        assert cluster.run([target, digest(data), make(LARGE, 2)], timeout=SECONDS) == [
            wanted,
            hashlib.sha256(data).hexdigest(),
            bytes([2]) * LARGE,
        ]
        assert "no answer of an IPFS node" in processes.log("scheduler")
        assert "no answer of an IPFS node" in processes.log("worker")
        node.send(signal.SIGCONT)
        wait_until(lambda: "answers again" in processes.log("scheduler"))
        assert cluster.run(make(LARGE, 3)) == bytes([3]) * LARGE


async def test_a_node_that_dies_under_a_run_fails_nothing_and_is_given_what_it_missed(
    processes: Processes, new_node: Callable[..., KuboNode]
) -> None:
    node = new_node()
    processes.scheduler("--blobs", node.uri)
    processes.worker("worker")
    with processes.connect(1) as cluster:
        assert cluster.run(make(LARGE, 1)) == bytes([1]) * LARGE
        node.kill()
        target, wanted = large_function(8)
        data = os.urandom(LARGE)
        assert cluster.run([target, digest(data), make(LARGE, 2)], timeout=SECONDS) == [
            wanted,
            hashlib.sha256(data).hexdigest(),
            bytes([2]) * LARGE,
        ]
        held = {blob.cid for blob in cluster.blobs()}
        node.start()
        wait_until(lambda: "answers again" in processes.log("scheduler"))
        missing, deadline = held, time.monotonic() + SECONDS
        while missing:
            assert time.monotonic() < deadline, missing
            missing = held - await pinned(node.url)


def test_a_scheduler_that_starts_before_its_node(
    processes: Processes, new_node: Callable[..., KuboNode]
) -> None:
    node = new_node()
    node.kill()
    processes.scheduler("--blobs", node.uri)
    processes.worker("worker")
    with processes.connect(1) as cluster:
        assert cluster.run(make(LARGE, 1)) == bytes([1]) * LARGE
        node.start()
        wait_until(lambda: "answers again" in processes.log("scheduler"))


def test_what_one_workers_node_adds_another_workers_node_serves(
    processes: Processes, new_node: Callable[..., KuboNode]
) -> None:
    first, second = new_node(online=True), new_node(online=True)
    first.join(second)
    processes.scheduler("--blobs", first.uri)
    processes.worker("one", "--ipfs", first.uri, "--resources", "one=1")
    processes.worker("two", "--ipfs", second.uri, "--resources", "two=1")

    @cs.task(durable=True)
    def produce(seed: int) -> bytes:
        return hashlib.sha256(bytes([seed])).digest() * (LARGE // 32)

    @cs.task
    def consume(data: bytes) -> str:
        return hashlib.sha256(data).hexdigest()

    with processes.connect(2) as cluster:
        for seed, (maker, taker) in enumerate([("one", "two"), ("two", "one")]):
            data = hashlib.sha256(bytes([seed])).digest() * (LARGE // 32)
            made = produce(seed).with_constraints(**{maker: 1})
            target = consume(made).with_constraints(**{taker: 1})
            assert cluster.run(target) == hashlib.sha256(data).hexdigest()
            [cid] = given(processes.log(maker))
            assert cid in came(processes.log(taker))
    assert "is sent to the scheduler" not in processes.log("one") + processes.log("two")


def test_a_scheduler_on_another_host_finds_results_in_ipfs(
    tmp_path: Path, new_node: Callable[..., KuboNode], redis_server: str, journal: Journal
) -> None:
    node = new_node()
    run_id = f"ipfs-{secrets.token_hex(4)}"

    @cs.task(durable=True)
    def produce(path: str) -> bytes:
        note(path, "produced")
        return bytes(LARGE)

    @cs.task
    def consume(data: bytes, argument: bytes, path: str, flag: str) -> int:
        note(path, "consuming")
        while not os.path.exists(flag):
            time.sleep(0.02)
        return len(data) + len(argument)

    flag = str(tmp_path / "flag")
    target = consume(produce(journal.path), bytes(LARGE + 1), journal.path, flag)
    lives = [Processes(tmp_path / name) for name in ("first", "second")]
    try:
        for life in lives:
            place = f"{node.uri}?dir={life.directory / 'blobs'}"
            life.scheduler("--state", redis_server, "--blobs", place, "--recovery-grace", "0.1s")
            life.worker("worker", "--ipfs", "none")
            with life.connect(1) as cluster:
                if life is lives[0]:
                    cluster.submit(target, run_id=run_id, detach=True)
                    wait_until(lambda: "consuming" in journal.lines())
                    wait_until(lambda: len(cluster.blobs()) >= 2)
                    life.kill()
                else:
                    Path(flag).touch()
                    assert cluster.attach(run_id).result(SECONDS) == 2 * LARGE + 1
    finally:
        for life in lives:
            life.stop()
    assert journal.lines().count("produced") == 1


def test_what_the_store_has_no_room_for_is_named(processes: Processes) -> None:
    processes.scheduler("--blob-bytes-max", "1MiB")
    processes.worker("worker")
    with processes.connect(1) as cluster:
        with pytest.raises(
            cs.StoreFullError, match=r"blob baf\w+ of 2\.9 MiB.*larger than the whole blob store"
        ):
            cluster.put(bytes(LARGE))
        with pytest.raises(cs.StoreFullError, match="larger than the whole blob store"):
            cluster.run(digest(bytes(LARGE)))
        with pytest.raises(cs.CascadeError, match="larger than the whole blob store"):
            cluster.run(make(LARGE, 1))
        assert cluster.run(digest(b"small")) == hashlib.sha256(b"small").hexdigest()


def test_a_full_disk_under_the_store_is_named(
    tmp_path: Path, processes: Processes, lacking: Callable[[str], NoReturn]
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    processes.scheduler("--blobs", str(small / "blobs"), before=on_tmpfs(small, lacking))
    processes.worker("worker")
    with processes.connect(1) as cluster:
        handle = cluster.put(bytes(LARGE), pin=True)
        with pytest.raises(cs.StoreFullError, match=rf"blob directory {small}/blobs is full.*--blobs"):
            cluster.put(os.urandom(3 * LARGE))
        with pytest.raises(cs.CascadeError, match="is full"):
            cluster.run(make(3 * LARGE, 1))
        assert cluster.run(digest(handle)) == hashlib.sha256(bytes(LARGE)).hexdigest()
        assert cluster.put(os.urandom(LARGE)).size > LARGE, "what is there is as it was"
