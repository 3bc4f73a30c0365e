"""Workers' cores on a bench."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cascade_worker.core import invariants
from tests.worker.core.bench import Bench


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A connected worker with one slot."""
    made = Bench()
    made.connect()
    yield made
    invariants.check(made.core.state)


@pytest.fixture
def two() -> Iterator[Bench]:
    """A connected worker with two slots."""
    made = Bench(slots=2)
    made.connect()
    yield made
    invariants.check(made.core.state)
