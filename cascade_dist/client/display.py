"""What people see while runs go on: the lines that tasks print, and progress.

On a terminal progress is a bar for each run; elsewhere (a notebook, a log) a line of text now and then. A run
shows up when it has lasted for a moment, so that short ones leave no trace and cost nothing.

Everything here runs on the background loop.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cascade_dist.client.handles import Run
    from cascade_dist.v1 import client_pb2 as pb

__all__ = ["finish", "output", "update", "wanted"]

SHOW_AFTER_SECONDS = 0.5
TEXT_EVERY_SECONDS = 5.0
_STDERR = 2


def wanted(flag: bool | None) -> bool:
    """Whether to show progress; None: when stderr is a terminal or a notebook shows it."""
    return (_on_terminal() or _in_notebook()) if flag is None else flag


def _on_terminal() -> bool:
    try:
        return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    except (AttributeError, ValueError):
        return False


def _in_notebook() -> bool:
    return "ipykernel" in sys.modules and "IPython" in sys.modules


def output(lines: Iterable[pb.TaskOutput]) -> None:
    """Prints what tasks printed, to the same stream, saying who it was."""
    for line in lines:
        stream = sys.stderr if line.stream == _STDERR else sys.stdout
        _write(stream, f"({line.task} {line.worker}) {line.text}\n")


def _write(stream: Any, text: str) -> None:
    try:
        stream.write(text)
        stream.flush()
    except (OSError, ValueError, AttributeError):
        pass  # nobody reads any more


# --- progress -------------------------------------------------------------------------------------


class _Shown:
    """A run that progress is shown of."""

    __slots__ = ("bar", "since", "told")

    def __init__(self) -> None:
        self.since = time.monotonic()
        self.told = 0.0
        self.bar: Any = None


_runs: dict[str, _Shown] = {}
_bars: Any = None
_loading: asyncio.Future[Any] | None = None


def update(run: Run[Any]) -> None:
    """The run's counts have changed."""
    shown = _runs.get(run.id) or _runs.setdefault(run.id, _Shown())
    now = time.monotonic()
    if now - shown.since < SHOW_AFTER_SECONDS or not run.progress.total:
        return
    if _on_terminal():
        _update_bar(run, shown)
    elif now - shown.told >= TEXT_EVERY_SECONDS:
        shown.told = now
        _write(sys.stderr, f"{_label(run)}: {run.progress}\n")


def finish(run: Run[Any]) -> None:
    """The run has ended."""
    shown = _runs.pop(run.id, None)
    if shown is None:
        return
    if shown.bar is not None and _bars is not None:
        _fill_bar(run, shown)
    elif shown.told:
        _write(sys.stderr, f"{_label(run)}: {run.progress}\n")
    if not any(other.bar is not None for other in _runs.values()):
        _stop_bars()


def _label(run: Run[Any]) -> str:
    return f"run {run.name or run.id}"


def _update_bar(run: Run[Any], shown: _Shown) -> None:
    global _loading
    if _bars is None:
        if _loading is None:
            # Importing rich takes a while, in which results should go on coming.
            _loading = asyncio.get_running_loop().run_in_executor(None, _make_bars)
            _loading.add_done_callback(_start_bars)
        return
    if shown.bar is None:
        shown.bar = _bars.add_task(_label(run), total=run.progress.total, note="")
    _fill_bar(run, shown)


def _fill_bar(run: Run[Any], shown: _Shown) -> None:
    counts = run.progress
    ended = counts.done + counts.skipped + counts.failed
    note = ", ".join(
        f"{count} {name}"
        for count, name in (
            (counts.running, "running"),
            (counts.skipped, "skipped"),
            (counts.failed, "failed"),
            (counts.retried, "retried"),
        )
        if count
    )
    _bars.update(shown.bar, completed=ended, total=counts.total, note=note)


def _make_bars() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=Console(stderr=True),
        # A redirected stdout would be written to the bar's console, which is stderr: fine on a terminal only.
        redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
        refresh_per_second=5,
    )


def _start_bars(made: asyncio.Future[Any]) -> None:
    global _bars, _loading
    _loading = None
    if not made.cancelled() and made.exception() is None and _runs:
        _bars = made.result()
        _bars.start()


def _stop_bars() -> None:
    global _bars
    if _bars is not None:
        bars, _bars = _bars, None
        bars.stop()
