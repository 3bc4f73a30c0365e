"""The protocol of connectors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeAlias, runtime_checkable

__all__ = ["Callback", "Connector", "Subscription", "matches"]

Callback: TypeAlias = Callable[[str, Any], Awaitable[None]]
"""Takes a topic and a payload of plain values."""


class Subscription(Protocol):
    """One subscription."""

    async def unsubscribe(self) -> None:
        """Ends it; no further message is delivered."""


@runtime_checkable
class Connector(Protocol):
    """Carries messages between runs and other programs.

    Payloads are plain values, such as JSON knows. Topics have levels with slashes between them; in a
    subscription ``+`` stands for one level and a last ``#`` for all that follow, as in MQTT.
    """

    async def connect(self) -> None:
        """Opens what it needs; called before the first of the other calls."""

    async def disconnect(self) -> None:
        """Delivers what is under way and lets go of everything."""

    async def publish(self, topic: str, payload: Any, *, retain: bool = False) -> None:
        """Sends a message. A retained one is kept for those who subscribe later; an empty one clears it."""

    async def subscribe(self, topic: str, callback: Callback) -> Subscription:
        """Calls back with every message of the topics that match, retained ones first."""


def matches(pattern: str, topic: str) -> bool:
    """Whether a topic is one that a subscription means."""
    wanted, given = pattern.split("/"), topic.split("/")
    for position, level in enumerate(wanted):
        if level == "#":
            return position == len(wanted) - 1
        if position >= len(given) or level not in ("+", given[position]):
            return False
    return len(wanted) == len(given)
