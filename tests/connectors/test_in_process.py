"""The connector within a process, and who watches telemetry."""

from __future__ import annotations

import asyncio
import io
import logging
import threading
from typing import Any

import pytest

from cascade_dist.connectors import Connector, InProcessConnector, TelemetryObserver
from cascade_dist.connectors.base import matches

Heard = list[tuple[str, Any]]


def listener(heard: Heard) -> Any:
    async def on_message(topic: str, payload: Any) -> None:
        heard.append((topic, payload))

    return on_message


@pytest.mark.parametrize(
    ("pattern", "topic", "expected"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/b/c", False),
        ("a/+", "a/b", True),
        ("a/+", "a", False),
        ("a/+/c", "a/b/c", True),
        ("a/#", "a/b/c", True),
        ("#", "a/b", True),
        ("a/#/c", "a/b/c", False),
        ("+", "a", True),
        ("a", "b", False),
    ],
)
def test_patterns(pattern: str, topic: str, expected: bool) -> None:
    assert matches(pattern, topic) is expected


async def test_s81_a_retained_message_reaches_a_later_wildcard_once() -> None:
    connector, heard = InProcessConnector(), Heard()
    await connector.publish("cascade/constraints/global", {"id": "p"}, retain=True)
    await connector.subscribe("cascade/constraints/#", listener(heard))
    assert heard == [("cascade/constraints/global", {"id": "p"})]


async def test_s81_clearing_a_retained_message_stops_its_delivery() -> None:
    connector, heard = InProcessConnector(), Heard()
    await connector.publish("a", 1, retain=True)
    await connector.publish("a", "", retain=True)
    await connector.subscribe("#", listener(heard))
    assert heard == []


async def test_a_message_reaches_those_who_subscribed_and_no_others() -> None:
    connector, first, second = InProcessConnector(), Heard(), Heard()
    await connector.subscribe("jobs/+", listener(first))
    await connector.subscribe("other", listener(second))
    await connector.publish("jobs/1", {"n": 1})
    assert first == [("jobs/1", {"n": 1})]
    assert second == []


async def test_an_ended_subscription_hears_nothing() -> None:
    connector, heard = InProcessConnector(), Heard()
    subscription = await connector.subscribe("#", listener(heard))
    await subscription.unsubscribe()
    await connector.publish("a", 1)
    assert heard == []


async def test_a_subscriber_that_raises_is_logged_and_the_others_hear(
    caplog: pytest.LogCaptureFixture,
) -> None:
    connector, heard = InProcessConnector(), Heard()

    async def broken(topic: str, payload: Any) -> None:
        raise RuntimeError("deaf")

    await connector.subscribe("#", broken)
    await connector.subscribe("#", listener(heard))
    with caplog.at_level(logging.ERROR, "cascade.client"):
        await connector.publish("a", 1)
    assert heard == [("a", 1)]
    assert "deaf" in caplog.text


async def test_another_threads_loop_can_publish() -> None:
    connector, heard = InProcessConnector(), Heard()
    await connector.subscribe("#", listener(heard))
    there = threading.Thread(target=lambda: asyncio.run(connector.publish("a", 1)))
    there.start()
    await asyncio.to_thread(there.join)
    assert heard == [("a", 1)]


def test_it_is_a_connector() -> None:
    assert isinstance(InProcessConnector(), Connector)
    assert not isinstance(object(), Connector)


def message(run_id: str, **body: Any) -> dict[str, Any]:
    return {"run_id": run_id, "body": body}


async def test_s80_the_observer_renders_a_state_and_a_runs_head_once() -> None:
    stream = io.StringIO()
    observer = TelemetryObserver(stream)
    done = {"type": "TaskStateEvent", "state": "COMPLETED", "task_name": "load", "duration_ms": 123.0}
    await observer.on_message("t", message("r1", type="LifecycleEvent", event="ENGINE_STARTED"))
    await observer.on_message("t", message("r1", **done))
    await observer.on_message("t", message("r2", **done))
    shown = stream.getvalue()
    assert shown.count("run r1\n") == 1
    assert shown.count("run r2\n") == 1
    assert shown.count("COMPLETED  load (123.0 ms)") == 2
    assert "ENGINE_STARTED" in shown


@pytest.mark.parametrize("payload", [None, "text", {}, {"run_id": "r"}, {"body": {}}])
async def test_what_is_no_telemetry_is_left_out(payload: Any) -> None:
    stream = io.StringIO()
    await TelemetryObserver(stream).on_message("t", payload)
    assert stream.getvalue() == ""
