"""Random graphs whose scheduler is lost half way: resumed, they end as if nothing had happened.

No node whose result was stored is run again; objects, which went with their workers, are made again. Where
the next scheduler takes over at once, workers that come back still have theirs, and go on with what they run.
"""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cascade_scheduler.core import commands as c
from cascade_scheduler.core import events as e
from cascade_scheduler.core.cached import Recovered, StoredValue
from cascade_scheduler.core.graph import Graph, NodeKind
from cascade_scheduler.core.plans import solve
from cascade_scheduler.core.run import Run
from cascade_scheduler.core.values import ObjectValue
from cascade_scheduler.core.worker import Worker
from tests.scheduler.core.harness import Sim
from tests.scheduler.core.test_random import Oracle, check_inputs, outcome, random_graph


class Life:
    """One life of a scheduler, with workers that come and go."""

    def __init__(self, rng: Random, graph: Graph, oracle: Oracle, *, chaos: bool, number: int = 1) -> None:
        self.rng, self.graph, self.oracle, self.chaos, self.number = rng, graph, oracle, chaos, number
        self.sim = Sim(loss_budget=10_000, worker_grace=2.0, saves=True, chains=rng.random() < 0.7)
        self.sim.core.epoch = number
        self.history: list[c.Command] = []
        """What the schedulers before have said."""
        self.made = 0
        self.ran: set[tuple[int, int]] = set()
        """(node, child) of what was run to its end."""
        if number == 1:
            self.add_worker()
            self.add_worker()

    def add_worker(self) -> None:
        self.made += 1
        self.sim.worker(
            f"w{self.number}.{self.made}", cpu=self.rng.randint(1, 3), ahead=self.rng.randint(0, 8)
        )

    def begin(self, recovered: Recovered | None) -> Run:
        self.sim.turn(e.RunSubmitted("r", self.graph, solve(self.graph), recovered=recovered))
        return self.sim.core.runs["r"]

    def step(self, run: Run, *, calm: bool) -> None:
        sim, rng = self.sim, self.rng
        dice = rng.random()
        connected = [worker.id for worker in sim.core.workers.values() if worker.connected]
        if self.chaos and not calm and dice < 0.08 and connected:
            sim.lose_worker(rng.choice(connected))
            self.add_worker()
        elif dice < 0.15 or not sim.open:
            sim.after(rng.choice([0.01, 0.6]))
            if not sim.core.workers:
                self.add_worker()
        else:
            attempt = rng.choice(list(sim.open))
            assign = sim.open[attempt]
            check_inputs(sim, self.graph, self.oracle, assign)
            report = outcome(rng, sim, attempt, chaos=self.chaos and not calm)
            if isinstance(report, e.AttemptDone) and not assign.observe_only:
                self.ran.add(run.origin(assign.node))
            sim.report(report)

    def stored(self, run: Run) -> dict[tuple[int, int], StoredValue]:
        """What the store has, of which nothing is lost with the workers."""
        last = {run.origin(save.node): save for save in self.sim.of(c.SaveResult)}
        return {
            key: StoredValue(save.value, save.truth)
            for key, save in last.items()
            if not isinstance(save.value, ObjectValue)
        }

    def take_over(self, last: Life, run: Run) -> dict[tuple[int, int], StoredValue]:
        """Goes on where the last scheduler was; some of its workers come back. Returns the results it has."""
        workers = list(last.sim.core.workers.values())
        log = self.history = last.history + last.sim.log
        stored = {}
        for save in log:
            if isinstance(save, c.SaveResult):
                found = StoredValue(save.value, save.truth, save.length, save.attempt)
                stored[place_of(save.key)] = found
        for place, found in list(stored.items()):
            if isinstance(found.value, ObjectValue) and found.value.worker not in last.sim.core.workers:
                del stored[place]
        known = recovered_of(stored)
        saved = {save.node: save.facts for save in log if isinstance(save, c.SaveFacts)}
        calls = {node for node in saved if self.graph.spec(node).kind == NodeKind.CALL}
        facts = {node: found for node, found in saved.items() if node in known.nodes or node not in calls}
        attempts = {
            run.origin(node): e.LastAttempt(attempt, run.tries.get(node, 0) + 1, assign.worker, True)
            for node, attempt in run.nodes_active.items()
            if (assign := last.sim.open.get(attempt)) is not None
        }
        roster = tuple(e.WorkerKnown(w.id, w.name, tuple(w.amounts.items())) for w in workers)
        self.sim.turn(
            e.RosterKnown(roster, 1.0),
            e.RunRecovered(
                *("r", self.graph, solve(self.graph), "", "cancel", False, (), self.sim.now),
                known._replace(facts=facts),
                attempts,
            ),
        )
        for worker in workers:
            if self.rng.random() < 0.6:
                self.come_back(last, worker, {attempt.attempt for attempt in attempts.values()})
        return stored

    def come_back(self, last: Life, worker: Worker, running: set[int]) -> None:
        open_there = {a: assign for a, assign in last.sim.open.items() if assign.worker == worker.id}
        held = tuple(e.Held(attempt, "running") for attempt in open_there if attempt in running)
        objects = tuple(a for a, (_, _, holder) in last.sim.core.objects.items() if holder == worker.id)
        amounts = tuple(worker.amounts.items())
        hello = e.WorkerConnected(
            worker.id, worker.name, amounts, 1000, 4, f"{worker.id}:1", "", 0, held, objects
        )
        for command in self.sim.turn(hello):
            for attempt in command.keep if isinstance(command, c.WelcomeWorker) else ():
                node = self.sim.core.attempts[attempt].node  # a child may have another number now
                self.sim.open[attempt] = open_there[attempt]._replace(node=node)


