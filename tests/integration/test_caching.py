"""What is not run because its value is known: caching policies and the cluster's cache."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import cascade_dist as cs

from .conftest import Journal

pytestmark = pytest.mark.integration


def events_of(run: Any, task: str) -> list[str]:
    """The events of a task in a run, as "kind reason"."""
    told = [event for event in run.events() if getattr(event, "task", "") == task]
    return [" ".join(filter(None, (type(event).__name__, getattr(event, "reason", "")))) for event in told]


def note(path: str, word: str) -> None:
    with open(path, "a") as file:
        file.write(f"{word}\n")


@cs.task
def double(path: str, x: int, by: int = 2) -> int:
    note(path, f"double-{x}")
    return by * x


@cs.task
def nothing(path: str) -> None:
    note(path, "nothing")


@cs.task
def add_one(x: int) -> int:
    return x + 1


@cs.task
async def slowly(path: str, x: int) -> int:
    note(path, f"slowly-{x}")
    return 2 * x


class Fixed:
    """A policy that has one value, or none."""

    def __init__(self, answer: Any, path: str = "") -> None:
        self.answer = answer
        self.path = path

    async def check(self, task_id: str, inputs: Mapping[str, Any]) -> Any:
        if self.path:
            told = ",".join(f"{name}={value}" for name, value in inputs.items() if name != "path")
            note(self.path, f"check-{task_id.partition('@')[0]}:{told}")
        return self.answer

    async def save(self, task_id: str, inputs: Mapping[str, Any], output: Any) -> None:
        if self.path:
            note(self.path, f"save-{output}")


class Broken:
    """A policy that can do nothing."""

    def __init__(self, what: str) -> None:
        self.what = what

    async def check(self, task_id: str, inputs: Mapping[str, Any]) -> Any:
        if self.what == "check":
            raise OSError("the cache is out of order")
        return cs.MISS

    async def save(self, task_id: str, inputs: Mapping[str, Any], output: Any) -> None:
        if self.what == "save":
            raise OSError("the cache is full")


@pytest.mark.parametrize("what", ["check", "save"])
def test_s50_a_cache_that_fails_is_said_and_fails_nothing(
    cluster: cs.Cluster, journal: Journal, what: str, capfd: pytest.CaptureFixture[str]
) -> None:
    target = double(journal.path, 4).with_retry(3).with_cache(Broken(what))
    assert cluster.submit(target, logs=True).result(60) == 8
    assert journal.lines() == ["double-4"]
    assert "the cache of task 'double' could not" in capfd.readouterr().err


def test_s51_a_file_that_exists_is_taken(cluster: cs.Cluster, journal: Journal, tmp_path: Path) -> None:
    made = tmp_path / "made"

    @cs.task
    def make(path: str, out: str) -> str:
        note(path, "make")
        Path(out).write_text("made")
        return out

    def target() -> Any:
        return make(journal.path, str(made)).with_cache(cs.FileExistenceCache(lambda inputs: inputs["out"]))

    assert cluster.run(target()) == str(made)
    assert cluster.run(target()) == str(made)
    assert journal.lines() == ["make"]
    made.unlink()
    assert cluster.run(target()) == str(made)
    assert journal.lines() == ["make", "make"]


def test_s52_a_hit_is_a_skip_with_a_value(cluster: cs.Cluster, journal: Journal) -> None:
    run = cluster.submit(add_one(slowly(journal.path, 1).with_cache(Fixed(cs.CacheHit(41)))))
    assert run.result(60) == 42
    assert events_of(run, "slowly") == ["TaskSkipped CacheHit"]
    assert journal.lines() == []


def test_a_plain_value_is_a_hit_too(cluster: cs.Cluster, journal: Journal) -> None:
    assert cluster.run(double(journal.path, 1).with_cache(Fixed("plain"))) == "plain"
    assert journal.lines() == []


def test_s53_a_cached_none_is_a_hit(cluster: cs.Cluster, journal: Journal) -> None:
    backend = cs.InMemoryCacheBackend(uuid.uuid4().hex)
    for _ in range(2):
        assert cluster.run(nothing(journal.path).with_cache(cs.ResultCache(backend))) is None
    assert journal.lines() == ["nothing"]


_IN_ANOTHER_PROCESS = """
import sys
import cascade_dist as cs

@cs.task
def double(path, x, by=2):
    with open(path, "a") as file:
        file.write(f"double-{x}\\n")
    return by * x

with cs.connect(sys.argv[1]) as cluster:
    cache = cs.ResultCache(cs.InMemoryCacheBackend(sys.argv[3]))
    for x in (1, 2, 1):
        print(cluster.run(double(sys.argv[2], x).with_cache(cache)))
