"""Who runs what where: amounts, credits, work ahead, fairness, loss."""

from __future__ import annotations

from collections import Counter

from cascade_scheduler.core import commands as c
from cascade_scheduler.core import events as e
from cascade_scheduler.core.plans import solve
from cascade_scheduler.core.values import ObjectValue

from .harness import CPU, GraphMaker, Sim


def many(n: int, name: str = "t", **options: object) -> GraphMaker:
    make = GraphMaker()
    make.gather(*[make.call(name, **options) for _ in range(n)])  # type: ignore[arg-type]
    return make


def test_free_workers_come_first_and_share_alike() -> None:
    sim = Sim()
    sim.worker("w1", cpu=2)
    sim.worker("w2", cpu=2)
    sim.submit(many(4).graph())
    assert Counter(a.worker for a in sim.of(c.Assign)) == {"w1": 2, "w2": 2}
    assert not any(a.ahead for a in sim.of(c.Assign))


def single(name: str, **options: object) -> e.RunSubmitted:
    """A run of one node, named as its task."""
    make = GraphMaker()
    make.call(name, **options)  # type: ignore[arg-type]
    graph = make.graph()
    return e.RunSubmitted(name, graph, solve(graph))


def test_a_node_that_is_the_only_ready_one_goes_where_its_line_would_send_it() -> None:
    sim = Sim()
    sim.worker("w1", cpu=2)
    sim.worker("w2", cpu=2)
    for name in ("a", "b", "c", "d"):
        sim.turn(single(name))
    assert [assign.worker for assign in sim.of(c.Assign)] == ["w1", "w2", "w1", "w2"]
    sim.turn(single("e"))
    assert sim.one("e").ahead, "all are busy: it stands in line, and is sent ahead from there"


def test_nodes_that_become_ready_in_one_turn_go_by_priority() -> None:
    sim = Sim()
    sim.worker("w1", cpu=1, ahead=0)
    sim.turn(single("late"), single("early", priority=1))
    assert sim.assigned == ["early"]
    sim.done("early")
    assert sim.assigned == ["late"]


def test_the_only_ready_node_waits_for_room() -> None:
    sim = Sim()
    sim.worker("w1", cpu=1, ahead=0)
    sim.turn(single("first"))
    sim.turn(single("second"))
    assert sim.assigned == ["first"]
    sim.done("first")
    assert sim.assigned == ["second"]


def test_the_only_ready_node_does_not_go_when_its_run_is_cancelled_in_the_same_turn() -> None:
    sim = Sim()
    sim.worker("w1", cpu=1)
    sim.turn(single("t"), e.RunCancelRequested("t"))
    assert not sim.of(c.Assign)
    assert sim.ended.state == "cancelled"


def test_the_only_ready_node_is_charged_to_its_run() -> None:
    sim = Sim()
    sim.worker("w1", cpu=1, ahead=0)
    make = GraphMaker()
    node = make.call("step")
    for _ in range(9):
        node = make.call("step", node)
    sim.submit(make.graph(), "chain")
    for _ in range(4):
        sim.done("step", duration=0.05)
    sim.submit(many(6, "other").graph(), "other")
    order = []
    for _ in range(8):
        [name] = sim.assigned
        order.append(name)
        sim.done(name, duration=0.05)
    assert order == ["step", "other"] * 4, "the chain's time counts, and what came later has none saved up"


def test_work_is_sent_ahead_to_a_bound_and_more_when_tasks_are_short() -> None:
    sim = Sim()
    sim.worker("w1", cpu=1, ahead=16)
    sim.submit(many(100).graph())
    assert len(sim.open) == 2, "one runs and one waits: nothing is known of how long it takes"
    first = sim.one("t").attempt
    sim.report(e.AttemptDone(first, b"", duration=0.0001))
    assert len(sim.open) == 17, "one runs, sixteen wait"


def test_amounts_that_are_not_cpu_are_never_sent_ahead() -> None:
    sim = Sim()
    sim.worker("w1", cpu=4, gpu=1)
    sim.submit(many(5, amounts=(("cpu", 1_000_000), ("gpu", 1_000_000))).graph())
    assert len(sim.open) == 1
    sim.done("t")
    assert len(sim.open) == 1


def test_a_report_lets_the_next_in_line_start() -> None:
    sim = Sim()
    sim.worker("w1", cpu=1)
    sim.submit(many(2).graph())
    worker = sim.core.workers["w1"]
    assert len(worker.queue) == 1
    sim.done("t")
    assert not worker.queue
    assert worker.free["cpu"] == 0


