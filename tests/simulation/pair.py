"""Both cores joined by messages that take their time: what one believes of the other has to come true.

A scheduler's core and the cores of some workers, with everything around them made up: executors, streams that
break, and chance that decides who goes next. After every turn of every core its invariants are checked.
"""

from __future__ import annotations

from collections import deque
from random import Random
from typing import Any

from cascade_scheduler.core import commands as c
from cascade_scheduler.core import events as e
from cascade_scheduler.core import invariants as scheduler_invariants
from cascade_scheduler.core.cached import Recovered, StoredValue
from cascade_scheduler.core.graph import Graph
from cascade_scheduler.core.limits import PAUSE, Constraint, checked
from cascade_scheduler.core.plans import solve
from cascade_scheduler.core.run import Run
from cascade_scheduler.core.state import Core as SchedulerCore
from cascade_scheduler.core.state import Settings
from cascade_scheduler.core.values import ErrorInfo, OpenValue
from cascade_worker.core import Core as WorkerCore
from cascade_worker.core import Limits, commands, events, invariants
from cascade_worker.core.commands import EndingKind
from cascade_worker.core.state import Phase

__all__ = ["Pair", "WorkerSide", "value_of"]

HELD = {
    Phase.WAITING: "waiting",
    Phase.SENT: "waiting",
    Phase.RUNNING: "running",
    Phase.STORING: "running",
    Phase.FINISHED: "finished",
}
CPU = 1_000_000


def value_of(node: int) -> bytes:
    """What a node returns."""
    return b"v%d" % node


class WorkerSide:
    """A worker's core, its executors, and the stream between it and the scheduler."""

    def __init__(self, pair: Pair, name: str) -> None:
        self.pair = pair
        self.name = name
        cpu = pair.rng.randint(1, 2)
        self.amounts = {"cpu": cpu * CPU}
        self.core = WorkerCore(self.amounts, Limits(slots=cpu, executors_max=cpu + 2))
        self.connected = False
        self.down: deque[list[c.Command]] = deque()
        """Orders on their way, by turn."""
        self.up: deque[commands.SendReports] = deque()
        self.acked = 1
        """Of its messages, how many the scheduler has read."""
        self.sequence = 1
        self.bodies: dict[Any, int] = {}
        self.tasks: dict[int, deque[int]] = {}
        """What executors have, in order; the first runs."""
        self.orders: dict[int, c.Assign] = {}
        self.made: dict[int, bytes] = {}
        """What followers were given."""

    def turn(self, *happened: events.Event) -> None:
        """One turn and all that it sets in motion."""
        queue = list(happened)
        while queue:
            out = self.core.turn(self.pair.now, queue)
            invariants.check(self.core.state)
            queue = [event for command in out for event in self.carry_out(command)]

    def carry_out(self, command: commands.Command) -> list[events.Event]:
        """What a shell would do."""
        match command:
            case commands.StartExecutor(executor, _):
                self.tasks[executor] = deque()
                return [events.ExecutorStarted(executor)]
            case commands.SendTasks(executor, attempts):
                for attempt in attempts:
                    self.pair.starts(self.orders[attempt])
                self.tasks[executor].extend(attempts)
            case commands.Reclaim(executor):
                tasks = self.tasks[executor]
                back = tuple(tasks)[1:]
                for attempt in back:
                    tasks.remove(attempt)
                return [events.ExecutorReclaimed(executor, back)]
            case commands.FetchInputs(attempt, made):
                assert isinstance(made, bytes)
                self.made[attempt] = made
                return [events.InputsReady(attempt)]
            case commands.StopAttempt(executor, attempt, _):
                result = events.Result(attempt, False, None, 1000, stopped=True)
                self.tasks[executor].remove(attempt)
                return [events.ExecutorReported(executor, [result])]
            case commands.CloseExecutor(executor) | commands.KillExecutor(executor):
                return [self.death(executor)]
            case commands.EndSession(reason):
                raise AssertionError(reason)
        return []

    def death(self, executor: int) -> events.ExecutorDied:
        """An executor's process ends."""
        return events.ExecutorDied(executor, "killed", tuple(self.tasks.pop(executor))[1:])

    # --- what happens -------------------------------------------------------------------------------

    def deliver_down(self) -> None:
        """The next orders come."""
        orders = self.down.popleft()
        known, assigned = [], []
        for order in orders:
            if isinstance(order, c.Assign):
                key = (order.run_id, id(order.spec))
                if key not in self.bodies:
                    self.bodies[key] = len(self.bodies) + 1
                    facts = (order.spec.name, order.function, False, None, order.spec.amounts)
                    known.append(events.BodyKnown(self.bodies[key], 1, *facts))
                self.orders[order.attempt] = order
                ready = not order.behind
                assigned.append(
                    events.Assigned(
                        order.attempt,
                        self.bodies[key],
                        order.ahead,
                        ready,
                        order.amounts,
                        behind=order.behind,
                    )
                )
        self.sequence += 1
        self.turn(
            events.WorkReceived(
                self.sequence,
                self.acked,
                tuple(known),
                tuple(assigned),
                tuple(order.attempt for order in orders if isinstance(order, c.RetractAttempt)),
                tuple(order.attempt for order in orders if isinstance(order, c.CancelAttempt)),
                promise=max((o.number for o in orders if isinstance(o, c.AskPromise)), default=0),
            )
        )

    def say(self) -> None:
        """It says what it has to say."""
        said = self.core.flush()
        invariants.check(self.core.state)
        if said is not None:
            self.up.append(said)

    def work(self) -> None:
        """Some executor ends what it runs."""
        busy = [executor for executor, tasks in self.tasks.items() if tasks]
        if not busy:
            return
        executor = self.pair.rng.choice(busy)
        if self.pair.chaos and self.pair.rng.random() < 0.03:
            self.turn(self.death(executor))
            return
        attempt = self.tasks[executor].popleft()
        result = self.pair.result(self.orders[attempt], self.made.get(attempt))
        self.turn(events.ExecutorReported(executor, [result]))

    def reports(self, message: commands.SendReports) -> e.WorkerReported:
        """A message as the scheduler reads it."""
        found = [self.pair.report(self.orders[attempt], ending) for attempt, ending in message.endings]
        return e.WorkerReported(
            self.name, tuple(found), message.started, draining=message.draining, promised=message.promised
        )


