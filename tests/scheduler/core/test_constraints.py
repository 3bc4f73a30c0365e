"""Limits in the core, event by event. The invariants are checked after every turn."""

from __future__ import annotations

import pytest

from cascade_scheduler.core import commands as c
from cascade_scheduler.core import events as e
from cascade_scheduler.core.graph import Graph, NodeKind, Retry
from cascade_scheduler.core.limits import (
    CONCURRENCY,
    LIMITS_MAX,
    PAUSE,
    RATE_LIMIT,
    Constraint,
    checked,
)
from cascade_scheduler.core.plans import solve

from .harness import GraphMaker, Sim

REQUEST = 7


def limit(scope: str, kind: str, *, id: str = "", **said: object) -> e.ConstraintSet:
    constraint = Constraint(id, scope, kind, **said)  # type: ignore[arg-type]
    return e.ConstraintSet(checked(constraint, 0.0), REQUEST)


def pause(scope: str = "global", id: str = "", expires_at: float | None = None) -> e.ConstraintSet:
    return limit(scope, PAUSE, id=id, expires_at=expires_at)


def at_most(scope: str, count: int) -> e.ConstraintSet:
    return limit(scope, CONCURRENCY, limit=count)


def per_second(scope: str, rate: float, capacity: float = 1.0) -> e.ConstraintSet:
    return limit(scope, RATE_LIMIT, rate=rate, capacity=capacity)


def clear(**which: str) -> e.ConstraintsCleared:
    return e.ConstraintsCleared(REQUEST + 1, **which)


def many(name: str, count: int, **options: object) -> Graph:
    make = GraphMaker()
    make.gather(*[make.call(name, **options) for _ in range(count)])  # type: ignore[arg-type]
    return make.graph()


def several(*names: str) -> Graph:
    make = GraphMaker()
    make.gather(*[make.call(name) for name in names])
    return make.graph()


def answered(sim: Sim) -> list[c.ConstraintsAnswered]:
    return sim.of(c.ConstraintsAnswered)


def blocked(sim: Sim) -> list[tuple[str, str]]:
    return [(record.task, record.reason) for record in sim.events("TaskBlocked")]


@pytest.fixture
def sim() -> Sim:
    made = Sim()
    made.worker("w1", cpu=4)
    return made


def wakes(sim: Sim) -> None:
    """Time goes on until the core wanted to be woken."""
    at = sim.core.next_wakeup
    assert at is not None
    sim.now = at
    sim.turn(e.Tick())


# --- what may start ----------------------------------------------------------------------------------


def test_a_pause_lets_nothing_start_and_its_removal_all(sim: Sim) -> None:
    sim.turn(pause())
    sim.submit(several("a", "b"))
    assert not sim.assigned
    sim.turn(clear(scope="global"))
    assert sim.assigned == ["a", "b"]
    assert [found.id for found in answered(sim)[-1].constraints] == ["pause:global"]


def test_what_runs_goes_on_and_what_follows_waits(sim: Sim) -> None:
    make = GraphMaker()
    make.call("b", make.call("a"))
    sim.submit(make.graph())
    sim.turn(e.WorkerReported("w1", started=(sim.one("a").attempt,)))
    sim.turn(pause())
    assert not sim.of(c.RetractAttempt)
    sim.done("a")
    assert not sim.assigned
    sim.turn(clear(scope="global"))
    sim.done("b")
    assert sim.ended.state == "succeeded"


def test_a_limit_holds_only_whom_it_covers(sim: Sim) -> None:
    sim.turn(pause("task:slow_*"))
    sim.submit(several("slow_a", "fast", "slow_b"))
    assert sim.assigned == ["fast"]
    sim.turn(pause("run:r2"))
    sim.submit(several("fast"), "r2")
    sim.submit(several("fast"), "r3")
    assert [assign.run_id for assign in sim.open.values()] == ["r", "r3"]


def test_a_child_of_a_map_is_known_by_the_name_of_its_task(sim: Sim) -> None:
    make = GraphMaker()
    make.call("f", items=[make.call("xs")], kind=NodeKind.MAP)
    sim.turn(pause("task:f"))
    sim.submit(make.graph())
    sim.done("xs", length=2, items=(b"1", b"2"))
    assert not sim.assigned
    sim.turn(clear(scope="task:f"))
    assert sim.assigned == ["f[0]", "f[1]"]


