"""The fork server: a process that has everything loaded that executors need, and nothing else.

It never imports gRPC, whose threads would not survive a fork. The worker asks it for executors over a
SOCK_SEQPACKET pair; it forks them, says how they ended, and reaps whatever their children leave behind. When
the worker is gone it kills every executor with all its children, and ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import json
import os
import select
import shutil
import signal
import socket
import sys
import time
from typing import Any

from cascade_worker.executor.frames import STOP_SIGNAL, ExecutorConfig
from cascade_worker.executor.process import die_with_parent, executor_main

__all__ = ["DIED", "END", "FAILED", "FORKED", "MESSAGE_BYTES_MAX", "SIGNAL", "START", "kill_group", "main"]

MESSAGE_BYTES_MAX = 64 * 1024
EXECUTOR_FDS = 6

# Messages are JSON lists.
START = "start"
"""["start", executor, [fields of ExecutorConfig]], and six descriptors."""
SIGNAL = "signal"
"""["signal", executor, number, whole group]: only the server, who reaps, knows that a pid is still its."""
END = "end"
"""["end"]: the worker ends in order, and cleans up itself."""
FORKED = "forked"
"""["forked", executor, pid]."""
DIED = "died"
"""["died", executor, wait status]."""
FAILED = "failed"
"""["failed", executor, text]: it could not be forked."""

_PR_SET_CHILD_SUBREAPER = 36
_DYING_CHECKS, _DYING_PAUSE = 100, 0.02


class ForkServer:
    """Forks, reaps, and kills."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._executors: dict[int, int] = {}  # executor by pid
        self._wake_read, self._wake_write = os.pipe()
        for fd in (self._wake_read, self._wake_write):
            os.set_blocking(fd, False)
        self._ending = False
        self._told = False

    def run(self) -> bool:
        """Serves until the worker says or closes its end, or SIGTERM. Returns whether the worker said so."""
        signal.signal(signal.SIGCHLD, lambda signum, frame: None)
        signal.signal(signal.SIGTERM, self._on_term)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # Inherited: a stop that comes before an executor has its handler is seen in the page instead.
        signal.signal(STOP_SIGNAL, signal.SIG_IGN)
        signal.set_wakeup_fd(self._wake_write)
        poller = select.poll()
        poller.register(self._control, select.POLLIN)
        poller.register(self._wake_read, select.POLLIN)
        while not self._ending:
            for fd, _ in poller.poll():
                if fd == self._wake_read:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake_read, 4096)
                    self._reap()
                elif not self._take():
                    self._ending = True
        self._kill_all()
        return self._told

    def _on_term(self, signum: int, frame: object) -> None:
        self._ending = True

    def _take(self) -> bool:
        """Takes one message; False when the worker is gone."""
        try:
            data, fds, _, _ = socket.recv_fds(self._control, MESSAGE_BYTES_MAX, EXECUTOR_FDS)
        except ConnectionResetError:  # it closed its end without reading all; what it sent comes after this
            return True
        if not data:
            return False
        message = json.loads(data)
        if message[0] == START:
            self._start(message[1], message[2], fds)
        elif message[0] == SIGNAL:
            self._signal(message[1], message[2], message[3])
        elif message[0] == END:
            self._told = True
            return False
        return True

    def _signal(self, executor: int, signum: int, group: bool) -> None:
        for pid, number in self._executors.items():
            if number == executor:
                if group:
                    kill_group(pid)
                os.kill(pid, signum)

    def _start(self, executor: int, config: list[Any], fds: list[int]) -> None:
        server = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            self._say([FAILED, executor, str(error)])
            pid = -1
        if pid == 0:
            self._become(server, fds, config)
        for fd in fds:
            os.close(fd)
        if pid > 0:
            self._executors[pid] = executor
            self._say([FORKED, executor, pid])

    def _become(self, server: int, fds: list[int], config: list[Any]) -> None:
        """In the child: let go of everything that is the server's."""
        self._control.close()
        signal.set_wakeup_fd(-1)
        os.close(self._wake_read)
        os.close(self._wake_write)
        worker_id, asynchronous, object_dirs, functions_dir, bounds = config
        made = ExecutorConfig(worker_id, asynchronous, tuple(object_dirs), functions_dir, tuple(bounds))
        executor_main(server, fds, made)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            executor = self._executors.pop(pid, None)
            if executor is not None:
                kill_group(pid)  # what it started and did not end
                self._say([DIED, executor, status])

    def _say(self, message: list[Any]) -> None:
        with contextlib.suppress(OSError):  # the worker is gone; the next read says so
            self._control.send(json.dumps(message).encode())

    def _kill_all(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for pid in list(self._executors):
            kill_group(pid)
        for pid in list(self._executors):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)  # before it has made its group
                os.waitpid(pid, 0)


def kill_group(pid: int) -> None:
    """Ends a process group by force, if there still is one."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def main(fd: int, worker: int, roots: list[str]) -> None:
    """Serves over an inherited descriptor, for the worker with this pid; cleans up behind it.

    Args:
        fd: one end of a SOCK_SEQPACKET pair.
        worker: pid of the parent.
        roots: the worker's directories, removed when it has died without doing so.
    """
    with contextlib.suppress(OSError):
        os.setsid()
    die_with_parent(worker, signal.SIGTERM)
    if sys.platform == "linux":
        # Grandchildren that lose their parent come to this process, which reaps them.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    _preload()
    gc.collect()
    gc.disable()
    gc.freeze()
    if not ForkServer(socket.socket(fileno=fd)).run():
        for root in roots:
            _remove_if_dead(root)


def _remove_if_dead(root: str) -> None:
    """Removes a worker's directory when nobody holds its lock: the next start may be far away."""
    with contextlib.suppress(OSError):
        lock = os.open(os.path.join(root, "lock"), os.O_RDWR | os.O_CLOEXEC)
        for _ in range(_DYING_CHECKS):
            # A killed worker holds it until the last of its threads is gone, a moment after this was told.
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(root, ignore_errors=True)
                return
            time.sleep(_DYING_PAUSE)


def _preload() -> None:
    """What executors would import one by one otherwise."""
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: F401
    import asyncio.runners  # noqa: F401
    import concurrent.futures.thread  # noqa: F401
    import multiprocessing  # noqa: F401
    import threading  # noqa: F401

    import cascade_dist  # noqa: F401
    import cascade_worker.executor.aio  # noqa: F401
