"""Solvers in a process of their own."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from array import array
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cascade_scheduler.core.graph import EdgeKind, FunctionRef, Graph, NodeKind, Spec
from cascade_scheduler.core.plans import solve
from cascade_scheduler.core.stages import order_by
from cascade_scheduler.solving import SolverProcess, Unsolvable

USERS_SOLVERS = """
import time
from cascade_dist.solvers import SolverPlan

class Backwards:
    def resolve(self, graph):
        print("a solver may print")
        calls = [node for node, found in enumerate(graph.nodes) if found.calls]
        return SolverPlan(tuple((node,) for node in reversed(calls)))

class Late:
    def resolve(self, graph):
        time.sleep(60)

class Fault:
    def resolve(self, graph):
        raise ZeroDivisionError("on purpose")

class Short:
    def resolve(self, graph):
        return SolverPlan(())

class Dead:
    def resolve(self, graph):
        import os
        os._exit(3)
"""
NAMES = ("Backwards", "Late", "Fault", "Short", "Dead")


@pytest.fixture(autouse=True)
def users_solvers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with solvers, installed as far as entry points can tell."""
    (tmp_path / "users_solvers.py").write_text(USERS_SOLVERS)
    info = tmp_path / "users_solvers-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: users-solvers\nVersion: 1.0\n")
    points = "\n".join(f"{name.lower()} = users_solvers:{name}" for name in NAMES)
    (info / "entry_points.txt").write_text(f"[cascade_dist.solvers]\n{points}\n")
    paths = [str(tmp_path), *(path for path in sys.path if path)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


@pytest.fixture
async def solver(request: pytest.FixtureRequest) -> AsyncIterator[SolverProcess]:
    name, seconds = request.param
    made = SolverProcess(name, seconds)
    await made.open()
    yield made
    await made.close()


def independent(*cpus: int) -> Graph:
    """Calls that hold so many cpus, gathered."""
    count = len(cpus)
    specs = [Spec(NodeKind.CALL, f"t{cpu}", amounts=(("cpu", cpu * 1_000_000),)) for cpu in cpus]
    return Graph(
        specs=[*specs, Spec(NodeKind.GATHER, "gather")],
        functions=[FunctionRef(b"f", "f")],
        node_spec=list(range(count + 1)),
        node_ids=bytes(16 * (count + 1)),
        node_args=[b""] * (count + 1),
        edge_start=array("L", [0] * (count + 1) + [count]),
        edge_source=array("L", range(count)),
        edge_kind=bytes([EdgeKind.DATA]) * count,
        target=count,
    )


@pytest.mark.parametrize("solver", [("csp", 30.0)], indirect=True)
async def test_s96_stages_come_from_the_child(solver: SolverProcess) -> None:
    graph = independent(4, 4)
    apart = await solver.resolve(graph, {"cpu": 6_000_000})
    together = await solver.resolve(graph, {"cpu": 10_000_000})
    assert apart is not None
    assert together is not None
    assert sorted(map(len, apart)) == [1, 1]
    assert sorted(map(len, together)) == [2]


@pytest.mark.parametrize("solver", [("csp", 30.0)], indirect=True)
async def test_what_cannot_be_solved_names_the_amount(solver: SolverProcess) -> None:
    with pytest.raises(Unsolvable, match="'t4' needs cpu=4, and there is 2 in all"):
        await solver.resolve(independent(4), {"cpu": 2_000_000})


@pytest.mark.parametrize("solver", [("backwards", 30.0)], indirect=True)
async def test_a_users_solver_orders_the_nodes(solver: SolverProcess) -> None:
    graph = independent(1, 1, 1)
    stages = await solver.resolve(graph, {})
    assert stages == [[2], [1], [0]]
    plan = solve(graph)
    order_by(graph, plan, stages)
    keys = [key for keys in plan.roots.values() for key in sorted(keys)]
    assert [key & 0xFFFFFFFF for key in keys] == [2, 1, 0]


@pytest.mark.parametrize("solver", [("late", 0.2)], indirect=True)
async def test_a_late_solver_is_given_up(solver: SolverProcess, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "cascade.scheduler"):
        assert await solver.resolve(independent(1), {}) is None
    assert "took more than 0.2 s" in caplog.text
    assert solver.late == 1


@pytest.mark.parametrize(
    ("solver", "told"),
    [
        (("fault", 30.0), "ZeroDivisionError: on purpose"),
        (("short", 30.0), "leaves out nodes"),
        (("dead", 30.0), "its process ended"),
    ],
    indirect=["solver"],
)
async def test_a_solver_that_fails_leaves_the_native_order(
    solver: SolverProcess, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "cascade.scheduler"):
        assert await solver.resolve(independent(1), {}) is None
        assert await solver.resolve(independent(1), {}) is None  # and the next graph is asked about again
    assert caplog.text.count(told) == 2
    assert solver.late == 2


async def test_graphs_wait_for_each_other() -> None:
    solver = SolverProcess("csp", 30.0)
    await solver.open()
    try:
        graphs = [independent(*[1] * count) for count in (1, 2, 3)]
        found = await asyncio.gather(*(solver.resolve(graph, {}) for graph in graphs))
        assert [len(stages[0]) for stages in found if stages] == [1, 2, 3]
    finally:
        await solver.close()


async def test_an_unknown_solver_is_named() -> None:
    solver = SolverProcess("magic", 5.0)
    with pytest.raises(RuntimeError, match="no solver 'magic': there are native, csp, backwards"):
        await solver.open()
    await solver.close()