"""


def test_s54_equal_calls_in_another_process_hit(cluster_address: str, journal: Journal) -> None:
    name = uuid.uuid4().hex
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", _IN_ANOTHER_PROCESS, cluster_address, journal.path, name],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
        )
        assert done.stdout.split() == ["2", "4", "2"]
    assert journal.lines() == ["double-1", "double-2"]


def test_inputs_are_named_and_complete(cluster: cs.Cluster, journal: Journal) -> None:
    target = double(journal.path, add_one(1)).with_cache(Fixed(cs.MISS, journal.path))
    assert cluster.run(target) == 4
    assert journal.lines() == ["check-double:x=2,by=2", "double-2", "save-4"]


def test_every_child_of_a_map_asks_by_itself(cluster: cs.Cluster, journal: Journal) -> None:
    cache = cs.ResultCache(cs.InMemoryCacheBackend(uuid.uuid4().hex))

    def target(items: list[int]) -> Any:
        return double.map(path=cs.unmapped(journal.path), x=items).with_cache(cache)

    assert cluster.run(target([1, 2])) == [2, 4]
    run = cluster.submit(target([2, 3, 1]))
    assert run.result(60) == [4, 6, 2]
    assert sorted(journal.lines()) == ["double-1", "double-2", "double-3"]
    assert events_of(run, "double[0]") == events_of(run, "double[2]") == ["TaskSkipped CacheHit"]
    assert events_of(run, "double[1]") == ["TaskExecutionStarted", "TaskExecutionFinished"]


def test_a_failed_attempt_saves_nothing(cluster: cs.Cluster, journal: Journal) -> None:
    @cs.task
    def fails_once(path: str) -> str:
        note(path, "ran")
        if Path(path).read_text().count("ran") == 1:
            raise ValueError("not yet")
        return "done"

    target = fails_once(journal.path).with_retry(2).with_cache(Fixed(cs.MISS, journal.path))
    assert cluster.run(target) == "done"
    assert journal.lines() == ["check-fails_once:", "ran", "check-fails_once:", "ran", "save-done"]


def test_a_task_that_changes_its_argument_does_not_change_its_key(
    cluster: cs.Cluster, journal: Journal
) -> None:
    cache = cs.ResultCache(cs.InMemoryCacheBackend(uuid.uuid4().hex))

    @cs.task
    def append(path: str, items: list[int]) -> int:
        note(path, "append")
        items.append(len(items))
        return sum(items)

    assert [cluster.run(append(journal.path, [5]).with_cache(cache)) for _ in range(2)] == [6, 6]
    assert cluster.run(append(journal.path, [5, 1]).with_cache(cache)) == 8
    assert journal.lines() == ["append", "append"]


def test_what_cannot_be_hashed_runs_and_is_named(
    cluster: cs.Cluster, journal: Journal, capfd: pytest.CaptureFixture[str]
) -> None:
    @cs.task
    def takes(path: str, what: Any) -> str:
        note(path, "ran")
        return "ran"

    @cs.task
    def makes() -> Any:
        return random.Random(1)

    cache = cs.ResultCache(cs.InMemoryCacheBackend(uuid.uuid4().hex))
    for _ in range(2):
        assert cluster.submit(takes(journal.path, makes()).with_cache(cache), logs=True).result(60) == "ran"
    assert journal.lines() == ["ran", "ran"]
    assert "argument 'what' is or holds a random.Random" in capfd.readouterr().err


def test_values_too_large_for_the_shared_cache_are_said(
    cluster: cs.Cluster, capfd: pytest.CaptureFixture[str]
) -> None:
    @cs.task
    def large() -> bytes:
        return b"x" * (2 << 20)

    cache = cs.ResultCache(cs.InMemoryCacheBackend(uuid.uuid4().hex))
    assert len(cluster.submit(large().with_cache(cache), logs=True).result(60)) == 2 << 20
    assert "up to 1,048,576" in capfd.readouterr().err


def test_many_async_attempts_share_the_cache(cluster: cs.Cluster, journal: Journal) -> None:
    cache = cs.ResultCache(cs.InMemoryCacheBackend(uuid.uuid4().hex))
    for _ in range(2):
        target = slowly.map(path=cs.unmapped(journal.path), x=range(200)).with_cache(cache)
        assert cluster.run(target) == [2 * x for x in range(200)]
    assert len(journal.lines()) == 200


# --- the cluster's cache ---------------------------------------------------------------------------------


def made(name: str, **options: Any) -> Any:
    """A cached task whose code is like no other test's, so that nobody else's values are found."""
    salt = uuid.uuid4().hex

    @cs.task(name=name, pure=True, cache="cluster", **options)
    def task(path: str, x: Any) -> Any:
        note(path, f"{name}")
        return [x, salt][0]

    return task


def test_a_second_run_dispatches_nothing(cluster: cs.Cluster, journal: Journal) -> None:
    f = made("f")
    assert cluster.run(f(journal.path, 7)) == 7
    run = cluster.submit(f(journal.path, x=7))
    assert run.result(60) == 7
    assert events_of(run, "f") == ["TaskSkipped CacheHit"]
    assert cluster.run(f(journal.path, 8)) == 8
    assert journal.lines() == ["f", "f"]


def test_another_client_hits(cluster_address: str, journal: Journal) -> None:
    f = made("f")
    for _ in range(2):
        with cs.connect(cluster_address) as cluster:
            assert cluster.run(f(journal.path, [1, {"a"}])) == [1, {"a"}]
    assert journal.lines() == ["f"]


_CLUSTER_CACHE_IN_ANOTHER_PROCESS = """
import sys
import cascade_dist as cs

