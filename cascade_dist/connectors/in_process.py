"""A connector that carries messages within one process."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict
from typing import Any

from cascade_dist.connectors.base import Callback, matches

__all__ = ["InProcessConnector"]

log = logging.getLogger("cascade.client")

RETAINED_MAX = 10_000
"""Retained messages that are kept; past it the oldest goes."""
DELIVERY_SECONDS = 5.0
"""How long a subscriber on another loop may take for one message."""


class _Subscriber:
    def __init__(self, connector: InProcessConnector, pattern: str, callback: Callback) -> None:
        self._connector = connector
        self.pattern = pattern
        self.callback = callback
        self.loop = asyncio.get_running_loop()

    async def unsubscribe(self) -> None:
        """Ends it."""
        self._connector._drop(self)

    async def deliver(self, topic: str, payload: Any) -> None:
        """Calls back on the loop that subscribed, whichever loop publishes."""
        try:
            if self.loop is asyncio.get_running_loop():
                await self.callback(topic, payload)
            elif not self.loop.is_closed():
                there = asyncio.run_coroutine_threadsafe(_call(self.callback, topic, payload), self.loop)
                await asyncio.wait_for(asyncio.wrap_future(there), DELIVERY_SECONDS)
        except Exception:
            log.exception("a subscriber to %s raised", self.pattern)


async def _call(callback: Callback, topic: str, payload: Any) -> None:
    await callback(topic, payload)


class InProcessConnector:
    """Messages between a run and whoever holds the same object, on any thread or loop of the process.

    A message is delivered before `publish` returns. A subscriber that raises is logged, and the others hear
    the message all the same.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._subscribers: list[_Subscriber] = []
        self._retained: OrderedDict[str, Any] = OrderedDict()
        self.connected = 0
        """How many have connected and not disconnected."""

    async def connect(self) -> None:
        """Counts the caller in."""
        with self._lock:
            self.connected += 1

    async def disconnect(self) -> None:
        """Counts the caller out."""
        with self._lock:
            self.connected -= 1

    async def publish(self, topic: str, payload: Any, *, retain: bool = False) -> None:
        """As `Connector.publish`."""
        with self._lock:
            if retain:
                self._retained.pop(topic, None)
                if payload not in ("", None, {}, b""):
                    self._retained[topic] = payload
                    if len(self._retained) > RETAINED_MAX:
                        self._retained.popitem(last=False)
            heard = [s for s in self._subscribers if matches(s.pattern, topic)]
        for subscriber in heard:
            await subscriber.deliver(topic, payload)

    async def subscribe(self, topic: str, callback: Callback) -> _Subscriber:
        """As `Connector.subscribe`."""
        subscriber = _Subscriber(self, topic, callback)
        with self._lock:
            self._subscribers.append(subscriber)
            kept = [(t, payload) for t, payload in self._retained.items() if matches(topic, t)]
        for kept_topic, payload in kept:
            await subscriber.deliver(kept_topic, payload)
        return subscriber

    def _drop(self, subscriber: _Subscriber) -> None:
        with self._lock:
            if subscriber in self._subscribers:
                self._subscribers.remove(subscriber)
