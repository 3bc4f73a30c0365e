"""One private cluster for all examples."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import cascade_dist as cs

EXAMPLES = str(Path(__file__).parents[2] / "examples")


@pytest.fixture(scope="session")
def example_cluster() -> Iterator[cs.Cluster]:
    """Two workers with one slot each that can import the examples; state in memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)  # which the processes of a private cluster get
        cluster = cs.connect(None, workers=2, slots=1)
    with cluster:
        yield cluster
