"""`--remove-dir`: what is left of a private cluster whose client was killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scheduler.test_command import Command, end


@pytest.fixture
def command(root: Path, tmp_path: Path) -> Iterator[Command]:
    """Starts schedulers."""
    made = Command(root, tmp_path)
    yield made
    made.stop()


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """The directory of a private cluster."""
    made = tmp_path / "cascade-123-abc"
    (made / "worker-0" / "objects").mkdir(parents=True)
    (made / "worker-0" / "objects" / "1").write_text("x")
    (made / "token").write_text("x")
    return made


def test_the_directory_goes_with_the_lifeline(command: Command, private: Path) -> None:
    reading, writing = os.pipe()
    arguments = ["--lifeline-fd", str(reading), "--remove-dir", str(private)]
    process, _ = command.serve(*arguments, "--blobs", str(private / "blobs"), pass_fds=[reading])
    os.close(reading)
    assert (private / "token").exists()
    os.close(writing)
    assert end(process)[0] == 0
    assert not private.exists()
    assert private.parent.exists()


def test_the_directory_goes_at_the_end(command: Command, private: Path) -> None:
    ready = private / "ready.json"
    process, _ = command.serve("--remove-dir", str(private), "--ready-file", str(ready))
    process.send_signal(signal.SIGTERM)
    assert end(process)[0] == 0
    assert not private.exists()


def test_a_scheduler_that_fails_leaves_its_log(command: Command, private: Path) -> None:
    code, _ = command.refuse("--port", "0", "--remove-dir", str(private), "--ready-file", "no/where")
    assert code == 1
    assert (private / "token").exists()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("cascade", "only a directory that is itself named like cascade-1234-abcd"),
        ("cascade-123-abc/worker-0", "only a directory that is itself named like"),
        ("cascade-123-abc/..", "only a directory that is itself named like"),
        ("cascade-123-abc/token", "only a directory that is itself named like"),
        ("cascade-12-link", "only a directory that is itself named like"),
        ("cascade-12-gone", "No such file or directory"),
    ],
)
def test_other_directories_are_refused(
    command: Command, private: Path, tmp_path: Path, name: str, told: str
) -> None:
    (tmp_path / "cascade").mkdir()
    (tmp_path / "cascade-12-link").symlink_to(private)
    code, err = command.refuse("--port", "0", "--remove-dir", str(tmp_path / name))
    assert code == 2
    assert told in err
    assert "--remove-dir" in err
    assert "Traceback" not in err
    assert (private / "token").exists()
