"""Tasks and values that graphs of tests are made of, and how such graphs look."""

from __future__ import annotations

import dataclasses
from typing import Any

import cascade_dist as cs
from cascade_dist.graph.model import EdgeKind, Graph


@cs.task
def a() -> int:
    return 1


@cs.task
def b() -> int:
    return 2


@cs.task
def f(x: Any, y: Any = None, *rest: Any, **more: Any) -> Any:
    return x


@cs.task(pure=True)
def p(x: Any = None, y: Any = None) -> Any:
    return x


@dataclasses.dataclass(frozen=True)
class Pair:
    left: Any
    right: Any


def names(graph: Graph) -> list[str]:
    return [node.name for node in graph.nodes]


def shape(graph: Graph) -> list[tuple[int, int, EdgeKind, str]]:
    """(source, target, kind, arg) of each edge."""
    return [(edge.source, edge.target, edge.kind, edge.arg) for edge in graph.edges]
