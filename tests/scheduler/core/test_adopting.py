"""A restart, event by event: what is adopted, what runs again, what is told."""

from __future__ import annotations

from typing import Any

import pytest

from cascade_scheduler.core import commands as c
from cascade_scheduler.core import events as e
from cascade_scheduler.core.cached import Facts, Recovered, StoredValue
from cascade_scheduler.core.graph import Graph, NodeKind, Retry
from cascade_scheduler.core.limits import CONCURRENCY, Constraint
from cascade_scheduler.core.plans import solve
from cascade_scheduler.core.values import ErrorInfo, ObjectValue

from .harness import CPU, GraphMaker, Sim, observe

GRACE = 10.0


def known(*names: str) -> e.RosterKnown:
    return e.RosterKnown(tuple(e.WorkerKnown(name, name, CPU) for name in names), GRACE)


def recovered(graph: Graph, results: dict[int, StoredValue] | None = None, **more: Any) -> e.RunRecovered:
    facts = {
        name: more.pop(name) for name in ("children", "facts", "skipped", "finished", "waits") if name in more
    }
    attempts = more.pop("attempts", {})
    return e.RunRecovered(
        "r",
        graph,
        solve(graph),
        "",
        more.pop("on_failure", "cancel"),
        False,
        more.pop("pools", ()),
        990.0,
        Recovered(results or {}, **facts),
        {place if isinstance(place, tuple) else (place, -1): last for place, last in attempts.items()},
        **more,
    )


def last(attempt: int, worker: str = "w1", try_: int = 1, started: bool = True) -> e.LastAttempt:
    return e.LastAttempt(attempt, try_, worker, started)


def hello(sim: Sim, name: str, *held: tuple[int, str], objects: tuple[int, ...] = ()) -> c.WelcomeWorker:
    states = tuple(e.Held(attempt, state) for attempt, state in held)
    sim.turn(e.WorkerConnected(name, name, CPU, 1000, 4, f"{name}:1", held=states, objects=objects))
    [welcome] = [command for command in sim.last if isinstance(command, c.WelcomeWorker)]
    return welcome


def chain() -> Graph:
    make = GraphMaker()
    make.call("c", make.call("b", make.call("a")))
    return make.graph()


@pytest.fixture
def sim() -> Sim:
    return Sim()


def test_what_a_worker_holds_goes_on_and_is_accepted_once(sim: Sim) -> None:
    sim.turn(known("w1"), recovered(chain(), {0: StoredValue(b"a", attempt=6)}, attempts={1: last(7)}))
    assert not sim.of(c.Assign)
    welcome = hello(sim, "w1", (7, "running"))
    assert (welcome.keep, welcome.drop) == ((7,), ())
    assert not sim.of(c.Assign), "it runs already"
    report = e.WorkerReported("w1", (e.AttemptDone(7, b"b"),))
    sim.turn(report)
    sim.turn(report)
    assert sim.assigned == ["c"]
    sim.done("c")
    assert sim.ended.state == "succeeded"
    assert [(event.kind, event.task) for event in sim.events()] == [
        ("TaskExecutionFinished", "b"),
        ("TaskExecutionStarted", "c"),
        ("TaskExecutionFinished", "c"),
        ("RunFinished", ""),
    ]


def test_a_report_whose_result_is_stored_is_only_forgotten(sim: Sim) -> None:
    sim.turn(known("w1"), recovered(chain(), {0: StoredValue(b"a", attempt=6)}, attempts={0: last(6)}))
    assert hello(sim, "w1", (6, "finished"), (5, "finished")) == c.WelcomeWorker("w1", (), (5,), (6,), ())
    assert sim.assigned == ["b"]


def test_what_never_arrived_runs_when_all_have_said_so(sim: Sim) -> None:
    make = GraphMaker()
    make.gather(make.call("a"), make.call("b"))
    sim.turn(known("w1", "w2"), recovered(make.graph(), attempts={0: last(7), 1: last(8, "w2")}))
    hello(sim, "w1")
    assert not sim.of(c.Assign), "the other worker may hold something"
    hello(sim, "w2", (8, "waiting"))
    assert sim.assigned == ["a"]
    assert sim.events("TaskLost") == []


def test_nothing_is_dispatched_before_the_grace_is_over_except_new_runs(sim: Sim) -> None:
    sim.turn(known("w1", "gone"), recovered(chain(), attempts={0: last(7, "gone")}))
    hello(sim, "w1")
    assert sim.core.next_wakeup == sim.now + GRACE
    sim.submit(chain(), "new")
    assert sim.assigned == ["a"]
    assert sim.one("a").run_id == "new"
    sim.after(GRACE)
    assert [event.worker for event in sim.events("TaskLost")] == ["gone"]
    assert sorted(assign.run_id for assign in sim.open.values()) == ["new", "r"]


