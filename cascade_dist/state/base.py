"""The protocol of a run's state, and one in memory."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Protocol, runtime_checkable

__all__ = ["InMemoryStateBackend", "StateBackend"]


@runtime_checkable
class StateBackend(Protocol):
    """Results and skips of one run, by the structural ids of its nodes."""

    def put_result(self, node_id: str, result: Any) -> Awaitable[None]:
        """Keeps the value of a node."""

    def get_result(self, node_id: str) -> Awaitable[Any]:
        """The value of a node; None when there is none."""

    def has_result(self, node_id: str) -> Awaitable[bool]:
        """Whether there is a value: None is one too."""

    def mark_skipped(self, node_id: str, reason: str) -> Awaitable[None]:
        """Notes that a node was skipped."""

    def get_skip_reason(self, node_id: str) -> Awaitable[str | None]:
        """Why a node was skipped; None when it was not."""

    def clear(self) -> Awaitable[None]:
        """Forgets all results and skips."""


class InMemoryStateBackend:
    """The state of a run in this process, by reference.

    Args:
        run_id: of the run.
    """

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self._results: dict[str, Any] = {}
        self._skipped: dict[str, str] = {}

    async def put_result(self, node_id: str, result: Any) -> None:
        """Keeps the value of a node."""
        self._results[node_id] = result

    async def get_result(self, node_id: str) -> Any:
        """The value of a node; None when there is none."""
        return self._results.get(node_id)

    async def has_result(self, node_id: str) -> bool:
        """Whether there is a value: None is one too."""
        return node_id in self._results

    async def mark_skipped(self, node_id: str, reason: str) -> None:
        """Notes that a node was skipped."""
        self._skipped[node_id] = reason

    async def get_skip_reason(self, node_id: str) -> str | None:
        """Why a node was skipped; None when it was not."""
        return self._skipped.get(node_id)

    async def clear(self) -> None:
        """Forgets all results and skips."""
        self._results.clear()
        self._skipped.clear()
