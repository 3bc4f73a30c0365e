"""Events as bytes: the same, field by field, as the message that is sent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_dist.v1 import client_pb2
from cascade_scheduler.core.commands import EventRecord
from cascade_scheduler.eventlog import Logged, LogLine
from cascade_scheduler.wire import event_bytes
from cascade_scheduler.wire.event_bytes import event_field
from cascade_scheduler.wire.updates import event_to

TEXTS = st.sampled_from(["", "Succeeded", "load", "☃ and more", "x" * 300])
TIMES = st.sampled_from([0.0, 0.25, 1e-9, 3.999999999, 86_400.5])

events = st.builds(
    EventRecord,
    run_id=st.just("r"),
    kind=st.sampled_from(["RunStarted", "TaskExecutionStarted", "TaskExecutionFinished"]),
    at=st.sampled_from([0.0, 1.0, 1_795_290_874.320468, 1_795_290_874.9999999, 4_000_000_000.5]),
    node=st.integers(0, 9),
    task=TEXTS,
    status=TEXTS,
    reason=TEXTS,
    error=TEXTS,
    preview=TEXTS,
    worker=TEXTS,
    duration=TIMES,
    attempt=st.integers(0, 3),
    max_attempts=st.integers(0, 3),
    delay=TIMES,
    iterations=st.integers(0, 2**40),
    resource=TEXTS,
    node_id=st.just(""),
)
common = st.builds(
    EventRecord,
    run_id=st.just("r"),
    kind=st.just("TaskExecutionFinished"),
    at=st.floats(0, 2**33),
    task=TEXTS,
    status=TEXTS,
    preview=TEXTS,
    worker=TEXTS,
    duration=st.floats(-1, 2**33),
    node=st.just(0),
    **{name: st.just("") for name in ("reason", "error", "node_id", "resource")},
    attempt=st.integers(0, 3),
    max_attempts=st.integers(0, 3),
    **{name: st.just(0) for name in ("delay", "iterations")},
)
lines = st.builds(LogLine, st.just("r"), st.just(1.5), st.just(0), TEXTS, TEXTS, st.integers(1, 2), TEXTS)


@given(
    st.lists(
        st.tuples(
            st.integers(1, 2**35 - 1),
            events | common | lines,
            st.sampled_from(["", "ab" * 16, "ab" * 16 + "[12]"]),
        ),
        max_size=5,
    )
)
def test_the_bytes_say_what_the_messages_say(logged: list[tuple[int, Logged, str]]) -> None:
    written = b"".join(event_field(*one) for one in logged)
    said = client_pb2.WatchResponse(events=[event_to(*one) for one in logged])
    assert client_pb2.WatchResponse.FromString(written) == said


@pytest.mark.parametrize("kind", ["TaskExecutionStarted", "TaskExecutionFinished"])
def test_what_each_task_leaves_needs_no_message(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    event = EventRecord("r", kind, 1.5, 0, "f", "Succeeded", "", "", "None", "w", 0.25, attempt=1)
    said = client_pb2.WatchResponse(events=[event_to(1, event, "ab")])
    monkeypatch.delattr(event_bytes, "event_to")
    assert client_pb2.WatchResponse.FromString(event_field(1, event, "ab")) == said