def test_without_workers_of_before_a_run_goes_on_at_once(sim: Sim) -> None:
    sim.worker("w1")
    sim.turn(known(), recovered(chain(), {0: StoredValue(b"a")}, attempts={1: last(7)}))
    assert sim.assigned == ["b"]


def test_an_object_is_there_when_its_worker_says_so(sim: Sim) -> None:
    value = StoredValue(ObjectValue(6, 1 << 20, "w1", "w1:1"), attempt=6)
    sim.turn(known("w1"), recovered(chain(), {0: value}))
    assert hello(sim, "w1", objects=(6, 99)).release == (99,)
    assert sim.one("b").inputs == (value.value,)


@pytest.mark.parametrize("comes", [True, False])
def test_a_lost_object_is_made_again_where_it_is_needed(sim: Sim, comes: bool) -> None:
    make = GraphMaker()
    large = make.call("large")
    used = make.call("used", large)
    make.gather(make.call("not yet", large), used)
    other = make.call("over")
    make.gather(used, make.call("done", other), 2)
    values = {
        0: StoredValue(ObjectValue(6, 1 << 20, "w1", "w1:1"), attempt=6),
        1: StoredValue(b"used"),
        4: StoredValue(ObjectValue(8, 1 << 20, "w1", "w1:1"), attempt=8),
        5: StoredValue(b"done"),
    }
    sim.turn(known("w1"), recovered(make.graph(), values))
    if comes:
        hello(sim, "w1")
    else:
        sim.after(GRACE)
        sim.worker("w2")
    assert sim.assigned == ["large"], "nobody needs what over made"
    sim.done("large")
    sim.done("not yet")
    assert sim.ended.state == "succeeded"


@pytest.mark.parametrize("chosen", [True, False])
def test_a_lost_object_in_a_branch_is_made_again_with_what_it_needs(sim: Sim, chosen: bool) -> None:
    """Only `large` needs `base` and the list; that it was done had to let neither go."""
    make = GraphMaker()
    selector, base = make.call("selector"), make.call("base")
    large = make.call("large", make.gather(base, make.literal()))
    make.call("use", make.router(selector, large, make.call("other")))
    results = {large: StoredValue(ObjectValue(6, 1 << 20, "w1", "w1:1"), attempt=6)}
    if chosen:
        results[selector] = StoredValue(b"S", attempt=5)
    facts = {selector: Facts(routes=((6, 0),))} if chosen else {}
    sim.turn(known("w1"), recovered(make.graph(), results, facts=facts))
    sim.worker("w2")
    sim.after(GRACE)
    if not chosen:
        sim.done("selector", routes=(0,))
    for name in ("base", "large", "use"):
        sim.done(name)
    assert sim.ended.state == "succeeded"


def test_the_amount_of_a_lost_object_is_asked_for_again(sim: Sim) -> None:
    make = GraphMaker()
    amount = make.literal()
    make.call("use", make.call("large", lazy={"cpu": amount}))
    results = {1: StoredValue(ObjectValue(6, 1 << 20, "w1", "w1:1"), attempt=6)}
    sim.turn(known("w1"), recovered(make.graph(), results))
    sim.worker("w2", cpu=3)
    sim.after(GRACE)
    observe(sim, amount=2_000_000)
    sim.done("large")
    sim.done("use")
    assert sim.ended.state == "succeeded"


def test_skips_and_finished_maps_are_told_no_second_time(sim: Sim) -> None:
    make = GraphMaker()
    no = make.call("no")
    make.call("skipped", run_if=no)
    items = make.call("items")
    mapped = make.call("double", items=[items], kind=NodeKind.MAP)
    late = make.call("late")
    make.call("sum", mapped, late)
    graph = make.graph()
    results = {
        no: StoredValue(b"0", truth=False),
        items: StoredValue(b"[]", length=0),
    }
    sim.turn(
        known("w1"),
        recovered(
            graph, results, skipped=frozenset({1}), finished=frozenset({mapped}), attempts={late: last(7)}
        ),
    )
    hello(sim, "w1", (7, "finished"))
    sim.turn(e.WorkerReported("w1", (e.AttemptDone(7, b"late"),)))
    sim.done("sum")
    assert sim.of(c.SaveSkip) == []
    assert [(event.kind, event.task) for event in sim.events()] == [
        ("TaskExecutionFinished", "late"),
        ("TaskExecutionStarted", "sum"),
        ("TaskExecutionFinished", "sum"),
        ("RunFinished", ""),
    ]


