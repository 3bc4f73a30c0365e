"""What commands print: tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from cascade_dist.client import ClusterStatus, RunDetails, RunInfo, WorkerInfo
from cascade_dist.client.constraints import Constraint, show_rate
from cascade_dist.client.records import Garbage
from cascade_dist.client.storing import BlobInfo
from cascade_dist.config import format_duration, format_size

__all__ = [
    "Output",
    "emit_json",
    "print_blobs",
    "print_constraints",
    "print_garbage",
    "print_run",
    "print_runs",
    "print_status",
    "print_value",
    "print_workers",
]

_PIPE_WIDTH = 10_000


class Output(StrEnum):
    """How to print."""

    TEXT = "text"
    JSON = "json"


def emit_json(value: Any) -> None:
    """One JSON document on one line; what JSON has no form for becomes its repr."""
    print(json.dumps(value, default=repr, ensure_ascii=False), flush=True)


def print_value(value: Any) -> None:
    """A run's value: text as it is, everything else as Python shows it, None not at all."""
    if value is not None:
        print(value if isinstance(value, str) else repr(value), flush=True)


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*headings, box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for row in rows:
        table.add_row(*map(Text, row))
    # In a pipe there is no width that lines should be broken to.
    console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)
    with console.capture() as capture:
        console.print(table)
    print("\n".join(line.rstrip() for line in capture.get().splitlines()), flush=True)


def _facts(rows: Iterable[tuple[str, str]]) -> None:
    pairs = list(rows)
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        print(f"{name + ':':<{width + 1}} {value}", flush=True)


def _amounts(amounts: Mapping[str, float], free: Mapping[str, float]) -> str:
    parts = (f"{name} {free.get(name, 0):g}/{amount:g}" for name, amount in sorted(amounts.items()))
    return ", ".join(parts) or "-"


def print_status(status: ClusterStatus) -> None:
    """The cluster in numbers."""
    rows = [
        ("scheduler", f"{status.address}, cascade-dist {status.version}, Python {status.python}"),
        ("up", format_duration(status.uptime)),
        ("state", f"{status.state} (epoch {status.epoch})"),
        ("workers", str(status.workers)),
        ("free", _amounts(status.amounts, status.free)),
        ("runs", f"{status.runs_active} active"),
        ("nodes", f"{status.nodes_running} running, {status.nodes_ready} ready"),
        ("plans", f"{status.plans_solved} solved, {status.plans_hit} found"),
        ("loops", f"{status.loop_steps} steps, {status.leases} leases"),
    ]
    if status.pools:
        rows.insert(5, ("pools", f"{_amounts(status.pools, status.pools_free)} free"))
    _facts(rows)


def print_constraints(constraints: Sequence[Constraint]) -> None:
    """Limits, a line each."""
    if not constraints:
        print("no constraints")
        return
    now = datetime.now(UTC)
    rows = [
        (
            found.scope,
            found.type,
            "-" if found.limit is None else str(found.limit),
            "-" if found.rate is None else show_rate(found.rate),
            "-" if found.capacity is None else f"{found.capacity:g}",
            "-"
            if found.expires_at is None
            else f"in {format_duration(max(0.0, (found.expires_at - now).total_seconds()))}",
            found.id,
        )
        for found in constraints
    ]
    _table(("SCOPE", "TYPE", "LIMIT", "RATE", "CAPACITY", "ENDS", "ID"), rows)


def print_garbage(found: Sequence[Garbage]) -> None:
    """What was freed, a line for each kind, and what its things are called."""
    rows = []
    for kind in found:
        names = ", ".join(kind.names[:3]) + (", …" if len(kind.names) > 3 else "")
        told = f"not looked for: {kind.error}" if kind.error else names or "-"
        rows.append((kind.kind, str(kind.count), format_size(kind.bytes), told))
    _table(("WHAT", "COUNT", "SIZE", "WHICH"), rows)


def print_blobs(blobs: Sequence[BlobInfo]) -> None:
    """Blobs, a line each; content ids whole, so that they can be copied."""
    if not blobs:
        print("no blobs", flush=True)
        return
    width = max(len(format_size(blob.size)) for blob in blobs)
    for blob in blobs:
        state = " ".join(word for word, holds in (("in use", blob.in_use), ("pinned", blob.pinned)) if holds)
        print(
            f"{blob.cid}  {format_size(blob.size):>{width}}  {_ago(blob.used)}  {state}".rstrip(), flush=True
        )


def print_workers(workers: Sequence[WorkerInfo]) -> None:
    """Workers, a line each."""
    if not workers:
        print("no workers; start one with `cascade-worker ADDRESS`")
        return
    rows = [
        (
            worker.name or worker.worker_id,
            worker.state,
            _amounts(worker.amounts, worker.free),
            str(worker.running),
            str(worker.queued),
            f"{worker.host}:{worker.pid}",
            format_duration(worker.silent),
            worker.python,
        )
        for worker in workers
    ]
    _table(("NAME", "STATE", "FREE", "RUNNING", "QUEUED", "PROCESS", "SILENT", "PYTHON"), rows)


def _ago(when: datetime) -> str:
    seconds = (datetime.now(UTC) - when).total_seconds()
    return f"{format_duration(max(0.0, seconds))} ago"


def print_runs(runs: Sequence[RunInfo]) -> None:
    """Runs, a line each."""
    if not runs:
        print("no runs")
        return
    rows = [
        (
            run.run_id,
            run.name or "-",
            str(run.status),
            str(run.progress),
            _ago(run.submitted),
            format_duration(run.duration),
            run.error.partition("\n")[0][:100],
        )
        for run in runs
    ]
    _table(("RUN", "NAME", "STATUS", "PROGRESS", "SUBMITTED", "TOOK", "ERROR"), rows)


def print_run(details: RunDetails) -> None:
    """One run, and what of it is not finished."""
    run = details.run
    rows = [
        ("run", run.run_id),
        ("status", str(run.status)),
        ("progress", str(run.progress)),
        ("submitted", f"{run.submitted:%Y-%m-%d %H:%M:%S} UTC, {_ago(run.submitted)}"),
        ("took", format_duration(run.duration)),
    ]
    if run.name:
        rows.insert(1, ("name", run.name))
    if run.error:
        rows.append(("error", run.error))
    _facts(rows)
    if details.nodes:
        print()
        nodes = [(str(n.node), n.task, n.state, n.worker or "-", n.reason) for n in details.nodes]
        _table(("NODE", "TASK", "STATE", "WORKER", "REASON"), nodes)
