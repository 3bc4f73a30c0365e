"""The bare transport: see `benchmarks.bare`."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import Future
from typing import Any

import grpc
import grpc.aio
import psutil
import uvloop

from benchmarks.bare import HEAD, METHOD_CLIENT, RECORD_BYTES, SERVICE
from benchmarks.sides.base import WAIT_SECONDS, WORKERS, Side
from cascade_dist.wire import Address, open_channel
from cascade_dist.wire.direct import open_stream

__all__ = ["GrpcTransport", "Transport"]

BATCH = 64
"""Records per message between relay and workers."""

STOP_SECONDS = 5.0


class Transport(Side):
    """Its client: a caller's thread, and a background thread with the loop, as our client has.

    Its streams are direct ones, as those of a private cluster.
    """

    streams = "direct"

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="cascade-bare-")
        self._processes: list[subprocess.Popen[str]] = []
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._call: Any = None
        self._channel: Any = None
        self._expected = 0
        self._answer: Future[int] = Future()

    def start(self) -> str:
        """Starts relay, workers and their children, and connects."""
        path = f"{self._directory.name}/socket"
        relay = self._start("relay", path, self.streams)
        assert relay.stdout is not None
        relay.stdout.readline()
        for _ in range(WORKERS):
            self._start("worker", path)
        if relay.stdout.readline().strip() != "ready":
            raise RuntimeError("the relay ended before its workers came")
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._connect(path), self._loop).result(WAIT_SECONDS)
        return "direct streams" if self.streams == "direct" else f"grpcio {grpc.__version__}"

    def _start(self, module: str, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.bare.{module}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "GRPC_VERBOSITY": "NONE"},
        )
        self._processes.append(process)
        return process

    def stop(self) -> None:
        """Ends the processes: they end with their standard input."""
        for process in reversed(self._processes):
            assert process.stdin is not None
            process.stdin.close()
        for process in self._processes:
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(STOP_SECONDS)
        self._directory.cleanup()

    async def _connect(self, path: str) -> None:
        relay = Address("", 0, socket=path)
        self._channel = open_channel(relay)
        self._call = await open_stream(relay, self._channel, f"/{SERVICE}/{METHOD_CLIENT}", (), bytes)
        self._reader = asyncio.get_running_loop().create_task(self._read())

    async def _read(self) -> None:
        got = 0
        try:
            while (message := await self._call.read()) is not grpc.aio.EOF:
                got += len(message)
                if got >= self._expected:
                    got, length = 0, got
                    self._answer.set_result(length)
        except grpc.aio.AioRpcError as error:
            if not self._answer.done():
                self._answer.set_exception(error)

    def _ask(self, steps: int, batch: int, records: bytes) -> None:
        answer = self._answer = Future()
        self._expected = len(records)
        message = HEAD.pack(steps, batch) + records
        self._loop.call_soon_threadsafe(lambda: self._loop.create_task(self._call.write(message)))
        if answer.result(WAIT_SECONDS) != len(records):
            raise AssertionError("records were lost")

    def submit_noops(self, count: int) -> float:
        """Records in batches."""
        self._ask(0, BATCH, bytes(count * RECORD_BYTES))
        return 0.0

    def round_trip(self) -> None:
        """One record."""
        self._ask(1, 1, bytes(RECORD_BYTES))

    def chain(self, steps: int) -> None:
        """One record that the relay sends to the worker again and again."""
        self._ask(steps, 1, bytes(RECORD_BYTES))

    def extra(self, tasks: int) -> dict[str, float]:
        """The same with one record per message to the workers: what batches are worth."""
        began = time.perf_counter()
        self._ask(0, 1, bytes(tasks * RECORD_BYTES))
        return {"throughput.unbatched_per_second": tasks / (time.perf_counter() - began)}

    def role(self, process: psutil.Process) -> str:
        """Which of the processes it is."""
        if "benchmarks.bare.relay" in process.cmdline():
            return "relay"
        parent = process.parent()
        return "workers" if parent is not None and parent.pid == os.getpid() else "executors"


class GrpcTransport(Transport):
    """The same with gRPC's streams, as those of a cluster of several machines."""

    streams = "grpc"
