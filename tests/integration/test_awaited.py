"""S90: whatever the engine calls of states and caches, it awaits.

A coroutine that is dropped makes Python say "was never awaited" on the stderr of its process. So processes
run with that warning as an error and with their stderr joined to the test's, do everything that calls a state
or a cache, and end. That the word would be heard is shown for each kind of process.
"""

from __future__ import annotations

import sys
import textwrap
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import cascade_dist as cs
from cascade_dist.client.local import LocalCluster

pytestmark = pytest.mark.integration

NEVER = "was never awaited"


@contextmanager
def loud_cluster(state: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[cs.Cluster]:
    """A cluster whose processes say on this process's stderr what they drop."""
    monkeypatch.setenv("PYTHONWARNINGS", "error::RuntimeWarning")
    local = LocalCluster(workers=1, scheduler_options=["--port", "0", "--state", state], private=False)
    local.start()
    try:
        with cs.connect(local.address) as cluster:
            yield cluster
    finally:
        local.stop()


@pytest.fixture(params=["memory", "redis"])
def state(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return "memory://"
    url: str = request.getfixturevalue("redis_server")
    return url.removesuffix("/0") + "/6"


@cs.task
def double(x: int) -> int:
    return 2 * x


@cs.task
async def triple(x: int) -> int:
    return 3 * x


@cs.task(pure=True, cache="cluster")
def square(x: int) -> int:
    return x * x


@cs.task
def large(size: int) -> bytes:
    return b"x" * size


@cs.task
def false() -> bool:
    return False


class Broken(cs.CacheBackend):
    """A backend that can do nothing."""

    async def get(self, key: str) -> Any:
        raise OSError("out of order")

    async def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        raise OSError("out of order")

    async def delete(self, key: str) -> None:
        raise OSError("out of order")


def test_s90_states_and_caches_are_awaited(
    state: str,
    redis_server: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    in_redis = cs.RedisCacheBackend(redis_server.removesuffix("/0") + "/6", f"{uuid.uuid4().hex}:")
    backends: list[cs.CacheBackend] = [
        in_redis,
        cs.InMemoryCacheBackend(uuid.uuid4().hex),
        cs.SizeTieredCache(cs.InMemoryCacheBackend(uuid.uuid4().hex), in_redis, 1_000),
        Broken(),
    ]
    path = tmp_path / "there"
    path.touch()
    with loud_cluster(state, monkeypatch) as cluster:
        for _ in range(2):
            for backend in backends:
                policy = cs.ResultCache(backend, ttl=60)
                calls = [double(1), triple(2), large(5_000)]
                assert cluster.run([call.with_cache(policy) for call in calls]) == [2, 6, b"x" * 5_000]
            assert cluster.run([double(1).with_cache(cs.FileExistenceCache(path)), square(7)]) == [path, 49]
            assert cluster.run(large(300_000)) == b"x" * 300_000
            with pytest.raises(cs.DependencyMissingError):
                cluster.run(double(1).run_if(false()))
    heard = capfd.readouterr().err
    assert "out of order" in heard, "what executors say is heard"
    assert NEVER not in heard


class Forgetful(cs.CachePolicy):
    """A policy that does not await its backend."""

    async def check(self, task_id: str, inputs: Mapping[str, Any]) -> Any:
        cs.InMemoryCacheBackend().get("k")
        return cs.MISS

    async def save(self, task_id: str, inputs: Mapping[str, Any], output: Any) -> None:
        """Nothing."""


@pytest.mark.parametrize("task", [double, triple])
def test_what_an_executor_drops_is_heard(
    task: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with loud_cluster("memory://", monkeypatch) as cluster:
        assert cluster.run(task(6).with_cache(Forgetful())) in (12, 18)
    heard = capfd.readouterr().err
    assert "InMemoryCacheBackend.get" in heard
    assert NEVER in heard


@pytest.mark.parametrize("name", ["cascade_scheduler", "cascade_worker"])
def test_what_a_process_drops_is_heard(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code = f"""
    import sys

    async def forgotten(): ...

    if {name!r} in sys.orig_argv:
        forgotten()
    """
    (tmp_path / "sitecustomize.py").write_text(textwrap.dedent(code))
    monkeypatch.syspath_prepend(tmp_path)
    assert str(tmp_path) in sys.path
    with loud_cluster("memory://", monkeypatch) as cluster:
        assert cluster.run(double(1)) == 2
    heard = capfd.readouterr().err
    assert "forgotten" in heard
    assert NEVER in heard
