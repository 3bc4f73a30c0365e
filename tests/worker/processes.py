"""Real workers as child processes, for tests."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class WorkerProcess:
    """One `cascade-worker`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid
        self.errors = ""
        self.output = ""

    @classmethod
    async def start(
        cls,
        address: str,
        local_dir: Path,
        *arguments: str,
        pass_fds: tuple[int, ...] = (),
        **environment: str,
    ) -> WorkerProcess:
        """Starts one; its files go under `local_dir`."""
        given = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'worker'}", **environment}
        directories = ("--local-dir", str(local_dir), "--object-dir", str(local_dir / "objects"))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "cascade_worker", address, *directories, *arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=given,
            pass_fds=pass_fds,
        )
        return cls(process)

    async def wait(self, patience: float = 40) -> int:
        """Its exit code, when it ends."""
        async with asyncio.timeout(patience):
            out, err = await self._process.communicate()
        self.output, self.errors = out.decode(), err.decode()
        assert self._process.returncode is not None
        return self._process.returncode

    def send(self, signum: int) -> None:
        """Sends it a signal."""
        self._process.send_signal(signum)

    async def stop(self) -> None:
        """Ends it if it still runs."""
        if self._process.returncode is None:
            self.send(signal.SIGINT)
            await self.wait()


def descendants(pid: int) -> list[int]:
    """All processes below one, whatever their groups and sessions; zombies are not counted."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "stat").read_text()
            except OSError:
                continue
            state, parent = re.sub(r"^.*\) ", "", text, flags=re.DOTALL).split()[:2]
            if state != "Z":
                parents[int(entry.name)] = int(parent)
    found, frontier = [], {pid}
    while frontier:
        frontier = {child for child, parent in parents.items() if parent in frontier}
        found.extend(frontier)
    return found


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        text = (Path("/proc") / str(pid) / "stat").read_text()
    except OSError:
        return False
    return re.sub(r"^.*\) ", "", text, flags=re.DOTALL).split()[0] != "Z"
