"""One executor as the worker holds it: sockets, pipes, and what it was given."""

from __future__ import annotations

import asyncio
import mmap
import os
import select
import socket
from collections import deque

from cascade_worker.executor.frames import packet_pair
from cascade_worker.executor.leases import ROOM_WORD
from cascade_worker.executor.process import STOP_PAGE_BYTES

__all__ = ["Child", "Pipe"]

_PIPE_BYTES = 64 * 1024
_LINE_BYTES_MAX = 8192


class Pipe:
    """Descriptor 1 or 2 of an executor: what was written past sys.stdout, in lines."""

    def __init__(self, fd: int, stream: int) -> None:
        self.fd = fd
        self.stream = stream
        self.ended = False
        """Nobody has the other end any more."""
        self._partial = b""

    def lines(self) -> list[str]:
        """Complete lines that are there now."""
        try:
            data = os.read(self.fd, _PIPE_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        self.ended = not data
        *lines, rest = (self._partial + data).split(b"\n")
        if len(rest) > _LINE_BYTES_MAX:
            lines.append(rest)
            rest = b""
        self._partial = rest
        return [line[:_LINE_BYTES_MAX].decode("utf-8", "replace") for line in lines]

    def rest(self) -> list[str]:
        """Everything that is left, when nothing more is to come."""
        lines = self.lines()
        if self._partial:
            lines.append(self._partial.decode("utf-8", "replace"))
            self._partial = b""
        return lines


class Child:
    """One executor as the worker holds it."""

    def __init__(self, executor: int, asynchronous: bool) -> None:
        self.id = executor
        self.asynchronous = asynchronous
        self.pid = 0
        self.killed = False
        self.written: deque[int] = deque()
        """Sync: attempts that it was given and has not answered."""
        self.recalled: set[int] = set()
        """Sync: those of them that are leased no more."""
        self.running: set[int] = set()
        """Async: the same."""
        self.backlog: deque[tuple[int, bytes]] = deque()
        """Frames that its socket had no room for."""
        self.partial = b""
        self.answering = asyncio.Lock()
        self.tasks, self.tasks_read = packet_pair()
        self.frames, self.child_frames = socket.socketpair()
        self.answers, self.child_answers = socket.socketpair()
        page_fd = _shared_memory(STOP_PAGE_BYTES)
        self.page_fd = page_fd
        self.page = mmap.mmap(page_fd, STOP_PAGE_BYTES)
        self.stop_word = memoryview(self.page).cast("Q")
        out_read, self.out_write = os.pipe()
        err_read, self.err_write = os.pipe()
        self.pipes = (Pipe(out_read, 1), Pipe(err_read, 2))
        self.pipes_poll = select.poll()
        """Says whether one of them has something: one call, where reading both would be two that fail."""
        for pipe in self.pipes:
            self.pipes_poll.register(pipe.fd, select.POLLIN)
        # Not tasks_read: the executor shares its description, and waits on it.
        self.tasks.setblocking(False)
        self.frames.setblocking(False)
        self.answers.setblocking(False)
        for pipe in self.pipes:
            os.set_blocking(pipe.fd, False)

    def child_fds(self) -> list[int]:
        """What the executor gets."""
        return [
            self.tasks_read.fileno(),
            self.child_frames.fileno(),
            self.page_fd,
            self.out_write,
            self.err_write,
            self.child_answers.fileno(),
        ]

    def handed_over(self) -> None:
        """The executor has them; the worker keeps the reading end of the tasks alone."""
        self.child_frames.close()
        self.child_answers.close()
        os.close(self.page_fd)
        os.close(self.out_write)
        os.close(self.err_write)

    def set_rooms(self, rooms: list[int]) -> None:
        """Writes into the page how much room there is in the object directories."""
        for number, room in enumerate(rooms, ROOM_WORD):
            self.stop_word[number] = room

    def first_recalled(self) -> int:
        """Of what it was given and is recalled, what it runs, or will first; 0: nothing."""
        return next((attempt for attempt in self.written if attempt in self.recalled), 0)

    def current(self) -> int:
        """The attempt that a line without a name most likely belongs to; 0 when it cannot be told."""
        if self.asynchronous:
            return next(iter(self.running)) if len(self.running) == 1 else 0
        return self.written[0] if self.written else 0

    def close(self) -> None:
        for item in (self.tasks, self.tasks_read, self.frames, self.answers):
            item.close()
        self.stop_word.release()
        self.page.close()
        for pipe in self.pipes:
            os.close(pipe.fd)


def _shared_memory(size: int) -> int:
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("cascade-stop")
    else:
        import tempfile

        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, size)
    return fd
