"""The command line in this process, against a fake scheduler, and in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from cascade_dist.cli.__main__ import run
from tests.client.fake import FakeScheduler

FLOW = """
import cascade_dist as cs

@cs.task
def add(a, b=1):
    return a + b

@cs.task
def fail():
    raise ValueError("no\\nluck")

@cs.task
def leave():
    raise SystemExit(0)

target = add(cs.Param("n", type=int))
many = [add(1), add(2)]
text = add("a", "b")
failing = fail()
leaving = leave()
nothing = None

def main():
    return add(41)

def needs(x):
    return add(x)
"""


@dataclass
class Result:
    """What a command line did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its output as JSON."""
        return json.loads(self.out)


Cli = Callable[..., Result]


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeScheduler]:
    """The scheduler that the environment names."""
    made = FakeScheduler().start()
    monkeypatch.setenv("CASCADE_ADDRESS", made.address)
    yield made
    made.stop()


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs a command line in this process."""

    def call(*arguments: str) -> Result:
        code = run(arguments)
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return call


@pytest.fixture
def flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A file of the user's with targets in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "flow_for_cli.py").write_text(FLOW)
    yield str(tmp_path / "flow_for_cli.py")
    module = sys.modules.pop("flow_for_cli", None)
    if module is not None and module.__name__ in cloudpickle.list_registry_pickle_by_value():
        sys.modules["flow_for_cli"] = module
        cloudpickle.unregister_pickle_by_value(module)
        del sys.modules["flow_for_cli"]


def environment(**variables: str) -> dict[str, str]:
    """The environment of a process that finds what this one finds."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **variables}


def start(*arguments: str, **variables: str) -> subprocess.Popen[str]:
    """A command line in a process of its own."""
    command = [sys.executable, "-W", "error", "-m", "cascade_dist.cli", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment(**variables))