class Pair:
    """A cluster.

    Args:
        seed: decides everything.
        chains: followers are sent.
        chaos: streams break, executors die and workers are lost.
        restarts: so are schedulers.
    """

    def __init__(self, seed: int, *, chains: bool, chaos: bool, restarts: bool = False) -> None:
        self.rng = Random(seed)
        self.chaos = chaos
        self.restarts = restarts
        self.now = 1000.0
        self.chains = chains
        self.epoch = 0
        self.core = self.scheduler()
        self.workers: dict[str, WorkerSide] = {}
        self.hired = 0
        self.log: list[c.Command] = []
        self.runs: dict[str, Run] = {}
        """As the scheduler that ended them saw them."""
        self.executed: list[tuple[str, int]] = []
        """(run, node) of every call that returned."""
        self.adopted = 0
        """Followers that a scheduler took over."""
        self.began = 0
        """Followers that were given their input."""
        self.paused = False
        """A pause is set, and who set it was answered."""
        self.requests = 0
        for _ in range(self.rng.randint(1, 3)):
            self.hire()

    def scheduler(self) -> SchedulerCore:
        """A scheduler that knows nothing."""
        self.epoch += 1
        settings = Settings(chains=self.chains, loss_budget=10_000, worker_grace=2.0)
        return SchedulerCore(settings, epoch=self.epoch)

    def restart(self) -> None:
        """The scheduler dies, and another one goes on with what is stored; workers are still there."""
        live = [run for run in self.core.runs.values() if run.live]
        roster = tuple(e.WorkerKnown(w.name, w.name, tuple(w.amounts.items())) for w in self.workers.values())
        for worker in self.workers.values():
            if worker.connected:
                self.disconnect(worker)
        self.core = self.scheduler()
        self.turn(e.RosterKnown(roster, 5.0), *(self.recovered(run.run_id, run.graph) for run in live))
        self.adopted += len(self.core.followers)
        self.runs.update({run.run_id: self.core.runs[run.run_id] for run in live})

    def recovered(self, run_id: str, graph: Graph) -> e.RunRecovered:
        """What is stored of a run."""
        attempts: dict[tuple[int, int], e.LastAttempt] = {}
        results: dict[int, StoredValue] = {}
        skipped: set[int] = set()
        dues: dict[tuple[int, int], tuple[int, float]] = {}
        cancelled = False
        for record in self.log:
            if getattr(record, "run_id", "") != run_id:
                continue
            match record:
                case c.SaveAttempt():
                    last = e.LastAttempt(
                        record.attempt, record.try_, record.worker, False, behind=record.behind
                    )
                    attempts[record.node, -1] = last
                    dues.pop((record.node, -1), None)
                case c.SaveResult():
                    facts = (record.truth, record.length, record.attempt)
                    results[record.node] = StoredValue(record.value, *facts)
                case c.SaveDue():
                    dues[record.node, record.child] = (record.tries, record.at)
                    attempts.pop((record.node, record.child), None)
                case c.SaveSkip():
                    skipped.add(record.node)
                case c.SaveCancel():
                    cancelled = True
        facts_seen = {r.node: r.facts for r in self.log if isinstance(r, c.SaveFacts) and r.run_id == run_id}
        recovered = Recovered(results, facts=facts_seen, skipped=frozenset(skipped))
        return e.RunRecovered(
            run_id, graph, solve(graph), "", "cancel", False, (), self.now, recovered, attempts, dues,
            cancelled=cancelled,
        )  # fmt: skip

    def turn(self, *happened: e.Event) -> None:
        """One turn of the scheduler; its orders go on their way."""
        out = self.core.turn(happened, self.now)
        scheduler_invariants.check(self.core)
        self.log += out
        orders: dict[str, list[c.Command]] = {}
        for command in out:
            if isinstance(command, c.Assign | c.RetractAttempt | c.CancelAttempt | c.AskPromise):
                orders.setdefault(command.worker, []).append(command)
            elif isinstance(command, c.ConstraintsAnswered) and command.request == self.requests:
                self.paused = bool(command.constraints) and self.requests % 2 == 1
            elif isinstance(command, c.RunEnded):
                self.check_stopped(command.run_id)
        for name, some in orders.items():
            worker = self.workers.get(name)
            if worker is not None and worker.connected:
                worker.down.append(some)

    def check_stopped(self, run_id: str) -> None:
        """A run has ended: nothing of it runs where the scheduler could know."""
        for worker in self.workers.values():
            if worker.connected:
                for tasks in worker.tasks.values():
                    assert not any(worker.orders[attempt].run_id == run_id for attempt in tasks)

    def submit(self, run_id: str, graph: Graph) -> None:
        """A run begins."""
        self.turn(e.RunSubmitted(run_id, graph, solve(graph)))
        self.runs[run_id] = self.core.runs[run_id]

    # --- what tasks do ------------------------------------------------------------------------------

    def starts(self, order: c.Assign) -> None:
        """A worker starts an attempt."""
        assert not self.paused, f"node {order.node} starts under a pause"

    def result(self, order: c.Assign, made: bytes | None) -> events.Result:
        """What comes of a call; its inputs are what they have to be."""
        graph = self.runs[order.run_id].graph
        sources = graph.inputs(order.node)
        for source, value in zip(sources, order.inputs, strict=True):
            given = made if isinstance(value, OpenValue) else value
            assert given == value_of(source), (order.node, source, given)
        self.began += made is not None
        retried = order.spec.retry is not None and order.try_ < order.spec.retry.max_attempts
        if retried and self.rng.random() < 0.5:
            return events.Result(order.attempt, False, None, 1000)
        self.executed.append((order.run_id, order.node))
        return events.Result(order.attempt, True, value_of(order.node), self.rng.choice((1000, 30_000_000)))

    def report(self, order: c.Assign, ending: commands.Ending) -> e.Report:
        """How an attempt ended, as the scheduler reads it."""
        attempt = order.attempt
        match ending.kind:
            case EndingKind.DONE:
                assert isinstance(ending.payload, bytes)
                truth = order.node % 3 != 0 if order.observe & 1 else None
                amount = CPU // 2 if order.observe & 8 else None
                seconds = ending.duration_ns * 1e-9
                return e.AttemptDone(attempt, ending.payload, seconds, truth=truth, amount=amount)
            case EndingKind.FAILED:
                return e.AttemptFailed(attempt, ErrorInfo("ValueError", "flaky"))
            case EndingKind.RETURNED:
                return e.AttemptReturned(attempt)
            case EndingKind.CANCELLED:
                return e.AttemptCancelled(attempt)
            case EndingKind.LOST:
                return e.AttemptLost(attempt, ending.reason, ending.flag)
        raise AssertionError(ending)

    # --- what happens -------------------------------------------------------------------------------

    def step(self) -> None:
        """Something happens."""
        rng = self.rng
        self.now += rng.choice((0.0, 0.0001, 0.001, 0.03))
        worker = rng.choice(list(self.workers.values()))
        dice = rng.random()
        if self.chaos and dice < 0.03:
            self.misfortune(worker)
        elif not worker.connected:
            if rng.random() < 0.3:
                self.connect(worker)
        elif dice < 0.3 and worker.down:
            worker.deliver_down()
        elif dice < 0.5 and worker.up:
            self.deliver_up(worker)
        elif dice < 0.65:
            worker.say()
        elif dice < 0.9:
            worker.work()
        elif dice < 0.95:
            worker.turn(events.Ticked())
        else:
            self.now += rng.choice((0.001, 0.6))
            self.turn(e.Tick())
            for name in [name for name in self.workers if name not in self.core.workers]:
                del self.workers[name]
                self.hire()

    def deliver_up(self, worker: WorkerSide) -> None:
        """The scheduler reads a message."""
        message = worker.up.popleft()
        self.turn(worker.reports(message))
        worker.acked = message.sequence

    def misfortune(self, worker: WorkerSide) -> None:
        """A stream breaks, a worker is lost, or the scheduler is."""
        dice = self.rng.random()
        if dice < 0.6 and worker.connected:
            self.disconnect(worker)
            self.turn(e.WorkerDisconnected(worker.name, "the stream broke"))
        elif dice < 0.8:
            del self.workers[worker.name]
            self.turn(e.WorkerDisconnected(worker.name, "killed", gone=True))
            self.hire()
        elif dice < 0.9 and self.restarts:
            self.restart()

    def disconnect(self, worker: WorkerSide) -> None:
        """What was on its way is lost."""
        worker.connected = False
        worker.down.clear()
        worker.up.clear()
        worker.turn(events.Disconnected())

    def hire(self) -> None:
        """One more worker."""
        self.hired += 1
        worker = self.workers[f"w{self.hired}"] = WorkerSide(self, f"w{self.hired}")
        self.connect(worker)

    def connect(self, worker: WorkerSide) -> None:
        """Hello and Welcome; work goes on between them."""
        held = tuple(e.Held(attempt, HELD[phase]) for attempt, phase in worker.core.held())
        for _ in range(self.rng.randint(0, 2)):
            worker.work()
        worker.connected, worker.sequence, worker.acked = True, 1, 1
        worker.bodies.clear()
        amounts = tuple(worker.amounts.items())
        ahead = self.rng.randint(0, 12)
        self.turn(e.WorkerConnected(worker.name, worker.name, amounts, 100, ahead, "", held=held))
        [welcome] = [command for command in self.log[-200:] if self.is_answer(command, worker)][-1:]
        assert isinstance(welcome, c.WelcomeWorker)
        worker.turn(events.Connected(1, welcome.keep, welcome.drop, welcome.known, 0.5))

    @staticmethod
    def is_answer(command: c.Command, worker: WorkerSide) -> bool:
        """The command answers a worker's Hello."""
        return isinstance(command, c.WelcomeWorker) and command.worker == worker.name

    def pause(self) -> None:
        """Everything is paused, or goes on."""
        self.requests += 1
        if self.requests % 2:
            made = checked(Constraint("", "global", PAUSE), self.now)
            self.turn(e.ConstraintSet(made, self.requests))
        else:
            self.paused = False
            self.turn(e.ConstraintsCleared(self.requests))

    def settle(self) -> None:
        """Lets all messages arrive, until nobody holds anything."""
        self.chaos = False
        for _ in range(500):
            self.now += 0.1
            for worker in self.workers.values():
                if not worker.connected:
                    self.connect(worker)
                worker.say()
                while worker.up:
                    self.deliver_up(worker)
                while worker.down:
                    worker.deliver_down()
                worker.sequence += 1
                worker.turn(events.MarkMoved(worker.sequence, worker.acked))
                worker.work()
            if not any(worker.core.state.attempts for worker in self.workers.values()):
                return
        raise AssertionError("workers hold what nobody wants")