def test_structural_nodes_stand_under_no_limit(sim: Sim) -> None:
    make = GraphMaker()
    make.gather(make.gather(), make.collect())
    sim.turn(pause())
    sim.submit(make.graph())
    assert sim.ended.state == "succeeded"


def test_a_run_under_a_pause_can_be_cancelled(sim: Sim) -> None:
    sim.turn(pause())
    sim.submit(many("f", 3))
    sim.turn(e.RunCancelRequested("r"))
    assert sim.ended.state == "cancelled"
    sim.turn(clear(scope="global"))
    assert not sim.assigned


def test_so_many_at_a_time(sim: Sim) -> None:
    sim.turn(at_most("task:f", 2))
    sim.submit(many("f", 5))
    assert len(sim.open) == 2
    for left in (2, 2, 2, 1, 0):
        sim.done("f")
        assert len(sim.open) == left
    assert sim.ended.state == "succeeded"


def test_a_limit_counts_what_ran_before_it_was_set(sim: Sim) -> None:
    sim.submit(many("f", 6))
    running = [attempt for attempt, assign in sim.open.items() if not assign.ahead]
    assert len(running) == 4
    sim.turn(e.WorkerReported("w1", started=tuple(running)))
    sim.turn(at_most("global", 3))
    back = [command.attempt for command in sim.last if isinstance(command, c.RetractAttempt)]
    assert sorted(back) == sorted(set(sim.open) - set(running))
    sim.report(*[e.AttemptReturned(attempt) for attempt in back])
    assert len(sim.open) == 4
    sim.done("f")
    assert len(sim.open) == 3
    sim.done("f")
    assert len(sim.open) == 3


def test_two_limits_both_hold(sim: Sim) -> None:
    sim.turn(at_most("task:f", 1), at_most("global", 2))
    sim.submit(several("f", "f", "g", "g"))
    assert sim.assigned == ["f", "g"]
    sim.done("g")
    assert sim.assigned == ["f", "g"]
    sim.done("g")
    assert sim.assigned == ["f"]


def test_a_limit_over_several_tasks_is_one_limit(sim: Sim) -> None:
    sim.turn(at_most("task:*", 1))
    sim.submit(several("f", "g"))
    assert sim.assigned == ["f"]
    sim.done("f")
    assert sim.assigned == ["g"]


def test_what_is_lost_or_cancelled_counts_no_longer(sim: Sim) -> None:
    sim.turn(at_most("global", 1))
    sim.submit(several("f", "g"))
    sim.report(e.AttemptLost(sim.one("f").attempt, "killed"))
    assert sim.assigned == ["f"]
    sim.lose_worker("w1")
    sim.worker("w2")
    assert len(sim.open) == 1
    sim.turn(e.RunCancelRequested("r"))
    [attempt] = sim.open
    sim.report(e.AttemptCancelled(attempt))
    sim.submit(several("h"), "r2")
    assert sim.assigned == ["h"]


def test_starts_are_spread_by_a_rate(sim: Sim) -> None:
    sim.turn(per_second("task:f", 5, capacity=2))
    sim.submit(many("f", 4))
    began = sim.now
    assert len(sim.open) == 2
    wakes(sim)
    assert len(sim.open) == 3
    assert sim.now == pytest.approx(began + 0.2)
    wakes(sim)
    assert len(sim.open) == 4
    assert sim.now == pytest.approx(began + 0.4)


def test_a_retry_takes_another_token(sim: Sim) -> None:
    sim.turn(per_second("task:f", 1))
    sim.submit(many("f", 1, retry=Retry(3)))
    sim.failed("f")
    assert not sim.assigned
    wakes(sim)
    assert sim.assigned == ["f"]


def test_what_had_not_started_gives_its_token_back(sim: Sim) -> None:
    sim.turn(per_second("task:f", 0.01))
    sim.submit(many("f", 1))
    sim.turn(pause())
    sim.report(e.AttemptReturned(sim.one("f").attempt))
    assert not sim.assigned
    sim.turn(clear(type=PAUSE))
    assert sim.assigned == ["f"]


