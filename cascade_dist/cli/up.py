"""``cascade up``: a cluster on this machine, in the foreground."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from cascade_dist.cli.output import Output, emit_json
from cascade_dist.client.local import LocalCluster
from cascade_dist.errors import CascadeError

__all__ = ["up"]

WATCH_SECONDS = 0.25


def up(
    *,
    workers: int,
    slots: int | str,
    host: str | None,
    port: int | None,
    state: str | None,
    token_file: str | None,
    output: Output,
) -> None:
    """Starts a scheduler and workers and waits; returns when told to stop by Ctrl-C or SIGTERM.

    Raises:
        CascadeError: the scheduler or all workers ended by themselves.
    """
    options: list[str] = []
    for name, value in (("--host", host), ("--port", port), ("--state", state)):
        if value is not None:
            options += [name, str(value)]
    cluster = LocalCluster(
        workers=workers, slots=slots, scheduler_options=options, private=False, token_file=token_file
    )
    with _told_to_stop() as stop:
        try:
            cluster.start()
            if output is Output.JSON:
                emit_json({"address": cluster.address, "pids": cluster.pids})
            else:
                print(f"cluster at {cluster.address} with {workers} workers; Ctrl-C stops it", flush=True)
                print(f"use it: export CASCADE_ADDRESS={cluster.address}", flush=True)
            gone: set[str] = set()
            while not stop.wait(WATCH_SECONDS):
                _look(cluster, gone)
        finally:
            cluster.stop()
    if output is Output.TEXT:
        print("stopped", flush=True)


def _look(cluster: LocalCluster, gone: set[str]) -> None:
    for name, code in cluster.ended():
        if name == "scheduler":
            raise CascadeError(f"the scheduler ended with code {code}; its reason is above")
        if name not in gone:
            gone.add(name)
            print(f"{name} ended with code {code}", file=sys.stderr, flush=True)
    if len(gone) == cluster.workers:
        raise CascadeError("all workers have ended; their reasons are above")


@contextmanager
def _told_to_stop() -> Iterator[threading.Event]:
    """An event that is set by the first Ctrl-C or SIGTERM; the second one has its usual effect."""
    stop = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        for each, old in before.items():
            signal.signal(each, old)
        stop.set()

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, old in before.items():
            signal.signal(number, old)
