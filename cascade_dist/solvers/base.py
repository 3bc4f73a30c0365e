"""What solvers are given, and what they give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, Final, Protocol

from cascade_dist.errors import CascadeError, ConfigError
from cascade_dist.graph.build import build
from cascade_dist.graph.model import MICROS, NodeKind

__all__ = [
    "GROUP",
    "Solver",
    "SolverGraph",
    "SolverNode",
    "SolverPlan",
    "UnsolvableError",
    "describe",
    "load_solver",
]

GROUP: Final = "cascade_dist.solvers"
"""The entry point group of users' solvers."""


class UnsolvableError(CascadeError, ValueError):
    """No order of the graph's nodes fits into what there is; the message names the amount."""


@dataclass(frozen=True, slots=True)
class SolverNode:
    """One node.

    Attributes:
        name: the task's name.
        calls: it runs code; all other nodes cost nothing.
        amounts: what one attempt holds, by name, in units.
        sources: indices of the nodes that it needs.
        priority: higher goes first.
    """

    name: str
    calls: bool = True
    amounts: Mapping[str, float] = field(default_factory=dict)
    sources: tuple[int, ...] = ()
    priority: int = 0


@dataclass(frozen=True, slots=True)
class SolverGraph:
    """A graph without its code and values.

    Attributes:
        nodes: by index.
        capacity: the most that may be held at a time, by name, in units; a name that is missing has no bound.
    """

    nodes: Sequence[SolverNode]
    capacity: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SolverPlan:
    """Stages in order; every node that runs code is in exactly one, after those of all that it needs."""

    stages: tuple[tuple[int, ...], ...]


class Solver(Protocol):
    """Orders graphs. One object serves many graphs, one after the other, in a process of its own."""

    def resolve(self, graph: SolverGraph) -> SolverPlan:
        """The plan of a graph.

        Raises:
            UnsolvableError: there is none.
        """


def describe(
    target: Any, params: Mapping[str, Any] | None = None, *, capacity: Mapping[str, float] | None = None
) -> SolverGraph:
    """The graph of a target as solvers see it.

    Raises:
        GraphError: it is no target.
    """
    nodes = [
        SolverNode(
            node.name,
            node.spec.kind in (NodeKind.CALL, NodeKind.MAP),
            {name: micros / MICROS for name, micros in node.spec.amounts},
            tuple(dict.fromkeys(node.sources)),
            node.spec.priority,
        )
        for node in build(target, params).nodes
    ]
    return SolverGraph(nodes, capacity or {})


def load_solver(name: str) -> Solver:
    """The solver of a name.

    Raises:
        ConfigError: there is none, or it cannot be loaded; names those there are.
    """
    from cascade_dist.solvers.csp import CspSolver
    from cascade_dist.solvers.native import NativeSolver

    own: dict[str, Any] = {"native": NativeSolver, "csp": CspSolver}
    found = own.get(name)
    if found is None:
        points = entry_points(group=GROUP)
        point = next((point for point in points if point.name == name), None)
        if point is None:
            known = ", ".join([*own, *sorted(point.name for point in points)])
            raise ConfigError(f"there is no solver {name!r}: there are {known}")
        try:
            found = point.load()
        except Exception as error:
            raise ConfigError(f"solver {name!r} cannot be loaded from {point.value}: {error}") from error
    try:
        solver: Solver = found()
    except ImportError as error:
        raise ConfigError(f"solver {name!r} cannot be used: {error}") from error
    return solver