def test_async_tasks_have_credits_of_their_own() -> None:
    sim = Sim()
    sim.worker("w1", cpu=1, credits=3)
    make = many(5, asynchronous=True)
    make.gather(make.call("sync"), len(make.spec_of) - 1)
    sim.submit(make.graph())
    assert Counter(sim.assigned) == {"t": 3, "sync": 1}


def test_two_runs_share_alike() -> None:
    sim = Sim()
    sim.worker("w1", cpu=1, ahead=0)
    sim.submit(many(200, "big").graph(), "big")
    sim.submit(many(20, "small").graph(), "small")
    order = []
    for _ in range(40):
        [name] = sim.assigned
        order.append(name)
        sim.report(e.AttemptDone(next(iter(sim.open)), b"", duration=0.01))
    assert 18 <= order.count("small") <= 20


def test_higher_priority_goes_first_across_runs() -> None:
    sim = Sim()
    sim.worker("w1", cpu=1, ahead=0)
    sim.submit(many(5, "low").graph(), "a")
    sim.submit(many(2, "high", priority=5).graph(), "b")
    sim.done("low")
    assert sim.assigned == ["high"]
    sim.done("high")
    assert sim.assigned == ["high"]
    sim.done("high")
    assert sim.assigned == ["low"]


def test_the_longest_path_goes_first() -> None:
    sim = Sim()
    sim.worker("w1", cpu=1, ahead=0)
    make = GraphMaker()
    short = make.call("short")
    long = make.call("long")
    make.gather(short, make.call("next", long))
    sim.submit(make.graph())
    assert sim.assigned == ["long"]


def test_one_class_without_room_holds_up_no_other() -> None:
    sim = Sim()
    sim.worker("w1", cpu=2, gpu=1)
    make = GraphMaker()
    gpus = [make.call("gpu", amounts=(("gpu", 1_000_000),)) for _ in range(3)]
    make.gather(*gpus, make.call("cpu"))
    sim.submit(make.graph())
    assert Counter(sim.assigned) == {"gpu": 1, "cpu": 1}


def test_a_wide_task_does_not_starve() -> None:
    sim = Sim()
    sim.worker("w1", cpu=2, ahead=0)
    sim.submit(many(100, "narrow").graph(), "a")
    sim.submit(many(1, "wide", amounts=(("cpu", 2_000_000),)).graph(), "b")
    for _ in range(20):
        if "wide" in sim.assigned:
            break
        sim.now += 0.1
        sim.report(e.AttemptDone(sim.one("narrow").attempt, b"", duration=0.1))
    assert "wide" in sim.assigned


def test_a_core_in_which_nothing_is_due_asks_for_no_wake_up() -> None:
    sim = Sim()
    sim.worker("w1", cpu=1, ahead=0)
    sim.submit(many(2).graph())
    sim.after(10)
    sim.after(1)
    assert sim.core.next_wakeup is None
    sim.submit(many(1, amounts=(("gpu", 1_000_000),)).graph(), "impossible")
    assert sim.core.next_wakeup == sim.now + 60
    sim.turn(e.RunCancelRequested("impossible"))
    assert sim.core.next_wakeup is None


def test_s68_in_a_closed_cluster_an_amount_that_nobody_has_is_refused() -> None:
    sim = Sim(closed=True, expected_workers=1)
    sim.worker("w1", cpu=16)
    sim.submit(many(1, amounts=(("cpu", 64_000_000),)).graph())
    [refused] = sim.of(c.RunRefused)
    assert refused.code == "infeasible"
    assert "cpu=64" in refused.message
    assert "16" in refused.message
    sim.submit(many(1, amounts=(("gpu", 1_000_000),)).graph(), "r2")
    assert "no worker declares 'gpu'" in sim.of(c.RunRefused)[1].message


def test_a_closed_cluster_waits_for_its_expected_workers_before_it_judges() -> None:
    sim = Sim(closed=True, expected_workers=2)
    sim.worker("w1", cpu=1)
    sim.submit(many(1, amounts=(("cpu", 2_000_000),)).graph())
    assert not sim.of(c.RunRefused)
    sim.worker("w2", cpu=1)
    assert sim.ended.state == "failed"
    assert sim.ended.error is not None
    assert sim.ended.error.type == "AmountError"


