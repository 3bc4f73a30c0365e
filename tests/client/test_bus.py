"""Subscribers, and events as lines."""

from __future__ import annotations

import io
import json
import logging
from datetime import UTC, datetime
from typing import Any

import pytest

import cascade_dist as cs
from cascade_dist.client import events as ev
from cascade_dist.client import telemetry
from cascade_dist.client.bus import MessageBus
from cascade_dist.client.renderers import EventLines

AT = datetime(2026, 3, 4, 5, 6, 7, 890_000, tzinfo=UTC)
HEAD = (AT, "r1")


def started(event_id: int = 1) -> ev.RunStarted:
    return ev.RunStarted(event_id, *HEAD, "RunStarted")


def finished(status: str = "Succeeded", error: str = "") -> ev.TaskExecutionFinished:
    kind = "TaskExecutionFinished"
    return ev.TaskExecutionFinished(7, *HEAD, kind, "load", "ab", status, 0.123, "42", error, "w1")


def test_s77_exact_types_get_their_own_and_the_base_gets_everything() -> None:
    bus, own, every = MessageBus(), list[Any](), list[Any]()
    bus.subscribe(ev.RunStarted, own.append)
    bus.subscribe(ev.Event, every.append)
    bus.publish(started())
    bus.publish(finished())
    assert own == [started()]
    assert every == [started(), finished()]


def test_s77_a_class_between_is_no_base_of_all() -> None:
    bus, heard = MessageBus(), list[Any]()
    bus.subscribe(ev.TaskEvent, heard.append)
    bus.publish(finished())
    assert heard == []


def test_s77_a_handler_that_raises_is_logged_and_the_others_hear(caplog: pytest.LogCaptureFixture) -> None:
    bus, heard = MessageBus(), list[Any]()

    def broken(event: ev.Event) -> None:
        raise RuntimeError("no disk")

    bus.subscribe(ev.Event, broken)
    bus.subscribe(ev.Event, heard.append)
    with caplog.at_level(logging.ERROR, "cascade.client"):
        bus.publish(started())
    assert heard == [started()]
    assert "no disk" in caplog.text


def test_a_subscription_can_be_ended() -> None:
    bus, heard = MessageBus(), list[Any]()
    end = bus.subscribe(ev.Event, heard.append)
    end()
    end()
    bus.publish(started())
    assert heard == []


@pytest.mark.parametrize("wrong", [str, "RunStarted", None, int])
def test_only_events_can_be_subscribed_to(wrong: Any) -> None:
    with pytest.raises(TypeError, match="class of cs"):
        MessageBus().subscribe(wrong, print)


def test_a_handler_has_to_be_callable() -> None:
    handler: Any = "print"
    with pytest.raises(TypeError, match="cannot be called"):
        MessageBus().subscribe(ev.Event, handler)


def test_a_handler_that_nobody_would_await_is_refused() -> None:
    async def handler(event: ev.Event) -> None: ...

    with pytest.raises(TypeError, match=r"handler.*async.*plain function"):
        MessageBus().subscribe(ev.Event, handler)


def lines(level: str, form: str, *events: ev.Event) -> list[str]:
    stream = io.StringIO()
    write = EventLines(level, form, stream)
    for event in events:
        write(event)
    return stream.getvalue().splitlines()


def test_s78_at_level_error_only_failures_show() -> None:
    shown = lines("error", "human", started(), finished(), finished("Failed", "ValueError: no"))
    assert len(shown) == 1
    assert "ERROR" in shown[0]
    assert "load failed after 0.123 s: ValueError: no" in shown[0]


def test_s78_json_is_one_object_a_line() -> None:
    shown = [json.loads(line) for line in lines("INFO", "json", started(), finished())]
    assert [line["event"] for line in shown] == ["RunStarted", "TaskExecutionFinished"]
    assert [line["event_id"] for line in shown] == [1, 7]
    assert shown[0]["timestamp"] == AT.isoformat()
    assert {line["level"] for line in shown} == {"INFO"}
    assert shown[1]["data"]["task"] == "load"
    assert shown[1]["data"]["duration"] == 0.123


def test_an_unknown_kind_of_a_newer_scheduler_is_a_line_too() -> None:
    assert "Rebalanced" in lines("INFO", "human", ev.Event(3, *HEAD, "Rebalanced"))[0]


def test_a_stream_that_is_closed_is_no_error() -> None:
    stream = io.StringIO()
    write = EventLines("INFO", "human", stream)
    stream.close()
    write(started())


@pytest.mark.parametrize(("level", "form"), [("LOUD", "human"), ("INFO", "xml"), ("", "json")])
def test_unknown_levels_and_formats_are_refused(level: str, form: str) -> None:
    with pytest.raises(ValueError, match="it is one of"):
        EventLines(level, form)


def test_s80_a_finished_task_is_completed_with_its_milliseconds() -> None:
    body = telemetry.body_of(finished())
    assert body is not None
    assert body["state"] == "COMPLETED"
    assert body["duration_ms"] == 123.0
    assert body["task_name"] == "load"


def test_telemetry_has_a_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASCADE_PROJECT_ID", "atlas")
    message = telemetry.message("r1", {"type": "LifecycleEvent"}, AT)
    assert message["run_id"] == "r1"
    assert message["project_id"] == "atlas"
    assert message["ts"] == AT.isoformat()
    assert telemetry.topic_of("r1") == "cascade/telemetry/local/atlas/r1/events"


def test_what_only_the_run_is_about_has_no_body() -> None:
    assert telemetry.body_of(started()) is None
    assert cs.events.RunStarted is ev.RunStarted
