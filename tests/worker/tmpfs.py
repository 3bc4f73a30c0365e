"""Running something with a small file system in memory, which nobody else sees."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[2]


def on_tmpfs(folder: Path, lacking: Callable[[str], NoReturn], size: str = "8m") -> list[str]:
    """What to put before a command so that it finds a tmpfs of that size at the folder.

    It has a mount namespace of its own, and for others than root a user namespace, where it may mount.
    """
    spaces = ["--mount"] if os.geteuid() == 0 else ["--user", "--map-root-user", "--mount"]
    script = f'mount -t tmpfs -o size={size} none "$0" && exec "$@"'
    prefix = ["unshare", *spaces, "--", "sh", "-c", script, str(folder)]
    try:
        tried = subprocess.run([*prefix, "true"], capture_output=True, text=True, check=False)
        reason = tried.stderr.strip() if tried.returncode else ""
    except FileNotFoundError as error:
        reason = str(error)
    if reason:
        lacking(f"no small file system can be mounted here (root may, and who has user namespaces): {reason}")
    return prefix


def run_on_tmpfs(
    code: str, folder: Path, lacking: Callable[[str], NoReturn]
) -> subprocess.CompletedProcess[str]:
    """Runs Python code, with the folder as its argument, in which 8 MiB fit."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "scheduler"), str(ROOT / "worker")])
    command = [*on_tmpfs(folder, lacking), sys.executable, "-c", code, str(folder)]
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=60)
