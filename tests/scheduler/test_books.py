"""Event logs, functions, run records: bounded, and honest about what is gone."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_dist.codec.cid import cid_of
from cascade_scheduler.core.commands import EventRecord
from cascade_scheduler.eventlog import EventLog, LogLine
from cascade_scheduler.functions import FunctionBody, FunctionStore, WrongBytes
from cascade_scheduler.runs import RunRecord, SubmitFacts


def event(number: int) -> EventRecord:
    """One event."""
    return EventRecord("r", f"Kind{number}", float(number))


def line(text: str) -> LogLine:
    """One line of a task."""
    return LogLine("r", 0.0, 0, "f", "w", 1, text)


def test_events_are_numbered_from_one() -> None:
    log = EventLog()
    assert [log.append(event(number)) for number in range(3)] == [1, 2, 3]
    assert log.since(0, 10) == ([(1, event(0)), (2, event(1)), (3, event(2))], False)
    assert log.since(1, 1) == ([(2, event(1))], False)
    assert log.since(3, 10) == ([], False)
    assert log.since(99, 10) == ([], False)


def test_the_oldest_events_go() -> None:
    log = EventLog(events_max=3)
    for number in range(5):
        log.append(event(number))
    assert log.since(0, 10) == ([(3, event(2)), (4, event(3)), (5, event(4))], True)
    assert log.since(2, 10)[1] is False
    log.cut(1)
    assert log.since(0, 10) == ([(5, event(4))], True)


def test_lines_have_a_bound_of_their_own() -> None:
    log = EventLog(text_bytes_max=22)
    log.append(event(0))
    for text in ("a" * 9, "b" * 9, "c" * 9):
        log.append(line(text))
    found, gone = log.since(0, 10)
    assert [number for number, _ in found] == [1, 3, 4]
    assert gone
    assert log.since(2, 10)[1] is False


@given(st.lists(st.one_of(st.just(None), st.integers(0, 12)), max_size=60), st.integers(0, 70))
def test_what_is_kept_is_the_newest(sizes: list[int | None], after: int) -> None:
    log = EventLog(events_max=10, text_bytes_max=30)
    for number, size in enumerate(sizes):
        log.append(event(number) if size is None else line("x" * size))
    found, gone = log.since(after, 1000)
    numbers = [number for number, _ in found]
    assert numbers == sorted(numbers)
    assert all(after < number <= len(sizes) for number in numbers)
    kept_events = [n for n, size in enumerate(sizes, 1) if size is None and n > max(after, len(sizes) - 10)]
    assert [n for n in numbers if sizes[n - 1] is None] == kept_events
    if not gone:
        assert numbers == list(range(after + 1, len(sizes) + 1))
    lines = [entry for _, entry in log.since(0, 1000)[0] if isinstance(entry, LogLine)]
    assert sum(len(entry.text) + 1 for entry in lines) <= 30


async def test_watchers_wake_when_events_are_published() -> None:
    log = EventLog()
    waiting = asyncio.create_task(log.news(0))
    log.append(event(0))
    await asyncio.sleep(0)
    assert not waiting.done()
    log.publish(1)
    await asyncio.wait_for(waiting, 5)
    await asyncio.wait_for(log.news(0), 5)
    waiting = asyncio.create_task(log.news(1))
    await asyncio.sleep(0)
    log.wake()
    await asyncio.wait_for(waiting, 5)


def function(text: str) -> FunctionBody:
    """A function of some bytes."""
    body = text.encode()
    return FunctionBody(cid_of(body), body, "mod.f", b"")


def test_functions_are_checked_and_bounded() -> None:
    store = FunctionStore(bytes_max=30)
    a, b, c, d = (function(letter * 10) for letter in "abcd")
    for one in (a, b, c):
        store.put(one)
    assert store.get(a.cid) == a
    store.put(d)
    assert [one.cid in store for one in (a, b, c, d)] == [True, False, True, True]
    assert (store.bytes, len(store)) == (30, 3)
    with pytest.raises(WrongBytes, match=r"'mod\.f' is not that of bafk"):
        store.put(FunctionBody(b.cid, b"other", "mod.f", b""))


def test_functions_in_use_stay() -> None:
    store = FunctionStore(bytes_max=10)
    a, b = function("a" * 10), function("b" * 10)
    store.pin([a.cid, a.cid])
    store.put(a)
    store.put(b)
    assert a.cid in store
    assert b.cid not in store
    store.unpin([a.cid])
    store.put(b)
    assert a.cid in store
    store.unpin([a.cid])
    store.put(b)
    assert a.cid not in store


def test_pieces_of_stored_events_go_with_their_events() -> None:
    facts = SubmitFacts(target_id="", template_id=b"", params_digest=b"", node_count=1, on_failure="cancel")
    record = RunRecord("r", "", facts, logs=False, submitted=0.0)
    record.events = EventLog(events_max=4)
    dropped = []
    for number in range(0, 10, 2):
        for more in range(2):
            record.events.append(event(number + more))
        dropped.append(record.add_piece(number + 1))
    assert dropped == [(), (), (1,), (3,), (5,)]
    assert list(record.pieces) == [7, 9]
