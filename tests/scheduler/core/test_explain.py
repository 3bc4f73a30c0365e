"""Why a node is where it is: one golden text a cause."""

from __future__ import annotations

import pytest

from cascade_scheduler.core import commands as c
from cascade_scheduler.core import events as e
from cascade_scheduler.core.explain import explain, find_nodes
from cascade_scheduler.core.graph import Retry
from cascade_scheduler.core.limits import Constraint
from cascade_scheduler.core.plans import solve
from cascade_scheduler.core.values import ErrorInfo
from tests.scheduler.core.harness import GraphMaker, Sim
from tests.scheduler.core.test_cluster_cache import Maker, answer, lookups


def why(sim: Sim, task: str) -> list[str]:
    """The reasons of the one node that a text means."""
    run = sim.core.runs["r"]
    [node] = find_nodes(run, task)
    history = [record for record in sim.of(c.EventRecord) if record.node == node]
    return list(explain(sim.core, run, node, history).reasons)


@pytest.fixture
def sim() -> Sim:
    made = Sim()
    made.worker("w", cpu=1, ahead=0)
    return made


def submit(sim: Sim, make: GraphMaker, **options: object) -> None:
    graph = make.graph()
    sim.turn(e.RunSubmitted("r", graph, solve(graph), **options))  # type: ignore[arg-type]


def test_it_waits_for_inputs(sim: Sim) -> None:
    make = GraphMaker()
    make.call("f", make.call("a"), make.call("b"))
    submit(sim, make)
    assert why(sim, "f") == ["It waits for its inputs: 'a' (running), 'b' (ready)."]


def test_it_waits_for_a_condition_order_and_amounts(sim: Sim) -> None:
    make = GraphMaker()
    condition, before, amount = make.call("condition"), make.call("before"), make.call("amount")
    make.call("f", run_if=condition, after=(before,), lazy={"cpu": amount})
    submit(sim, make)
    assert why(sim, "f") == [
        "It waits for its condition: 'condition' (running).",
        "It waits for what has to be over before it: 'before' (ready).",
        "It waits for its amounts: 'amount' (ready).",
    ]


def test_it_waits_for_a_router(sim: Sim) -> None:
    make = GraphMaker()
    selector = make.call("selector")
    make.call("f", make.router(selector, make.call("a"), make.call("b")))
    submit(sim, make)
    assert why(sim, "a") == ["It waits until a router has chosen it: nothing else needs it."]
    assert why(sim, "router") == ["It waits for the selector that chooses a route: 'selector' (running)."]
    sim.done("selector", routes=(1,))
    assert why(sim, "a") == [
        "It was skipped, because nothing needs it: the router chose another route, which was 'b'."
    ]


def test_there_is_no_worker() -> None:
    sim = Sim()
    make = GraphMaker()
    make.call("f")
    submit(sim, make)
    assert why(sim, "f") == [
        "It is ready, but there is no worker that takes work: start one with `cascade-worker`."
    ]


def test_no_worker_is_free(sim: Sim) -> None:
    make = GraphMaker()
    make.gather(make.call("a"), make.call("b"))
    submit(sim, make)
    assert why(sim, "b") == ["It is ready, and waits for a worker with cpu=1 free: w has 0 of 1 cpu."]


def test_no_worker_has_the_amount(sim: Sim) -> None:
    make = GraphMaker()
    make.call("f", amounts=(("gpu", 1_000_000),))
    submit(sim, make)
    [told] = why(sim, "f")
    assert told.startswith("It is ready, but task 'f' needs gpu=1, but no worker declares 'gpu'")
    assert told.endswith("if no such worker comes within 60 s, it fails.")


def test_a_constraint_holds_it(sim: Sim) -> None:
    sim.turn(e.ConstraintSet(Constraint("pause:task:f", "task:f", "pause"), 1))
    make = GraphMaker()
    make.call("f")
    submit(sim, make)
    assert why(sim, "f") == ["It is ready, and held by the pause on task:f (pause:task:f)."]


