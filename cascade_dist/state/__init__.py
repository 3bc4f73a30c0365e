"""The state of a run, opened by hand: what its nodes gave, and why some were skipped."""

from __future__ import annotations

from cascade_dist.state.base import InMemoryStateBackend, StateBackend
from cascade_dist.state.redis import RedisStateBackend
from cascade_dist.state.uri import check_state_uri

__all__ = ["InMemoryStateBackend", "RedisStateBackend", "StateBackend", "check_state_uri"]
