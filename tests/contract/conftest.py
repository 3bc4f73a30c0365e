"""A store in Redis, and a plain client beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio

from cascade_dist.storage.seal import Sealer
from cascade_scheduler.store.redis import RedisStore
from tests.contract.test_run_store import KEY, fresh


@pytest.fixture
async def client(redis_server: str) -> AsyncIterator[Any]:
    """A plain client, as a user's script has one."""
    await fresh(redis_server)
    plain = redis.asyncio.Redis.from_url(redis_server)
    yield plain
    await plain.flushdb()  # a lease would keep schedulers of other tests waiting
    await plain.aclose()


@pytest.fixture
async def store(redis_server: str, client: Any) -> AsyncIterator[RedisStore]:
    """A store on an empty Redis."""
    opened = RedisStore(redis_server, Sealer(KEY))
    await opened.open()
    yield opened
    await opened.close()
