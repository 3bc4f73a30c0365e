"""Frames, event by event: tail calls, nested graphs, plans that are waited for."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_scheduler.core import commands as c
from cascade_scheduler.core import events as e
from cascade_scheduler.core import views
from cascade_scheduler.core.graph import Graph, Retry
from cascade_scheduler.core.plans import solve
from cascade_scheduler.core.values import ErrorInfo, ListValue, ObjectValue

from .harness import GraphMaker, Sim


def single(name: str, **options: object) -> Graph:
    make = GraphMaker()
    make.call(name, **options)  # type: ignore[arg-type]
    return make.graph()


def running(graph: Graph, workers: int = 1, **settings_: object) -> Sim:
    sim = Sim(**settings_)
    for number in range(workers):
        sim.worker(f"w{number}", ahead=0)
    sim.submit(graph)
    return sim


# --- tail calls --------------------------------------------------------------------------------------


def test_a_run_goes_on_as_what_its_target_returned() -> None:
    sim = running(single("a"))
    sim.tail("a", single("b"))
    assert sim.assigned == ["b"]
    sim.done("b", b"value")
    assert sim.ended.state == "succeeded"
    assert [command.value for command in sim.of(c.TargetValue)] == [b"value"]
    assert [record.kind for record in sim.events("RunStarted")] == ["RunStarted"]
    assert [(r.task, r.status) for r in sim.events("TaskExecutionFinished")] == [
        ("a", "Succeeded"),
        ("b", "Succeeded"),
    ]


def test_attempts_are_never_numbered_twice_and_a_late_report_changes_nothing() -> None:
    sim = running(single("a"))
    first = sim.one("a").attempt
    sim.tail("a", single("a"))
    second = sim.one("a").attempt
    assert second > first
    late = e.AttemptTail(first, e.NextFrame(single("x"), solve(single("x"))))
    sim.turn(e.WorkerReported("w0", (late,)))
    assert sim.assigned == ["a"]


def test_values_of_the_old_frame_go_and_so_does_what_was_kept_for_it() -> None:
    make = GraphMaker()
    make.call("b", make.call("a"))
    sim = running(make.graph())
    attempt = sim.one("a").attempt
    sim.done("a", ObjectValue(attempt, 1 << 17, "w0", "w0:1"))
    sim.tail("b", single("c"))
    assert c.ReleaseObject("w0", attempt) in sim.log
    assert not sim.of(c.FrameGone), "the first frame is the shell's"
    sim.tail("c", single("d"))
    assert sim.of(c.FrameGone) == [c.FrameGone((b"pin",), 10)]
    sim.done("d")
    assert len(sim.of(c.FrameGone)) == 2
    assert sim.core.objects == {}


def test_what_is_saved_of_a_step_is_void_with_the_next() -> None:
    sim = running(single("a"))
    sim.tail("a", single("b"), stored="graph")
    sim.done("b")
    kinds = [type(command).__name__ for command in sim.log if type(command).__name__.startswith("Save")]
    kinds.remove("SaveWorker")
    assert kinds == ["SaveAttempt", "SaveFrame", "SaveAttempt", "SaveResult", "SaveOutcome"]
    assert sim.of(c.SaveFrame) == [c.SaveFrame("r", 1, "graph", c.LoopCounts(1, 1, 0, 1, 1))]


def test_a_plan_that_is_not_known_is_asked_for_once_and_waited_for() -> None:
    sim = running(single("a"))
    graph = single("b")
    sim.tail("a", graph, plan=None, key=b"key")
    assert sim.of(c.PlanWanted) == [c.PlanWanted("r", 0, graph, b"key")]
    sim.after(1.0)
    assert len(sim.of(c.PlanWanted)) == 1
    assert sim.assigned == []
    sim.turn(e.PlanMade("r", 0, solve(graph)))
    assert sim.assigned == ["b"]
    sim.turn(e.PlanMade("r", 0, solve(graph)))
    assert sim.assigned == ["b"]


def test_a_run_is_cancelled_while_it_waits_for_a_plan() -> None:
    sim = running(single("a"))
    sim.tail("a", single("b"), plan=None)
    sim.turn(e.RunCancelRequested("r"))
    assert sim.ended.state == "cancelled"
    assert sim.of(c.FrameGone)
    sim.turn(e.PlanMade("r", 0, solve(single("b"))))
    assert sim.assigned == []


def test_a_graph_without_a_plan_fails_the_run() -> None:
    sim = running(single("a"))
    sim.tail("a", single("b"), plan=None)
    sim.turn(e.PlanMade("r", 0, None, "no stage holds gpu=9"))
    assert sim.ended.state == "failed"
    assert sim.ended.error == ErrorInfo("AmountError", "no stage holds gpu=9")


def test_a_node_that_others_need_may_not_return_a_lazy_value() -> None:
    make = GraphMaker()
    make.call("b", make.call("a"))
    sim = running(make.graph())
    sim.tail("a", single("x"))
    error = sim.ended.error
    assert error is not None
    assert error.type == "GraphError"
    assert "'a' returned a lazy value" in error.message
    assert sim.of(c.FrameGone)


def test_a_router_as_target_goes_on_as_what_its_route_returned() -> None:
    make = GraphMaker()
    selector = make.call("s")
    make.router(selector, make.call("a"), make.call("b"))
    sim = running(make.graph())
    sim.done("s", routes=(1,))
    assert sim.one("b").tail
    sim.tail("b", single("c"))
    sim.done("c", b"end")
    assert sim.ended.state == "succeeded"
    assert [command.value for command in sim.of(c.TargetValue)] == [b"end"]


def test_retries_begin_anew_with_every_step() -> None:
    sim = running(single("a", retry=Retry(2)))
    for _ in range(3):
        sim.failed("a")
        assert sim.one("a").try_ == 2
        sim.tail("a", single("a", retry=Retry(2)))
        assert sim.one("a").try_ == 1
    sim.failed("a")
    sim.failed("a")
    assert sim.ended.state == "failed"


def test_an_amount_that_a_returned_graph_cannot_have_fails_the_run() -> None:
    sim = running(single("a"), closed=True)
    sim.tail("a", single("b", amounts=(("gpu", 1_000_000),)))
    error = sim.ended.error
    assert error is not None
    assert "gpu=1" in error.message


def test_fast_steps_have_no_events_of_their_own_but_say_how_far_they_are() -> None:
    sim = running(single("a"))
    for number in range(500):
        sim.now += 0.005
        sim.tail("a", single("a" if number < 499 else "z"))
    sim.done("z")
    assert len(sim.events("TaskExecutionFinished")) < 120
    counts = [record.iterations for record in sim.events("LoopProgress")]
    assert len(counts) == 3
    assert counts == sorted(counts)
    assert counts[-1] == 500
    assert sim.events()[-1].kind == "RunFinished"
    assert [r.task for r in sim.events("TaskExecutionFinished")][-1] == "z"
    assert sim.core.loop_steps == 500
    progress = views.progress(sim.core.runs["r"])
    assert (progress.total, progress.done) == (501, 501)


def test_events_name_nodes_of_their_own_frame() -> None:
    sim = running(single("a"))
    sim.tail("a", single("b").with_literals(b"b" * 16, [b""]))
    sim.done("b")
    assert [r.node_id for r in sim.events("TaskExecutionFinished")] == ["", (b"b" * 16).hex()]
    assert sim.core.runs["r"].first_key(0) == bytes(16).hex()


# --- nested graphs -------------------------------------------------------------------------------------


def nesting() -> Graph:
    """t takes the value of a, which nests, and of b."""
    make = GraphMaker()
    make.call("t", make.call("a", spawn=True), make.call("b"))
    return make.graph()


def test_a_nested_graphs_value_takes_the_nodes_place() -> None:
    sim = running(nesting(), workers=2)
    sim.tail("a", single("x"))
    assert sorted(sim.assigned) == ["b", "x"]
    sim.done("x", b"inner")
    sim.done("b", b"outer")
    assert sim.one("t").inputs == (b"inner", b"outer")
    sim.done("t")
    assert sim.ended.state == "succeeded"
    assert list(sim.core.runs) == ["r"]
    assert next((s.node, s.value) for s in sim.of(c.SaveResult)) == (0, b"inner")


def test_a_nested_list_is_put_together_by_an_attempt() -> None:
    sim = running(nesting(), workers=2)
    make = GraphMaker()
    make.collect(make.call("x"), make.call("y"))
    sim.tail("a", make.graph())
    sim.done("b")
    sim.done("x", b"1")
    sim.done("y", b"2")
    assign = sim.one("a")
    assert assign.whole
    assert assign.inputs == (ListValue((b"1", b"2")),)
    sim.done("a", b"12")
    assert sim.one("t").inputs == (b"12", b"v")
    sim.done("t")
    assert list(sim.core.runs) == ["r"]


def test_a_nested_failure_is_the_nodes_with_the_name_of_the_task() -> None:
    sim = running(nesting(), workers=2)
    sim.done("b")
    sim.tail("a", single("x"))
    sim.failed("x", retryable=False)
    assert sim.ended.state == "failed"
    assert sim.ended.failed_task == "x"
    assert sim.ended.error == ErrorInfo("ValueError", "no")


def test_a_skipped_nested_target_says_why_there_is_no_value() -> None:
    make = GraphMaker()
    make.call("x", run_if=make.call("cond"))
    sim = running(nesting(), workers=2)
    sim.done("b")
    sim.tail("a", make.graph())
    sim.done("cond", truth=False)
    assert sim.ended.state == "failed"
    assert (sim.ended.skip_reason, sim.ended.skipped_dependency) == ("ConditionFalse", "cond")


def test_a_cancel_stops_all_frames() -> None:
    sim = running(nesting(), workers=3)
    sim.tail("a", nesting())
    sim.tail("a", single("deep"))
    sim.turn(e.RunCancelRequested("r"))
    cancelled = sim.of(c.CancelAttempt)
    assert len(cancelled) == 3  # deep, and a b in each of the outer frames
    for assign in list(sim.open.values()):
        sim.report(e.AttemptCancelled(assign.attempt))
    assert sim.ended.state == "cancelled"
    assert list(sim.core.runs) == ["r"]


def test_a_loop_in_a_nested_graph_counts_for_the_run() -> None:
    sim = running(nesting(), workers=2)
    sim.done("b")
    sim.tail("a", single("x"))
    for _ in range(5):
        sim.tail("x", single("x"))
    sim.done("x", b"end")
    assert sim.one("t").inputs == (b"end", b"v")
    assert sim.core.loop_steps == 5


def test_a_lost_value_of_a_nested_graph_is_made_again_from_the_node() -> None:
    sim = running(nesting(), workers=2)
    sim.tail("a", single("x"))
    attempt = sim.one("x").attempt
    worker = sim.one("x").worker
    other = sim.one("b").worker
    sim.done("x", ObjectValue(attempt, 1 << 17, worker, f"{worker}:1"))
    assert worker != other
    sim.lose_worker(worker)
    sim.done("b")
    assert sim.assigned == ["a"], "it runs again, and nests again"
    sim.tail("a", single("x"))
    sim.done("x", b"again")
    assert sim.one("t").inputs == (b"again", b"v")


def test_deep_nesting_unwinds_without_recursion() -> None:
    sim = running(nesting(), workers=1)
    depth = 400
    for _ in range(depth):
        while "a" not in sim.assigned:
            sim.done("b")
        sim.tail("a", nesting())
    while "b" in sim.assigned:
        sim.done("b")
    sim.failed("a", retryable=False)
    assert sim.ended.state == "failed"
    assert list(sim.core.runs) == ["r"]


def test_nested_graphs_have_a_bound_in_nodes() -> None:
    sim = running(nesting(), workers=2, graph_nodes_max=4)
    sim.tail("a", nesting())
    sim.tail("a", nesting())
    for assign in list(sim.open.values()):
        sim.report(e.AttemptCancelled(assign.attempt))
    assert sim.ended.state == "failed"
    assert sim.ended.error is not None
    assert sim.ended.error.type == "GraphTooLargeError"


# --- random lives --------------------------------------------------------------------------------------


class Program:
    """Graphs whose calls return values or graphs, as their names say."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.graphs: dict[str, Graph] = {}
        self.names = 0
        self.target = self.graph(3)

    def graph(self, depth: int) -> Graph:
        rng, make = self.rng, GraphMaker()
        for _ in range(rng.randint(1, 4)):
            earlier = range(len(make.spec_of))
            inputs = [s for s in earlier if rng.random() < 0.6]
            if inputs and rng.random() < 0.2:
                make.gather(*inputs)
                continue
            self.call(make, depth, inputs)
        made = make.graph()
        name = made.spec(made.target).name
        if depth and name != "gather" and name not in self.graphs and rng.random() < 0.5:
            self.graphs[name] = self.graph(depth - 1)
        return made

    def call(self, make: GraphMaker, depth: int, inputs: list[int]) -> None:
        self.names += 1
        name = f"t{self.names}"
        spawn = bool(depth) and self.rng.random() < 0.3
        if spawn:
            self.graphs[name] = self.graph(depth - 1)
        retry = Retry(3) if self.rng.random() < 0.3 else None
        make.call(name, *inputs, spawn=spawn, retry=retry)

    def value(self, graph: Graph) -> bytes | None:
        """What the graph's target comes to; None: a container."""
        while True:
            name = graph.spec(graph.target).name
            if name == "gather":
                return None
            if name not in self.graphs:
                return name.encode()
            graph = self.graphs[name]


