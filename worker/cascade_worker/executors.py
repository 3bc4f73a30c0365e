"""The worker's side of its executors: starting, feeding, hearing, stopping and burying them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from typing import Any, NamedTuple, Protocol

from cascade_worker import forkserver
from cascade_worker.child import Child, Pipe
from cascade_worker.executor.frames import (
    ASK,
    BEGUN,
    BROKEN,
    CANCEL,
    CLOSE_RUN,
    CLOSED,
    DONE,
    EXIT,
    FAILED,
    LEASE,
    LENGTH,
    LOG,
    PACKET_BYTES_MAX,
    READY,
    RECALL,
    RESOURCE,
    SPILLED,
    STOP_SIGNAL,
    TAIL,
    TASK,
    dumps,
    loads,
    packet_pair,
)
from cascade_worker.executor.leases import RECALL_WORD, STEP_WORD, STOP_WORD
from cascade_worker.messages import failed_frame

__all__ = ["Asked", "ExecutorPool", "PoolListener"]

log = logging.getLogger("cascade.worker")

_READ_BYTES = 256 * 1024
_SERVER_GRACE = 5.0
_FRAME_BYTES_MAX = 64 << 20
_PACKET_READ = PACKET_BYTES_MAX + 1024


class Asked(NamedTuple):
    """What an executor wants of the cluster's cache: an entry, or without `value` None to keep one."""

    number: int
    key: str
    value: bytes | None
    ttl: float | None


class PoolListener(Protocol):
    """Who is told what executors say."""

    def executor_started(self, executor: int) -> None:
        """An executor is there."""

    def executor_answered(self, executor: int, frames: list[tuple[Any, ...]]) -> None:
        """DONE and FAILED frames, in order."""

    def executor_printed(self, attempt: int, stream: int, text: str) -> None:
        """One line."""

    def executor_leased(self, attempt: int, news: tuple[Any, ...]) -> None:
        """A leased loop has come so far: steps beyond its first; arguments and node of the one that runs."""

    def executor_told(self, executor: int, frame: tuple[Any, ...]) -> None:
        """A RESOURCE, BEGUN or CLOSED frame."""

    def executor_asked(self, executor: int, asked: Asked) -> None:
        """Something of the cluster's cache; `ExecutorPool.answer` is to follow."""

    def executor_died(self, executor: int, reason: str, unread: list[int]) -> None:
        """An executor has ended; `unread` are attempts that it never took."""