def test_nodes_under_a_limit_are_not_sent_ahead() -> None:
    sim = Sim(ahead_seconds=10.0)
    sim.worker("w1", cpu=1)
    sim.turn(at_most("task:f", 10))
    sim.submit(several("f", "f", "g", "g"))
    assert [sim.name_of(assign) for assign in sim.open.values() if assign.ahead] == ["g", "g"]
    sim.turn(clear(scope="task:f"))
    assert len(sim.open) == 4


# --- changes -----------------------------------------------------------------------------------------


def test_a_limit_that_is_raised_or_lowered_holds_at_once(sim: Sim) -> None:
    sim.turn(at_most("task:f", 1))
    sim.submit(many("f", 9))
    sim.turn(at_most("task:f", 3))
    assert len(sim.open) == 3
    sim.turn(e.WorkerReported("w1", started=tuple(sim.open)[:2]))
    sim.turn(at_most("task:f", 1))
    [back] = [command.attempt for command in sim.last if isinstance(command, c.RetractAttempt)]
    sim.report(e.AttemptReturned(back))
    sim.done("f")
    assert len(sim.open) == 1
    sim.done("f")
    assert len(sim.open) == 1


def test_a_rate_that_is_raised_holds_at_once(sim: Sim) -> None:
    sim.turn(per_second("task:f", 1))
    sim.submit(many("f", 4))
    assert len(sim.open) == 1
    sim.now += 0.1
    sim.turn(per_second("task:f", 100))
    assert len(sim.open) == 1
    began = sim.now
    for _ in range(3):
        wakes(sim)
    assert len(sim.open) == 4
    assert sim.now - began == pytest.approx(0.029)


def test_to_set_a_rate_again_lets_nothing_slip_through(sim: Sim) -> None:
    sim.turn(per_second("task:f", 1))
    sim.submit(many("f", 4))
    for _ in range(5):
        sim.turn(per_second("task:f", 1))
    assert len(sim.open) == 1


def test_an_id_names_one_limit(sim: Sim) -> None:
    sim.turn(pause("task:f", id="mine"))
    sim.submit(several("f", "g"))
    assert sim.assigned == ["g"]
    sim.turn(limit("task:g", CONCURRENCY, id="mine", limit=5))
    assert sim.assigned == ["g", "f"]
    assert [found.constraint.id for found in sim.core.lines.limits] == ["mine"]
    kept = [command for command in sim.log if isinstance(command, (c.SaveConstraint, c.DropConstraint))]
    assert [type(command) for command in kept] == [c.SaveConstraint, c.SaveConstraint]


def test_the_last_one_of_a_scope_and_type_wins(sim: Sim) -> None:
    sim.turn(pause("global", id="one"))
    sim.turn(pause("global", id="two"))
    assert [found.constraint.id for found in sim.core.lines.limits] == ["two"]
    assert sim.of(c.DropConstraint) == [c.DropConstraint("one")]


def test_to_clear_takes_away_what_fits_and_nothing_else(sim: Sim) -> None:
    sim.turn(pause(), at_most("global", 5), pause("task:f"))
    sim.turn(clear(scope="global", type=PAUSE))
    assert [found.id for found in answered(sim)[-1].constraints] == ["pause:global"]
    sim.turn(clear(id="nothing"))
    assert answered(sim)[-1].constraints == ()
    sim.turn(clear())
    assert len(answered(sim)[-1].constraints) == 2
    assert not sim.core.lines.limits
    assert sim.core.lines.plain


def test_a_limit_ends_by_itself_and_wakes_what_waited(sim: Sim) -> None:
    sim.turn(pause(expires_at=sim.now + 0.25))
    sim.submit(several("a"))
    assert sim.core.next_wakeup == sim.now + 0.25
    sim.after(0.2)
    assert not sim.assigned
    sim.after(0.05)
    assert sim.assigned == ["a"]
    assert c.DropConstraint("pause:global") in sim.last
    assert sim.core.next_wakeup is None


def test_there_are_not_too_many(sim: Sim) -> None:
    sim.turn(*[pause(f"task:{number}") for number in range(LIMITS_MAX)])
    sim.turn(pause("task:more"))
    assert "the most that there may be" in answered(sim)[-1].error
    sim.turn(pause("task:1"))
    assert not answered(sim)[-1].error


