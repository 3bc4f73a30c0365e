"""Random graphs whose scheduler is lost half way: resumed, they end as if nothing had happened.

No node whose result was stored is run again; objects, which went with their workers, are made again.
"""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_scheduler.core import commands as c
from cascade_scheduler.core import events as e
from cascade_scheduler.core.cached import Recovered, StoredValue
from cascade_scheduler.core.graph import Graph
from cascade_scheduler.core.plans import solve
from cascade_scheduler.core.run import Run
from cascade_scheduler.core.values import ObjectValue
from tests.scheduler.core.harness import Sim
from tests.scheduler.core.test_random import Oracle, check_inputs, outcome, random_graph


class Life:
    """One life of a scheduler, with workers that come and go."""

    def __init__(self, rng: Random, graph: Graph, oracle: Oracle, *, chaos: bool) -> None:
        self.rng, self.graph, self.oracle, self.chaos = rng, graph, oracle, chaos
        self.sim = Sim(loss_budget=10_000, worker_grace=2.0, saves=True, chains=rng.random() < 0.7)
        self.made = 0
        self.ran: set[tuple[int, int]] = set()
        """(node, child) of what was run to its end."""
        self.add_worker()
        self.add_worker()

    def add_worker(self) -> None:
        self.made += 1
        self.sim.worker(f"w{self.made}", cpu=self.rng.randint(1, 3), ahead=self.rng.randint(0, 8))

    def begin(self, recovered: Recovered | None) -> Run:
        self.sim.turn(e.RunSubmitted("r", self.graph, solve(self.graph), recovered=recovered))
        return self.sim.core.runs["r"]

    def step(self, run: Run, *, calm: bool) -> None:
        sim, rng = self.sim, self.rng
        dice = rng.random()
        if self.chaos and not calm and dice < 0.08 and sim.core.workers:
            sim.lose_worker(rng.choice(list(sim.core.workers)))
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


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3000))
def test_many_random_graphs_are_resumed(seed: int) -> None:
    drive(seed, chaos=seed % 4 != 0, routers=seed % 2 == 0)
