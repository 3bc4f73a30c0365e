"""Shell commands as tasks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

from cascade_dist.language.task import task

__all__ = ["shell"]

SHOWN_CHARS = 4_000


@task(name="shell")
async def shell(command: str, check: bool = True) -> str:
    """Runs a command in the worker's shell and gives what it wrote to its standard output, stripped.

    It holds no slot: many commands of one worker run side by side. When the task is stopped, the command and
    all that it has started are killed.

    Args:
        command: for ``/bin/sh``.
        check: an exit code other than 0 is an error.

    Raises:
        RuntimeError: the command failed; has its exit code and the ends of what it wrote.
    """
    process = await asyncio.create_subprocess_shell(
        command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        out, err = await process.communicate()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        raise
    text = out.decode(errors="replace").strip()
    if check and process.returncode != 0:
        shown = err.decode(errors="replace").strip()
        raise RuntimeError(
            f"the command {command!r} failed with exit code {process.returncode}"
            f"\nstderr: {shown[-SHOWN_CHARS:]}\nstdout: {text[-SHOWN_CHARS:]}"
        )
    return text