def test_what_held_before_holds_from_the_start() -> None:
    sim = Sim()
    old = checked(Constraint("", "task:f", PAUSE, expires_at=sim.now - 1), 0.0)
    kept = checked(Constraint("", "task:g", PAUSE), 0.0)
    sim.turn(e.ConstraintsLoaded((old, kept)))
    assert sim.of(c.DropConstraint) == [c.DropConstraint(old.id)]
    assert not answered(sim)
    sim.worker("w1", cpu=4)
    sim.submit(several("f", "g"))
    assert sim.assigned == ["f"]


def test_nothing_is_said_to_a_store_that_keeps_nothing() -> None:
    sim = Sim(saves=False)
    sim.turn(pause(), clear(scope="global"))
    assert not sim.of(c.SaveConstraint)
    assert not sim.of(c.DropConstraint)


# --- what is told ------------------------------------------------------------------------------------


def test_each_blocked_node_says_so_once(sim: Sim) -> None:
    sim.turn(pause())
    sim.submit(several("a", "b"))
    sim.after(1.0)
    sim.turn(at_most("global", 5))
    sim.submit(several("c"), "r2")
    assert blocked(sim) == [(name, "ConstraintViolation") for name in "abc"]
    sim.turn(clear(type=PAUSE))
    assert len(blocked(sim)) == 3


def test_a_node_that_is_blocked_again_says_so_again(sim: Sim) -> None:
    sim.turn(pause())
    sim.submit(many("f", 1, retry=Retry(2)))
    sim.turn(clear(type=PAUSE))
    sim.turn(e.WorkerReported("w1", started=(sim.one("f").attempt,)))
    sim.turn(pause())
    sim.failed("f")
    assert len(blocked(sim)) == 2


def test_of_very_many_only_some_say_so_at_once(sim: Sim) -> None:
    sim.turn(pause())
    sim.submit(many("f", 3_000))
    assert 1 <= len(blocked(sim)) <= 1_001
    before = len(blocked(sim))
    for _ in range(5):
        sim.after(1.0)
    assert len(blocked(sim)) == before


def test_what_waits_for_a_worker_and_not_for_a_limit_says_nothing(sim: Sim) -> None:
    sim.turn(at_most("global", 100))
    sim.submit(many("f", 10))
    assert len(sim.open) == 4
    assert not blocked(sim)


# --- promises ----------------------------------------------------------------------------------------


def test_a_limit_that_touches_nobody_is_answered_at_once(sim: Sim) -> None:
    sim.submit(several("f"))
    sim.turn(pause("task:g"))
    [answer] = answered(sim)
    assert (answer.request, answer.constraints[0].id, answer.error) == (REQUEST, "pause:task:g", "")
    assert not sim.of(c.AskPromise)


def test_a_limit_is_answered_when_all_whom_it_touches_have_promised() -> None:
    sim = Sim()
    for name in ("w1", "w2", "idle"):
        sim.worker(name)
    sim.submit(several("f", "f", "g"))
    sim.turn(pause("task:f"))
    asked = {command.worker: command.number for command in sim.of(c.AskPromise)}
    assert sorted(asked) == sorted(
        {assign.worker for assign in sim.open.values() if sim.name_of(assign) == "f"}
    )
    workers = list(asked)
    sim.turn(e.WorkerReported(workers[0], promised=asked[workers[0]]))
    assert not answered(sim)
    sim.turn(e.WorkerReported(workers[1], promised=asked[workers[1]] - 1))
    assert not answered(sim)
    sim.turn(e.WorkerReported(workers[1], promised=asked[workers[1]]))
    assert len(answered(sim)) == 1


def test_a_worker_that_is_lost_promises_nothing_more(sim: Sim) -> None:
    sim.submit(several("f"))
    sim.turn(pause())
    assert not answered(sim)
    sim.lose_worker("w1")
    assert len(answered(sim)) == 1