def live(seed: int) -> None:
    rng = Random(seed)
    program = Program(rng)
    sim = running(program.target, workers=2, loss_budget=1_000, fast_loops=rng.random() < 0.7)
    lost = answered = 0
    while not sim.of(c.RunEnded):
        wanted = sim.of(c.PlanWanted)
        if len(wanted) > answered:
            ask = wanted[answered]
            answered += 1
            sim.turn(e.PlanMade(ask.frame_id, ask.number, solve(ask.graph)))
            continue
        assert sim.open, f"seed {seed}: nothing moves"
        assign = rng.choice(list(sim.open.values()))
        name, dice = sim.name_of(assign), rng.random()
        if dice < 0.05 and lost < 3:
            lost += 1
            sim.lose_worker(assign.worker)
            sim.worker(f"n{lost}", ahead=2)
        elif dice < 0.1:
            sim.report(e.AttemptLost(assign.attempt, "killed", innocent=rng.random() < 0.5))
        elif dice < 0.15 and assign.spec.retry is not None and assign.try_ < 3:
            sim.report(e.AttemptFailed(assign.attempt, ErrorInfo("ValueError", "flaky")))
        elif assign.lease and dice < 0.3:
            said = e.LeaseProgress(assign.attempt, rng.randint(0, 50), b"", bytes(16))
            sim.turn(e.WorkerReported(assign.worker, leases=(said,)))
        elif dice < 0.6 and not assign.whole and sim.core.runs[assign.frame_id or "r"].graph.size == 1:
            again = single(name, spawn=assign.spec.spawn)
            sim.report(e.AttemptTail(assign.attempt, e.NextFrame(again, solve(again)), iterations=2))
        elif name in program.graphs and not assign.whole:
            graph = program.graphs[name]
            plan = solve(graph) if rng.random() < 0.8 else None
            sim.report(e.AttemptTail(assign.attempt, e.NextFrame(graph, plan, pins=(b"p",), size=1)))
        else:
            value: bytes | ObjectValue = b"whole" if assign.whole else name.encode()
            if not assign.publish and rng.random() < 0.4:
                value = ObjectValue(assign.attempt, 1 << 17, assign.worker, f"{assign.worker}:1")
            sim.report(e.AttemptDone(assign.attempt, value, 0.001))
    assert sim.ended.state == "succeeded", f"seed {seed}: {sim.ended}"
    assert list(sim.core.runs) == ["r"], f"seed {seed}"
    expected = program.value(program.target)
    if expected is not None:
        assert sim.of(c.TargetValue)[-1].value in (expected, b"whole"), f"seed {seed}"


@given(seed=st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_random_lives_with_tail_calls_and_nested_graphs(seed: int) -> None:
    live(seed)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3000))
def test_many_random_lives_with_frames(seed: int) -> None:
    live(seed)
