"""Every code block of README and docs does what the page says."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from . import pages

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WITH_CODE = [page for page in PAGES if pages.program(page)]
PREAMBLE = (Path(__file__).parent / "preamble.py").read_text()


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture
def environment(cluster_address: str, tmp_path: Path) -> dict[str, str]:
    """Pages run on the tests' cluster, in an empty directory."""
    config = {"CASCADE_ADDRESS": cluster_address, "HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path)}
    return {**os.environ, **config, "COLUMNS": "100"}


@pytest.mark.integration
@pytest.mark.parametrize("page", WITH_CODE, ids=_name)
def test_the_code_of_a_page_runs(page: Path, environment: dict[str, str], tmp_path: Path) -> None:
    # Line numbers stay those of the page: the preamble is a module of its own.
    (tmp_path / "_preamble.py").write_text(PREAMBLE)
    source = pages.program(page)
    script = tmp_path / "page.py"
    first, _, rest = source.partition("\n")
    assert not first.strip(), "a page begins with text"
    script.write_text(f"from _preamble import _expect, _raises\n{rest}")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, f"{_name(page)}:\n{done.stdout}\n{done.stderr}"


def test_the_documentation_builds(tmp_path: Path) -> None:
    """Every link leads somewhere, and every page is in the table of contents."""
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", str(ROOT / "docs"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "concepts" / "routers.html").is_file()


def _lines() -> list[tuple[str, str, int]]:
    return [
        (f"{_name(page)}:{line}", command, code)
        for page in PAGES
        for line, command, code in pages.commands(page)
    ]


@pytest.mark.parametrize(("place", "command", "code"), _lines(), ids=lambda value: str(value)[:60])
def test_the_commands_of_a_page_exist(place: str, command: str, code: int) -> None:
    """Each command of a page is one, and so is each of its options."""
    words = shlex.split(command)
    options = [word.partition("=")[0] for word in words[1:] if word.startswith("-")]
    named = [word for word in words[1:] if not word.startswith("-")]
    asked = [words[0]]
    if words[0] == "cascade":
        asked += named[:2] if named[0] == "constraint" else named[:1]
    module = {"cascade": "cascade_dist.cli", "cascade-scheduler": "cascade_scheduler"}.get(
        words[0], "cascade_worker"
    )
    done = subprocess.run(
        [sys.executable, "-m", module, *asked[1:], "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "COLUMNS": "300"},
    )
    assert done.returncode == 0, f"{place}: {command}: {done.stderr}"
    known = done.stdout.replace(",", " ").split()
    for option in options:
        assert option in known, f"{place}: {command!r} has no option {option}"
