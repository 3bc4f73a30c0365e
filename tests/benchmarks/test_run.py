"""The benchmarks run, at a size at which nobody reads the figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

SMALL = "--repeat 1 --tasks 200 --trips 20 --steps 10 --waiting 20000 --timeout 100".split()
MARK = "BENCHMARKS_TEST"


def bench(root: Path, mark: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the command; every process that it starts carries the mark in its environment."""
    command = [sys.executable, "-m", "benchmarks", *SMALL, *arguments]
    environment = {**os.environ, MARK: str(mark)}
    return subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, timeout=240, check=False
    )


def left_over(mark: Path) -> list[psutil.Process]:
    """Processes that still run with the mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(mark):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


@pytest.mark.integration
def test_all_measures_of_our_side_and_the_transport(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    done = bench(root, tmp_path, "all", "--peers", "none", "--json", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    sides = json.loads(out.read_text())["sides"]
    assert set(sides) == {"cascade", "transport"}
    measures = {name.partition(".")[0] for name in sides["cascade"]["figures"]}
    assert measures == {"throughput", "latency", "chain", "memory"}
    for side in sides.values():
        figures = {name: figure["median"] for name, figure in side["figures"].items() if "client" not in name}
        # So few tasks may take no tick of the processor's clock, and no page of memory.
        counted = {name for name in figures if name.startswith("memory.") or "cpu" in name}
        assert all(figure > 0 for name, figure in figures.items() if name not in counted), figures
        assert all(figures[name] >= 0 for name in counted), figures
    assert left_over(tmp_path) == []


@pytest.mark.integration
def test_a_side_that_takes_too_long_is_absent_and_stopped(root: Path, tmp_path: Path) -> None:
    done = bench(root, tmp_path, "transport", "--trips", "10000000", "--timeout", "3")
    assert done.returncode == 1
    assert "bare transport is absent: not done within 3 s" in done.stdout
    assert left_over(tmp_path) == []


@pytest.mark.integration
def test_objects_on_one_host_and_between_two(root: Path, tmp_path: Path) -> None:
    sizes = "--repeat 1 --chains 1 --steps 4 --size 1000000 --hosts-size 4194304 --total 40000000"
    command = [sys.executable, "-m", "benchmarks", "objects", "--peers", "none", *sizes.split()]
    environment = {**os.environ, MARK: str(tmp_path)}
    done = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Cascade Dist, 2 workers" in done.stdout
    assert "passed between two workers" in done.stdout
    assert "absent" not in done.stdout, done.stdout
    if "no figures between hosts" not in done.stdout:
        assert done.stdout.count("MB/s") == 1
        assert "bare gRPC stream" in done.stdout
    assert left_over(tmp_path) == []
