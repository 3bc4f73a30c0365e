"""Targets of other files, as part of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import cascade_dist as cs

pytestmark = pytest.mark.integration

FLOW = """
import cascade_dist as cs

@cs.task
def times(n, by):
    return n * by

@cs.task
def final(n):
    return f"Final: {n}"

target = final(times(10, cs.Param("multiplier", type=int)))

def made():
    return [times(1, 2), times(3, 4)]

plain = "no target"
"""


@cs.task
def shout(text: str) -> str:
    return text.upper()


@pytest.fixture
def flow(tmp_path: Path) -> str:
    path = tmp_path / "flow.py"
    path.write_text(FLOW)
    return str(path)


def test_s94_a_subflow_has_params_of_its_own(cluster: cs.Cluster, flow: str) -> None:
    target = cs.subflow(flow, "target", {"multiplier": 5})
    assert cluster.run(target, timeout=60) == "Final: 50"
    assert cluster.run(shout(cs.subflow(flow, "target", {"multiplier": 6})), timeout=60) == "FINAL: 60"


def test_s94_a_missing_file_is_named(cluster: cs.Cluster, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing\.py"):
        cluster.run(cs.subflow(str(tmp_path / "missing.py"), "target"), timeout=60)


def test_params_may_be_lazy(cluster: cs.Cluster, flow: str) -> None:
    five = five_of()
    assert cluster.run(cs.subflow(flow, "target", {"multiplier": five}), timeout=60) == "Final: 50"


@cs.task
def five_of() -> int:
    return 5


def test_a_function_may_make_the_target(cluster: cs.Cluster, flow: str) -> None:
    assert cluster.run(cs.subflow(flow, "made"), timeout=60) == [2, 12]


@pytest.mark.parametrize(
    ("target", "params", "error", "told"),
    [
        ("nothing", None, cs.ConfigError, "no 'nothing'"),
        ("target", None, cs.ParamMissingError, "multiplier"),
        ("plain", None, None, "no target"),
    ],
)
def test_what_is_wrong_with_a_subflow_is_said(
    cluster: cs.Cluster, flow: str, target: str, params: Any, error: Any, told: str
) -> None:
    lazy = cs.subflow(flow, target, params)
    if error is None:
        assert cluster.run(lazy, timeout=60) == told  # a plain value is a value
        return
    with pytest.raises(error, match=told):
        cluster.run(lazy, timeout=60)
