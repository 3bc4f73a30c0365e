"""The systems that are measured, each behind the same few methods, each in a process of its own."""

from __future__ import annotations

import importlib

from benchmarks.sides.base import Side

__all__ = ["CLASSES", "make"]

CLASSES = {
    "cascade": "benchmarks.sides.ours:Ours",
    "transport": "benchmarks.sides.transport:Transport",
    "grpc": "benchmarks.sides.transport:GrpcTransport",
    "ray": "benchmarks.sides.with_ray:Ray",
    "dask": "benchmarks.sides.with_dask:Dask",
}


def make(name: str) -> Side:
    """The side of a name.

    Raises:
        ImportError: what it needs is not installed.
    """
    module, _, attribute = CLASSES[name].partition(":")
    side: Side = getattr(importlib.import_module(module), attribute)()
    return side
