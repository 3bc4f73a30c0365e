"""Programs on the real compiler, the real wire and the real scheduler core, all in this process.

Nothing here waits: the clock jumps, and chance decides who goes next. Workers execute (see `worker`), are
lost with their objects, come back, and report late and in any order.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from cascade_dist.client.tracker import _task_error, assemble
from cascade_dist.codec.values import load
from cascade_dist.graph.build import Compilation
from cascade_dist.v1 import client_pb2, value_pb2, worker_pb2
from cascade_dist.wire.graphs import Upload, encode_graph
from cascade_scheduler.core import commands as c
from cascade_scheduler.core import events as e
from cascade_scheduler.core import views
from cascade_scheduler.core.invariants import check
from cascade_scheduler.core.plans import PlanCache, solve
from cascade_scheduler.core.state import Core, Settings
from cascade_scheduler.core.values import BlobValue
from cascade_scheduler.functions import FunctionBody, FunctionStore
from cascade_scheduler.hub import Bounds
from cascade_scheduler.tails import Tails
from cascade_scheduler.wire.graphs import GraphAssembly
from cascade_scheduler.wire.reports import reports_from
from cascade_scheduler.wire.shapes import ShapeCache
from cascade_scheduler.wire.updates import fill_finish, fill_results
from cascade_scheduler.wire.values import fill_value
from cascade_scheduler.wire.work import WorkEncoder
from tests.simulation.outcome import Happened, Outcome, told
from tests.simulation.programs import Program, build
from tests.simulation.worker import Depot, Worker

__all__ = ["Simulation", "simulate"]

RUN = "r"
STEPS_MAX = 5_000
CALM_AFTER = 400
"""After so many steps nothing is lost any more, so that every run ends."""


@cache
def _depot() -> Depot:
    directory = Path(tempfile.mkdtemp(prefix="cascade-simulation-"))
    import atexit

    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return Depot(directory)


def simulate(program: Program, seed: int, *, chaos: bool) -> Outcome:
    """What comes of a program.

    Args:
        program: the program.
        seed: decides the order in which things happen, what is small, and what is lost.
        chaos: whether workers, executors and objects are lost.
    """
    depot = _depot()
    try:
        simulation = Simulation(depot, Random(seed), chaos)
        simulation.submit(program)
        simulation.play()
        return simulation.outcome()
    finally:
        depot.clear()


class _Shell:
    """What the reader of returned targets needs of the scheduler's shell."""

    solver = None
    keeps_graphs = False
    graph_bytes = 0

    def __init__(self, core: Core, functions: FunctionStore, depot: Depot) -> None:
        self.core = core
        self.functions = functions
        self.blobs = depot
        self.bounds = Bounds()
        self.plans = PlanCache()
        self.shapes = ShapeCache()
        self.runs: dict[str, Any] = {}

    def pin(self, cids: Any) -> None:
        """Everything is kept."""

    unpin = pin


