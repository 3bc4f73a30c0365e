"""`cascade` against real processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = pytest.mark.integration

FLOW = """
import time
import cascade_dist as cs

@cs.task
def greet(name, count):
    print("greeting", name)
    return " ".join([f"hello {name}"] * count)

@cs.task
def nap(s):
    time.sleep(s)

target = greet(cs.Param("name"), cs.Param("count", default=1, type=int))
sleeper = nap(60)
"""


def environment(**variables: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **variables}


def start(*arguments: str, **variables: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cascade_dist.cli", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment(**variables))


def cascade(*arguments: str, **variables: str) -> tuple[int, str, str]:
    with start(*arguments, **variables) as process:
        out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.fixture
def flow(tmp_path: Path) -> str:
    path = tmp_path / "flow.py"
    path.write_text(FLOW)
    return str(path)


@pytest.fixture(scope="module")
def up() -> Iterator[dict[str, Any]]:
    """What `cascade up` says; it is stopped by Ctrl-C in the end."""
    with start("up", "--port", "0", "--workers", "2", "-o", "json") as process:
        assert process.stdout is not None
        line = process.stdout.readline()  # nothing else comes there: what its processes say is on stderr
        assert line, process.stderr.read() if process.stderr else ""
        said = json.loads(line)
        yield said
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == 0
    deadline = time.monotonic() + 10
    while any(psutil.pid_exists(pid) for pid in said["pids"].values()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(psutil.pid_exists(pid) for pid in said["pids"].values())


def test_a_whole_session(up: dict[str, Any], flow: str) -> None:
    at = {"CASCADE_ADDRESS": up["address"]}
    deadline = time.monotonic() + 30
    while json.loads(cascade("status", "-o", "json", **at)[1])["workers"] < 2:
        assert time.monotonic() < deadline
    code, out, err = cascade(
        "run", f"{flow}:target", "-p", "name=you", "-p", "count=2", "--run-id", "one", **at
    )
    assert (code, err) == (0, "")
    assert re.fullmatch(r"\(greet worker-\d\) greeting you\nhello you hello you\n", out)
    code, out, _ = cascade("runs", **at)
    assert code == 0
    assert "one" in out
    assert "succeeded" in out
    code, out, _ = cascade("show", "one", "-o", "json", **at)
    assert json.loads(out)["run"]["progress"]["done"] == 1
    code, out, _ = cascade("logs", "one", **at)
    assert re.fullmatch(r"\(greet worker-\d\) greeting you\n", out)
    assert len(json.loads(cascade("workers", "-o", "json", **at)[1])) == 2
    code, out, _ = cascade("run", f"{flow}:sleeper", "--detach", **at)
    assert code == 0
    sleeper = out.strip()
    code, out, _ = cascade("cancel", sleeper, **at)
    assert code == 0
    assert cascade("show", "nope", **at)[0] == 1
    assert cascade("run", f"{flow}:target", **at)[0] == 1
    assert cascade("show", **at)[0] == 2


def test_logs_follow(up: dict[str, Any], tmp_path: Path) -> None:
    at = {"CASCADE_ADDRESS": up["address"]}
    path = tmp_path / "slow.py"
    path.write_text(
        "import time, cascade_dist as cs\n"
        "@cs.task\n"
        "def slow():\n"
        "    for i in range(5):\n"
        "        print('line', i, flush=True); time.sleep(0.2)\n"
        "target = slow()\n"
    )
    run_id = cascade("run", f"{path}:target", "--detach", **at)[1].strip()
    code, out, _ = cascade("logs", run_id, "-f", **at)
    assert code == 0
    assert [line.rpartition(") ")[2] for line in out.splitlines()] == [f"line {i}" for i in range(5)]


def test_ctrl_c_in_run(up: dict[str, Any], flow: str) -> None:
    at = {"CASCADE_ADDRESS": up["address"]}
    with start("run", f"{flow}:sleeper", "--run-id", "interrupted", **at) as process:
        deadline = time.monotonic() + 30
        while cascade("show", "interrupted", **at)[0] != 0:
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "cancelled 1 unfinished run (interrupted)" in err
    deadline = time.monotonic() + 30
    while json.loads(cascade("show", "interrupted", "-o", "json", **at)[1])["run"]["status"] != "cancelled":
        assert time.monotonic() < deadline


def test_a_run_that_somebody_cancels(up: dict[str, Any], flow: str) -> None:
    at = {"CASCADE_ADDRESS": up["address"]}
    with start("run", f"{flow}:sleeper", "--run-id", "unwanted", **at) as process:
        deadline = time.monotonic() + 30
        while cascade("cancel", "unwanted", **at)[0] != 0:
            assert time.monotonic() < deadline
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err.splitlines()[-1]) == (1, "error: run unwanted was cancelled")


def test_run_without_a_cluster(flow: str) -> None:
    code, out, err = cascade("run", f"{flow}:target", "-p", "name=me")
    assert (code, err) == (0, "")
    assert out.endswith("hello me\n")


def test_json_has_standard_output_to_itself(up: dict[str, Any], flow: str) -> None:
    code, out, err = cascade(
        "run", f"{flow}:target", "-p", "name=me", "-o", "json", CASCADE_ADDRESS=up["address"]
    )
    assert code == 0
    assert json.loads(out)["value"] == "hello me"
    assert "greeting me" in err


def test_a_port_that_is_taken(up: dict[str, Any]) -> None:
    port = up["address"].rpartition(":")[2]
    code, _, err = cascade("up", "--port", port)
    assert code == 1
    assert port in err
    assert "the scheduler ended with code" in err
    assert "Traceback" not in err
