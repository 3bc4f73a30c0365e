"""Large copies on two cores: whatever the second one does, all bytes are there."""

from __future__ import annotations

import mmap
import os
import threading
from typing import Any

import numpy as np
import pytest

from cascade_worker.executor import copying

SIZE = copying.HELPED_BYTES_MIN + 4321


@pytest.fixture(params=[True, False], ids=["helped", "alone"])
def spare(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    found: bool = request.param
    monkeypatch.setattr(copying, "_has_spare_core", lambda: found)
    return found


@pytest.fixture
def helped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "_has_spare_core", lambda: True)


def source_of(size: int) -> bytes:
    return np.random.default_rng(1).bytes(size)


@pytest.mark.parametrize("size", [0, 1, copying.HELPED_BYTES_MIN - 1, copying.HELPED_BYTES_MIN, SIZE])
def test_all_bytes_are_copied(spare: bool, size: int) -> None:
    source = source_of(size)
    target = bytearray(size)
    with memoryview(target) as view:
        copying.copy(view, source)
    assert target == source


def test_a_map_can_be_closed_at_once(helped: None) -> None:
    source = source_of(SIZE)
    for _ in range(20):
        mapped = mmap.mmap(-1, SIZE + 64)
        with memoryview(mapped) as view:
            copying.copy(view[64:], memoryview(source))
        assert mapped[64:] == source
        mapped.close()


def test_without_a_thread_it_is_copied_all_the_same(helped: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(copying, "start_new_thread", refuse)
    source, target = source_of(SIZE), bytearray(SIZE)
    copying.copy(memoryview(target), source)
    assert target == source


def test_a_thread_that_does_not_begin_is_not_waited_for(
    helped: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []
    monkeypatch.setattr(copying, "start_new_thread", lambda *call: started.append(call))
    source, target = source_of(SIZE), bytearray(SIZE)
    copying.copy(memoryview(target), source)
    assert target == source
    [(work, given)] = started
    work(*given)  # it begins after all, and finds nothing to do
    assert target == source


def test_what_the_thread_cannot_copy_is_copied_here(helped: None, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, here = copying._copy, threading.get_ident()
    begun = threading.Event()

    def fail_elsewhere(numpy: Any, part: Any) -> None:
        if threading.get_ident() != here:
            begun.set()
            raise MemoryError
        assert begun.wait(30)
        plain(numpy, part)

    monkeypatch.setattr(copying, "_copy", fail_elsewhere)
    source, target = source_of(SIZE), bytearray(SIZE)
    copying.copy(memoryview(target), source)
    assert target == source


def test_a_thread_helps_while_there_is_a_core_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "_LOOK_SECONDS", 0.0)
    monkeypatch.setattr(copying._Look, "until", 0.0)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # on which this very thread runs
    assert not copying._has_spare_core()
    monkeypatch.setattr(os, "cpu_count", lambda: 1 << 20)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    assert not copying._has_spare_core()
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    assert copying._has_spare_core() is os.path.exists("/proc/loadavg")


def test_whether_a_core_is_spare_holds_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[bool] = []
    monkeypatch.setattr(copying._Look, "until", 0.0)
    monkeypatch.setattr(copying, "_LOOK_SECONDS", 3_600.0)
    monkeypatch.setattr(copying, "_look_for_core", lambda: bool(looked.append(True) or True))
    assert copying._has_spare_core()
    assert copying._has_spare_core()
    assert len(looked) == 1
    monkeypatch.setattr(copying._Look, "until", 0.0)
    assert copying._has_spare_core()
    assert len(looked) == 2
