"""What the tree as a whole must not hold, and what must agree."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Put together from pieces, so that this file passes its own tests.
UNFINISHED = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "X" * 3, "HA" + "CK"]) + r")\b")
NOT_WRITTEN = re.compile(r"raise NotImplemented" + "Error")
SKIP = re.compile(r"pytest\.(skip|importorskip|mark\.(skip|skipif|xfail))\b|unittest\.skip")
HOME = re.compile(r"(?<![\w.])/(?:home/[a-z]|Users/[a-z]|root[/])")
NAME = re.compile(r"^[A-Za-z0-9._-]+")


def marks(text: str, *patterns: re.Pattern[str]) -> Iterator[tuple[int, str]]:
    """Number and text of every line in which one of the patterns is found."""
    for number, line in enumerate(text.splitlines(), 1):
        if any(pattern.search(line) for pattern in patterns):
            yield number, line.strip()


def in_tree(root: Path, files: list[Path], *patterns: re.Pattern[str]) -> list[str]:
    """Where in the files one of the patterns is found."""
    return [
        f"{path}:{number}: {line}"
        for path in files
        for number, line in marks((root / path).read_text(errors="replace"), *patterns)
    ]


def test_nothing_is_marked_unfinished(root: Path, text_files: list[Path]) -> None:
    assert len(text_files) > 20
    assert in_tree(root, text_files, UNFINISHED) == []


def test_nothing_is_left_unwritten(root: Path, python_files: list[Path]) -> None:
    assert in_tree(root, python_files, NOT_WRITTEN) == []


def test_tests_skip_nothing_in_ci(root: Path, python_files: list[Path]) -> None:
    """What skips goes by `lacking` of tests/machine.py, which fails where CI is set."""
    tests = [path for path in python_files if path.parts[0] == "tests" and path.name != "machine.py"]
    assert len(tests) > 100
    assert in_tree(root, tests, SKIP) == []


def test_no_file_names_somebodys_home(root: Path, text_files: list[Path]) -> None:
    assert in_tree(root, text_files, HOME) == []


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("# TO" + "DO: later", 1),
        ("mastodon = 1", 0),
        ("path = '/ho" + "me/ann/x'", 1),
        ("see /Us" + "ers/ann", 1),
        ("cp x /ro" + "ot/y", 1),
        ("visit example.org/home/page and ./root/x", 0),
    ],
)
def test_marks_are_found(text: str, count: int) -> None:
    assert len(list(marks(text, UNFINISHED, HOME))) == count


@pytest.fixture(scope="module")
def project(root: Path) -> dict[str, Any]:
    """The table `project` of pyproject.toml."""
    table: dict[str, Any] = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    return table


def test_what_we_depend_on_has_a_tested_version(root: Path, project: dict[str, Any]) -> None:
    lines = (root / "constraints.txt").read_text().splitlines()
    exact = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    tested = {canonical(name) for name in exact}
    declared = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    names = {canonical(found[0]) for found in map(NAME.match, declared) if found}
    assert names - tested == set()


def canonical(name: str) -> str:
    """A distribution's name in the one way that counts."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_commands_point_at_modules_that_exist(root: Path, project: dict[str, Any]) -> None:
    folders = {"cascade_scheduler": "scheduler", "cascade_worker": "worker", "cascade_dist": "."}
    for command, target in project["scripts"].items():
        module, _, function = target.partition(":")
        path = root / folders[module.split(".")[0]] / (module.replace(".", "/") + ".py")
        assert path.exists(), f"{command} points at {module}"
        defined = rf"^(def {function}\b|from .* import .*\b{function}\b)"
        assert re.search(defined, path.read_text(), re.MULTILINE), f"{command}: {path} has no {function}"


def test_every_target_that_make_promises_has_a_rule(root: Path) -> None:
    text = (root / "Makefile").read_text()
    rules = re.findall(r"^([\w./ -]+):(?!=)(.*)$", text, re.MULTILINE)
    names = [name for name, _ in rules]
    promised = next(needs for name, needs in rules if name == ".PHONY").split()
    needed = {need for name, needs in rules for need in needs.partition("##")[0].split() if name != ".PHONY"}
    assert len(promised) > 10
    assert sorted(set(promised) - set(names)) == []
    assert sorted(need for need in needed - set(names) if not (root / need).exists()) == []
    assert [name for name in names if names.count(name) > 1] == []
