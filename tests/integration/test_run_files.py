"""A run leaves one cluster as a file and comes to another, each on a Redis of its own database."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

import cascade_dist as cs
from cascade_dist.cli.__main__ import run as command
from cascade_dist.client import events
from cascade_dist.codec.cid import cid_of
from cascade_dist.codec.values import Packed
from cascade_dist.graph.build import build
from cascade_dist.wire.graphs import Upload
from tests.machine import wait_until

from .conftest import note
from .lives import Life

pytestmark = pytest.mark.integration


@cs.task
def double(x: int) -> int:
    return 2 * x


@cs.task
def large(size: int) -> Any:
    return np.arange(size)


@cs.task
def total(values: Any, extra: Any) -> int:
    return int(values.sum()) + len(extra)


@cs.task
def speak(word: str) -> str:
    print(f"it says {word}")
    return word


@cs.task
def need(x: int, journal: str, place: str) -> int:
    note(journal, f"need-{x}")
    if not os.path.exists(place):
        raise FileNotFoundError(place)
    return x


@cs.task
def noted(journal: str, x: int) -> int:
    note(journal, f"noted-{x}")
    return x


@cs.task
def hand_over(journal: str, place: str) -> Any:
    note(journal, "hand-over")
    return need(noted(journal, 3), journal, place)


@cs.task
def held(x: int, gate: str) -> int:
    while not os.path.exists(gate):
        time.sleep(0.01)
    return x


@cs.task
def false() -> bool:
    return False


@contextlib.contextmanager
def cluster_on(url: str) -> Iterator[cs.Cluster]:
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    with cs.connect(None, workers=1, state_backend=url) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def here(redis_server: str) -> Iterator[cs.Cluster]:
    with cluster_on(redis_server.removesuffix("/0") + "/6") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def there(redis_server: str) -> Iterator[cs.Cluster]:
    with cluster_on(redis_server.removesuffix("/0") + "/7") as cluster:
        yield cluster


def id_of(target: Any) -> str:
    return build(target).structural_id.hex()


def test_a_run_is_exported_whole(here: cs.Cluster, there: cs.Cluster, tmp_path: Path) -> None:
    run_id, file = uuid.uuid4().hex, tmp_path / "a.run"
    argument = os.urandom(200_000)  # a blob of the graph
    first = large(50_000)  # a blob of the store, as it is part of the target
    target = [first, total(first, argument), double(3), double(1).run_if(false()), speak("hello")]
    with contextlib.suppress(cs.DependencyMissingError):
        here.run(target[:3] + target[4:], run_id=run_id, name="the nightly one")
    told = here.export_run(run_id, file)
    assert (told.results, told.bytes) == (4, file.stat().st_size)
    assert told.blobs >= 2
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [file], "nothing half-written is left"

    imported = there.import_run(file)
    assert (imported.run_id, imported.existed, imported.results) == (run_id, False, 4)
    assert imported.status is cs.client.RunStatus.SUCCEEDED
    assert imported.blobs == told.blobs
    again = there.import_run(file)
    assert (again.existed, again.run_id) == (True, run_id)

    assert there.describe(run_id).run.name == "the nightly one"
    assert run_id in [run.run_id for run in there.runs()]
    lines = [event.text for event in there.events(run_id) if isinstance(event, events.LogLine)]
    assert lines == ["it says hello"]
    values = there.attach(run_id).result(60)
    assert values[0].sum() == sum(range(50_000))
    assert values[1:] == [sum(range(50_000)) + 200_000, 6, "hello"]


async def test_values_are_sealed_anew(
    here: cs.Cluster, there: cs.Cluster, redis_server: str, tmp_path: Path
) -> None:
    run_id, other, file = uuid.uuid4().hex, uuid.uuid4().hex, tmp_path / "a.run"
    skipped = double(1).run_if(false())
    with pytest.raises(cs.DependencyMissingError):
        here.run(skipped, run_id=run_id)
    here.export_run(run_id, file)
    there.import_run(file, run_id=other)
    with pytest.raises(cs.DependencyMissingError):
        there.attach(other).result(60)
    state = cs.RedisStateBackend(other, redis_server.removesuffix("/0") + "/7")
    try:
        assert await state.get_result(id_of(false())) is False
        assert await state.get_skip_reason(id_of(skipped)) == "ConditionFalse"
    finally:
        await state.close()


def test_a_failed_run_goes_on_where_it_was_imported(
    here: cs.Cluster, there: cs.Cluster, tmp_path: Path
) -> None:
    run_id, file = uuid.uuid4().hex, tmp_path / "a.run"
    journal, place = str(tmp_path / "journal"), str(tmp_path / "place")
    target = need(noted(journal, 5), journal, place)
    with pytest.raises(FileNotFoundError):
        here.run(target, run_id=run_id)
    here.export_run(run_id, file)
    assert there.import_run(file).status is cs.client.RunStatus.FAILED
    Path(place).touch()
    assert there.run(target, run_id=run_id, resume=True) == 5
    assert Path(journal).read_text().split() == ["noted-5", "need-5", "need-5"]


def test_an_imported_run_goes_on_by_its_id_alone(here: cs.Cluster, there: cs.Cluster, tmp_path: Path) -> None:
    run_id, other, file = uuid.uuid4().hex, uuid.uuid4().hex, tmp_path / "a.run"
    journal, place = str(tmp_path / "journal"), str(tmp_path / "place")
    argument = os.urandom(200_000)  # a blob that the graph needs, and that came along
    first = noted(journal, 5)
    target = [need(first, journal, place), total(large(50_000), argument)]
    with pytest.raises(FileNotFoundError):
        here.run(target, run_id=run_id, on_failure="finish")
    here.export_run(run_id, file)
    there.import_run(file, run_id=other)
    Path(place).touch()
    run = there.resume_run(other)
    assert run.result(60) == [5, sum(range(50_000)) + 200_000]
    assert Path(journal).read_text().split() == ["noted-5", "need-5", "need-5"]


def test_a_run_that_went_on_as_another_target_goes_on_there(
    here: cs.Cluster, there: cs.Cluster, tmp_path: Path
) -> None:
    run_id, file = uuid.uuid4().hex, tmp_path / "a.run"
    journal, place = str(tmp_path / "journal"), str(tmp_path / "place")
    with pytest.raises(FileNotFoundError):
        here.run(hand_over(journal, place), run_id=run_id)
    assert here.export_run(run_id, file).results == 1
    there.import_run(file)
    Path(place).touch()
    assert there.resume_run(run_id).result(60) == 3
    assert Path(journal).read_text().split() == ["hand-over", "noted-3", "need-3", "need-3"]


def test_the_target_of_a_loop_travels(here: cs.Cluster, there: cs.Cluster, tmp_path: Path) -> None:
    @cs.task
    def down(steps: int) -> Any:
        return "done" if steps == 0 else down(steps - 1)

    run_id, file = uuid.uuid4().hex, tmp_path / "a.run"
    assert here.run(down(30), run_id=run_id) == "done"
    assert here.export_run(run_id, file).results == 1
    assert there.import_run(file).results == 1


def test_a_run_that_was_exported_while_it_ran_is_cancelled_there_and_goes_on(
    here: cs.Cluster, there: cs.Cluster, tmp_path: Path
) -> None:
    run_id, file = uuid.uuid4().hex, tmp_path / "a.run"
    journal, gate = str(tmp_path / "journal"), str(tmp_path / "gate")
    target = held(noted(journal, 7), gate)
    run = here.submit(target, run_id=run_id)
    deadline = time.monotonic() + 60
    while here.describe(run_id).run.progress.done < 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert here.export_run(run_id, file).results == 1
    imported = there.import_run(file)
    assert (imported.status, imported.results) == (cs.client.RunStatus.CANCELLED, 1)
    with pytest.raises(CancelledError):
        there.attach(run_id).result(60)
    Path(gate).touch()
    assert there.run(target, run_id=run_id, resume=True) == run.result(60) == 7
    assert Path(journal).read_text().split() == ["noted-7"]


def test_another_run_of_the_same_id_stays(here: cs.Cluster, there: cs.Cluster, tmp_path: Path) -> None:
    run_id, file = uuid.uuid4().hex, tmp_path / "a.run"
    here.run(double(1), run_id=run_id)
    here.export_run(run_id, file)
    there.run(double(2), run_id=run_id)
    with pytest.raises(cs.RunConflictError, match=r"is another one: .*--run-id NEW"):
        there.import_run(file)
    assert there.run(double(2), run_id=run_id) == 4
    assert there.import_run(file, run_id=f"{run_id}-b").run_id == f"{run_id}-b"
    assert here.import_run(file).existed, "this is where it comes from"


def test_files_that_are_none_are_refused(there: cs.Cluster, here: cs.Cluster, tmp_path: Path) -> None:
    run_id, file = uuid.uuid4().hex, tmp_path / "a.run"
    here.run([double(1), double(2)], run_id=run_id)
    here.export_run(run_id, file)
    data = file.read_bytes()
    for content, words in (
        (data[:-1], "cut short"),
        (data[: len(data) // 2], "cut short"),
        (data[:100] + bytes([data[100] ^ 1]) + data[101:], "damaged"),
        (data[:13] + b"\x02" + data[14:], "format 2, and this version"),
        (b"what is this", "no run file"),
    ):
        file.write_bytes(content)
        with pytest.raises(cs.RunFileError, match=words):
            there.import_run(file)
    with pytest.raises(cs.ConfigError, match=r"nowhere\.run cannot be read"):
        there.import_run(tmp_path / "nowhere.run")
    file.write_bytes(data)
    assert not there.import_run(file).existed, "nothing of the refused ones was kept"


def test_what_cannot_be_exported_is_said(
    here: cs.Cluster, private_cluster: cs.Cluster, tmp_path: Path
) -> None:
    with pytest.raises(cs.RunNotFoundError, match="no run 'nobody' is stored"):
        here.export_run("nobody", tmp_path / "a.run")
    run_id = uuid.uuid4().hex
    private_cluster.run(double(1), run_id=run_id)
    with pytest.raises(cs.RunRefusedError, match=r"state in memory://.*cascade-scheduler --state redis"):
        private_cluster.export_run(run_id, tmp_path / "a.run")
    with pytest.raises(cs.ConfigError, match="cannot be written"):
        here.export_run(run_id, tmp_path / "nowhere" / "a.run")
    assert list(tmp_path.iterdir()) == []


def test_garbage_is_told_and_freed(here: cs.Cluster, redis_server: str) -> None:
    run_id = uuid.uuid4().hex
    here.run(double(1), run_id=run_id)
    with redis.Redis.from_url(redis_server.removesuffix("/0") + "/6") as client:
        client.zrem("cascade:runs", run_id)
        told = {found.kind: found for found in here.collect_garbage(dry_run=True)}
        assert told["run keys"].names == (run_id,)
        assert told["run keys"].bytes > 100
        assert client.keys(f"cascade:run:{run_id}:*")
        freed = {found.kind: found for found in here.collect_garbage()}
        assert freed["run keys"].count == told["run keys"].count
        assert not client.keys(f"cascade:run:{run_id}:*")
        assert not any(found.error for found in freed.values())


def blobs(cluster: cs.Cluster, *, dry_run: bool = True) -> int:
    found = {found.kind: found for found in cluster.collect_garbage(dry_run=dry_run, blobs_idle=0)}
    assert not found["blobs"].error
    return found["blobs"].count


def test_blobs_that_no_run_names_are_freed(there: cs.Cluster) -> None:
    blobs(there, dry_run=False)
    argument = os.urandom(150_000)
    assert there.run(total(large(40_000), argument)) > 0
    assert blobs(there) == 0, "the stored graph names its argument"
    body = os.urandom(100_000)
    there._session.put_blob(Upload(cid_of(body), len(body), Packed.of(body)))
    kept = {found.kind: found for found in there.collect_garbage()}["blobs"]
    assert kept.count == 0, "it was used this hour"
    assert blobs(there) == 1
    assert blobs(there, dry_run=False) == 1
    assert blobs(there) == 0


def test_the_commands(
    here: cs.Cluster, there: cs.Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id, file = uuid.uuid4().hex, str(tmp_path / "a.run")
    here.run([double(1), speak("hello")], run_id=run_id)
    of_here = cli_options(here)
    assert command([*of_here, "export", run_id, file]) == 0
    assert f"run {run_id}: 2 results and 0 blobs in {file}" in capsys.readouterr().out
    assert command([*of_here, "export", run_id, file]) == 2
    assert "--force" in capsys.readouterr().err
    assert command([*of_here, "export", "--force", run_id, file]) == 0
    of_there = cli_options(there)
    assert command([*of_there, "import", file]) == 0
    assert command([*of_there, "import", file]) == 0
    said = capsys.readouterr().out
    assert f"run {run_id} (succeeded): 2 results" in said
    assert f"run {run_id} was here already" in said
    assert command([*of_there, "-o", "json", "gc", "--dry-run"]) == 0
    assert '"dry_run": true' in capsys.readouterr().out


def cli_options(cluster: cs.Cluster) -> list[str]:
    assert cluster._local is not None
    assert cluster._local.token_file is not None
    return ["--address", cluster.address, "--token-file", cluster._local.token_file]


def test_what_a_scheduler_stored_before_it_died_is_safe_from_imports(
    here: cs.Cluster, redis_server: str, tmp_path: Path
) -> None:
    run_id, file = uuid.uuid4().hex, tmp_path / "a.run"
    here.run(double(1), run_id=run_id)
    here.export_run(run_id, file)
    url = redis_server.removesuffix("/0") + "/8"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    life = Life(url, tmp_path / "blobs")
    try:
        with life.connect() as cluster:
            cluster.run([double(2), double(3)], run_id=run_id)
            imported = f"{run_id}-b"
            cluster.import_run(file, run_id=imported)
            life.restart_scheduler()
            wait_until(lambda: reachable(cluster))
            with pytest.raises(cs.RunConflictError, match="stored here, and it is another one"):
                cluster.import_run(file)
            assert cluster.attach(run_id).result(60) == [4, 6]
            assert cluster.attach(imported).result(60) == 2
            assert cluster.import_run(file, run_id=imported).existed
    finally:
        life.kill()


def reachable(cluster: cs.Cluster) -> bool:
    with contextlib.suppress(cs.CascadeError):
        return cluster.status().workers > 0
    return False
