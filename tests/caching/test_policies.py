"""Policies and backends by themselves, without a cluster."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cascade_dist as cs
from cascade_dist.caching import memory
from cascade_dist.caching.keys import content_digest, content_key
from cascade_dist.caching.policies import hit_of
from cascade_dist.graph.code_hash import CodeHasher
from cascade_dist.graph.encoding import Unencodable
from cascade_dist.graph.identity import Specs


class Clock:
    """A time that tests set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_s87_an_entry_is_there_until_its_time_is_over() -> None:
    clock = Clock()
    backend = cs.InMemoryCacheBackend(clock=clock)
    await backend.set("k", "v", ttl=60)
    clock.now = 59.0
    assert await backend.get("k") == "v"
    clock.now = 61.0
    assert len(backend) == 1
    assert await backend.get("k") is None
    assert len(backend) == 0


async def test_the_least_recently_used_entries_go_first() -> None:
    backend = cs.InMemoryCacheBackend(entries_max=2)
    await backend.set("a", 1)
    await backend.set("b", 2)
    await backend.get("a")
    await backend.set("c", 3)
    assert [await backend.get(key) for key in "abc"] == [1, None, 3]
    await backend.delete("a")
    await backend.delete("never there")
    assert await backend.get("a") is None


class Exchange:
    """A cluster's cache."""

    def __init__(self) -> None:
        self.entries: dict[str, tuple[bytes, float | None]] = {}

    async def get(self, key: str) -> bytes | None:
        return self.entries.get(key, (None, None))[0]

    async def put(self, key: str, value: bytes, ttl: float | None) -> None:
        self.entries[key] = (value, ttl)


async def test_on_a_worker_a_backend_stands_for_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    exchange = Exchange()
    monkeypatch.setattr(memory, "_exchange", [exchange])
    mine = cs.InMemoryCacheBackend("mine")
    theirs: Any = pickle.loads(pickle.dumps(mine))
    await theirs.set("k", [1, None], ttl=5)
    assert exchange.entries["mine:k"][1] == 5
    assert await theirs.get("k") == [1, None]
    assert await pickle.loads(pickle.dumps(theirs)).get("k") == [1, None]
    assert await theirs.get("other") is None
    assert await mine.get("k") is None, "the one that stayed at home is a dict of its own"
    with pytest.raises(ValueError, match="SizeTieredCache"):
        await theirs.set("large", b"x" * (2 << 20))
    await theirs.delete("k")
    assert exchange.entries["mine:k"] == (b"", None)


def test_elsewhere_a_backend_arrives_empty_with_its_options() -> None:
    there = pickle.loads(pickle.dumps(cs.InMemoryCacheBackend("mine", entries_max=3)))
    assert (there.name, there.entries_max, len(there)) == ("mine", 3, 0)


async def test_a_size_tiered_cache_keeps_each_value_in_one_place() -> None:
    small, large = cs.InMemoryCacheBackend(), cs.InMemoryCacheBackend()
    tiered = cs.SizeTieredCache(small, large, threshold=100)
    await tiered.set("k", b"x" * 100)
    assert (len(small), len(large)) == (1, 0)
    await tiered.set("k", "x" * 101)
    assert (len(small), len(large)) == (0, 1)
    assert await tiered.get("k") == "x" * 101
    await tiered.delete("k")
    assert await tiered.get("k") is None


async def test_a_size_tiered_cache_is_a_policy_too() -> None:
    small, large = cs.InMemoryCacheBackend(), cs.InMemoryCacheBackend()
    policy = cs.SizeTieredCache(small, large, threshold=100)
    assert await policy.check("f@1", {"x": 1}) is cs.MISS
    await policy.save("f@1", {"x": 1}, list(range(1000)))
    assert (len(small), len(large)) == (0, 1)
    assert await policy.check("f@1", {"x": 1}) == cs.CacheHit(list(range(1000)))


async def test_s53_none_is_a_value() -> None:
    policy = cs.ResultCache(cs.InMemoryCacheBackend())
    assert await policy.check("f", {}) is cs.MISS
    await policy.save("f", {}, None)
    assert await policy.check("f", {}) == cs.CacheHit(None)


@pytest.mark.parametrize(
    ("answer", "meaning"),
    [
        (cs.MISS, None),
        (None, None),
        (cs.CacheHit(None), cs.CacheHit(None)),
        (0, cs.CacheHit(0)),
        ("x", cs.CacheHit("x")),
        (pickle.loads(pickle.dumps(cs.MISS)), None),
    ],
)
def test_what_a_policy_answers(answer: Any, meaning: cs.CacheHit | None) -> None:
    assert hit_of(answer) == meaning


async def test_s54_keys_are_told_apart_by_code_and_content() -> None:
    policy = cs.ResultCache(cs.InMemoryCacheBackend())
    await policy.save("f@1", {"x": [1, 2]}, "value")
    assert await policy.check("f@1", {"x": [1, 2]}) == cs.CacheHit("value")
    assert await policy.check("f@1", {"x": (1, 2)}) is cs.MISS
    assert await policy.check("f@1", {"y": [1, 2]}) is cs.MISS
    assert await policy.check("f@2", {"x": [1, 2]}) is cs.MISS
    assert await policy.check("f@1", {"x": [1, 2.0]}) is cs.MISS