def test_a_worker_that_comes_back_is_asked_again(sim: Sim) -> None:
    sim.submit(several("f"))
    attempt = sim.one("f").attempt
    sim.turn(e.WorkerDisconnected("w1", "broken"))
    sim.turn(pause())
    assert not answered(sim)
    amounts = (("cpu", 4_000_000),)
    sim.turn(e.WorkerConnected("w1", "w1", amounts, 1000, 4, "w1:1", held=(e.Held(attempt, "waiting"),)))
    assert c.RetractAttempt("w1", attempt) in sim.last
    [asked] = [command for command in sim.last if isinstance(command, c.AskPromise)]
    assert sim.last.index(asked) > sim.last.index(c.RetractAttempt("w1", attempt))
    del sim.open[attempt]
    sim.turn(e.WorkerReported("w1", (e.AttemptReturned(attempt),), promised=asked.number))
    assert len(answered(sim)) == 1
    assert not sim.assigned


def test_an_assignment_that_never_arrived_needs_no_promise_but_one_is_asked_for(sim: Sim) -> None:
    sim.submit(several("f"))
    sim.open.clear()
    sim.turn(pause())
    sim.turn(e.WorkerDisconnected("w1", "broken"))
    sim.turn(e.WorkerConnected("w1", "w1", (("cpu", 4_000_000),), 1000, 4, "w1:1"))
    assert not sim.assigned
    [asked] = [command for command in sim.last if isinstance(command, c.AskPromise)]
    sim.turn(e.WorkerReported("w1", promised=asked.number))
    assert len(answered(sim)) == 1


def test_retracts_come_before_the_promise_that_they_are_for(sim: Sim) -> None:
    sim.submit(many("f", 4))
    sim.turn(pause())
    kinds = [type(command) for command in sim.last if isinstance(command, (c.RetractAttempt, c.AskPromise))]
    assert kinds == [c.RetractAttempt] * 4 + [c.AskPromise]


# --- order and cost ----------------------------------------------------------------------------------


def test_a_limit_keeps_the_order_of_priorities(sim: Sim) -> None:
    make = GraphMaker()
    low = [make.call("low") for _ in range(2)]
    high = [make.call("high", priority=5) for _ in range(2)]
    make.gather(*low, *high)
    sim.turn(at_most("global", 1))
    sim.submit(make.graph())
    seen = []
    while sim.open:
        [name] = sim.assigned
        seen.append(name)
        sim.done(name)
    assert seen == ["high", "high", "low", "low"]


def test_runs_share_a_limit(sim: Sim) -> None:
    sim.turn(at_most("task:f", 1))
    sim.submit(many("f", 6), "r1")
    sim.submit(many("f", 6), "r2")
    seen = []
    for _ in range(6):
        [assign] = sim.open.values()
        seen.append(assign.run_id)
        sim.done("f", duration=0.05)
    assert seen.count("r1") == seen.count("r2") == 3


def test_a_resume_during_the_same_turn_leaves_nothing_behind(sim: Sim) -> None:
    sim.turn(pause())
    sim.submit(many("f", 3), "r1")
    graph = several("a", "b")
    sim.turn(clear(type=PAUSE), e.RunSubmitted("r2", graph, solve(graph)), pause("task:a"))
    assert sorted(sim.assigned) == ["b", "f", "f", "f"]


def test_a_worker_kept_for_a_line_that_is_then_paused_is_given_to_others() -> None:
    sim = Sim(starving_after=0.5)
    sim.worker("w1", cpu=2, ahead=0)
    sim.turn(at_most("task:big", 1))
    make = GraphMaker()
    make.gather(
        *[make.call("small") for _ in range(4)],
        make.call("big", amounts=(("cpu", 2_000_000),), priority=-1),
    )
    sim.submit(make.graph())
    sim.after(0.6)
    assert sim.core.reserved == 1
    sim.done("small")
    assert sim.assigned == ["small"]
    sim.turn(pause("task:big"))
    assert len(sim.assigned) == 2


def test_a_large_run_is_taken_apart_by_limits_and_put_together_again(sim: Sim) -> None:
    make = GraphMaker()
    made = [make.call(name) for _ in range(500) for name in ("f", "g", "h")]
    make.gather(*made)
    sim.submit(make.graph())
    sim.turn(e.WorkerReported("w1", started=tuple(sim.open)))
    for event in (pause("task:f"), at_most("task:[gh]", 2), clear(scope="task:f"), per_second("run:r", 3)):
        sim.turn(event)
    sim.turn(clear())
    run = sim.core.runs["r"]
    waiting = [node for found, node, _ in sim.core.queues.everywhere() if found is run]
    assert len(waiting) == len(set(waiting)) == run.ready == 1500 - run.active
