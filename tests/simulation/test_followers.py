"""Chains under followers, with messages in flight: the same outcome as without, and nothing is left over."""

from __future__ import annotations

from random import Random

import pytest

from cascade_scheduler.core import commands as c
from cascade_scheduler.core import events as e
from cascade_scheduler.core.graph import Graph, Retry
from tests.scheduler.core.harness import GraphMaker
from tests.scheduler.core.test_random import Oracle
from tests.simulation.pair import Pair

STEPS_MAX = 20_000
CALM_AFTER = 1_500


def chains(rng: Random) -> Graph:
    """Nodes that mostly follow one another."""
    make = GraphMaker()
    ends: list[int] = []
    for _ in range(rng.randint(1, 3)):
        last = -1
        for _ in range(rng.randint(1, 14)):
            inputs = [last] if last >= 0 else []
            if ends and rng.random() < 0.15:
                inputs.append(rng.choice(ends))
            calls = [n for n in range(len(make.spec_of)) if n not in inputs]
            name = rng.choice("abc")
            last = make.call(
                name,
                *inputs,
                run_if=rng.choice(calls) if calls and rng.random() < 0.05 else None,
                after=[rng.choice(calls)] if calls and rng.random() < 0.05 else [],
                retry=Retry(3, delay=rng.choice([0.0, 0.01])) if rng.random() < 0.15 else None,
                amounts=(("cpu", rng.choice((1_000_000, 1_000_000, 500_000))),),
                priority=rng.choice((0, 0, 0, 1)),
                lazy={"cpu": rng.choice(calls)} if calls and rng.random() < 0.05 else None,
            )
            if rng.random() < 0.1:
                ends.append(last)
        ends.append(last)
    consumed = {s for edges in make.edges for s, _ in edges}
    make.gather(*[node for node in range(len(make.spec_of)) if node not in consumed])
    return make.graph()


def live(
    seed: int,
    *,
    on: bool,
    chaos: bool,
    cancel: bool = False,
    pauses: bool = False,
    restarts: bool = False,
) -> Pair:
    """One life of two runs."""
    rng = Random(seed)
    graphs = {"r": chains(rng), "s": chains(rng)}
    pair = Pair(seed, chains=on, chaos=chaos, restarts=restarts)
    pair.submit("r", graphs["r"])
    for step in range(STEPS_MAX):
        if step == 40:
            pair.submit("s", graphs["s"])
        if step == CALM_AFTER:
            pair.chaos = False
        if cancel and step == 60:
            pair.turn(e.RunCancelRequested("r"))
        if pauses and (step < CALM_AFTER or pair.requests % 2) and pair.rng.random() < 0.02:
            pair.pause()
        if step > 40 and not any(run.live for run in pair.runs.values()):
            break
        pair.step()
    else:
        raise AssertionError(f"seed {seed}: a run does not end")
    pair.settle()
    for name, graph in graphs.items():
        [ended] = [end for end in pair.log if isinstance(end, c.RunEnded) and end.run_id == name]
        if ended.state == "cancelled":
            assert cancel
            continue
        check_end(pair, name, graph, seed)
    assert not pair.core.attempts
    assert not pair.core.followers
    return pair


def check_end(pair: Pair, name: str, graph: Graph, seed: int) -> None:
    """The run came to what a plain evaluation of its graph comes to."""
    run, oracle = pair.runs[name], Oracle(graph)
    assert {node: skip.reason for node, skip in run.skips.items()} == oracle.reasons, f"seed {seed}"
    records = [r for r in pair.log if isinstance(r, c.EventRecord) and r.run_id == name]
    finished = [r.node for r in records if r.kind == "TaskExecutionFinished"]
    started = [r.node for r in records if r.kind == "TaskExecutionStarted"]
    assert len(finished) == len(set(finished)), f"seed {seed}: a node finished twice"
    for node in finished:
        assert started.index(node) < len(started)
        first = next(at for at, r in enumerate(records) if r.node == node)
        for source, _ in graph.sources(node):
            ended = [at for at, r in enumerate(records) if r.node == source and r.kind.endswith("Finished")]
            assert all(at < first for at in ended), (
                f"seed {seed}: {node} was told of before {source} had ended"
            )


@pytest.mark.parametrize("first", range(0, 200, 25))
@pytest.mark.parametrize("chaos", [False, True], ids=["calm", "chaos"])
def test_followers_change_no_outcome(first: int, chaos: bool) -> None:
    began = 0
    for seed in range(first, first + 25):
        pair = live(seed, on=True, chaos=chaos)
        began += pair.began
        if not chaos:
            calls = sorted(pair.executed)
            assert calls == sorted(set(calls)), f"seed {seed}: a call was made twice"
            assert calls == sorted(live(seed, on=False, chaos=False).executed), f"seed {seed}"
    assert began > 50


@pytest.mark.parametrize("first", range(0, 200, 25))
def test_a_cancelled_run_ends_when_its_followers_have_stopped(first: int) -> None:
    for seed in range(first, first + 25):
        live(seed, on=True, chaos=seed % 2 == 0, cancel=True)


@pytest.mark.parametrize("first", range(0, 200, 25))
def test_no_follower_starts_under_a_pause(first: int) -> None:
    for seed in range(first, first + 25):
        live(seed, on=True, chaos=seed % 2 == 0, pauses=True)


@pytest.mark.parametrize("first", range(0, 200, 25))
def test_followers_outlive_their_scheduler(first: int) -> None:
    adopted = 0
    for seed in range(first, first + 25):
        pair = live(seed, on=True, chaos=True, restarts=True)
        adopted += pair.adopted
    assert adopted


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1000, 4000))
def test_many_lives_of_followers(seed: int) -> None:
    live(seed, on=True, chaos=seed % 4 != 0, cancel=seed % 5 == 0, pauses=seed % 3 == 0)
