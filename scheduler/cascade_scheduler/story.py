"""The story of a bug: the events that led to it, in a file that can be attached to a report."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from cascade_scheduler.core.events import Event, RunRecovered, RunSubmitted

__all__ = ["write_story"]

BYTES_SHOWN = 32
LINE_CHARS_MAX = 4_000
ITEMS_SHOWN = 50


def write_story(
    directory: Path, at: float, error: str, story: Sequence[tuple[float, Sequence[Event]]]
) -> Path | None:
    """Writes what is known; returns the file, or None when it cannot be written.

    Users' bytes are cut to a few, so that the file tells shapes and order rather than data.
    """
    path = directory / f"scheduler-bug-{int(at)}-{os.getpid()}.txt"
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(error)
            for now, events in story:
                file.write(f"\nturn at {now:.6f}\n")
                file.writelines(f"  {''.join(_show(event))[:LINE_CHARS_MAX]}\n" for event in events)
    except OSError:
        return None
    return path


def _show(value: object) -> Iterator[str]:
    if isinstance(value, bytes):
        more = f"…{len(value)} bytes" if len(value) > BYTES_SHOWN else ""
        yield f"{value[:BYTES_SHOWN]!r}{more}"
    elif isinstance(value, RunSubmitted | RunRecovered):
        name = type(value).__name__
        yield f"{name}({value.run_id!r}, {len(value.graph)} nodes, on_failure={value.on_failure!r})"
    elif isinstance(value, tuple):
        name = type(value).__name__ if hasattr(value, "_fields") else ""
        yield f"{name}("
        for item in value[:ITEMS_SHOWN]:
            yield from _show(item)
            yield ", "
        yield f"… {len(value)} in all)" if len(value) > ITEMS_SHOWN else ")"
    else:
        yield repr(value)
