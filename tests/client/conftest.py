"""A fake scheduler and a cluster handle on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import cascade_dist as cs
from tests.client.fake import FakeScheduler


@pytest.fixture
def scheduler() -> Iterator[FakeScheduler]:
    """A scheduler that runs graphs itself."""
    made = FakeScheduler().start()
    yield made
    made.stop()


@pytest.fixture
def cluster(scheduler: FakeScheduler) -> Iterator[cs.Cluster]:
    """A handle on it."""
    with cs.connect(scheduler.address, reconnect_timeout=5) as made:
        yield made