def test_a_pool_holds_it(sim: Sim) -> None:
    sim.worker("other", cpu=4, ahead=0)
    make = GraphMaker()
    amounts = (("cpu", 1_000_000), ("license", 1_000_000))
    make.gather(make.call("a", amounts=amounts), make.call("b", amounts=amounts))
    submit(sim, make, pools=(("license", 1_000_000),))
    assert why(sim, "b") == ["It is ready, and waits for license=1 of a pool with 0 of 1 free."]


def test_it_runs(sim: Sim) -> None:
    make = GraphMaker()
    make.call("f")
    submit(sim, make)
    assert why(sim, "f") == ["It is on worker 'w' (attempt 1), which has not said that it began."]
    sim.turn(e.WorkerReported("w", started=(sim.one("f").attempt,)))
    sim.after(1.5)
    assert why(sim, "f") == ["It runs on worker 'w' for 1.5 s (attempt 1)."]


def test_it_was_sent_ahead() -> None:
    sim = Sim()
    sim.worker("w", cpu=1, ahead=4)
    make = GraphMaker()
    make.gather(make.call("a"), make.call("b"))
    submit(sim, make)
    assert why(sim, "b") == ["It was sent ahead to worker 'w', where it waits behind 1 that run."]


def test_it_is_tried_again_and_what_came_of_it(sim: Sim) -> None:
    make = GraphMaker()
    make.call("f", retry=Retry(3, delay=5.0))
    submit(sim, make)
    sim.failed("f", duration=0.25)
    again = "Attempt 1 of 3 failed (ValueError: no); the next came after 5 s."
    assert why(sim, "f") == ["It is tried again in 5.0 s: 1 attempt failed.", again]
    sim.after(6)
    sim.done("f", duration=0.5)
    assert why(sim, "f") == ["It ran on worker 'w' in 0.5 s (attempt 2).", again]


def test_it_was_lost(sim: Sim) -> None:
    make = GraphMaker()
    make.call("f")
    submit(sim, make)
    sim.lose_worker("w")
    assert why(sim, "f") == [
        "It is ready, but there is no worker that takes work: start one with `cascade-worker`.",
        "An attempt on worker 'w' was lost: worker w was lost: killed.",
    ]


def test_it_failed(sim: Sim) -> None:
    make = GraphMaker()
    make.call("g", make.call("f"))
    submit(sim, make)
    sim.failed("f", duration=0.25, retryable=False)
    assert why(sim, "f") == ["It failed on worker 'w' after 0.25 s (attempt 1): ValueError: no."]
    assert why(sim, "g") == ["The run has ended (failed), so it will not run."]


def test_what_it_needs_has_failed(sim: Sim) -> None:
    make = GraphMaker()
    bad, slow = make.call("bad"), make.call("slow")
    make.gather(make.call("f", bad), slow)
    submit(sim, make, on_failure="finish")
    sim.failed("bad", retryable=False)
    assert why(sim, "f") == [
        "It waits for its inputs: 'bad' (failed).",
        "What it needs has failed, so it will never run.",
    ]


def test_it_was_skipped_and_why_in_the_end(sim: Sim) -> None:
    make = GraphMaker()
    condition = make.call("condition")
    a = make.call("a", run_if=condition)
    b = make.call("b", after=(a,))
    make.call("f", b)
    submit(sim, make)
    sim.done("condition", truth=False)
    assert why(sim, "a") == ["It was skipped, because its condition 'condition' was false."]
    [told] = why(sim, "f")
    assert told == (
        "It was skipped, because its input 'b' was skipped, because 'a', which comes before it, was skipped, "
        "because its condition 'condition' was false."
    )


def test_a_stage_lets_a_value_pass(sim: Sim) -> None:
    make = GraphMaker()
    source, condition = make.call("source"), make.call("condition")
    make.call("f", make.call("stage", source, run_if=condition, passthrough=True))
    submit(sim, make)
    sim.done("source")
    sim.done("condition", truth=False)
    assert why(sim, "stage") == [
        "It was skipped, because its condition 'condition' was false.",
        "What needs its value gets that of 'source' instead.",
    ]


