"""A cluster on this machine: a scheduler and workers as child processes.

They hold the read end of a pipe whose write end only this process has; when this process ends, however it
ends, the pipe is closed and they exit.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from cascade_dist.config import known_environment
from cascade_dist.errors import CascadeError
from cascade_dist.wire.addresses import Address

__all__ = ["CLIENT_STATE", "LocalCluster"]

START_SECONDS = 30.0
STOP_SECONDS = 3.0
REAP_SECONDS = 30.0
"""How long the system may take to end a process that was killed: far more than it does under any load."""
POLL_SECONDS = 0.005
PRIVATE_VARIABLES = frozenset({"CASCADE_FAST_LOOPS"})
"""Settings of the environment that hold in private clusters too: they change how, and not what."""
TAIL_CHARS = 2_000
SCHEDULER = "scheduler"
STATE_VARIABLE = "CASCADE_SCHEDULER__STATE"
CLIENT_STATE = "client://"
"""The state goes to backends in this process."""
_PREFIX = "cascade-"
STDERR = 2
_SOCKET_BYTES_MAX = 100
"""A longer path is no name of a unix socket on every system; the loopback serves as well."""

_running: weakref.WeakSet[LocalCluster] = weakref.WeakSet()


class LocalCluster:
    """A scheduler and workers that live as long as this process, at most.

    Args:
        workers: how many worker processes.
        slots: of each worker; ``"auto"`` is one per core.
        scheduler_options: further options of the scheduler's command line.
        private: closed to all but this process: its own token, no settings from environment and files, logs
            into files. Otherwise the children log to this process's stderr.
        token_file: the token of a cluster that is not private.
        state: the URL of a private cluster's state; it goes to the scheduler by its environment, since it may
            hold a password.
    """

    def __init__(
        self,
        *,
        workers: int = 2,
        slots: int | str = 1,
        scheduler_options: Sequence[str] = (),
        private: bool = True,
        token_file: str | None = None,
        state: str | None = None,
    ) -> None:
        self.address = ""
        self.socket = ""
        """Path of the scheduler's unix socket, for those that this process starts or is; empty: none."""
        self.workers = workers
        self.token_file = token_file
        self._slots = slots
        self._scheduler_options = list(scheduler_options)
        self._private = private
        self._state = state
        self._directory = Path()
        self._lifeline = -1
        self._processes: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._pid = os.getpid()

    def start(self) -> None:
        """Starts the processes; returns when the scheduler listens and the workers are on their way.

        Raises:
            CascadeError: the scheduler ended or did not get ready in time; with the end of its log.
        """
        _sweep()
        self._directory = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
        if self._private:
            self.token_file = str(self._directory / "token")
            _write_secret(Path(self.token_file), secrets.token_hex(32))
        read_end, self._lifeline = os.pipe()
        _running.add(self)
        try:
            self._start_scheduler(read_end)
            for index in range(self.workers):
                self._start_worker(index, read_end)
        except BaseException:
            self.stop()
            raise
        finally:
            os.close(read_end)

    def _start_scheduler(self, lifeline: int) -> None:
        ready = self._directory / "ready.json"
        options = ["--ready-file", str(ready), *self._scheduler_options]
        if self._private:
            options += ["--host", "127.0.0.1", "--port", "0", "--closed", "--no-standby"]
            options += ["--state-wait", "0s"]  # whoever waits for this cluster is told at once
            options += ["--remove-dir", str(self._directory)]
            socket = str(self._directory / "socket")
            if len(os.fsencode(Address("", 0, socket=socket).direct)) <= _SOCKET_BYTES_MAX:
                self.socket = socket
                options += ["--socket", socket]
            if self._state in (None, CLIENT_STATE):  # else blobs last as long as the state does, elsewhere
                options += [
                    "--state",
                    self._state or "memory://",
                    "--blobs",
                    str(self._directory / "blobs"),
                ]
        further = {} if self._state is None else {STATE_VARIABLE: self._state}
        scheduler = self._spawn(SCHEDULER, "cascade_scheduler", options, lifeline, further)
        deadline = time.monotonic() + START_SECONDS
        while not ready.exists():
            if scheduler.poll() is not None:
                raise CascadeError(
                    f"the scheduler ended with code {scheduler.returncode} before it was "
                    f"ready{self._tail('scheduler')}"
                )
            if time.monotonic() > deadline:
                raise CascadeError(
                    f"the scheduler was not ready within {START_SECONDS:g} s{self._tail('scheduler')}"
                )
            time.sleep(POLL_SECONDS)
        # Who listens everywhere is reached here on the loopback.
        address: str = json.loads(ready.read_text())["address"]
        self.address = address.replace("0.0.0.0:", "127.0.0.1:").replace("[::]:", "[::1]:")

    def _start_worker(self, index: int, lifeline: int) -> None:
        name = f"worker-{index}"
        options = [self.address, "--name", name, "--slots", str(self._slots)]
        if self._private:
            local = self._directory / name
            local.mkdir()
            options += ["--local-dir", str(local)]
            if self.socket:
                options += ["--socket", self.socket]
        self._spawn(name, "cascade_worker", options, lifeline)

    def _spawn(
        self,
        name: str,
        module: str,
        options: Sequence[str],
        lifeline: int,
        further: Mapping[str, str] = MappingProxyType({}),
    ) -> subprocess.Popen[bytes]:
        # -P: the working directory is not put before everything else, just as it is not here.
        command = [sys.executable, "-P", "-m", module, *options, "--lifeline-fd", str(lifeline)]
        if self.token_file:
            command += ["--token-file", self.token_file]
        if self._private:
            command += ["--log-level", "warning"]
        with self._log(name) as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                # Standard output is for what the command itself says, JSON maybe.
                stdout=STDERR if log is None else log,
                stderr=None if log is None else subprocess.STDOUT,
                env={**self._environment(), **further},
                pass_fds=[lifeline],
                # Ctrl-C in the terminal is for this process, which stops the others in order.
                start_new_session=True,
            )
        self._processes.append((name, process))
        return process

    @contextlib.contextmanager
    def _log(self, name: str) -> Iterator[int | None]:
        if not self._private:
            yield None
            return
        with (self._directory / f"{name}.log").open("wb") as file:
            yield file.fileno()

    def _environment(self) -> dict[str, str]:
        environment = dict(os.environ)
        # Functions that travel by name are found there as they are found here.
        paths = [os.path.abspath(path or os.curdir) for path in sys.path]
        environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
        if self._private:
            for variable in known_environment():
                if variable not in PRIVATE_VARIABLES:
                    environment.pop(variable, None)
            environment["CASCADE_CONFIG"] = ""
        return environment

    def _tail(self, name: str) -> str:
        try:
            text = (self._directory / f"{name}.log").read_text(errors="replace").strip()
        except OSError:
            return ""
        return f"; the end of its log:\n{text[-TAIL_CHARS:]}" if text else "; it logged nothing"

    def failure(self) -> str | None:
        """Why the cluster is of no use any more: which process ended, with the end of its log; or None."""
        ended = self.ended()
        return self._account(*ended[0]) if ended else None

    def broken(self) -> str | None:
        """Why nothing can be run here any more, with the remedy; None while scheduler and a worker live."""
        ended = self.ended()
        if not self._processes:
            return "the private cluster was stopped; connect again"
        if not ended or (ended[0][0] != SCHEDULER and len(ended) < self.workers):
            return None
        return self._account(*ended[0], remedy="; connect again")

    def _account(self, name: str, code: int, remedy: str = "") -> str:
        return f"the {name} of the private cluster ended with code {code}{remedy}{self._tail(name)}"

    def ended(self) -> list[tuple[str, int]]:
        """The processes that have ended, with their exit codes."""
        codes = [(name, process.poll()) for name, process in self._processes]
        return [(name, code) for name, code in codes if code is not None]

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by name."""
        return {name: process.pid for name, process in self._processes}

    def stop(self) -> None:
        """Ends all processes in order, within bounds, and removes what they left."""
        if self._pid != os.getpid():
            return
        _running.discard(self)
        processes = [process for _, process in self._processes]
        # Workers go first: one that loses its scheduler meanwhile looks for it, and says so in its log.
        _signal(processes[1:], signal.SIGTERM)
        _wait(processes[1:], STOP_SECONDS)
        _signal(processes, signal.SIGTERM)
        if not _wait(processes, STOP_SECONDS):
            _signal(processes, signal.SIGTERM)  # the second one means: now
        self._close_lifeline()
        if not _wait(processes, STOP_SECONDS):
            _signal(processes, signal.SIGKILL)
            _wait(processes, REAP_SECONDS)
        self._processes = []
        if self._directory != Path():
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = Path()

    def _close_lifeline(self) -> None:
        lifeline, self._lifeline = self._lifeline, -1
        if lifeline >= 0:
            os.close(lifeline)


def _signal(processes: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


def _wait(processes: Sequence[subprocess.Popen[bytes]], seconds: float) -> bool:
    """Whether all ended in time."""
    deadline = time.monotonic() + seconds
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return False
    return True


def _write_secret(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


def _sweep() -> None:
    """Removes the directories of private clusters whose process was killed."""
    base = Path(tempfile.gettempdir())
    for path in base.glob(f"{_PREFIX}[0-9]*-*"):
        pid = path.name.removeprefix(_PREFIX).partition("-")[0]
        try:
            if pid.isdigit() and path.lstat().st_uid == os.getuid() and not _alive(int(pid)):
                shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _forget_after_fork() -> None:
    # A forked child must not keep the cluster alive when its parent is gone.
    for cluster in list(_running):
        cluster._close_lifeline()


os.register_at_fork(after_in_child=_forget_after_fork)
