"""What routers and skipped stages have decided in a run."""

from __future__ import annotations

from cascade_scheduler.core.plans import Plan
from cascade_scheduler.core.values import ErrorInfo

__all__ = ["Picks"]


class Picks:
    """The books of a run whose plan has routers, stages that let values pass, or indirect uses."""

    __slots__ = ("alias", "chosen_by", "decided", "demand", "errors", "opened", "passed", "shut", "source")

    def __init__(self, plan: Plan) -> None:
        self.shut = bytearray(plan.gated)
        """1: the node waits until a router has chosen it."""
        self.demand = plan.demand.copy()
        """Edges by which others may still need the node."""
        self.source: dict[int, int] = {}
        """Router → the route that it chose; skipped stage → its first input, which passes in its place."""
        self.alias: dict[int, int] = {}
        """Router or skipped stage with a value → the node whose value that is, at the end of all picks."""
        self.chosen_by: dict[int, list[int]] = {}
        """Route → the routers that chose it."""
        self.errors: dict[int, ErrorInfo] = {}
        """Router without a value → why its consumers fail."""
        self.passed: dict[int, ErrorInfo] = {}
        """Skipped stage that would let such a router's value pass, or container that would hold it → why."""
        self.decided: set[int] = set()
        """Nodes that have let go of their indirect uses: what they asked for has been answered."""
        self.opened: list[int] = []
        """Nodes that a router has just set going."""

    def error_of(self, node: int) -> ErrorInfo | None:
        """Why who wants the node's value fails; None: not because of a router."""
        return self.errors.get(node) or self.passed.get(node)

    def shed(self) -> None:
        """The run has ended: of all this, only whose value is whose is still asked for."""
        self.shut = bytearray()
        self.demand = []
        self.opened = []
        self.chosen_by.clear()
        self.decided.clear()