def test_children_of_a_map_are_adopted_by_their_index(sim: Sim) -> None:
    make = GraphMaker()
    items = make.call("items")
    make.call("double", items=[items], kind=NodeKind.MAP)
    graph = make.graph()
    sim.turn(
        known("w1"),
        recovered(
            graph,
            {items: StoredValue(b"list", length=3)},
            facts={items: Facts(length=3, items=(b"0", b"1", b"2"))},
            children={1: {0: StoredValue(b"zero")}},
            attempts={(1, 0): last(6), (1, 2): last(8)},
        ),
    )
    assert hello(sim, "w1", (8, "running")).keep == (8,)
    assert sim.assigned == ["double[1]"]
    assert sim.one("double[1]").inputs == (b"1",)
    sim.done("double[1]")
    sim.turn(e.WorkerReported("w1", (e.AttemptDone(8, b"two"),)))
    assert sim.ended.state == "succeeded"


@pytest.mark.parametrize("comes", [True, False])
def test_children_whose_objects_went_before_the_map_had_its_list_run_again(sim: Sim, comes: bool) -> None:
    make = GraphMaker()
    items = make.call("items")
    mapped = make.call("double", items=[items], kind=NodeKind.MAP)
    make.call("sum", mapped)
    done = {0: StoredValue(ObjectValue(6, 1 << 20, "w1", "w1:1"), attempt=6), 1: StoredValue(b"1")}
    sim.turn(known("w1"), recovered(make.graph(), children={mapped: done}))
    if comes:
        assert hello(sim, "w1", objects=(6,)).release == (6,)
    else:
        sim.after(GRACE)
        sim.worker("w2")
    sim.done("items", length=2, items=(b"0", b"1"))
    assert sim.assigned == ["double[0]"]
    sim.done("double[0]")
    sim.done("sum")
    assert sim.ended.state == "succeeded"


@pytest.mark.parametrize("comes", [True, False])
def test_children_whose_objects_go_while_the_map_gets_its_list_run_again(sim: Sim, comes: bool) -> None:
    """That `large` is lost lets the map go, which only `large` needs, in the same turn."""
    make = GraphMaker()
    items, selector = make.call("items"), make.call("selector")
    mapped = make.call("double", items=[items], kind=NodeKind.MAP)
    large = make.call("large", mapped)
    router = make.router(selector, large, make.call("other"))
    make.call("use", router)
    results = {
        items: StoredValue(b"[0]", attempt=4),
        selector: StoredValue(b"S", attempt=5),
        large: StoredValue(ObjectValue(6, 1 << 20, "w1", "w1:1"), attempt=6),
    }
    child = StoredValue(ObjectValue(7, 1 << 20, "w1", "w1:1"), attempt=7)
    facts = {items: Facts(length=1, items=(b"0",)), selector: Facts(routes=((router, 0),))}
    sim.turn(known("w1"), recovered(make.graph(), results, children={mapped: {0: child}}, facts=facts))
    if comes:
        assert hello(sim, "w1", objects=(7,)).release == (7,)
    else:
        sim.after(GRACE)
        sim.worker("w2")
    for name in ("double[0]", "large", "use"):
        sim.done(name)
    assert sim.ended.state == "succeeded"


def test_what_is_async_is_adopted_before_its_worker_comes(sim: Sim) -> None:
    make = GraphMaker()
    make.call("a", asynchronous=True)
    sim.turn(known("w1"), recovered(make.graph(), attempts={0: last(7)}))
    hello(sim, "w1", (7, "running"))
    sim.turn(e.WorkerReported("w1", (e.AttemptDone(7, b"a"),)))
    assert sim.ended.state == "succeeded"


def test_tries_and_the_wait_between_two_of_them_go_on(sim: Sim) -> None:
    make = GraphMaker()
    policy = Retry(max_attempts=3, delay=60.0, backoff=1.0)
    make.gather(make.call("a", retry=policy), make.call("b", retry=policy), make.call("c", retry=policy))
    sim.turn(
        known("w1"),
        recovered(
            make.graph(),
            attempts={0: last(7, try_=2)},
            delays={(1, -1): (2, sim.now + 5.0), (2, -1): (1, sim.now - 5.0)},
        ),
    )
    hello(sim, "w1")
    assert [(name, sim.one(name).try_) for name in sim.assigned] == [("a", 2), ("c", 2)]
    sim.done("a")
    sim.done("c")
    sim.after(5.0)
    assert sim.one("b").try_ == 3
    sim.failed("b")
    assert sim.ended.state == "failed"


def test_a_wait_is_over_when_it_would_have_been(sim: Sim) -> None:
    make = GraphMaker()
    make.gather(make.wait(30.0), make.wait(30.0), make.wait(topic="t", delay=30.0), make.call("a"))
    waits = {0: sim.now - 1.0, 1: sim.now + 7.0, 2: sim.now + 9.0}
    sim.turn(known(), recovered(make.graph(), waits=waits))
    assert sim.core.next_wakeup == sim.now + 7.0
    sim.after(7.0)
    assert sim.core.next_wakeup == sim.now + 2.0
    sim.after(2.0)
    error = sim.ended.error
    assert error is not None
    assert (error.type, "got no message" in error.message) == ("TimeoutError", True)


