"""Objects that are put once and used in many graphs."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cascade_dist as cs
from cascade_dist.codec.cid import cid_of, cid_to_text
from tests.integration.conftest import Journal, note

pytestmark = pytest.mark.integration

LARGE = 1_000_000


@dataclass
class Job:
    """A container of the user's own."""

    data: Any
    factor: int


class Opaque:
    """An object that hides what it has."""

    def __init__(self, hidden: Any) -> None:
        self.hidden = hidden


@cs.task
def total(data: Any, more: float = 0.0) -> float:
    return float(sum(data) if isinstance(data, list) else data.sum()) + more


@cs.task
def inc(x: int) -> int:
    return x + 1


@pytest.fixture
def array() -> Any:
    return np.arange(LARGE, dtype=np.float64)


def test_it_is_an_argument_anywhere(cluster: cs.Cluster, array: Any) -> None:
    wanted = float(array.sum())
    handle = cluster.put(array)
    assert (handle.size > array.nbytes, handle.cid.startswith("baf")) == (True, True)
    assert cluster.run(total(handle)) == wanted
    assert cluster.run(total(data=handle, more=inc(1))) == wanted + 2

    @cs.task
    def dig(jobs: dict[str, list[Job]], pair: tuple[Any, Any], opaque: Opaque) -> list[bool]:
        found = [jobs["all"][0].data, *pair, opaque.hidden]
        return [each is found[0] and float(each.sum()) == wanted for each in found]

    job = Job(handle, 3)
    assert cluster.run(dig({"all": [job]}, (handle, handle), Opaque(handle))) == [True] * 4
    assert job.data is handle


def test_it_is_an_argument_of_maps_pipelines_and_returned_targets(cluster: cs.Cluster, array: Any) -> None:
    wanted = float(array.sum())
    handle, short = cluster.put(array), cluster.put([1, 2, 3])

    @cs.task
    def numbers() -> list[int]:
        return [10, 20]

    @cs.task
    def outer() -> Any:
        return total(handle, 1.0)

    @cs.task
    def count(n: int, data: Any) -> Any:
        return float(data.sum()) if n == 0 else count(n - 1, handle)

    assert cluster.run(total.map(data=[handle, short], more=[1, 2])) == [wanted + 1, 6 + 2]
    assert cluster.run(total.map(data=cs.unmapped(handle), more=[1, 2])) == [wanted + 1, wanted + 2]
    assert cluster.run(total.map(data=cs.unmapped(handle), more=numbers())) == [wanted + 10, wanted + 20]
    assert cluster.run(total.map(data=[handle, short], more=numbers())) == [wanted + 10, 6 + 20]
    assert cluster.run(cs.pipeline(handle, [total])) == wanted
    assert cluster.run(outer()) == wanted + 1
    assert cluster.run(count(5, handle)) == wanted
    assert cluster.run([inc(1), total(short)]) == [2, 6.0]


def test_only_arguments_are_replaced(cluster: cs.Cluster) -> None:
    handle = cluster.put([1, 2, 3])

    @cs.task
    def passed_on(wrapped: bool) -> Any:
        return [handle] if wrapped else handle

    @cs.task
    def kind(x: Any) -> str:
        return type(x[0] if isinstance(x, list) and len(x) == 1 else x).__name__

    assert cluster.run([handle, {"a": handle}, inc(1)]) == [handle, {"a": handle}, 2]
    assert cluster.run(passed_on(False)) == handle
    assert cluster.run([kind(passed_on(False)), kind(passed_on(True))]) == ["Stored", "Stored"]
    assert cluster.run(kind(cs.Param("p")), params={"p": handle}) == "list"
    assert cluster.run(kind(cs.Router(kind(1), {"int": handle, "str": 1}))) == "list"
    with pytest.raises(cs.GraphError, match="nothing to run in <Stored"):
        cluster.run(handle)


def test_arrays_are_read_only_as_those_of_other_objects(cluster: cs.Cluster, array: Any) -> None:
    @cs.task
    def write(data: Any) -> None:
        data[0] = 1.0

    with pytest.raises(ValueError, match="read-only"):
        cluster.run(write(cluster.put(array)))


def test_equal_objects_are_one_blob(cluster: cs.Cluster, array: Any) -> None:
    first, second = cluster.put(array), cluster.put(array.copy())
    assert first == second
    assert hash(first) == hash(second)
    assert [blob.cid for blob in cluster.blobs()].count(first.cid) == 1
    assert cluster.put(array + 1) != first


def test_keys_of_pure_tasks_take_it_by_its_content(cluster: cs.Cluster, journal: Journal) -> None:
    @cs.task(pure=True, cache="cluster")
    def once(data: Any, path: str) -> float:
        note(path, "ran")
        return float(data.sum())

    path = journal.path
    for _ in range(2):
        assert cluster.run(once(cluster.put(np.arange(1000.0)), path)) == 499_500.0
    assert journal.lines() == ["ran"]
    assert cluster.run(once(cluster.put(np.arange(1001.0)), path)) == 500_500.0
    assert journal.lines() == ["ran", "ran"]


