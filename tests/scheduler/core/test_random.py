"""Random graphs under random reports, losses and cancels: every run ends, and ends right.

The oracle is a plain recursive evaluation of the same graph.
"""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_scheduler.core import events as e
from cascade_scheduler.core.graph import EdgeKind, Graph, NodeKind, Retry
from cascade_scheduler.core.values import ErrorInfo, ObjectValue

from .harness import GraphMaker, Sim


def random_graph(rng: Random) -> Graph:
    make = GraphMaker()
    n = rng.randint(1, 25)
    lists: list[int] = []
    for i in range(n):
        earlier = range(len(make.spec_of))
        inputs = [s for s in earlier if rng.random() < 2.0 / (len(earlier) + 1)]
        options: dict[str, object] = {}
        if earlier and rng.random() < 0.2:
            options["run_if"] = rng.choice(list(earlier))
        if earlier and rng.random() < 0.15:
            options["after"] = [rng.choice(list(earlier))]
        if rng.random() < 0.3:
            options["retry"] = Retry(3, delay=rng.choice([0.0, 0.5]))
        if rng.random() < 0.2:
            options["asynchronous"] = True
        options["priority"] = rng.choice([0, 0, 0, 1])
        which = rng.random()
        if which < 0.15 and inputs:
            make.gather(*inputs)
        elif which < 0.25 and lists:
            make.call(f"map{i}", *inputs, items=[rng.choice(lists)], kind=NodeKind.MAP, **options)  # type: ignore[arg-type]
        else:
            lists.append(make.call(f"t{i}", *inputs, **options))  # type: ignore[arg-type]
    consumed = {s for edges in make.edges for s, _ in edges}
    make.gather(*[i for i in range(len(make.spec_of)) if i not in consumed])
    return make.graph()


def truth_of(node: int) -> bool:
    return node % 3 != 0


def length_of(node: int) -> int:
    return node % 4


def skipped(graph: Graph) -> set[int]:
    """The oracle: which nodes are skipped."""
    out: set[int] = set()
    for node in range(len(graph)):
        for s, kind in graph.sources(node):
            spec = graph.spec(s)
            if kind == EdgeKind.CONDITION:
                if spec.kind in (NodeKind.CALL, NodeKind.GATHER):
                    false = not truth_of(s)
                elif spec.kind == NodeKind.MAP:
                    [source] = [x for x, k in graph.sources(s) if k == EdgeKind.ITEMS]
                    false = length_of(source) == 0
                else:
                    false = False
                if s in out or false:
                    out.add(node)
            elif s in out:
                out.add(node)
    return out


def drive(seed: int, *, chaos: bool) -> None:
    rng = Random(seed)
    graph = random_graph(rng)
    sim = Sim(loss_budget=10_000, worker_grace=2.0)
    made = 0

    def add_worker() -> None:
        nonlocal made
        made += 1
        sim.worker(f"w{made}", cpu=rng.randint(1, 3), ahead=rng.randint(0, 8))

    add_worker()
    add_worker()
    sim.submit(graph)
    run = sim.core.runs["r"]
    steps = 0
    while run.live:
        steps += 1
        assert steps < 20_000, f"seed {seed}: the run does not end"
        calm = steps > 300
        dice = rng.random()
        if chaos and not calm and dice < 0.08 and sim.core.workers:
            sim.lose_worker(rng.choice(list(sim.core.workers)))
            add_worker()
        elif dice < 0.15 or not sim.open:
            sim.after(rng.choice([0.01, 0.6]))
            if not sim.core.workers:
                add_worker()
        else:
            some = rng.sample(list(sim.open), min(len(sim.open), rng.randint(1, 3)))
            reports = [outcome(rng, sim, attempt, chaos=chaos and not calm) for attempt in some]
            sim.report(*reports)
    expect = skipped(graph)
    assert {n for n in run.skips if n < len(graph)} == expect, f"seed {seed}"
    target_skipped = graph.target in expect
    if target_skipped:
        assert sim.ended.skip_reason
    else:
        assert sim.ended.state == "succeeded", f"seed {seed}: {sim.ended}"
    finished = [record.node for record in sim.events("TaskExecutionFinished")]
    assert len(finished) == len(set(finished)), f"seed {seed}: a node finished twice"
    assert not sim.core.attempts
    assert not sim.open


def outcome(rng: Random, sim: Sim, attempt: int, *, chaos: bool) -> e.Report:
    assign = sim.open[attempt]
    dice = rng.random()
    if chaos and dice < 0.1:
        return e.AttemptLost(attempt, "killed", innocent=rng.random() < 0.5)
    if assign.ahead and dice < 0.2:
        return e.AttemptReturned(attempt)
    if dice < 0.3 and assign.spec.retry is not None and assign.try_ < assign.spec.retry.max_attempts:
        return e.AttemptFailed(attempt, ErrorInfo("ValueError", "flaky"))
    value: bytes | ObjectValue = b"v%d" % assign.node
    if chaos and not assign.publish and rng.random() < 0.4:
        value = ObjectValue(attempt, 1 << 17, assign.worker, f"{assign.worker}:1")
    length = length_of(assign.node) if assign.observe & 2 else None
    items = tuple(b"i" for _ in range(length)) if length else ()
    truth = truth_of(assign.node) if assign.observe & 1 else None
    return e.AttemptDone(attempt, value, 0.001, truth=truth, length=length, items=items)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_random_graphs_end_right(seed: int) -> None:
    drive(seed, chaos=False)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=250, deadline=None)
def test_random_graphs_end_right_under_loss(seed: int) -> None:
    drive(seed, chaos=True)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(5000))
def test_many_random_graphs(seed: int) -> None:
    drive(seed, chaos=True)
