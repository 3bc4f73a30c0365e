"""Executors that tests of one module share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.worker.children import Children


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def children(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Children]:
    """A fork server."""
    made = Children(tmp_path_factory.mktemp("worker"))
    yield made
    made.pool.close()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared(children: Children) -> int:
    """A sync executor for tests that leave it as it was."""
    return await children.executor()
