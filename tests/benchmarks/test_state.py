"""The benchmarks of the state, run small: they end, and show all their figures."""

from __future__ import annotations

import pytest

from benchmarks.__main__ import main

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("where", [[], ["--unix"]])
def test_redis_beside_memory(redis_server: str, capsys: pytest.CaptureFixture[str], where: list[str]) -> None:
    assert main(["state", "--tasks", "100", "--trips", "10", "--repeat", "1", *where]) == 0
    shown = capsys.readouterr().out
    for label in ("no-op tasks/s", "round trip p50, ms"):
        assert label in shown


def test_a_run_that_goes_on(redis_server: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resume", "--nodes", "30", "--repeat", "1"]) == 0
    shown = capsys.readouterr().out
    for label in ("last Hello to dispatch", "new process to result"):
        assert label in shown
