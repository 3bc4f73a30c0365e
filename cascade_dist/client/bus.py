"""Subscribers to what happens to runs, in the client's process."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any, TypeVar

from cascade_dist.client.events import Event

__all__ = ["MessageBus"]

log = logging.getLogger("cascade.client")

E = TypeVar("E", bound=Event)


class MessageBus:
    """Hands events to those who asked for their type.

    Subscribing to `Event` itself gives every event; subscribing to any other class gives the events of
    exactly that class. Handlers are called one after the other, on one thread for each run; one that raises
    is logged, and fails neither the run nor the other handlers.
    """

    def __init__(self) -> None:
        self._handlers: dict[type[Event], list[Callable[[Any], object]]] = {}

    def subscribe(self, event_type: type[E], handler: Callable[[E], object]) -> Callable[[], None]:
        """Calls `handler` with every event of a type; returns what ends the subscription.

        Raises:
            TypeError: the type is no event, or the handler cannot be called, or is an async function.
        """
        given: object = event_type
        if not (isinstance(given, type) and issubclass(given, Event)):
            raise TypeError(f"subscribe got {given!r}: give cs.events.Event, or a class of cs.events")
        if not callable(handler):
            raise TypeError(f"the handler {handler!r} cannot be called: give a function that takes an event")
        if inspect.iscoroutinefunction(handler):
            raise TypeError(
                f"the handler {handler!r} is async, and nothing would await it: give a plain function "
                "(handlers have a thread of their own, which may block)"
            )
        handlers = self._handlers.setdefault(event_type, [])
        handlers.append(handler)

        def unsubscribe() -> None:
            if handler in handlers:
                handlers.remove(handler)

        return unsubscribe

    def publish(self, event: Event) -> None:
        """Calls the handlers of an event, those of its own type first."""
        kind = type(event)
        handlers = list(self._handlers.get(kind, ()))
        if kind is not Event:
            handlers += self._handlers.get(Event, ())
        for handler in handlers:
            try:
                handler(event)
            except Exception:
                log.exception("a subscriber to %s of run %s raised", kind.__name__, event.run_id)
