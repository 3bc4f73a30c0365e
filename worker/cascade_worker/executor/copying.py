"""Copying large buffers on two cores, while one of them has nothing to do.

One core does not move as many bytes as memory takes. A second thread gets half of a large copy, unless all
cores are busy: then it would only be in somebody's way. It ends with the copy, so that user code that forks
finds no thread of ours.
"""

from __future__ import annotations

import os
import sys
from _thread import allocate_lock, start_new_thread
from time import monotonic
from typing import Any

__all__ = ["HELPED_BYTES_MIN", "copy"]

HELPED_BYTES_MIN = 8 << 20
"""Less is copied before a thread has begun."""
_PAGE = 4096
_WAIT_SECONDS = 30.0
_LOOK_SECONDS = 0.02
"""How long it holds whether a core is spare: to look takes as long as to copy half a megabyte."""

_Part = tuple[memoryview, memoryview]


def copy(target: memoryview, source: Any) -> None:
    """Copies bytes into memory of the same size."""
    numpy = sys.modules.get("numpy")  # its copies let other threads go on
    if len(target) < HELPED_BYTES_MIN or numpy is None or not _has_spare_core():
        target[:] = source
        return
    middle = len(target) // 2 // _PAGE * _PAGE
    with memoryview(source) as whole:
        second = (target[middle:], whole[middle:])
        todo, ended = [second], allocate_lock()
        ended.acquire()
        try:
            start_new_thread(_help, (numpy, todo, ended))
        except RuntimeError:  # no thread is to be had
            target[:] = source
            return
        _copy(numpy, (target[:middle], whole[:middle]))
        if not _take(todo) and ended.acquire(timeout=_WAIT_SECONDS) and not todo:
            return
        second[0][:] = second[1]  # the thread has not begun, or has not come to an end


def _help(numpy: Any, todo: list[_Part], ended: Any) -> None:
    """Copies the part that is to do, unless somebody has done it; puts it back when it cannot."""
    part = _take(todo)
    try:
        if part:
            _copy(numpy, part)
    except BaseException:
        todo.extend([part] if part else [])
    finally:
        part = None  # maps can be closed as soon as the other one goes on
        ended.release()


def _take(todo: list[_Part]) -> _Part | None:
    try:
        return todo.pop()
    except IndexError:
        return None


def _copy(numpy: Any, part: _Part) -> None:
    target, source = part
    numpy.copyto(numpy.frombuffer(target, numpy.uint8), numpy.frombuffer(source, numpy.uint8))


class _Look:
    """Whether a core was spare, and until when that holds; seconds, monotonic."""

    spare = False
    until = float("-inf")


def _has_spare_core() -> bool:
    """Whether fewer threads run on this machine than it has cores, or did so just now."""
    now = monotonic()
    if now >= _Look.until:
        _Look.spare, _Look.until = _look_for_core(), now + _LOOK_SECONDS
    return _Look.spare


def _look_for_core() -> bool:
    """Whether fewer threads run on this machine than it has cores; False where nobody says so."""
    try:
        with open("/proc/loadavg", "rb", buffering=0) as file:
            running = int(file.read(128).split()[3].partition(b"/")[0])
        return running < (os.cpu_count() or 1) and len(os.sched_getaffinity(0)) > 1
    except (OSError, ValueError, IndexError, AttributeError):
        return False