def test_the_cache_had_it_or_not(sim: Sim) -> None:
    make = Maker()
    below = make.pure("below", cached=False)
    make.pure("f", below)
    submit(sim, make, hits={1: b"cached"})
    assert why(sim, "f") == ["It did not run: the cluster's cache has its value."]
    assert why(sim, "below") == [
        "It was skipped, because nothing needs it: the cluster's cache had the value of 'f'."
    ]


def test_the_cache_missed(sim: Sim) -> None:
    for run_id, x in (("other", "one"), ("r", "two")):
        make = Maker()
        make.pure("f", x=x)
        graph = make.graph()
        sim.turn(e.RunSubmitted(run_id, graph, solve(graph), hits={}))
        sim.done("f", duration=0.5)
    assert why(sim, "f") == [
        "It ran on worker 'w' in 0.5 s (attempt 1).",
        "The cluster's cache had no value for it: since the last call of 'f', argument 'x' has changed.",
    ]


def test_the_cache_is_asked(sim: Sim) -> None:
    make = Maker()
    make.pure("f")
    submit(sim, make)
    assert why(sim, "f") == ["It waits for an answer of the cluster's cache."]
    [asked] = lookups(sim)
    answer(sim, asked, None, "the cache could not be asked: no Redis")
    sim.done("f")
    assert why(sim, "f")[1] == (
        "The cluster's cache had no value for it: the cache could not be asked: no Redis."
    )


def test_a_policy_had_it(sim: Sim) -> None:
    make = GraphMaker()
    make.call("f")
    submit(sim, make)
    sim.report(e.AttemptDone(sim.one("f").attempt, b"v", cached=True))
    assert why(sim, "f") == ["It did not run: its caching policy had its value."]


def test_it_waits_for_time_and_for_messages(sim: Sim) -> None:
    make = GraphMaker()
    make.gather(make.wait(3.0), make.wait(2.0, topic="news"))
    submit(sim, make)
    sim.after(1)
    assert why(sim, "wait") == ["It waits for time to pass: 2.0 s more."]
    assert why(sim, "recv") == ["It listens to the topic 'news', for 1.0 s at most."]


def test_an_observation_decides(sim: Sim) -> None:
    make = GraphMaker()
    make.call("f", make.router(make.literal(), make.call("a"), make.call("b")))
    submit(sim, make)
    assert why(sim, "router") == ["It waits until a worker has looked at the value of 'literal'."]


def test_the_run_is_stopped(sim: Sim) -> None:
    make = GraphMaker()
    make.call("g", make.call("f"))
    submit(sim, make)
    sim.turn(e.RunCancelRequested("r"))
    assert why(sim, "f")[0] == "The run is being stopped, so it will not run."
    sim.report(e.AttemptCancelled(sim.one("f").attempt))
    assert why(sim, "g") == ["The run has ended (cancelled), so it will not run."]


def test_nodes_are_found_by_index_name_and_id(sim: Sim) -> None:
    make = GraphMaker()
    make.gather(make.call("f"), make.call("f"), make.call("g"))
    submit(sim, make)
    run = sim.core.runs["r"]
    assert find_nodes(run, "1") == [1]
    assert find_nodes(run, "f") == [0, 1]
    assert find_nodes(run, run.key(2)) == [2]
    assert find_nodes(run, "0" * 31) == [0, 1, 2, 3]
    assert find_nodes(run, "unknown") == find_nodes(run, "99") == find_nodes(run, "") == []
    assert find_nodes(run, "f", limit=1) == [0]


def test_an_error_that_is_no_attempts_is_told(sim: Sim) -> None:
    make = GraphMaker()
    source = make.call("source")
    make.call("f", run_if=source)
    submit(sim, make)
    sim.done("source", observe_error=ErrorInfo("TypeError", "no truth"))
    assert why(sim, "f") == ["It failed: TypeError: no truth."]
