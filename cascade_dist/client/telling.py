"""Telling others what happens to a run while it goes on: subscribers, lines of text, a connector.

One thread for each run that somebody listens to. It ends with the run's last event, or when the scheduler is
lost for good; a listener that raises is logged and never fails the run.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING

from cascade_dist.client.bridge import Bridge
from cascade_dist.client.bus import MessageBus
from cascade_dist.client.events import Event
from cascade_dist.client.renderers import EventLines
from cascade_dist.errors import CascadeError

if TYPE_CHECKING:
    from cascade_dist.client.cluster import Cluster
    from cascade_dist.client.handles import Run
    from cascade_dist.connectors.base import Connector

__all__ = ["Telling"]

log = logging.getLogger("cascade.client")

LAST_WORDS_SECONDS = 10.0
"""How long a run that has its value waits for its listeners to hear the end of it."""


class Telling:
    """The listeners of one run; made before it is submitted, so that none misses its beginning.

    Raises:
        ValueError: no such log level or format.
        TypeError: the bus or the connector is none.
    """

    def __init__(
        self,
        cluster: Cluster,
        run_id: str,
        *,
        bus: MessageBus | None,
        log_level: str | None,
        log_format: str,
        connector: Connector | None,
    ) -> None:
        self._run: Run[object] | None = None
        self._sinks: list[Callable[[Event], object]] = []
        self._bridge: Bridge | None = None
        self._thread: threading.Thread | None = None
        if bus is not None:
            if not hasattr(bus, "publish"):
                raise TypeError(f"bus is {bus!r}, a {type(bus).__name__}: give a cs.MessageBus")
            self._sinks.append(bus.publish)
        if log_level is not None or log_format != "human":
            self._sinks.append(EventLines(log_level or "INFO", log_format))
        if connector is not None:
            self._bridge = Bridge(cluster, run_id, connector)
            self._bridge.open()
            self._sinks.append(self._bridge.tell)

    def begin(self, run: Run[object], topics: Sequence[str] = ()) -> None:
        """The run was submitted; `topics` are those that its graph listens to."""
        self._run = run
        if self._bridge is not None and topics:
            self._bridge.listen(topics)
        if self._sinks:
            self._thread = threading.Thread(
                target=self._follow, args=(run,), name=f"cascade-{run.id}", daemon=True
            )
            self._thread.start()

    def abandon(self) -> None:
        """The run was not submitted after all."""
        if self._bridge is not None:
            self._bridge.close()

    def finish(self) -> None:
        """Waits, within a bound, until the listeners of a run that has ended have heard its last event."""
        thread, run = self._thread, self._run
        if thread is not None and thread is not threading.current_thread() and run is not None and run.done():
            thread.join(LAST_WORDS_SECONDS)
            if thread.is_alive():
                log.warning(
                    "the listeners of run %s have not heard all of its events %g s after its end; "
                    "nobody waits for them any longer",
                    run.id,
                    LAST_WORDS_SECONDS,
                )

    def _follow(self, run: Run[object]) -> None:
        try:
            for event in run.events():
                for sink in self._sinks:
                    self._tell(sink, event)
        except (CascadeError, CancelledError) as error:
            log.warning("the events of run %s cannot be followed any more: %r", run.id, error)
        finally:
            if self._bridge is not None:
                self._bridge.close()

    def _tell(self, sink: Callable[[Event], object], event: Event) -> None:
        try:
            sink(event)
        except Exception:
            log.exception("a listener of run %s raised", event.run_id)