def test_an_open_cluster_waits_says_so_once_and_then_fails() -> None:
    sim = Sim(infeasible_after=60.0)
    sim.worker("w1", cpu=1)
    sim.submit(many(1, amounts=(("gpu", 1_000_000),)).graph())
    sim.after(30)
    assert [b.reason for b in sim.events("TaskBlocked")] == ["ResourceContention"]
    sim.after(31)
    assert sim.ended.error is not None
    assert sim.ended.error.type == "AmountError"


def test_every_run_waits_for_itself_and_all_its_nodes_fail_together() -> None:
    sim = Sim(infeasible_after=60.0)
    sim.worker("w1", cpu=1)
    gpu = (("gpu", 1_000_000),)
    sim.submit(many(5, amounts=gpu).graph(), "a", on_failure="finish")
    sim.submit(many(5, amounts=gpu).graph(), "b")
    sim.now += 30
    sim.submit(many(1, amounts=gpu).graph(), "c")
    sim.now += 31
    sim.turn(e.Tick())
    assert [end.run_id for end in sim.of(c.RunEnded)] == ["a", "b"]
    assert sim.core.next_wakeup == sim.now + 29
    sim.after(30)
    assert [end.run_id for end in sim.of(c.RunEnded)] == ["a", "b", "c"]
    assert sim.core.next_wakeup is None
    assert len(sim.events("TaskBlocked")) == 3


def test_without_any_worker_nothing_is_known_and_no_clock_runs() -> None:
    for closed in (True, False):
        sim = Sim(infeasible_after=60.0, closed=closed)
        sim.submit(many(1, amounts=(("gpu", 1_000_000),)).graph())
        sim.after(100)
        assert not sim.of(c.RunEnded)
        assert sim.core.next_wakeup is None
    sim.worker("w1", cpu=1)
    sim.after(59)
    assert not sim.of(c.RunEnded)
    sim.after(2)
    assert sim.ended.state == "failed"


def test_an_open_cluster_uses_a_worker_that_comes_in_time() -> None:
    sim = Sim(infeasible_after=60.0)
    sim.worker("w1", cpu=1)
    sim.submit(many(1, amounts=(("gpu", 1_000_000),)).graph())
    sim.now += 30
    sim.worker("w2", gpu=1)
    assert sim.one("t").worker == "w2"


def test_what_waits_on_a_busy_worker_is_asked_back_for_an_idle_one() -> None:
    sim = Sim()
    sim.worker("w1", cpu=1)
    sim.submit(many(2).graph())
    sim.worker("w2", cpu=1)
    assert sim.core.next_wakeup is not None
    sim.after(0.05)
    [retract] = sim.of(c.RetractAttempt)
    assert retract.worker == "w1"
    sim.report(e.AttemptReturned(retract.attempt))
    assert {a.worker for a in sim.open.values()} == {"w1", "w2"}


def test_what_no_idle_worker_can_start_is_not_asked_back() -> None:
    sim = Sim()
    sim.turn(e.WorkerConnected("w0", "w0", CPU, 0, 4, "w0:1", sync_credits=0))
    sim.turn(e.WorkerConnected("w1", "w1", CPU, 0, 4, "w1:1", sync_credits=0))
    sim.submit(many(1).graph())
    sim.after(0.1)
    assert not sim.of(c.RetractAttempt)


def test_a_lost_worker_gives_its_attempts_to_others_and_a_task_that_kills_is_stopped() -> None:
    sim = Sim(loss_budget=3)
    make = GraphMaker()
    make.call("killer")
    for i in range(3):
        sim.worker(f"w{i}")
        if i == 0:
            sim.submit(make.graph())
        assert sim.one("killer").worker == f"w{i}"
        sim.lose_worker(f"w{i}")
    assert len(sim.events("TaskLost")) == 3
    assert sim.ended.error is not None
    assert sim.ended.error.type == "TaskLostError"
    assert "3 times" in sim.ended.error.message


def test_a_broken_stream_has_a_grace_and_a_reconnect_is_no_special_case() -> None:
    sim = Sim(worker_grace=2.0)
    sim.worker("w1", cpu=2)
    make = many(3)
    sim.submit(make.graph())
    sim.turn(e.WorkerDisconnected("w1", "reset"))
    running = list(sim.open)
    sim.now += 1
    hello = e.WorkerConnected(
        "w1",
        "w1",
        (("cpu", 2_000_000),),
        10,
        4,
        "w1:1",
        held=(e.Held(running[0], "running"), e.Held(77, "running")),
    )
    for attempt in running[1:]:
        del sim.open[attempt]
    sim.turn(hello)
    [welcome] = [w for w in sim.last if isinstance(w, c.WelcomeWorker)]
    assert welcome.keep == (running[0],)
    assert welcome.drop == (77,)
    assert len(sim.open) == 3, "what never arrived is sent again"
    for _ in range(3):
        sim.done("t")
    assert sim.ended.state == "succeeded"