def test_it_works_when_the_client_that_put_it_is_gone(cluster_address: str, array: Any) -> None:
    with cs.connect(cluster_address) as first:
        saved = pickle.dumps(first.put(array))
    with cs.connect(cluster_address) as second:
        assert second.run(total(pickle.loads(saved))) == float(array.sum())


@pytest.fixture
def alone() -> Iterator[cs.Cluster]:
    with cs.connect("local", workers=1, slots=1) as cluster:
        yield cluster


def test_a_worker_fetches_it_once(alone: cs.Cluster, array: Any, tmp_path: Path) -> None:
    handle = alone.put(array)
    assert alone.run(total(handle)) == float(array.sum())
    assert alone._local is not None
    stored = Path(alone._local._directory) / "blobs" / handle.cid
    stored.write_bytes(b"whoever reads this is refused")
    assert alone.run(total(handle, 1.0)) == float(array.sum()) + 1
    with pytest.raises(cs.RunLostError, match="has changed on disk"):
        alone.save_blob(handle, tmp_path / "blob")
    assert list(tmp_path.iterdir()) == []


def test_what_has_changed_in_the_store_fails_the_task_that_needs_it(alone: cs.Cluster, array: Any) -> None:
    handle = alone.put(array)
    assert alone._local is not None
    stored = Path(alone._local._directory) / "blobs" / handle.cid
    stored.write_bytes(stored.read_bytes()[:-1] + b"!")
    with pytest.raises(cs.CascadeError, match=f"{handle.cid}.*has changed on disk"):
        alone.run(total(handle))
    assert alone.put(array) == handle
    assert alone.run(total(handle)) == float(array.sum())


def test_a_cluster_that_does_not_have_it_says_so(alone: cs.Cluster, cluster: cs.Cluster) -> None:
    handle = alone.put(list(range(31_337, 131_337)))  # no other test has these
    with pytest.raises(cs.BlobNotFoundError, match=f"does not have blob {handle.cid}.*pin=True"):
        cluster.run(total(handle))
    with pytest.raises(LookupError):
        cluster.submit([inc(1), total(handle)])

    @cs.task
    def outer() -> Any:
        return total(cs.Stored(cid_to_text(cid_of(b"nobody has put this")), 19))

    with pytest.raises(cs.CascadeError, match="does not have"):
        cluster.run(outer())


def test_what_cannot_be_put_is_named(cluster: cs.Cluster) -> None:
    with pytest.raises(
        cs.ArgumentSerializationError, match=r"the object to put, at \['lock'\], is a _thread"
    ):
        cluster.put({"lock": threading.Lock()})
    with pytest.raises(cs.SerializationError):
        cluster.put([inc(1)])


def test_blobs_are_listed_pinned_and_saved(cluster: cs.Cluster, array: Any, tmp_path: Path) -> None:
    handle = cluster.put(array, pin=True)
    [found] = [blob for blob in cluster.blobs() if blob.cid == handle.cid]
    assert (found.size, found.pinned) == (handle.size, True)
    assert cluster.save_blob(handle, tmp_path / "blob") == handle.size
    assert cid_to_text(cid_of((tmp_path / "blob").read_bytes())) == handle.cid
    assert cluster.unpin(handle) == [True]
    assert cluster.unpin(handle.cid) == [False]
    missing = cid_to_text(cid_of(b"not there"))
    with pytest.raises(cs.BlobNotFoundError, match=missing):
        cluster.pin(handle, missing)
    assert cluster.unpin(handle) == [True]
    with pytest.raises(cs.BlobNotFoundError, match=missing):
        cluster.save_blob(missing, tmp_path / "none")
    with pytest.raises(ValueError, match="no content id"):
        cluster.pin("Qm")


async def test_the_async_client_puts_too(cluster_address: str, array: Any, tmp_path: Path) -> None:
    async with cs.aio.connect(cluster_address) as cluster:
        handle = await cluster.put(array, pin=True)
        assert await cluster.run(total(handle)) == float(array.sum())
        assert handle.cid in [blob.cid for blob in await cluster.blobs()]
        assert await cluster.save_blob(handle, tmp_path / "blob") == handle.size
        assert await cluster.unpin(handle) == [True]
        await cluster.pin(handle)
        assert await cluster.unpin(handle) == [True]
        assert await cs.aio.put(array, cluster=cluster) == handle
    with cs.connect(cluster_address) as other:
        assert cs.put(array, cluster=other) == handle


def test_a_handle_is_a_value(cluster: cs.Cluster) -> None:
    handle = cs.Stored("bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku", 7)
    assert pickle.loads(pickle.dumps(handle)) == handle
    assert repr(handle) == f"<Stored {handle.cid}, 7 bytes>"
    assert handle != "something else"
    with pytest.raises(AttributeError, match="cannot be changed"):
        handle.size = 8
    with pytest.raises(AttributeError, match="cannot be changed"):
        del handle.cid
