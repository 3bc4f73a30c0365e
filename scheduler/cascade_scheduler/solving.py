"""Solvers other than the native one, in a child process with a bound on their time.

The child reads one graph a line and answers with one plan a line, as JSON. It is started with the first graph
and kept; one that is late, or dies, is killed, and the graph goes in the native order with a warning.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from cascade_scheduler.core.graph import Graph, NodeKind

__all__ = ["SolverProcess", "Unsolvable"]

log = logging.getLogger("cascade.scheduler")

MICROS = 1_000_000
ANSWER_BYTES_MAX = 64 << 20
START_SECONDS = 30.0
"""How long the child may take to be ready; that is not counted as solving."""
_CALLS = (NodeKind.CALL, NodeKind.MAP)


class Unsolvable(Exception):
    """The solver says that there is no plan; the message names the amount."""


class SolverProcess:
    """One solver.

    Args:
        name: as `cascade_dist.solvers.load_solver` takes it.
        seconds: how long it may take for one graph.
    """

    def __init__(self, name: str, seconds: float) -> None:
        self.name = name
        self._seconds = seconds
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self.late = 0
        """Graphs that went in the native order because the solver was late or failed."""

    async def open(self) -> None:
        """Starts the child.

        Raises:
            RuntimeError: there is no such solver, or it cannot be loaded.
            TimeoutError: it was not ready in time.
        """
        async with self._turn:
            await self._start()

    async def resolve(self, graph: Graph, capacity: Mapping[str, int]) -> list[list[int]] | None:
        """The stages of a graph; None: the solver failed, and the native order has to do.

        Args:
            graph: validated.
            capacity: the most that may be held at a time, by name in micros.

        Raises:
            Unsolvable: there is no plan.
        """
        request = json.dumps(_describe(graph, capacity)).encode() + b"\n"
        async with self._turn:
            try:
                answer = await self._ask(request)
            except TimeoutError:
                log.warning(
                    "solver %s took more than %g s for a graph of %d nodes, which goes in the native order "
                    "(--solver-timeout)",
                    *(self.name, self._seconds, len(graph)),
                )
            except Exception as error:
                log.warning("solver %s failed (%s): a graph goes in the native order", self.name, error)
            else:
                if "unsolvable" in answer:
                    raise Unsolvable(answer["unsolvable"])
                if "stages" in answer and _is_sound(answer["stages"], graph):
                    return list(answer["stages"])
                why = answer.get("error", "its plan leaves out nodes or is out of order")
                log.warning("solver %s gave no plan (%s): a graph goes in the native order", self.name, why)
                self.late += 1
                return None
            self.late += 1
            await self._kill()
            return None

    async def _ask(self, request: bytes) -> dict[str, Any]:
        process = self._process
        if process is None or process.returncode is not None:
            process = await self._start()
        source, sink = process.stdout, process.stdin
        assert source is not None
        assert sink is not None

        async def exchange() -> bytes:
            sink.write(request)
            await sink.drain()
            return await source.readline()

        line = await asyncio.wait_for(exchange(), self._seconds)
        if not line:
            raise RuntimeError("its process ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def _start(self) -> asyncio.subprocess.Process:
        process = self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cascade_scheduler.solver_main", self.name),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=ANSWER_BYTES_MAX,
        )
        assert process.stdout is not None
        ready = await asyncio.wait_for(process.stdout.readline(), START_SECONDS)
        if ready.strip() != b"ready":
            raise RuntimeError(ready.decode(errors="replace").strip() or "its process ended at once")
        return process

    async def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def close(self) -> None:
        """Ends the child."""
        await self._kill()


def _describe(graph: Graph, capacity: Mapping[str, int]) -> dict[str, Any]:
    specs = [
        {
            "name": spec.name,
            "calls": spec.kind in _CALLS,
            "amounts": {name: micros / MICROS for name, micros in spec.amounts},
            "priority": spec.priority,
        }
        for spec in graph.specs
    ]
    nodes = [
        [graph.node_spec[node], sorted({source for source, _ in graph.sources(node)})]
        for node in range(len(graph))
    ]
    return {
        "specs": specs,
        "nodes": nodes,
        "capacity": {name: micros / MICROS for name, micros in capacity.items()},
    }


def _is_sound(stages: Sequence[Sequence[Any]], graph: Graph) -> bool:
    """Every node with code is in one stage, after the nodes with code that it needs."""
    at: dict[int, int] = {}
    for number, stage in enumerate(stages):
        for node in stage:
            if not isinstance(node, int) or not 0 <= node < len(graph) or node in at:
                return False
            at[node] = number
    reached = [-1] * len(graph)
    for node in range(len(graph)):
        before = max((reached[source] for source, _ in graph.sources(node)), default=-1)
        if graph.spec(node).kind not in _CALLS:
            reached[node] = before
        elif at.get(node, -1) <= before:
            return False
        else:
            reached[node] = at[node]
    return True