def test_after_its_grace_a_worker_is_lost() -> None:
    sim = Sim(worker_grace=2.0)
    sim.worker("w1")
    sim.submit(many(1).graph())
    sim.turn(e.WorkerDisconnected("w1", "reset"))
    sim.open.clear()
    sim.after(2.5)
    assert [g.worker for g in sim.of(c.WorkerGone)] == ["w1"]
    sim.worker("w2")
    assert sim.one("t").worker == "w2"


def obj(sim: Sim, name: str) -> ObjectValue:
    assign = sim.one(name)
    return ObjectValue(assign.attempt, 1 << 20, assign.worker, f"{assign.worker}:1")


def test_a_node_goes_where_its_input_is_and_the_object_is_released_after() -> None:
    sim = Sim()
    sim.worker("w1", cpu=1)
    sim.worker("w2", cpu=1)
    make = GraphMaker()
    make.call("b", make.call("a"))
    sim.submit(make.graph())
    value = obj(sim, "a")
    sim.done("a", value)
    assert sim.one("b").worker == value.worker
    assert sim.one("b").inputs == (value,)
    sim.done("b")
    assert sim.of(c.ReleaseObject) == [c.ReleaseObject(value.worker, value.attempt)]


def lost_object(value: bytes | None, **settings: object) -> Sim:
    """A worker is lost with the object of b, which was made of a's value; None: that is one, too."""
    sim = Sim(**settings)  # type: ignore[arg-type]
    sim.worker("w1", cpu=1)
    make = GraphMaker()
    a = make.call("a")
    b = make.call("b", a)
    slow = make.call("slow", amounts=(("big", 1_000_000),))
    make.call("c", b, slow)
    sim.submit(make.graph())
    sim.done("a", obj(sim, "a") if value is None else value)
    sim.done("b", obj(sim, "b"))
    sim.worker("w2", cpu=1, big=1)
    assert sim.one("slow").worker == "w2"
    sim.lose_worker("w1")
    return sim


def finish(sim: Sim, *names: str) -> None:
    for name in names:
        sim.done(name)
    assert sim.ended.state == "succeeded"
    finished = Counter(r.task for r in sim.events("TaskExecutionFinished"))
    assert finished == {"a": 1, "b": 1, "slow": 1, "c": 1}, "what is made again adds no finish event"
    assert not sim.core.spare_bytes


def test_a_lost_object_is_made_again_with_the_objects_that_it_needs() -> None:
    sim = lost_object(None)
    assert set(sim.assigned) == {"slow", "a"}, "b's object is lost, and a's was let go"
    finish(sim, "a", "b", "slow", "c")


def test_a_small_value_that_a_lost_object_needs_is_not_made_again() -> None:
    sim = lost_object(b"small")
    assert set(sim.assigned) == {"slow", "b"}
    assert sim.one("b").inputs == (b"small",)
    finish(sim, "b", "slow", "c")


def test_small_values_are_remembered_up_to_a_bound() -> None:
    sim = lost_object(b"small", spare_bytes_max=10)
    assert set(sim.assigned) == {"slow", "a"}
    finish(sim, "a", "b", "slow", "c")


def test_an_input_that_no_holder_has_sends_the_consumer_back() -> None:
    sim = Sim()
    sim.worker("w1", cpu=2)
    make = GraphMaker()
    make.call("b", make.call("a"))
    sim.submit(make.graph())
    value = obj(sim, "a")
    sim.done("a", value)
    sim.failed("b", kind="input_lost", lost_inputs=(value.attempt,))
    assert sim.assigned == ["a"]
    sim.done("a")
    sim.done("b")
    assert sim.ended.state == "succeeded"


def test_a_draining_worker_gets_nothing_new() -> None:
    sim = Sim()
    sim.worker("w1", cpu=1)
    sim.turn(e.WorkerReported("w1", draining=True))
    sim.submit(many(1).graph())
    assert not sim.open


