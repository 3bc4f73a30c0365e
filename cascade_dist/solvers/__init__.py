"""Solvers: in which order, and in which company, the nodes of a graph run.

A scheduler's operator chooses one (``cascade-scheduler --solver NAME``): ``native``, ``csp``, or one that
an installed package names in the entry point group ``cascade_dist.solvers``. A plan is an order, never a
wall: a node starts as soon as what it needs is there and there is room for it, and of two that could start,
the one of the earlier stage goes first.
"""

from cascade_dist.solvers.base import (
    Solver,
    SolverGraph,
    SolverNode,
    SolverPlan,
    UnsolvableError,
    describe,
    load_solver,
)
from cascade_dist.solvers.csp import CspSolver
from cascade_dist.solvers.native import NativeSolver

__all__ = [
    "CspSolver",
    "NativeSolver",
    "Solver",
    "SolverGraph",
    "SolverNode",
    "SolverPlan",
    "UnsolvableError",
    "describe",
    "load_solver",
]