class ExecutorPool:
    """All executors of a worker.

    Args:
        listener: who is told.
        worker_id: told to executors.
        object_dirs: where executors write large results, in order of preference.
        functions_dir: where function bodies lie, by the hex of their CID.
        spill_dir: where frames too large for a packet are put.
        object_bytes_max: bounds of the directories of large results.
    """

    def __init__(
        self,
        listener: PoolListener,
        worker_id: str,
        object_dirs: tuple[str, ...],
        functions_dir: str,
        spill_dir: str,
        object_bytes_max: tuple[int | None, ...] = (),
    ) -> None:
        self._listener = listener
        self._worker_id = worker_id
        self._object_dirs = object_dirs
        self._object_bytes_max = object_bytes_max
        self._rooms: list[int] = []
        self._functions_dir = functions_dir
        self._spill_dir = spill_dir
        # The rooms' parents: what the fork server removes when the worker was killed.
        self._roots = list(dict.fromkeys(os.path.dirname(path) for path in (*object_dirs, spill_dir)))
        self._executors: dict[int, Child] = {}
        self._server: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._buffer = bytearray(_READ_BYTES)
        self._view = memoryview(self._buffer)

    # --- the fork server ----------------------------------------------------------------------------

    def start_server(self) -> None:
        """Starts the fork server. Blocks for the time of a fork; the server gets ready by itself."""
        mine, theirs = packet_pair()
        code = (
            "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
            "from cascade_worker.forkserver import main; "
            "main(int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4]))"
        )
        arguments = [json.dumps(_executor_path()), str(theirs.fileno()), str(os.getpid())]
        arguments.append(json.dumps(self._roots))
        environment = dict(os.environ)
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            environment.setdefault(name, "1")
        environment["PYTHONUNBUFFERED"] = "1"
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-c", code, *arguments],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
        mine.setblocking(False)
        self._control = mine
        asyncio.get_running_loop().add_reader(mine.fileno(), self._control_readable)

    @property
    def server_pid(self) -> int:
        """Of the fork server; 0: there is none."""
        return self._server.pid if self._server else 0

    def _control_readable(self) -> None:
        control = self._control
        while control is not None:
            try:
                data = control.recv(forkserver.MESSAGE_BYTES_MAX)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._server_ended()
                return
            kind, executor, value = json.loads(data)
            handle = self._executors.get(executor)
            if handle is None:
                continue
            if kind == forkserver.FORKED:
                handle.pid = value
            elif kind == forkserver.DIED:
                self._bury(handle, _reason(value, handle.killed))
            else:
                self._bury(handle, f"it could not be forked: {value}")

    def _server_ended(self) -> None:
        """Without the server nobody says when executors end, so they end with it."""
        self._drop_control()
        status = self._end_server()
        log.error("the fork server has ended (status %s); its executors are lost", status)
        for handle in list(self._executors.values()):
            if handle.pid:
                forkserver.kill_group(handle.pid)
            self._bury(handle, "the fork server has ended")

    def _end_server(self) -> int | None:
        """Waits for a server that is ending; its status."""
        server, self._server = self._server, None
        if server is None:
            return None
        try:
            return server.wait(_SERVER_GRACE)
        except subprocess.TimeoutExpired:
            server.kill()
            return server.wait()

    def _drop_control(self) -> None:
        if self._control is not None:
            asyncio.get_running_loop().remove_reader(self._control.fileno())
            self._control.close()
            self._control = None

    def _tell_server(self, message: list[Any], fds: list[int] | None = None) -> bool:
        control = self._control
        if control is None:
            return False
        data = json.dumps(message).encode()
        try:
            if fds:
                socket.send_fds(control, [data], fds)
            else:
                control.send(data)
        except OSError as error:
            log.error("the fork server does not take %s: %s", message[0], error)
            return False
        return True

    # --- life and death -----------------------------------------------------------------------------

    def start(self, executor: int, asynchronous: bool) -> None:
        """Starts an executor; frames may be sent to it at once."""
        loop = asyncio.get_running_loop()
        try:
            if self._control is None:
                self.start_server()
            handle = Child(executor, asynchronous)
        except OSError as error:  # too many open files, say
            log.error("executor %d cannot be started: %s", executor, error)
            loop.call_soon(self._listener.executor_died, executor, f"it could not be started: {error}", [])
            return
        self._executors[executor] = handle
        handle.set_rooms(self._rooms)
        config = [
            self._worker_id,
            asynchronous,
            self._object_dirs,
            self._functions_dir,
            self._object_bytes_max,
        ]
        told = self._tell_server([forkserver.START, executor, config], handle.child_fds())
        handle.handed_over()
        loop.add_reader(handle.frames.fileno(), self._frames_readable, handle)
        for pipe in handle.pipes:
            loop.add_reader(pipe.fd, self._pipe_readable, handle, pipe)
        if not told:
            loop.call_soon(self._bury, handle, "the fork server does not answer")

    def set_rooms(self, rooms: list[int | None]) -> None:
        """Tells executors for how many bytes there is room in the object directories; None: no bound."""
        self._rooms = [0 if room is None else room + 1 for room in rooms]
        for handle in self._executors.values():
            handle.set_rooms(self._rooms)

    def _bury(self, handle: Child, reason: str) -> None:
        """The process has ended: hears its last words, then closes everything."""
        if self._executors.get(handle.id) is not handle:
            return
        self._hear(handle)
        for pipe in handle.pipes:
            for line in pipe.rest():
                self._listener.executor_printed(handle.current(), pipe.stream, line)
        unread = self.reclaim(handle.id)
        del self._executors[handle.id]
        loop = asyncio.get_running_loop()
        loop.remove_reader(handle.frames.fileno())
        loop.remove_writer(handle.tasks.fileno())
        for pipe in handle.pipes:
            loop.remove_reader(pipe.fd)
        handle.close()
        self._listener.executor_died(handle.id, reason, unread)

    def kill(self, executor: int) -> None:
        """Ends an executor and all that it started, by force."""
        handle = self._executors.get(executor)
        if handle is not None:
            handle.killed = True
            self._tell_server([forkserver.SIGNAL, executor, int(signal.SIGKILL), True])

    def close_executor(self, executor: int, grace: float = 5.0) -> None:
        """Lets an idle executor end; what is async in its teardowns is cancelled after so many seconds."""
        self._send(executor, 0, dumps((EXIT, grace)))

    def close_run(self, executor: int, run_id: str, grace: float) -> None:
        """Lets an executor, idle if it is sync, tear down what was set up for a run."""
        self._send(executor, 0, dumps((CLOSE_RUN, run_id, grace)))

    def close(self) -> None:
        """Ends the fork server, and with it all executors."""
        self._tell_server([forkserver.END])
        self._drop_control()
        self._end_server()
        for handle in self._executors.values():
            if handle.pid:
                forkserver.kill_group(handle.pid)
            loop = asyncio.get_running_loop()
            for fd in (handle.frames.fileno(), *(pipe.fd for pipe in handle.pipes)):
                loop.remove_reader(fd)
            loop.remove_writer(handle.tasks.fileno())
            handle.close()
        self._executors.clear()

    # --- to executors -------------------------------------------------------------------------------

    def send(self, executor: int, attempt: int, frame: bytes) -> None:
        """Writes a task frame to an executor."""
        handle = self._executors.get(executor)
        if handle is None:
            return  # it has just died; the core will hear of it
        if len(frame) > PACKET_BYTES_MAX:
            frame = self._spill(attempt, frame)
        if handle.asynchronous:
            handle.running.add(attempt)
        else:
            handle.written.append(attempt)
        self._send(executor, attempt, frame)

    def _send(self, executor: int, attempt: int, frame: bytes) -> None:
        handle = self._executors.get(executor)
        if handle is None:
            return
        if not handle.backlog:
            try:
                handle.tasks.send(frame)
                return
            except BlockingIOError:
                asyncio.get_running_loop().add_writer(handle.tasks.fileno(), self._send_backlog, handle)
            except OSError:
                return  # it has died; the fork server will say so
        handle.backlog.append((attempt, frame))

    def _send_backlog(self, handle: Child) -> None:
        while handle.backlog:
            try:
                handle.tasks.send(handle.backlog[0][1])
            except BlockingIOError:
                return
            except OSError:
                break
            handle.backlog.popleft()
        asyncio.get_running_loop().remove_writer(handle.tasks.fileno())

    def _spill(self, attempt: int, frame: bytes) -> bytes:
        """Puts a frame into a file.

        When there is no room, the executor is told how the attempt ends: it answers for it in its turn, as it
        does for those before and behind it.
        """
        path = os.path.join(self._spill_dir, f"{attempt:016x}")
        try:
            with open(path, "wb") as file:
                file.write(frame)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(path)
            text = (
                f"the arguments and inputs of the task ({len(frame):,} bytes) cannot be written to "
                f"{self._spill_dir}: {error.strerror or error}; make room there, or start the worker with "
                "another --object-dir"
            )
            log.error("attempt %d: %s", attempt, text)
            return dumps((BROKEN, attempt, failed_frame(attempt, OSError(error.errno, text))))
        return dumps((SPILLED, attempt, path))

    async def answer(self, executor: int, number: int, value: bytes | None, error: str) -> None:
        """Answers what an executor asked."""
        handle = self._executors.get(executor)
        if handle is None:
            return
        frame = dumps((number, value, error))
        async with handle.answering:  # pieces of two answers must not mix
            with contextlib.suppress(OSError):  # it has died; the fork server will say so
                await asyncio.get_running_loop().sock_sendall(handle.answers, LENGTH.pack(len(frame)) + frame)

    def reclaim(self, executor: int) -> list[int]:
        """Gets back every attempt that an executor has not taken, in order.

        The worker reads the executor's own end: what it gets, the executor can never get.
        """
        handle = self._executors.get(executor)
        if handle is None:
            return []
        back: list[int] = []
        while True:
            try:
                packet = handle.tasks_read.recv(_PACKET_READ, socket.MSG_DONTWAIT)
            except OSError:
                break
            if not packet:
                break
            frame = loads(packet)
            if frame[0] == SPILLED:
                with contextlib.suppress(OSError):
                    os.unlink(frame[2])
            if frame[0] in (TASK, SPILLED, BROKEN):
                back.append(frame[1])
        back.extend(attempt for attempt, _ in handle.backlog if attempt)
        if handle.backlog:
            handle.backlog.clear()
            asyncio.get_running_loop().remove_writer(handle.tasks.fileno())
        gone = set(back)
        if gone:
            handle.written = deque(a for a in handle.written if a not in gone)
            handle.running -= gone
        return back

    def recall(self, executor: int, attempt: int, asynchronous: bool) -> None:
        """Has a leased attempt take no further step by itself."""
        handle = self._executors.get(executor)
        if handle is None:
            return
        if asynchronous:
            self._send(executor, 0, dumps((RECALL, attempt)))
        elif attempt in handle.written:
            handle.recalled.add(attempt)
            handle.stop_word[RECALL_WORD] = handle.first_recalled()

    def step_began(self, executor: int) -> float | None:
        """When the step that a sync executor's lease has come to began, by the monotonic clock."""
        handle = self._executors.get(executor)
        word = 0 if handle is None else handle.stop_word[STEP_WORD]
        return word * 1e-9 if word else None

    def stop(self, executor: int, attempt: int, asynchronous: bool) -> None:
        """Tells the user code of an attempt to stop."""
        handle = self._executors.get(executor)
        if handle is None:
            return
        if asynchronous:
            self._send(executor, 0, dumps((CANCEL, attempt)))
        else:
            handle.stop_word[STOP_WORD] = attempt
            self._tell_server([forkserver.SIGNAL, executor, STOP_SIGNAL, False])

    # --- from executors -----------------------------------------------------------------------------

    def _frames_readable(self, handle: Child) -> None:
        # What was written past sys.stdout is read first, while it is known whose it is.
        if handle.pipes_poll.poll(0):
            for pipe in handle.pipes:
                for line in pipe.lines():
                    self._listener.executor_printed(handle.current(), pipe.stream, line)
        self._read_frames(handle)

    def _hear(self, handle: Child) -> None:
        while self._read_frames(handle):
            pass

    def _read_frames(self, handle: Child) -> bool:
        """Takes what is there; False when nothing was."""
        try:
            size = handle.frames.recv_into(self._buffer)
        except BlockingIOError:
            return False
        except OSError:
            size = 0
        if not size:
            # Its end is closed, or it is dying: the fork server says when it is dead.
            asyncio.get_running_loop().remove_reader(handle.frames.fileno())
            return False
        answers: list[tuple[Any, ...]] = []
        try:
            self._take_frames(handle, self._view[:size], answers)
        except Exception as error:  # user code wrote to a descriptor that is not its own
            log.error("executor %d speaks nonsense (%r) and is killed", handle.id, error)
            asyncio.get_running_loop().remove_reader(handle.frames.fileno())
            self.kill(handle.id)
            return False
        if answers:
            self._listener.executor_answered(handle.id, answers)
        return True

    def _take_frames(self, handle: Child, data: bytes | memoryview, answers: list[tuple[Any, ...]]) -> None:
        """Takes complete frames; keeps what is left for the next time."""
        if handle.partial:
            data = handle.partial + bytes(data)
        size = len(data)
        at = 0
        while size - at >= 4:
            (length,) = LENGTH.unpack_from(data, at)
            if length > _FRAME_BYTES_MAX:
                raise ValueError(f"a frame of {length:,} bytes")
            end = at + 4 + length
            if end > size:
                break
            self._take(handle, loads(data[at + 4 : end]), answers)
            at = end
        handle.partial = bytes(data[at:]) if at < size else b""

    def _take(self, handle: Child, frame: tuple[Any, ...], answers: list[tuple[Any, ...]]) -> None:
        kind = frame[0]
        if kind in (DONE, FAILED, TAIL):
            if handle.asynchronous:
                handle.running.discard(frame[1])
            else:
                handle.written.popleft()
                if handle.recalled:
                    handle.recalled.discard(frame[1])
                    handle.stop_word[RECALL_WORD] = handle.first_recalled()
            answers.append(frame)
        elif kind == LEASE:
            self._listener.executor_leased(frame[1], frame[2:])
        elif kind == LOG:
            self._listener.executor_printed(frame[1], frame[2], frame[3])
        elif kind in (RESOURCE, BEGUN, CLOSED):
            self._listener.executor_told(handle.id, frame)
        elif kind == ASK:
            self._listener.executor_asked(handle.id, Asked(*frame[1:]))
        elif kind == READY:
            handle.pid = frame[1]
            self._listener.executor_started(handle.id)

    def _pipe_readable(self, handle: Child, pipe: Pipe) -> None:
        for line in pipe.lines():
            self._listener.executor_printed(handle.current(), pipe.stream, line)
        if pipe.ended:  # it would be readable for ever
            asyncio.get_running_loop().remove_reader(pipe.fd)


def _executor_path() -> list[str]:
    """sys.path for executors: the worker's, and last the working directory, where a project's modules lie."""
    here = os.getcwd()
    path = [entry or here for entry in sys.path]
    return path if here in path else [*path, here]


def _reason(status: int, killed: bool) -> str:
    """What a wait status means, for people."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = "unknown"
        text = f"killed by signal {number} ({name})"
        if number == signal.SIGKILL and not killed:
            text += "; perhaps the machine was out of memory: see the kernel's log (dmesg)"
        return text
    code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else status
    return f"exited with code {code}"