def test_zero_cpu_lets_many_wait_side_by_side() -> None:
    sim = Sim()
    sim.worker("w1", cpu=1, ahead=0)
    sim.submit(many(10, amounts=(("cpu", 100_000),)).graph())
    assert len(sim.open) == 10
    assert CPU == (("cpu", 1_000_000),)


# --- copies ---------------------------------------------------------------------------------------


def copied_object() -> tuple[Sim, ObjectValue]:
    """b has run on w2 with a copy of a's object, which w1 holds; c, and the target, still need it."""
    sim = Sim()
    sim.worker("w1", cpu=1, first=1)
    sim.worker("w2", cpu=1, second=1)
    make = GraphMaker()
    a = make.call("a", amounts=(*CPU, ("first", 1_000_000)))
    b = make.call("b", a, amounts=(*CPU, ("second", 1_000_000)))
    slow = make.call("slow", b, amounts=(*CPU, ("second", 1_000_000)))
    make.call("c", a, slow, amounts=(*CPU, ("second", 1_000_000)))
    sim.submit(make.graph())
    value = obj(sim, "a")
    sim.done("a", value)
    sim.turn(e.WorkerReported("w2", copies=(value.attempt,)))
    sim.done("b")
    return sim, value


def test_who_has_a_copy_is_the_holder_when_the_maker_is_lost() -> None:
    sim, value = copied_object()
    sim.lose_worker("w1")
    assert sim.assigned == ["slow"], "nothing is made again"
    sim.done("slow")
    assert sim.one("c").inputs[0] == value._replace(worker="w2", address=sim.core.workers["w2"].address)
    sim.done("c")
    assert [(r.worker, r.attempt) for r in sim.of(c.ReleaseObject)] == [("w2", value.attempt)]
    assert sim.ended.state == "succeeded"
    assert not sim.core.moved


def test_copies_are_released_with_the_object_and_afterwards() -> None:
    sim, value = copied_object()
    sim.done("slow")
    sim.done("c")
    assert [(r.worker, r.attempt) for r in sim.of(c.ReleaseObject)] == [
        ("w1", value.attempt),
        ("w2", value.attempt),
    ]
    sim.turn(e.WorkerReported("w2", copies=(value.attempt,)))
    assert sim.last == [c.ReleaseObject("w2", value.attempt)], "it came too late"
    assert not sim.core.copies


def test_when_both_are_lost_it_is_made_again() -> None:
    sim, _ = copied_object()
    sim.worker("w3", cpu=2, first=1, second=1)
    sim.lose_worker("w2")
    assert not any(sim.core.copies.values())
    sim.lose_worker("w1")
    assert "a" in sim.assigned


def test_who_looked_at_the_old_holder_is_sent_to_the_new_one_and_who_looked_there_is_believed() -> None:
    sim = Sim()
    sim.worker("w1", cpu=1, first=1)
    sim.worker("w2", cpu=2, second=2)
    make = GraphMaker()
    a = make.call("a", amounts=(*CPU, ("first", 1_000_000)))
    for name in ("b", "c"):
        make.call(name, a, amounts=(*CPU, ("second", 1_000_000)))
    make.gather(a + 1, a + 2)
    sim.submit(make.graph())
    value = obj(sim, "a")
    sim.done("a", value)
    sim.turn(e.WorkerReported("w2", copies=(value.attempt,)))
    sim.lose_worker("w1")
    sim.failed("b", kind="input_lost", lost_inputs=(value.attempt,))
    assert sorted(sim.assigned) == ["b", "c"], "it was told the old holder"
    sim.worker("w3", cpu=1, first=1)
    sim.failed("b", kind="input_lost", lost_inputs=(value.attempt,))
    assert sorted(sim.assigned) == ["a", "c"], "nobody has it any more"


def test_a_worker_that_comes_back_says_which_copies_it_has() -> None:
    sim, value = copied_object()
    sim.core.copies.clear()
    sim.turn(e.WorkerDisconnected("w2", "a cut cable"))
    held = tuple((attempt, "running") for attempt in sim.open)
    amounts = (*CPU, ("second", 1_000_000))
    sim.turn(e.WorkerConnected("w2", "w2", amounts, 9, 4, "w2:1", held=held, objects=(value.attempt, 4711)))
    (welcome,) = sim.of(c.WelcomeWorker)[-1:]
    assert welcome.release == (4711,)
    assert list(sim.core.copies[value.attempt]) == ["w2"]
