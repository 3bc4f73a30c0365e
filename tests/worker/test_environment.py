"""Variables that change with every task."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from cascade_worker.executor.environment import set_variable
from tests.machine import lacking

NAME = "CASCADE_TEST_VARIABLE"


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    yield
    os.environ.pop(NAME, None)


def seen() -> str:
    """What a child process sees."""
    return subprocess.check_output(["sh", "-c", f'printf %s "${NAME}"'], text=True)


@pytest.mark.parametrize("value", ["", "x", "☃ é", "y" * 5_000])
def test_a_variable_is_set_here_and_for_children(value: str) -> None:
    set_variable(NAME, "before")
    set_variable(NAME, value)
    assert os.environ[NAME] == os.getenv(NAME) == value
    assert seen() == value


def test_what_a_task_does_to_it_is_over_with_the_next() -> None:
    set_variable(NAME, "one")
    del os.environ[NAME]
    assert seen() == ""
    set_variable(NAME, "two")
    assert seen() == "two"
    os.environ[NAME] = "of the task"
    assert seen() == "of the task"
    set_variable(NAME, "three")
    assert seen() == os.environ[NAME] == "three"


def test_many_values_take_no_memory() -> None:
    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    if not os.path.exists("/proc/self/statm"):
        lacking("needs /proc")
    set_variable(NAME, "0" * 32)
    before = resident()
    for number in range(100_000):
        set_variable(NAME, f"{number:032x}")
    assert resident() - before < 1 << 20