@pytest.mark.parametrize("on_failure", ["cancel", "finish"])
def test_what_failed_has_failed(sim: Sim, on_failure: str) -> None:
    make = GraphMaker()
    make.gather(make.call("bad"), make.call("good"))
    sim.turn(
        known("w1"),
        recovered(
            make.graph(),
            on_failure=on_failure,
            attempts={0: last(7), 1: last(8)},
            failures={(0, -1): (ErrorInfo("ValueError", "no"), "bad")},
        ),
    )
    hello(sim, "w1", (8, "running"))
    stopped = [command.attempt for command in sim.last if isinstance(command, c.CancelAttempt)]
    assert stopped == ([8] if on_failure == "cancel" else [])
    sim.turn(e.WorkerReported("w1", (e.AttemptDone(8, b"v"),)))
    assert (sim.ended.state, sim.ended.failed_task) == ("failed", "bad")
    assert sim.ended.error == ErrorInfo("ValueError", "no")


def test_what_was_cancelled_is_stopped_when_its_worker_comes(sim: Sim) -> None:
    sim.turn(known("w1"), recovered(chain(), attempts={0: last(7)}, cancelled=True))
    assert sim.of(c.RunEnded) == []
    hello(sim, "w1", (7, "running"))
    assert c.CancelAttempt("w1", 7) in sim.last
    sim.turn(e.WorkerReported("w1", (e.AttemptCancelled(7),)))
    assert sim.ended.state == "cancelled"


def test_limits_and_pools_count_what_is_adopted(sim: Sim) -> None:
    sim.turn(e.ConstraintsLoaded((Constraint("one", "task:a", CONCURRENCY, limit=1),)))
    sim.worker("w2")
    make = GraphMaker()
    make.call("a", amounts=(("token", 1_000_000),))
    sim.turn(known("w1"), recovered(make.graph(), attempts={0: last(7)}, pools=(("token", 1_000_000),)))
    sim.submit(chain(), "new")
    assert sim.assigned == [], "the limit is met by what nobody has heard of yet"
    hello(sim, "w1", (7, "running"))
    sim.turn(e.WorkerReported("w1", (e.AttemptDone(7, b"v"),)))
    assert sim.assigned == ["a"]


def test_a_loop_goes_on_in_its_frame_and_counts_on(sim: Sim) -> None:
    make = GraphMaker()
    make.call("step")
    graph = make.graph()
    frame = e.NextFrame(graph, solve(graph), pins=(b"pin",), size=10)
    sim.turn(
        known("w1"),
        recovered(
            graph,
            attempts={0: last(7)},
            frame=frame,
            counts=c.LoopCounts(5, 5, 0, 5, 5),
            number=5,
            iterations=2,
        ),
    )
    hello(sim, "w1", (7, "finished"))
    after = e.NextFrame(graph, solve(graph), pins=(b"pin",), size=10, stored="next")
    sim.turn(e.WorkerReported("w1", (e.AttemptTail(7, after, iterations=4),)))
    assert sim.of(c.SaveFrame) == [c.SaveFrame("r", 6, "next", c.LoopCounts(8, 8, 0, 8, 8))]
    assert c.FrameGone((b"pin",), 10) in sim.log
    sim.done("step")
    assert sim.ended.state == "succeeded"
    assert [event.iterations for event in sim.events("LoopProgress")] == [8]


def test_a_run_that_had_all_its_results_ends(sim: Sim) -> None:
    done = {node: StoredValue(b"v") for node in range(3)}
    sim.turn(known("w1"), recovered(chain(), done))
    assert sim.ended.state == "succeeded"
    assert sim.of(c.TargetValue) == [c.TargetValue("r", 2, b"v")]


@pytest.mark.parametrize("with_object", [False, True])
def test_results_that_nobody_needs_are_not_held(sim: Sim, with_object: bool) -> None:
    make = GraphMaker()
    chain_end = make.call("c", make.call("b", make.call("a")))
    make.gather(chain_end, make.call("d", make.call("large")))
    results = {0: StoredValue(b"a"), 1: StoredValue(b"b")}
    if with_object:
        results[3] = StoredValue(ObjectValue(6, 1 << 20, "w1", "w1:1"), attempt=6)
    sim.turn(known("w1"), recovered(make.graph(), results))
    cached = sim.core.runs["r"].cached
    assert cached is not None
    assert sorted(cached.hits) == ([0, 1] if with_object else [1])
    hello(sim, "w1", objects=(6,))
    while sim.open:
        sim.done(sim.assigned[0])
    assert sim.ended.state == "succeeded"
    assert set(sim.executed) == {"c", "d"} | (set() if with_object else {"large"})
