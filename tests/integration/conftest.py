"""Clusters of real processes: a private one with its state in memory, and one on a real Redis."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import cascade_dist as cs


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


@pytest.fixture(params=["memory", "redis"])
def cluster(request: pytest.FixtureRequest) -> cs.Cluster:
    """Each test runs on both."""
    name = "private_cluster" if request.param == "memory" else "redis_cluster"
    found: cs.Cluster = request.getfixturevalue(name)
    return found


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