def place_of(key: str) -> tuple[int, int]:
    """(node, child or -1) of a result's key."""
    node_id, bracket, index = key.partition("[")
    return int(node_id, 16), int(index.rstrip("]")) if bracket else -1


def recovered_of(stored: dict[tuple[int, int], StoredValue]) -> Recovered:
    children: dict[int, dict[int, StoredValue]] = {}
    for (node, index), found in stored.items():
        if index >= 0:
            children.setdefault(node, {})[index] = found
    return Recovered({node: found for (node, index), found in stored.items() if index < 0}, children)


def drive(seed: int, *, chaos: bool, routers: bool) -> None:
    rng = Random(seed)
    graph = random_graph(rng, routers=routers)
    oracle = Oracle(graph)
    stored: dict[tuple[int, int], StoredValue] = {}
    for _ in range(rng.randint(1, 3)):
        life = Life(rng, graph, oracle, chaos=chaos)
        run = life.begin(recovered_of(stored))
        for _ in range(rng.randint(0, 40)):
            if run.live:
                life.step(run, calm=False)
        assert not life.ran & set(stored), f"seed {seed}: what was stored ran again"
        stored.update(life.stored(run))
    life = Life(rng, graph, oracle, chaos=chaos)
    run = life.begin(recovered_of(stored))
    steps = 0
    while run.live:
        steps += 1
        assert steps < 20_000, f"seed {seed}: the run does not end"
        life.step(run, calm=steps > 300)
    assert not run.failed, f"seed {seed}: {run.error}"
    assert not life.ran & set(stored), f"seed {seed}: what was stored ran again"
    check_end(life.sim, run, oracle, stored, seed)


def take_over(seed: int, *, routers: bool) -> None:
    rng = Random(seed)
    graph = random_graph(rng, routers=routers)
    oracle = Oracle(graph)
    life = Life(rng, graph, oracle, chaos=True)
    run = life.begin(None)
    stored: dict[tuple[int, int], StoredValue] = {}
    lives = rng.randint(2, 3)
    for number in range(2, lives + 1):
        for _ in range(rng.randint(1, 60)):
            if run.live:
                life.step(run, calm=False)
        if not run.live:
            break
        last, life = life, Life(rng, graph, oracle, chaos=True, number=number)
        life.sim.now = last.sim.now
        stored = life.take_over(last, run)
        run = life.sim.core.runs["r"]
    steps = 0
    while run.live:
        steps += 1
        assert steps < 20_000, f"seed {seed}: the run does not end"
        life.step(run, calm=steps > 300)
    assert not run.failed, f"seed {seed}: {run.error}"
    kept = {key: value for key, value in stored.items() if not isinstance(value.value, ObjectValue)}
    assert not life.ran & set(kept), f"seed {seed}: what was stored ran again"
    check_end(life.sim, run, oracle, kept, seed)


def check_end(
    sim: Sim, run: Run, oracle: Oracle, stored: dict[tuple[int, int], StoredValue], seed: int
) -> None:
    reasons = {node: skip.reason for node, skip in run.skips.items() if node < run.graph.size}
    for node, reason in reasons.items():
        assert reason in (oracle.reasons.get(node), "Pruned"), f"seed {seed}: node {node}"
        assert (node, -1) not in stored, f"seed {seed}: a node with a result was skipped"
    routed = run.plan.routed  # a router may prune what else only done nodes needed
    for record in sim.events("TaskSkipped"):
        expected = record.reason == oracle.reasons.get(record.node)
        assert expected or (routed and record.reason == "Pruned"), f"seed {seed}: node {record.node}"
    target = run.graph.target
    if target in oracle.reasons:
        assert sim.ended.skip_reason == oracle.reasons[target], f"seed {seed}"
    else:
        assert sim.ended.state == "succeeded", f"seed {seed}: {sim.ended}"
    assert not sim.core.attempts


@given(seed=st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_random_graphs_are_resumed(seed: int) -> None:
    drive(seed, chaos=False, routers=seed % 2 == 0)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=300, deadline=None)
def test_random_graphs_are_resumed_under_loss(seed: int) -> None:
    drive(seed, chaos=True, routers=seed % 2 == 0)


@given(seed=st.integers(0, 2**32))
@example(
    seed=690911174
)  # an object in a chosen branch is lost, and only it needs what else is in that branch
@example(seed=2247744450)  # objects of a map's children are lost before the map has its list again
@example(seed=287032950)  # the same, when the loss of another object is what has the map go on
@example(seed=2962526392)  # an async attempt goes on
@settings(max_examples=300, deadline=None)
def test_random_graphs_are_taken_over(seed: int) -> None:
    take_over(seed, routers=seed % 4 != 0)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3000))
def test_many_random_graphs_are_resumed(seed: int) -> None:
    drive(seed, chaos=seed % 4 != 0, routers=seed % 2 == 0)
    take_over(seed, routers=seed % 4 != 0)
