"""One private cluster for all examples."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import cascade_dist as cs


@pytest.fixture(scope="session")
def example_cluster() -> Iterator[cs.Cluster]:
    """Two workers with one slot each; state in memory."""
    with cs.connect(None, workers=2, slots=1) as cluster:
        yield cluster
