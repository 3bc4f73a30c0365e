"""What people see while runs go on."""

from __future__ import annotations

import asyncio
import io
import sys
from typing import Any

import pytest

from cascade_dist.client import display
from cascade_dist.client.records import Progress
from cascade_dist.v1 import client_pb2 as pb


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class FakeRun:
    """As much of a run as a display looks at."""

    def __init__(self, run_id: str = "r1", name: str = "") -> None:
        self.id, self.name = run_id, name
        self.progress = Progress()


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "SHOW_AFTER_SECONDS", 0.0)


def test_who_wants_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert display.wanted(True)
    assert not display.wanted(False)
    assert not display.wanted(None)
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    assert display.wanted(None)
    monkeypatch.setenv("TERM", "dumb")
    assert not display.wanted(None)
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    monkeypatch.setitem(sys.modules, "IPython", sys)
    assert display.wanted(None)


def test_text_now_and_then_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    run: Any = FakeRun(name="atlas")
    for done in range(5):
        run.progress = Progress(total=10, done=done, running=2)
        display.update(run)
    run.progress = Progress(total=10, done=10)
    display.finish(run)
    assert sys.stderr.getvalue() == "run atlas: 0/10 done, 2 running\nrun atlas: 10/10 done\n"  # type: ignore[attr-defined]


async def test_bars_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    runs: list[Any] = [FakeRun("r1", "[bold]one"), FakeRun("r2")]
    for run in runs:
        run.progress = Progress(total=10, done=1)
        display.update(run)
    loading = display._loading
    assert loading is not None
    await loading
    await asyncio.sleep(0)
    for run in runs:
        run.progress = Progress(total=10, done=4, running=2, failed=1)
        display.update(run)
    for run in runs:
        run.progress = Progress(total=10, done=9, skipped=1)
        display.finish(run)
    assert display._bars is None
    shown = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert "run [bold]one" in shown
    assert "run r2" in shown
    assert "10/10" in shown


def test_a_run_that_ends_at_once_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "SHOW_AFTER_SECONDS", 60.0)
    monkeypatch.setattr(sys, "stderr", Terminal())
    run: Any = FakeRun()
    run.progress = Progress(total=1, done=1)
    display.update(run)
    display.finish(run)
    assert sys.stderr.getvalue() == ""  # type: ignore[attr-defined]


def test_lines_for_nobody_harm_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    lines = [pb.TaskOutput(task="f", worker="w", text="x")]
    for stream in (closed, None):
        monkeypatch.setattr(sys, "stdout", stream)
        display.output(lines)
