"""Events of the wire as records, and following them."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from typing import Any

import pytest

import cascade_dist as cs
from cascade_dist.client import events
from cascade_dist.client.events import decode_event
from cascade_dist.v1 import client_pb2 as pb
from cascade_dist.v1 import value_pb2
from tests.client.fake import FakeScheduler


@cs.task
def one() -> int:
    return 1


def make(kind: str, event_id: int = 1, **fields: Any) -> pb.Event:
    event = pb.Event(kind=kind, event_id=event_id, **fields)
    event.timestamp.FromJsonString("2026-11-20T10:00:00.5Z")
    return event


def test_every_kind_has_its_fields() -> None:
    retry = make("TaskRetrying", task="f[2]", node_id="ab", attempt=1, max_attempts=3, error="ValueError: x")
    retry.delay.FromMilliseconds(250)
    decoded = decode_event("r", retry)
    when = datetime(2026, 11, 20, 10, 0, 0, 500_000, tzinfo=UTC)
    assert decoded == events.TaskRetrying(
        1, when, "r", "TaskRetrying", "f[2]", "ab", 1, 3, 0.25, "ValueError: x"
    )
    finished = make("TaskExecutionFinished", task="f", status="Succeeded", result_preview="5", worker="w")
    finished.duration.FromMilliseconds(123)
    assert decode_event("r", finished).duration == 0.123  # type: ignore[attr-defined]
    line = decode_event("r", make("LogLine", task="f", stream=value_pb2.LOG_STREAM_STDERR, text="t"))
    assert isinstance(line, events.LogLine)
    assert line.stream == "stderr"
    for kind in events.__all__:
        if kind not in ("Event", "TaskEvent"):
            assert type(decode_event("r", make(kind))).__name__ == kind


def test_a_kind_of_a_newer_scheduler_is_a_plain_event() -> None:
    decoded = decode_event("r", make("SomethingNew"))
    assert type(decoded) is events.Event
    assert decoded.kind == "SomethingNew"


def test_events_are_frozen_and_become_json() -> None:
    decoded = decode_event("r", make("TaskSkipped", task="f", reason="ConditionFalse"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        decoded.event_id = 2  # type: ignore[misc]
    assert json.loads(json.dumps(decoded.to_dict()))["reason"] == "ConditionFalse"


def _some(count: int, first: int = 1) -> list[pb.Event]:
    middle = [make("TaskSkipped", i, task=f"t{i}") for i in range(first, first + count - 1)]
    return [*middle, make("RunFinished", first + count - 1, status="Succeeded")]


def test_following_gives_each_event_once_over_a_lost_connection(
    scheduler: FakeScheduler, cluster: cs.Cluster
) -> None:
    scheduler.events = _some(9)
    scheduler.events_cut = 3
    run = cluster.submit(one())
    run.result(10)
    assert [event.event_id for event in run.events()] == list(range(1, 10))
    assert [event.event_id for event in run.events(after=6)] == [7, 8, 9]
    assert isinstance(list(run.events())[-1], events.RunFinished)


def test_what_is_no_longer_kept_is_said(scheduler: FakeScheduler, cluster: cs.Cluster) -> None:
    scheduler.events = _some(3, first=100)
    run = cluster.submit(one())
    run.result(10)
    assert [(e.kind, e.event_id) for e in run.events()][:2] == [("EventsTruncated", 99), ("TaskSkipped", 100)]


def test_an_iterator_may_be_left_early(scheduler: FakeScheduler, cluster: cs.Cluster) -> None:
    scheduler.events = _some(50)
    run = cluster.submit(one())
    run.result(10)
    iterator = run.events()
    assert next(iterator).event_id == 1
    iterator.close()  # type: ignore[attr-defined]
    assert next(run.events()).event_id == 1


def test_events_of_an_unknown_run(scheduler: FakeScheduler, cluster: cs.Cluster) -> None:
    run = cluster.submit(one())
    run.result(10)
    scheduler.runs.clear()
    with pytest.raises(cs.RunNotFoundError, match="no run"):
        list(run.events())