class Simulation:
    """One run of one program."""

    def __init__(self, depot: Depot, rng: Random, chaos: bool) -> None:
        self._depot = depot
        self._rng = rng
        self._chaos = chaos
        self._inline_max = rng.choice((40, 120, 65_536))
        chains = rng.random() < 0.75
        self._core = Core(Settings(loss_budget=10_000, worker_grace=2.0, chains=chains))
        self._functions = FunctionStore()
        self._tails = Tails(_Shell(self._core, self._functions, depot))  # type: ignore[arg-type]
        self._now = 1000.0
        self._workers: dict[str, Worker] = {}
        self._encoders: dict[str, WorkEncoder] = {}
        self._away: list[str] = []
        """Workers whose stream is broken."""
        self._hired = 0
        self._log: list[c.Command] = []
        for _ in range(rng.randint(1, 3)):
            self._hire()

    # --- the client's side ----------------------------------------------------------------------------

    def submit(self, program: Program) -> None:
        """Compiles the program, sends it over the wire, and starts the run."""
        compilation = Compilation(build(program), program.params)
        assembly = GraphAssembly(nodes_max=100_000, bytes_max=1 << 30)
        end = client_pb2.Submit()
        for item in encode_graph(compilation, run_id=RUN, inline_max=max(200, self._inline_max)):  # type: ignore[arg-type]
            if isinstance(item, Upload):
                cid = self._depot.put_blob(b"".join(map(bytes, item.pieces())))
                assert cid == item.cid
                continue
            end = client_pb2.Submit.FromString(item.message.SerializeToString())
            for f in end.chunk.functions:
                self._functions.put(FunctionBody(f.cid, f.body, f.name, f.code_hash))
            assembly.add(end.chunk)
        graph = assembly.finish(end.end)
        self._turn(e.RunSubmitted(RUN, graph, solve(graph), on_failure=program.on_failure))

    def outcome(self) -> Outcome:
        """What the client would be told, and what happened."""
        events = self._of(c.EventRecord)
        happened = Happened()
        for record in events:
            happened.add(record.kind, record.task, record.status, record.reason)
        [ended] = self._of(c.RunEnded)
        return Outcome(*self._value_or_error(ended), happened)

    def _value_or_error(self, ended: c.RunEnded) -> tuple[str, Any, BaseException | None]:
        run = self._core.runs[RUN]
        has_value = ended.state == "succeeded" and not ended.skip_reason
        message = client_pb2.RunFinish()
        fill_finish(message, ended, views.target_tree(run) if has_value else None, views.progress(run))
        finish = client_pb2.RunFinish.FromString(message.SerializeToString())
        if finish.skip_reason:
            return told(finish.skip_reason)
        if finish.state == client_pb2.RUN_STATE_FAILED:
            return "failed", None, _task_error(finish, RUN)
        assert finish.state == client_pb2.RUN_STATE_SUCCEEDED, finish
        results = [(command.node, command.value) for command in self._of(c.TargetValue)]
        update = client_pb2.RunUpdate()
        assert fill_results(update, results, 0, len(results)) == len(results)
        update = client_pb2.RunUpdate.FromString(update.SerializeToString())
        values = {result.node: self._loaded(result.value) for result in update.results}
        blobs = {cid: self._depot.blob(cid) for cid in _template_cids(finish.tree)}
        return "value", assemble(finish.tree, values, blobs), None

    def _loaded(self, value: value_pb2.Value) -> Any:
        form = value.WhichOneof("form")
        assert form in ("inline", "blob"), form
        return load(value.inline if form == "inline" else self._depot.blob(value.blob.cid))

    # --- turns ----------------------------------------------------------------------------------------

    def _turn(self, *events: e.Event) -> None:
        commands = self._core.turn(events, self._now)
        self._log += commands
        orders: dict[str, list[c.Command]] = {}
        for command in commands:
            if isinstance(command, c.Assign | c.RetractAttempt | c.CancelAttempt | c.ReleaseObject):
                orders.setdefault(command.worker, []).append(command)
        for name, some in orders.items():
            if name in self._workers and name not in self._away:
                self._send(name, some)
        check(self._core)

    def _send(self, name: str, orders: list[c.Command]) -> None:
        """What the scheduler says to a worker, over the wire."""
        assigns = [order for order in orders if isinstance(order, c.Assign)]
        release = [order.attempt for order in orders if isinstance(order, c.ReleaseObject)]
        worker = self._workers[name]
        for message in self._encoders[name].encode(assigns, release=release):
            worker.take(worker_pb2.ConnectResponse.FromString(message.SerializeToString()))
        for order in orders:  # a worker may find that it is too late for either
            if isinstance(order, c.RetractAttempt) and self._rng.random() < 0.7:
                worker.give_back(order.attempt)
            if isinstance(order, c.CancelAttempt) and self._rng.random() < 0.7:
                worker.cancel(order.attempt)

    def _of(self, kind: type[Any]) -> list[Any]:
        return [command for command in self._log if isinstance(command, kind)]

    # --- what happens ---------------------------------------------------------------------------------

    def play(self) -> None:
        """Lets things happen until the run has ended."""
        run = self._core.runs[RUN]
        for step in range(STEPS_MAX):
            if not run.live:
                return
            dice = self._rng.random()
            if self._chaos and step < CALM_AFTER and dice < 0.08:
                self._misfortune()
            else:
                self._progress()
        raise AssertionError(f"the run does not end: {list(views.open_nodes(self._core, run, 20))}")

    def _progress(self) -> None:
        present = [worker for name, worker in self._workers.items() if name not in self._away]
        busy = [worker for worker in present if worker.waiting]
        saying = [worker for worker in present if worker.endings]
        if busy and self._rng.random() < 0.6:
            worker = self._rng.choice(busy)
            attempt = self._rng.choice(list(worker.waiting))
            worker.execute(attempt)
            if self._rng.random() < 0.2 and worker.waiting:
                self._report(worker, 0, (next(iter(worker.waiting)),))
        elif saying:
            worker = self._rng.choice(saying)
            self._report(worker, self._rng.randint(1, len(worker.endings)))
        elif not busy:
            self._let_time_pass()

    def _report(self, worker: Worker, count: int, started: tuple[int, ...] = ()) -> None:
        reports = worker.report(count, started)
        self._now += 0.001
        self._turn(
            e.WorkerReported(
                worker.name,
                reports_from(worker.name, reports.reports, self._tails.read),
                tuple(reports.started),
            )
        )

    def _let_time_pass(self) -> None:
        if self._away and self._rng.random() < 0.5:
            self._come_back(self._rng.choice(self._away))
            return
        if not self._workers:
            self._hire()
            return
        wakeup = self._core.next_wakeup
        self._now = max(self._now + 0.01, wakeup or 0.0)
        self._turn(e.Tick())
        for name in [name for name in self._workers if name not in self._core.workers]:
            self._bury(name)

    # --- workers --------------------------------------------------------------------------------------

    def _hire(self) -> None:
        self._hired += 1
        name = f"w{self._hired}"
        self._workers[name] = Worker(
            name,
            self._depot,
            self._deferred,
            inline_bytes_max=self._inline_max,
            cpu=self._rng.randint(1, 3),
            ahead=self._rng.randint(0, 8),
            fast=self._rng.random() < 0.5,
        )
        self._connect(name, ())

    def _connect(self, name: str, held: tuple[e.Held, ...]) -> None:
        self._encoders[name] = WorkEncoder(self._functions.get, lambda _: False)
        worker = self._workers[name]
        worker.begin_session()
        self._turn(
            e.WorkerConnected(
                name,
                name,
                (("cpu", worker.cpu * 1_000_000),),
                1000,
                worker.ahead,
                name,
                held=held,
                objects=tuple(worker.objects()),
            )
        )

    def _misfortune(self) -> None:
        dice = self._rng.random()
        present = [name for name in self._workers if name not in self._away]
        if not present:
            return
        name = self._rng.choice(present)
        worker = self._workers[name]
        if dice < 0.3:
            self._bury(name)
            self._turn(e.WorkerDisconnected(name, "killed", gone=True))
            self._hire()
        elif dice < 0.6 and worker.waiting:
            worker.crash(self._rng.choice(list(worker.waiting)), innocent=self._rng.random() < 0.5)
        elif dice < 0.8:
            self._away.append(name)
            self._turn(e.WorkerDisconnected(name, "the stream broke"))
        elif worker.objects():
            worker.lose_object(self._rng.choice(worker.objects()))

    def _come_back(self, name: str) -> None:
        """Its stream is there again; it says what it holds."""
        self._away.remove(name)
        worker = self._workers[name]
        before = len(self._log)
        self._connect(name, tuple(e.Held(*held) for held in worker.held()))
        for command in self._log[before:]:
            if isinstance(command, c.WelcomeWorker):
                for attempt in command.drop:
                    worker.drop(attempt)
                for attempt in command.release:
                    worker.lose_object(attempt)

    def _bury(self, name: str) -> None:
        """A worker is no more, nor is what it had."""
        worker = self._workers.pop(name)
        if name in self._away:
            self._away.remove(name)
        for attempt in worker.objects():
            worker.lose_object(attempt)

    def _deferred(
        self, reference: value_pb2.DeferredValue
    ) -> tuple[bytes | value_pb2.BlobRef | None, list[value_pb2.Value]]:
        """A list or container that is too large for an assignment."""
        found = views.fetch_value(self._core, reference.run_id, reference.node)
        assert found is not None, "the scheduler named a value that it does not have"
        template, parts = found
        values = []
        for part in parts:
            values.append(value_pb2.Value())
            fill_value(values[-1], part)
        if isinstance(template, BlobValue):
            return value_pb2.BlobRef(cid=template.cid, size_bytes=template.size), values
        return template, values


def _template_cids(tree: client_pb2.TargetTree) -> Iterator[bytes]:
    shape = tree.WhichOneof("shape")
    if shape == "compound":
        if tree.compound.HasField("template_blob"):
            yield tree.compound.template_blob.cid
        for item in tree.compound.inputs:
            yield from _template_cids(item)
    elif shape == "list":
        for item in tree.list.items:
            yield from _template_cids(item)
