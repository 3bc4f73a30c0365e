"""Clusters of real processes: a private one with its state in memory, and one on a real Redis."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import cascade_dist as cs

if TYPE_CHECKING:
    from .processes import Redis

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def private_cluster() -> Iterator[cs.Cluster]:
    """Two workers with one slot each; state in memory."""
    with cs.connect(None, workers=2, slots=1) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def redis_cluster(cluster_address: str) -> Iterator[cs.Cluster]:
    """Two workers with one slot each; state in Redis."""
    with cs.connect(cluster_address) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def one_worker() -> Iterator[cs.Cluster]:
    """One worker with two slots; state in memory."""
    with cs.connect(None, workers=1, slots=2) as cluster:
        yield cluster


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Redis]:
    """A Redis of the test's own, with an append-only file."""
    from .processes import Redis  # here, because executors import this module for `note`

    server = Redis(tmp_path, "--save", "", "--appendonly", "yes")
    yield server
    server.stop()


CLUSTERS = {"memory": "private_cluster", "redis": "redis_cluster", "one-worker": "one_worker"}


@pytest.fixture(params=CLUSTERS)
def cluster(request: pytest.FixtureRequest) -> cs.Cluster:
    """Each test runs with state in memory and in Redis; scenarios also on a cluster with one worker."""
    found: cs.Cluster = request.getfixturevalue(CLUSTERS[request.param])
    return found


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves the cluster with one worker to the scenarios of the language."""
    items[:] = [item for item in items if "one-worker" not in item.name or item.name.startswith("test_s")]


class Journal:
    """What tasks did, in order, across processes: each appends a line to a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def lines(self) -> list[str]:
        path = Path(self.path)
        return path.read_text().split() if path.exists() else []


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """An empty journal."""
    return Journal(tmp_path / "journal")


def note(path: str, word: Any) -> None:
    """Adds a line to a journal."""
    with open(path, "a") as file:
        file.write(f"{word}\n")


def _private_loops(fast: str) -> Iterator[cs.Cluster]:
    os.environ["CASCADE_FAST_LOOPS"] = fast
    try:
        cluster = cs.connect(None, workers=2, slots=1)
    finally:
        del os.environ["CASCADE_FAST_LOOPS"]
    with cluster:
        yield cluster


def _redis_loops(fast: str) -> Iterator[cs.Cluster]:
    command = [sys.executable, str(ROOT / "scripts" / "cluster.py")]
    environment = {**os.environ, "CASCADE_FAST_LOOPS": fast}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    try:
        ready = next(line for line in process.stdout if line.startswith("ready "))
        words = dict(word.split("=", 1) for word in ready.split()[1:])
        with cs.connect(words["address"]) as cluster:
            yield cluster
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


@pytest.fixture(scope="session", params=["memory-fast", "memory-slow", "redis-fast", "redis-slow"])
def loops(request: pytest.FixtureRequest) -> Iterator[cs.Cluster]:
    """Two workers with one slot each, with the fast way of loops on or off."""
    state, way = request.param.split("-")
    make = _private_loops if state == "memory" else _redis_loops
    yield from make("true" if way == "fast" else "false")
