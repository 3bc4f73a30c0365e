"""The first steps of an executor, right after the fork."""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import signal
import socket
import sys
import traceback

from cascade_dist import context
from cascade_dist.caching.memory import use_exchange
from cascade_worker.executor.aio import AsyncExecutor, current_attempt
from cascade_worker.executor.exchange import CacheExchange
from cascade_worker.executor.frames import READY, ExecutorConfig
from cascade_worker.executor.leases import ROOM_WORD
from cascade_worker.executor.output import STDERR, STDOUT, LineWriter, Speaker
from cascade_worker.executor.sync import SyncExecutor
from cascade_worker.executor.work import Workbench

__all__ = ["EXIT_BROKEN", "STOP_PAGE_BYTES", "die_with_parent", "executor_main"]

EXIT_BROKEN = 70
"""Exit code of an executor whose own code failed."""

STOP_PAGE_BYTES = 4096

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int, signum: int) -> None:
    """Asks the kernel for a signal when the parent ends; elsewhere than on Linux a closed socket must do."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signum, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the kernel was asked
        os._exit(1)


def executor_main(parent: int, fds: list[int], config: ExecutorConfig) -> None:
    """Runs an executor in this process, which was just forked; does not return.

    Args:
        parent: pid of the fork server.
        fds: tasks to read, frames to write, the stop page, pipes for descriptors 1 and 2, answers to read.
        config: what it has to know.
    """
    code = EXIT_BROKEN
    try:
        os.setsid()
        die_with_parent(parent, signal.SIGKILL)
        _set_signals()
        tasks, speaker, stop_word, answers = _take_over(fds)
        use_exchange(CacheExchange(speaker.say, answers))
        _serve(tasks, speaker, stop_word, config)
        code = 0
    except BrokenPipeError:
        code = 1  # the worker is gone
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(code)


def _set_signals() -> None:
    signal.set_wakeup_fd(-1)
    for signum in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _take_over(fds: list[int]) -> tuple[socket.socket, Speaker, memoryview, socket.socket]:
    tasks_fd, frames_fd, page_fd, out_fd, err_fd, answers_fd = fds
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (out_fd, 1), (err_fd, 2)):
        os.dup2(source, target)
        os.close(source)
    page = mmap.mmap(page_fd, STOP_PAGE_BYTES)
    os.close(page_fd)
    speaker = Speaker(socket.socket(fileno=frames_fd))
    answers = socket.socket(fileno=answers_fd)
    return socket.socket(fileno=tasks_fd), speaker, memoryview(page).cast("Q"), answers


def _serve(tasks: socket.socket, speaker: Speaker, stop_word: memoryview, config: ExecutorConfig) -> None:
    os.environ["CASCADE_WORKER_ID"] = config.worker_id
    context.in_executor = True
    bench = Workbench(config, stop_word[ROOM_WORD:])
    executor: SyncExecutor | AsyncExecutor
    if config.asynchronous:
        executor = AsyncExecutor(tasks, speaker, bench, config.worker_id)
        attempt = current_attempt
    else:
        executor = sync = SyncExecutor(tasks, speaker, bench, stop_word, config.worker_id)

        def attempt() -> int:
            return sync.current

    writers = (LineWriter(STDOUT, speaker, attempt, 1), LineWriter(STDERR, speaker, attempt, 2))
    executor.writers = writers
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - lives as long as the process
    sys.stdout, sys.stderr = writers[0].as_text(), writers[1].as_text()
    os.register_at_fork(after_in_child=_in_child_of_user)
    gc.enable()
    speaker.say((READY, os.getpid()))
    executor.run()


def _in_child_of_user() -> None:
    """User code forked: its child must not write into the middle of its frames, so it uses the pipes."""
    sys.stdout = open(1, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
