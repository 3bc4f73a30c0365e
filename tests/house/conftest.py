"""The tree that the rules of the house are about."""

from __future__ import annotations

from pathlib import Path

import pytest

PYTHON_FOLDERS = ("cascade_dist", "scheduler", "worker", "tests", "examples", "benchmarks", "scripts")
GENERATED = Path("cascade_dist/v1")
NOT_OURS = {".git", ".venv", ".cluster", ".hypothesis", "__pycache__", "build", "dist"}


def _is_ours(path: Path) -> bool:
    return not any(part in NOT_OURS or part.endswith(("_cache", ".egg-info")) for part in path.parts)


@pytest.fixture(scope="session")
def python_files(root: Path) -> list[Path]:
    """Every Python file that a person wrote, relative to the root."""
    found = [
        path.relative_to(root) for folder in PYTHON_FOLDERS for path in sorted((root / folder).rglob("*.py"))
    ]
    return [path for path in found if _is_ours(path) and not path.is_relative_to(GENERATED)]


@pytest.fixture(scope="session")
def text_files(root: Path) -> list[Path]:
    """Every file of the tree that holds text, relative to the root, without generated ones."""
    found = []
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        if not _is_ours(name) or name.is_relative_to(GENERATED) or not path.is_file():
            continue
        if b"\0" not in path.read_bytes()[:4096]:
            found.append(name)
    return found
