"""How fast one worker with one executor is, without a scheduler's own work: run it as a script.

This process plays the scheduler: it sends assignments in batches, as many ahead as the worker takes, and only
counts what comes back.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import grpc.aio
import psutil

from cascade_dist.codec.cid import cid_of
from cascade_dist.v1 import graph_pb2, worker_pb2, worker_pb2_grpc
from cascade_dist.wire import local_versions, server_options
from cascade_dist.wire.convert import duration

ROOT = Path(__file__).resolve().parents[2]
AHEAD = int(os.environ.get("MEASURE_AHEAD", "0"))


def no_op(number: int = 0) -> None:
    """Nothing."""


class Feeder(worker_pb2_grpc.WorkerServiceServicer):
    """Keeps a worker busy."""

    def __init__(self) -> None:
        self.ready = asyncio.Event()
        self.done = asyncio.Event()
        self.left = 0
        self.written = 0
        self.outstanding = 0
        self.sequence = 1
        self.received = 1
        self.attempts: Iterator[int] = iter(range(1, 1 << 40))
        self.batches = 0

    async def Connect(self, request_iterator: Any, context: Any) -> None:  # noqa: N802
        """The worker's stream."""
        self.context = context
        hello = (await context.read()).hello
        self.ahead = AHEAD or hello.ahead_credits
        keep = dict.fromkeys(("heartbeat_period", "heartbeat_timeout"), duration(30))
        welcome = worker_pb2.Welcome(versions=local_versions(), inline_bytes_max=65536, **keep)
        await context.write(worker_pb2.ConnectResponse(sequence=1, acked_through=1, welcome=welcome))
        body = cloudpickle.dumps(no_op)
        spec = graph_pb2.TaskSpec(
            kind=1, name="no_op", amounts=[graph_pb2.Amount(name="cpu", micros=1_000_000)]
        )
        await self.say(
            worker_pb2.Work(
                runs=[worker_pb2.RunHandle(run=1, run_id="r")],
                functions=[graph_pb2.Function(cid=cid_of(body), body=body)],
                bodies=[worker_pb2.TaskBody(body=1, spec=spec, function=cid_of(body), run=1)],
            )
        )
        self.ready.set()
        while (message := await context.read()) is not grpc.aio.EOF:
            self.received = message.sequence
            ended = len(message.reports.reports)
            if ended:
                self.batches += 1
                self.outstanding -= ended
                self.left -= ended
                if self.left == 0:
                    self.done.set()
                await self.fill()

    async def say(self, work: worker_pb2.Work) -> None:
        """Sends work."""
        self.sequence += 1
        await self.context.write(
            worker_pb2.ConnectResponse(sequence=self.sequence, acked_through=self.received, work=work)
        )

    async def fill(self) -> None:
        """Sends as much as the worker takes."""
        room = min(self.ahead + 1 - self.outstanding, self.left - self.outstanding)
        if room <= 0:
            return
        work = worker_pb2.Work()
        for _ in range(room):
            attempt = next(self.attempts)
            made = work.assignments.add(
                attempt=attempt,
                body=1,
                args=pickle.dumps(((attempt,), {}), 5),
                ahead=True,
                node_id=f"{attempt:032x}",
            )
            setattr(made, "try", 1)
        self.outstanding += room
        await self.say(work)

    async def run(self, tasks: int) -> float:
        """Seconds for so many tasks."""
        self.left = tasks
        self.done.clear()
        started = time.perf_counter()
        await self.fill()
        await self.done.wait()
        return time.perf_counter() - started


def cpu_of(pid: int) -> dict[str, float]:
    """CPU seconds by process: the worker, its fork server and executors."""
    worker = psutil.Process(pid)
    found = {"worker": sum(worker.cpu_times()[:2])}
    for child in worker.children(recursive=True):
        if child.ppid() != pid:
            found["executors"] = found.get("executors", 0.0) + sum(child.cpu_times()[:2])
    return found


async def measure(tasks: int) -> None:
    """Prints the figures."""
    feeder = Feeder()
    server = grpc.aio.server(options=server_options())
    worker_pb2_grpc.add_WorkerServiceServicer_to_server(feeder, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'worker'}"}
    with tempfile.TemporaryDirectory() as local:
        command = [
            sys.executable,
            "-m",
            "cascade_worker",
            f"127.0.0.1:{port}",
            "--slots",
            "1",
            "--local-dir",
            local,
        ]
        if os.environ.get("MEASURE_PROFILE"):
            command[1:3] = ["-m", "cProfile", "-o", os.environ["MEASURE_PROFILE"], "-m", "cascade_worker"]
        process = subprocess.Popen(command, env=environment)  # noqa: ASYNC220
        await feeder.ready.wait()
        await asyncio.sleep(0.5)
        await feeder.run(500)
        trips = sorted([await feeder.run(1) for _ in range(1000)])
        print(f"one task: p50 {trips[500] * 1e6:.0f} µs, p99 {trips[990] * 1e6:.0f} µs")
        for _ in range(3):
            before, own = cpu_of(process.pid), time.process_time()
            feeder.batches = 0
            seconds = await feeder.run(tasks)
            own = time.process_time() - own
            after = {**cpu_of(process.pid), "feeder": own}
            used = {name: value - before.get(name, 0.0) for name, value in after.items()}
            parts = ", ".join(f"{name} {value / tasks * 1e6:.1f}" for name, value in used.items())
            batch = tasks / feeder.batches
            print(f"{tasks / seconds:,.0f} tasks/s; CPU µs per task: {parts}; {batch:.1f} reports a message")
        process.terminate()
        process.wait()
    await server.stop(0)


if __name__ == "__main__":
    import uvloop

    uvloop.run(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000))
