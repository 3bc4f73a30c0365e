"""Pools: amounts that the nodes of one run, or all nodes of the cluster, share, whatever workers have."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["Pool", "make_pools"]


class Pool:
    """One named amount. In micros."""

    __slots__ = ("free", "kept", "name", "of_run", "total")

    def __init__(self, name: str, total: int, *, of_run: bool) -> None:
        self.name = name
        self.total = total
        self.free = total
        self.kept = False
        """Only a line that starves may take from it."""
        self.of_run = of_run
        """It is that of a single run; else the cluster's."""

    def __repr__(self) -> str:
        return f"<pool {self.name}: {self.free} of {self.total}>"


def make_pools(amounts: Iterable[tuple[str, int]], *, of_run: bool) -> dict[str, Pool]:
    """Pools by name."""
    return {name: Pool(name, micros, of_run=of_run) for name, micros in amounts}
