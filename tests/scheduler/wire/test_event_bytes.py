"""Events as bytes: what comes back is what went in, by node ids; other bytes are refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_scheduler.core.commands import EventRecord
from cascade_scheduler.eventlog import Logged, LogLine
from cascade_scheduler.wire.event_bytes import EventsUnreadable, events_from_bytes, events_to_bytes

texts = st.text(max_size=30) | st.sampled_from(["\ud800 alone", "☃", "x" * 300])
times = st.floats(0, 2**33)
counts = st.integers(0, 2**40)
node_ids = st.sampled_from(["", "ab" * 16, "ab" * 16 + "[12]"])
nodes = st.integers(-1, 9)

records = st.builds(
    EventRecord,
    **dict.fromkeys(("kind", "task", "status", "reason", "error", "preview", "worker", "resource"), texts),
    **dict.fromkeys(("at", "duration", "delay"), times),
    **dict.fromkeys(("attempt", "max_attempts", "iterations"), counts),
    run_id=st.just("r"),
    node=nodes,
    node_id=node_ids,
)
lines = st.builds(LogLine, st.just("r"), times, nodes, texts, texts, st.integers(1, 2), texts, node_ids)
numbered = st.lists(st.tuples(st.integers(1, 2**40), records | lines), max_size=6)


def name_of(logged: Logged) -> str:
    return f"{logged.node:032x}" if logged.node >= 0 else ""


@given(numbered)
def test_what_went_in_comes_back(events: list[tuple[int, Logged]]) -> None:
    wanted = []
    for number, logged in events:
        name = logged.node_id or name_of(logged)
        wanted.append((number, logged._replace(node=0 if name else -1, node_id=name)))
    assert events_from_bytes(events_to_bytes(events, name_of), "r") == wanted


def test_a_node_is_named_once_where_its_events_come_together() -> None:
    asked: list[int] = []

    def note(logged: Logged) -> str:
        asked.append(logged.node)
        return "ab"

    kinds = ("TaskExecutionStarted", "TaskExecutionFinished")
    events = [
        (number, EventRecord("r", kind, 1.0, node)) for node in (3, 4) for number, kind in enumerate(kinds)
    ]
    events_to_bytes([(0, EventRecord("r", "RunStarted", 0.5)), *events], note)
    assert asked == [3, 4]


def test_fields_of_later_versions_are_left_out_and_those_of_earlier_ones_have_their_defaults() -> None:
    [[number, name, *row]] = json.loads(events_to_bytes([(7, EventRecord("r", "RunStarted", 1.5))], name_of))
    later = json.dumps([[number, name, *row, "new", 3]]).encode()
    earlier = json.dumps([[number, name, *row[:4]]]).encode()
    for data in (later, earlier):
        assert events_from_bytes(data, "r") == [(7, EventRecord("r", "RunStarted", 1.5))]


@pytest.mark.parametrize(
    "data", [b"", b"\n\x02\x08\x01", b"{}x", b"3", b"[[1]]", b'[[1, "a"]]', b'[["x", "", "y"]]']
)
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(EventsUnreadable):
        events_from_bytes(data, "r")
