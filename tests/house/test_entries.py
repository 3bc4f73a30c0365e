"""Where the console scripts begin: Ctrl-C while they start is no error with a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Ctrl-C comes while a module is imported, there where an exception is lost, or while a function is called.
IMPORTING = """
import importlib, sys

class Stop:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[2]:
            raise KeyboardInterrupt

sys.meta_path.insert(0, Stop())
importlib.import_module(sys.argv[1]).main()
"""
LOSING = """
import importlib, signal, sys, weakref

class Stop:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[2]:
            thing = type("Thing", (), {})()
            keep = weakref.ref(thing, lambda ref: signal.raise_signal(signal.SIGINT))
            del thing

sys.meta_path.insert(0, Stop())
importlib.import_module(sys.argv[1]).main()
"""
CALLING = """
import importlib, sys

def stop(*args, **kwargs):
    raise KeyboardInterrupt

module, _, name = sys.argv[2].rpartition(".")
entry = importlib.import_module(sys.argv[1])
setattr(importlib.import_module(module), name, stop)
del sys.argv[1:]
entry.main()
"""


def ended(root: Path, program: str, *arguments: str) -> tuple[int, str, str]:
    """Runs a program in a process of its own; its exit code, and what it has printed."""
    path = os.pathsep.join(map(str, (root, root / "scheduler", root / "worker")))
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("program", "entry", "where"),
    [
        (IMPORTING, "cascade_dist.cli.entry", "typer"),
        (IMPORTING, "cascade_scheduler.entry", "grpc"),
        (IMPORTING, "cascade_worker.entry", "grpc"),
        (LOSING, "cascade_dist.cli.entry", "typer"),
        (LOSING, "cascade_scheduler.entry", "grpc"),
        (LOSING, "cascade_worker.entry", "grpc"),
        (CALLING, "cascade_dist.cli.entry", "typer.main.get_command"),
        (CALLING, "cascade_scheduler.entry", "cascade_scheduler.__main__.main"),
        (CALLING, "cascade_scheduler.entry", "asyncio.Runner"),
        (CALLING, "cascade_worker.entry", "cascade_worker.__main__.main"),
    ],
)
def test_ctrl_c_while_a_command_starts_is_quiet(program: str, entry: str, where: str, root: Path) -> None:
    assert ended(root, program, entry, where) == (130, "", "")


def test_ctrl_c_that_is_ignored_stays_so(root: Path) -> None:
    """As of a command that a shell runs in the background."""
    program = """
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
from cascade_worker import entry
import cascade_worker.__main__
cascade_worker.__main__.main = lambda: print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)
entry.main()
"""
    assert ended(root, program) == (0, "True\n", "")
