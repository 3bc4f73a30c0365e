"""A run's connector: telemetry goes out, constraints and messages come in."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from cascade_dist.client import telemetry
from cascade_dist.client.control import apply_constraint
from cascade_dist.client.events import Event
from cascade_dist.connectors.base import Connector, Subscription

if TYPE_CHECKING:
    from cascade_dist.client.cluster import Cluster

__all__ = ["CONSTRAINTS_TOPIC", "Bridge"]

log = logging.getLogger("cascade.client")

CONSTRAINTS_TOPIC = "cascade/constraints/#"
CALL_SECONDS = 30.0
"""How long a connector may take for one call."""


class Bridge:
    """Connects before the run starts and disconnects after its last event.

    A connector that fails to connect fails the submit, since nobody would hear what was asked for; later
    failures are logged.

    Raises:
        TypeError: the object is no connector.
        TimeoutError: of all calls: the connector took longer than 30 s.
    """

    def __init__(self, cluster: Cluster, run_id: str, connector: Connector) -> None:
        if not isinstance(connector, Connector):
            raise TypeError(
                f"connector is {connector!r}, a {type(connector).__name__}: give an object with connect, "
                "disconnect, publish and subscribe (cs.connectors.Connector)"
            )
        self._cluster = cluster
        self._run_id = run_id
        self._connector = connector
        self._topic = telemetry.topic_of(run_id)
        self._subscriptions: list[Subscription] = []
        self._open = False

    def open(self) -> None:
        """Connects, takes over retained constraints, and says that the engine has started."""
        self._call(self._connect())
        self._open = True

    async def _connect(self) -> None:
        await self._connector.connect()
        try:
            await self._subscribe(CONSTRAINTS_TOPIC, self._on_constraint)
            await self._publish(telemetry.lifecycle(telemetry.ENGINE_STARTED))
        except BaseException:
            with contextlib.suppress(Exception):
                await self._disconnect()
            raise

    def listen(self, topics: Sequence[str]) -> None:
        """Passes the messages of these topics on to the run's nodes that wait for them."""
        self._call(self._listen(topics))

    async def _listen(self, topics: Sequence[str]) -> None:
        for topic in topics:
            await self._subscribe(topic, self._on_message)

    def tell(self, event: Event) -> None:
        """Publishes an event."""
        body = telemetry.body_of(event)
        if body is not None:
            self._call(
                self._connector.publish(
                    self._topic, telemetry.message(self._run_id, body, event.timestamp), retain=False
                )
            )

    def close(self) -> None:
        """Says that the engine has stopped, and disconnects; once."""
        if not self._open:
            return
        self._open = False
        try:
            self._call(self._stop())
        except Exception:
            log.exception("the connector of run %s did not close in order", self._run_id)

    async def _stop(self) -> None:
        try:
            await self._publish(telemetry.lifecycle(telemetry.ENGINE_STOPPED))
        finally:
            await self._disconnect()

    async def _disconnect(self) -> None:
        for subscription in self._subscriptions:
            with contextlib.suppress(Exception):
                await subscription.unsubscribe()
        await self._connector.disconnect()

    async def _publish(self, body: dict[str, Any]) -> None:
        await self._connector.publish(self._topic, telemetry.message(self._run_id, body), retain=False)

    async def _subscribe(self, topic: str, callback: Any) -> None:
        self._subscriptions.append(await self._connector.subscribe(topic, callback))

    async def _on_constraint(self, topic: str, payload: Any) -> None:
        # In a thread: the calls of a cluster wait for its answer, and this is the loop that brings it.
        await asyncio.to_thread(apply_constraint, self._cluster, topic, payload)

    async def _on_message(self, topic: str, payload: Any) -> None:
        await asyncio.to_thread(self._cluster.send, topic, payload)

    def _call(self, coroutine: Coroutine[Any, Any, None]) -> None:
        try:
            self._cluster._session.background.call(coroutine, CALL_SECONDS)
        except TimeoutError as error:
            if error.args:
                raise  # the connector's own, which says what it is
            kind = type(self._connector).__name__
            raise TimeoutError(
                f"the connector, a {kind}, did not answer within {CALL_SECONDS:g} s: "
                "is what it connects to there?"
            ) from None
