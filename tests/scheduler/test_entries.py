"""Cached bytes in memory: bounds and times to live."""

from __future__ import annotations

from cascade_scheduler.entries import ENTRY_BYTES, EntryCache


def test_entries_end_with_their_time() -> None:
    now = [0.0]
    entries: EntryCache[str] = EntryCache(1000, clock=lambda: now[0])
    entries.put("k", b"value", ttl=60)
    entries.put("stays", b"value")
    now[0] = 59.0
    assert entries.get("k") == b"value"
    now[0] = 60.0
    assert entries.get("k") is None
    assert len(entries) == 1
    assert entries.get("stays") == b"value"


def test_the_least_recently_used_go_first() -> None:
    entries: EntryCache[str] = EntryCache(2 * ENTRY_BYTES + 10)
    entries.put("a", b"12345")
    entries.put("b", b"12345")
    assert entries.get("a")
    entries.put("c", b"12345")
    assert [entries.get(key) for key in "abc"] == [b"12345", None, b"12345"]
    assert entries.bytes == 2 * ENTRY_BYTES + 10
    entries.put("c", b"1")
    assert entries.bytes == 2 * ENTRY_BYTES + 6
    entries.drop("a")
    entries.drop("never there")
    assert entries.bytes == ENTRY_BYTES + 1


def test_what_is_above_the_bound_is_not_kept() -> None:
    entries: EntryCache[str] = EntryCache(ENTRY_BYTES + 10)
    entries.put("k", b"1")
    entries.put("k", b"x" * 11)
    assert entries.get("k") is None
    assert entries.bytes == 0
