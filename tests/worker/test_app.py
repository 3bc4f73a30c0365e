"""The worker's own handling of what its commands run into; no processes, no scheduler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cascade_dist.wire import parse_addresses
from cascade_worker.app import Worker
from cascade_worker.config import WorkerConfig
from cascade_worker.core import events
from cascade_worker.executor.frames import FAILED


@pytest.mark.parametrize("error", [OSError("no room"), RuntimeError("a bug"), KeyError("another")])
async def test_whatever_storing_runs_into_ends_the_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    addresses = parse_addresses("127.0.0.1:1")
    worker = Worker(WorkerConfig(addresses, {"cpu": 1_000_000}, "w", 1, tmp_path / "a", tmp_path / "b"))
    happened: list[Any] = []

    async def publish(attempt: int) -> tuple[bytes, int]:
        raise error

    monkeypatch.setattr(worker._transfers, "publish", publish)
    monkeypatch.setattr(worker, "feed", happened.append)
    await worker._store_blob(7, ())
    (event,) = happened
    assert isinstance(event, events.PublishFailed)
    assert event.attempt == 7
    assert event.payload[:2] == (FAILED, 7)
    assert event.payload[5].endswith(type(error).__name__)
    worker.store.close()