async def test_a_key_says_what_counts() -> None:
    policy = cs.ResultCache(cs.InMemoryCacheBackend(), key=lambda inputs: inputs["day"])
    await policy.save("f", {"day": "2026-11-20", "client": object()}, 1)
    assert await policy.check("f", {"day": "2026-11-20", "client": object()}) == cs.CacheHit(1)
    assert await policy.check("f", {"day": "2026-11-21", "client": None}) is cs.MISS


async def test_what_cannot_be_hashed_is_named() -> None:
    policy = cs.ResultCache(cs.InMemoryCacheBackend())
    with pytest.raises(Unencodable, match=r"argument 'files' is or holds a _io\.\w+, .*key="):
        await policy.check("f", {"x": 1, "files": [sys.__stdout__]})


def test_arrays_count_by_content() -> None:
    one = np.arange(10_000)
    same, other = one.copy(), one.copy()
    other[-1] += 1
    assert content_digest(one) == content_digest(same)
    assert content_digest(one) != content_digest(other)
    assert content_digest(one) != content_digest(one.astype("f8"))


_PRINTS_A_KEY = """
from cascade_dist.caching.keys import content_key
print(content_key("f@1", {"s": {"a", "b", "c"}, "d": {"k": frozenset("xyz")}, "n": 1.5, "t": (None, b"")}))
"""


def test_keys_are_the_same_in_every_process() -> None:
    found = {
        subprocess.run(
            [sys.executable, "-c", _PRINTS_A_KEY],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
        ).stdout.strip()
        for seed in ("0", "1", "2")
    }
    inputs = {"t": (None, b""), "n": 1.5, "d": {"k": frozenset("zyx")}, "s": {"c", "b", "a"}}
    assert found == {content_key("f@1", inputs)}


async def test_s51_a_file_that_exists_is_the_value(tmp_path: Path) -> None:
    path = tmp_path / "out"
    policy = cs.FileExistenceCache(path)
    assert await policy.check("f", {}) is cs.MISS
    path.touch()
    assert await policy.check("f", {}) == cs.CacheHit(path)
    by_input = cs.FileExistenceCache(lambda inputs: f"{tmp_path}/{inputs['name']}")
    assert await by_input.check("f", {"name": "out"}) == cs.CacheHit(f"{tmp_path}/out")
    assert await by_input.check("f", {"name": "other"}) is cs.MISS


@cs.task
def double(x: int) -> int:
    return 2 * x


def test_what_is_no_policy_is_refused() -> None:
    for wrong, words in (
        (cs.InMemoryCacheBackend(), "a backend: give"),
        (cs.ResultCache, "a class: make one"),
        (3, "without check and save"),
    ):
        with pytest.raises(TypeError, match=words):
            double(1).with_cache(wrong)
    with pytest.raises(TypeError, match="no get"):
        cs.ResultCache(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ttl"):
        cs.ResultCache(cs.InMemoryCacheBackend(), ttl=0)
    with pytest.raises(TypeError, match="path"):
        cs.FileExistenceCache(3)  # type: ignore[arg-type]


def test_the_last_policy_wins() -> None:
    call = double(1)
    last = cs.FileExistenceCache("b")
    assert call.with_cache(cs.FileExistenceCache("a")).with_cache(last) is call
    assert Specs(CodeHasher()).of(double, call.chain).cache is last


def test_policies_with_other_parameters_are_other_specs() -> None:
    def digest(policy: Any) -> bytes:
        return Specs(CodeHasher()).of(double, double(1).with_cache(policy).chain).digest

    backend = cs.InMemoryCacheBackend()
    assert digest(cs.FileExistenceCache("a")) == digest(cs.FileExistenceCache("a"))
    assert digest(cs.FileExistenceCache("a")) != digest(cs.FileExistenceCache("b"))
    assert digest(cs.ResultCache(backend)) == digest(cs.ResultCache(cs.InMemoryCacheBackend()))
    assert digest(cs.ResultCache(backend)) != digest(cs.ResultCache(backend, ttl=5))
    assert digest(cs.ResultCache(backend)) != digest(cs.ResultCache(cs.InMemoryCacheBackend("other")))


def test_code_without_a_hash_cannot_be_cached_by_content() -> None:
    lock = sys.__stdout__

    @cs.task
    def holds() -> object:
        return lock

    call = holds().with_cache(cs.ResultCache(cs.InMemoryCacheBackend()))
    with pytest.raises(cs.GraphError, match=r"'holds' is cached by its code.*'lock'"):
        Specs(CodeHasher()).of(holds, call.chain)


def test_the_cluster_cache_is_for_pure_tasks() -> None:
    with pytest.raises(ValueError, match="pure=True"):
        cs.task(lambda: 1, cache="cluster")
    with pytest.raises(ValueError, match="'cluster' or None"):
        cs.task(lambda: 1, cache="disk", pure=True)
    assert cs.task(lambda: 1, cache="cluster", pure=True).cache == "cluster"


def test_executors_load_it_without_grpc() -> None:
    code = "import sys, cascade_dist.caching\nprint({'grpc', 'google.protobuf', 'redis'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