SALT = sys.argv[3]

def helper(x):
    return x, SALT

@cs.task(pure=True, cache="cluster")
def train(path, x):
    with open(path, "a") as file:
        file.write("train\\n")
    return helper(x)[0]

with cs.connect(sys.argv[1]) as cluster:
    print(cluster.run(train(sys.argv[2], {"b", "a"})) == {"a", "b"})
"""


def test_another_process_hits(cluster_address: str, journal: Journal) -> None:
    salt = uuid.uuid4().hex
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", _CLUSTER_CACHE_IN_ANOTHER_PROCESS, cluster_address, journal.path, salt],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
        )
        assert done.stdout.split() == ["True"]
    assert journal.lines() == ["train"]


def test_a_hit_prunes_what_only_it_needed(cluster: cs.Cluster, journal: Journal) -> None:
    load, f = made("load"), made("f")

    @cs.task(pure=True)
    def clean(path: str, x: Any) -> Any:
        note(path, "clean")
        return x

    def target() -> Any:
        return f(journal.path, clean(journal.path, load(journal.path, 3)))

    assert cluster.run(target()) == 3
    run = cluster.submit(target())
    assert run.result(60) == 3
    assert journal.lines() == ["load", "clean", "f"]
    assert events_of(run, "clean") == events_of(run, "load") == ["TaskSkipped Pruned"]


def test_what_impure_inputs_turn_out_to_be_counts(
    cluster: cs.Cluster, journal: Journal, tmp_path: Path
) -> None:
    f = made("f")
    source = tmp_path / "source"

    @cs.task
    def read(path: str, where: str) -> str:
        note(path, "read")
        return Path(where).read_text()

    def run() -> Any:
        return cluster.run(f(journal.path, {"text": read(journal.path, str(source))}))

    source.write_text("one")
    assert [run(), run()] == [{"text": "one"}] * 2
    source.write_text("two")
    assert run() == {"text": "two"}
    source.write_text("one")
    assert run() == {"text": "one"}
    assert journal.lines() == ["read", "f", "read", "read", "f", "read"]


def test_large_values_are_kept_as_blobs(cluster: cs.Cluster, journal: Journal) -> None:
    f = made("f")
    for _ in range(2):
        value = cluster.run(f(journal.path, list(range(100_000))))
        assert value == list(range(100_000))
    sizes = add_one(length(f(journal.path, list(range(100_000)))))
    assert cluster.run(sizes) == 100_001
    assert journal.lines() == ["f"]


@cs.task
def length(x: Any) -> int:
    return len(x)


def test_conditions_decide_first(cluster: cs.Cluster, journal: Journal) -> None:
    f = made("f")
    assert cluster.run(f(journal.path, 1)) == 1
    assert cluster.run(f(journal.path, 1).run_if(add_one(0))) == 1
    with pytest.raises(cs.DependencyMissingError):
        cluster.run(f(journal.path, 1).run_if(add_one(-1)))
    assert journal.lines() == ["f"]


def test_s39_a_cached_selector_prunes_as_if_it_had_run(cluster: cs.Cluster, journal: Journal) -> None:
    selector = made("selector")

    @cs.task
    def branch(path: str, name: str) -> str:
        note(path, name)
        return name

    def target() -> Any:
        routes = {"a": branch(journal.path, "a"), "b": branch(journal.path, "b")}
        return length(cs.Router(selector(journal.path, "b"), routes))

    assert cluster.run(target()) == 1
    run = cluster.submit(target())
    assert run.result(60) == 1
    assert journal.lines() == ["selector", "b", "b"]
    assert events_of(run, "selector") == ["TaskSkipped CacheHit"]


def test_children_of_a_map_are_looked_up_one_by_one(cluster: cs.Cluster, journal: Journal) -> None:
    f = made("f")
    assert cluster.run(f.map(path=cs.unmapped(journal.path), x=[1, 2])) == [1, 2]
    assert cluster.run(f.map(path=cs.unmapped(journal.path), x=[2, 3, 1])) == [2, 3, 1]
    assert cluster.run(f(journal.path, 3)) == 3
    assert journal.lines() == ["f", "f", "f"]


def test_a_changed_helper_misses(cluster: cs.Cluster, journal: Journal) -> None:
    def make(factor: int) -> Any:
        def helper(x: int) -> int:
            return x * factor

        @cs.task(name="scaled", pure=True, cache="cluster")
        def scaled(path: str, x: int) -> int:
            note(path, f"{factor}")
            return helper(x)

        return scaled

    salt = uuid.uuid4().int % 1_000_000_007
    assert [cluster.run(make(salt)(journal.path, 1)), cluster.run(make(salt + 1)(journal.path, 1))] == [
        salt,
        salt + 1,
    ]
    assert cluster.run(make(salt)(journal.path, 1)) == salt
    assert journal.lines() == [str(salt), str(salt + 1)]


# --- why -------------------------------------------------------------------------------------------------


def test_explain_says_what_was_found_and_what_has_changed(cluster: cs.Cluster, journal: Journal) -> None:
    f = made("explained")

    def reasons(run: Any, node: Any) -> str:
        [found] = run.explain(node)
        return " ".join(found.reasons)

    first = cluster.submit(f(journal.path, 1))
    assert first.result(60) == 1
    assert reasons(first, "explained").startswith("It ran on worker ")
    hit = cluster.submit(f(journal.path, 1))
    assert hit.result(60) == 1
    assert reasons(hit, 0) == "It did not run: the cluster's cache has its value."
    miss = cluster.submit(f(journal.path, 2))
    assert miss.result(60) == 2
    assert "since the last call of 'explained', argument 'x' has changed." in reasons(miss, "explained")
    [by_id] = cluster.explain(miss.id, miss.explain(0)[0].node_id[:12])
    assert (by_id.node.node, by_id.node.state) == (0, "done")
    with pytest.raises(cs.RunNotFoundError, match="no node 'unknown'"):
        miss.explain("unknown")


def test_the_command_explains(cluster_address: str, journal: Journal) -> None:
    with cs.connect(cluster_address) as cluster:
        run = cluster.submit(add_one(slowly(journal.path, 1).run_if(add_one(-1))))
        with pytest.raises(cs.DependencyMissingError):
            run.result(60)
    command = [sys.executable, "-m", "cascade_dist.cli", "-a", cluster_address]
    done = subprocess.run(
        [*command, "explain", run.id, "slowly"], capture_output=True, text=True, check=True, env=ENVIRONMENT
    )
    assert "It was skipped, because its condition 'add_one' was false." in done.stdout
    missing = subprocess.run(
        [*command, "explain", run.id, "nothing"], capture_output=True, text=True, check=False, env=ENVIRONMENT
    )
    assert missing.returncode == 1
    assert "no node 'nothing'" in missing.stderr


ENVIRONMENT = {"PYTHONPATH": ":".join(sys.path)}


def test_a_returned_target_is_looked_up_too(cluster: cs.Cluster, journal: Journal) -> None:
    f = made("f")

    @cs.task
    def goes_on(path: str) -> Any:
        return add_one(f(path, 41))

    assert [cluster.run(goes_on(journal.path)) for _ in range(2)] == [42, 42]
    assert journal.lines() == ["f"]


def test_a_policy_is_asked_when_the_clusters_cache_has_nothing(cluster: cs.Cluster, journal: Journal) -> None:
    f = made("f")
    assert cluster.run(f(journal.path, 1).with_cache(Fixed("from the policy"))) == "from the policy"
    assert cluster.run(f(journal.path, 1)) == 1, "what a policy has is not kept for the cluster"
    assert cluster.run(f(journal.path, 1).with_cache(Fixed("from the policy"))) == 1
    assert journal.lines() == ["f"]


def test_the_time_that_a_policy_takes_is_not_the_tasks(cluster: cs.Cluster, journal: Journal) -> None:
    class Slow:
        async def check(self, task_id: str, inputs: Mapping[str, Any]) -> Any:
            await asyncio.sleep(0.3)
            return cs.MISS

        async def save(self, task_id: str, inputs: Mapping[str, Any], output: Any) -> None:
            await asyncio.sleep(0.3)

    for call in (double(journal.path, 1), slowly(journal.path, 1)):
        run = cluster.submit(call.with_cache(Slow()))
        assert run.result(60) == 2
        [duration] = [
            event.duration for event in run.events() if isinstance(event, cs.events.TaskExecutionFinished)
        ]
        assert duration < 0.3
