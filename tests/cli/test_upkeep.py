"""Commands that keep house, where no scheduler is asked; with one: tests/integration/test_run_files.py."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cascade_dist.storage import leftovers
from tests.cli.conftest import Cli
from tests.client.fake import FakeScheduler


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this machine's leftovers are looked for."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(leftovers, "SHARED_MEMORY", tmp_path / "nowhere")
    return tmp_path


def leave(base: Path) -> Path:
    """What a private cluster leaves whose process was killed."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    path = base / f"cascade-{process.pid}-abc"
    path.mkdir()
    (path / "file").write_bytes(b"x" * 5_000)
    return path


def test_leftovers_are_told_and_then_removed(cli: Cli, here: Path) -> None:
    path = leave(here)
    told = cli("gc", "--local", "--dry-run")
    assert told.code == 0
    assert told.out.startswith("would be freed:\n")
    assert str(path) in told.out
    assert path.exists()
    (found,) = cli("gc", "--local", "-o", "json").json["freed"]
    assert (found["kind"], found["count"], found["names"]) == ("leftovers", 1, [str(path)])
    assert found["bytes"] >= 5_000
    assert not path.exists()
    assert cli("gc", "--local", "-o", "json").json["freed"][0]["count"] == 0


def test_other_directories_are_looked_into_when_they_are_named(cli: Cli, here: Path) -> None:
    other = here / "other"
    other.mkdir()
    path = leave(other)
    assert cli("gc", "--local", "-o", "json").json["freed"][0]["count"] == 0
    assert cli("gc", "--local", "--dir", str(other), "-o", "json").json["freed"][0]["count"] == 1
    assert not path.exists()


def test_a_directory_that_is_not_there_is_said(cli: Cli, here: Path) -> None:
    result = cli("gc", "--local", "--dir", str(here / "none"))
    assert result.code == 2
    assert "is no directory" in result.err


def test_an_older_scheduler_says_that_it_cannot(cli: Cli, here: Path, scheduler: FakeScheduler) -> None:
    result = cli("export", "r1", str(here / "a.run"))
    assert result.code == 1
    assert "error: " in result.err
    assert list(here.glob("*.run*")) == []


def test_a_file_that_is_there_is_not_replaced(cli: Cli, here: Path) -> None:
    (here / "a.run").write_bytes(b"precious")
    result = cli("export", "r1", str(here / "a.run"))
    assert result.code == 2
    assert "--force" in result.err
    assert (here / "a.run").read_bytes() == b"precious"


def test_a_file_that_is_none_is_refused_before_it_is_sent(
    cli: Cli, here: Path, scheduler: FakeScheduler
) -> None:
    (here / "a.run").write_bytes(b"what is this")
    result = cli("import", str(here / "a.run"))
    assert result.code == 1
    assert "a.run is no run file" in result.err
