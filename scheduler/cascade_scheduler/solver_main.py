"""The process in which a solver runs: one graph a line comes in, one plan a line goes out."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from cascade_dist.solvers import Solver, SolverGraph, SolverNode, UnsolvableError, load_solver

__all__ = ["main"]


def main() -> None:
    """Serves until its input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a solver prints is no answer
    try:
        solver = load_solver(sys.argv[1])
    except Exception as error:
        answers.write(f"{error}\n")
        answers.flush()
        return
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        answers.write(json.dumps(_answer(solver, json.loads(line))) + "\n")
        answers.flush()


def _answer(solver: Solver, request: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"stages": [list(stage) for stage in solver.resolve(_graph(request)).stages]}
    except UnsolvableError as error:
        return {"unsolvable": str(error)}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def _graph(request: dict[str, Any]) -> SolverGraph:
    specs = request["specs"]
    nodes = [
        SolverNode(
            specs[spec]["name"],
            specs[spec]["calls"],
            specs[spec]["amounts"],
            tuple(sources),
            specs[spec]["priority"],
        )
        for spec, sources in request["nodes"]
    ]
    return SolverGraph(nodes, request["capacity"])


if __name__ == "__main__":
    main()
