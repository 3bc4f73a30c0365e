"""Followers: which nodes are sent before their input is there, and what becomes of them."""

from __future__ import annotations

import pytest

from cascade_scheduler.core import commands as c
from cascade_scheduler.core import events as e
from cascade_scheduler.core.explain import explain
from cascade_scheduler.core.followers import DEPTH_MAX, DEPTH_MIN
from cascade_scheduler.core.graph import Graph, ResourceRef, Retry
from cascade_scheduler.core.limits import CONCURRENCY, PAUSE, Constraint, checked
from cascade_scheduler.core.run import ACTIVE, WAITING
from cascade_scheduler.core.values import BlobValue, ObjectValue, OpenValue
from tests.scheduler.core.harness import GraphMaker, Sim

NAMES = "abcdefghijklmnopqrstuvwx"


@pytest.fixture
def sim() -> Sim:
    """One worker with one cpu, which takes many tasks ahead. Calls take a millisecond."""
    made = Sim(chains=True)
    made.worker("w1", ahead=32)
    for name in NAMES:
        made.core.learn(name.encode(), 0.001)
    return made


def chain(names: str, **options: object) -> Graph:
    """Calls that follow one another."""
    make = GraphMaker()
    last = -1
    for name in names:
        last = make.call(name, *([last] if last >= 0 else []), **options)  # type: ignore[arg-type]
    return make.graph()


def waiting(sim: Sim) -> list[str]:
    """The followers that have not begun."""
    return [sim.name_of(assign) for assign in sim.followers.values()]


def test_a_chain_is_sent_with_its_open_inputs(sim: Sim) -> None:
    sim.submit(chain("abc"))
    a, b, c_ = (command for command in sim.last if isinstance(command, c.Assign))
    assert (a.ahead, a.behind, a.inputs) == (False, 0, ())
    assert (b.ahead, b.behind, b.inputs) == (True, a.attempt, (OpenValue(a.attempt),))
    assert (c_.ahead, c_.behind, c_.inputs) == (True, b.attempt, (OpenValue(b.attempt),))


def test_it_is_saved_what_a_follower_follows() -> None:
    sim = Sim(chains=True, saves=True)
    sim.worker("w1")
    sim.submit(chain("ab"))
    assert [(save.node, save.behind) for save in sim.of(c.SaveAttempt)] == [(0, 0), (1, sim.one("a").attempt)]


def test_a_follower_begins_with_the_report_of_its_input(sim: Sim) -> None:
    sim.submit(chain("ab"))
    run = sim.core.runs["r"]
    assert (run.status[1], run.active, run.ready) == (WAITING, 1, 0)
    sim.done("a")
    assert (run.status[1], run.active, run.ready) == (ACTIVE, 1, 0)
    assert sim.one("b").inputs == (b"v",)
    assert not [command for command in sim.last if isinstance(command, c.Assign)]
    sim.done("b")
    assert sim.ended.state == "succeeded"


def test_reports_of_a_whole_chain_come_at_once(sim: Sim) -> None:
    sim.submit(chain("abcd"))
    attempts = [*sim.open, *sim.followers]
    reports = tuple(e.AttemptDone(attempt, b"v", 0.001) for attempt in attempts)
    sim.turn(e.WorkerReported("w1", reports))
    assert sim.ended.state == "succeeded"
    kinds = [(record.kind, record.task) for record in sim.events() if record.task]
    assert kinds == [
        (kind, name) for name in "abcd" for kind in ("TaskExecutionStarted", "TaskExecutionFinished")
    ]


def test_a_start_that_is_told_before_the_report_it_follows_from_is_not_forgotten(sim: Sim) -> None:
    sim.submit(chain("ab"))
    [b] = sim.followers
    sim.turn(e.WorkerReported("w1", started=(b,)))
    assert not sim.events("TaskExecutionStarted")
    sim.done("a")
    assert [record.task for record in sim.events("TaskExecutionStarted")] == ["a", "b"]
    sim.done("b")
    assert len(sim.events("TaskExecutionStarted")) == 2


@pytest.mark.parametrize("fails", [False, True])
def test_users_see_the_same_with_and_without(fails: bool) -> None:
    told = []
    for chains in (False, True):
        sim = Sim(chains=chains)
        sim.worker("w1", ahead=32)
        make = GraphMaker()
        last = make.call("a")
        for name in "bcde":
            last = make.call(name, last, retry=Retry(2), run_if=last if name == "d" else None)
        sim.submit(make.graph())
        sim.done("a")
        sim.failed("b")
        sim.done("b")
        sim.done("c", truth=not fails)
        while sim.open:
            sim.done(sim.assigned[0])
        told.append([record._replace(at=0.0) for record in sim.events()])
    assert told[0] == told[1]


@pytest.mark.parametrize("value", [ObjectValue(1, 1 << 20, "w1", "w1:1"), BlobValue(b"cid", 1 << 20)])
def test_large_values_are_followed_too(sim: Sim, value: ObjectValue) -> None:
    sim.submit(chain("ab"))
    sim.done("a", value)
    assert sim.assigned == ["b"]


# --- who is sent -------------------------------------------------------------------------------------


def test_so_many_are_sent_and_more_when_half_of_them_have_begun(sim: Sim) -> None:
    sim.submit(chain(NAMES))
    assert waiting(sim) == list(NAMES[1 : 1 + DEPTH_MAX])
    for name in NAMES[: DEPTH_MAX - DEPTH_MIN - 1]:
        sim.done(name)
    assert waiting(sim) == list(NAMES[DEPTH_MAX - DEPTH_MIN : 1 + DEPTH_MAX])
    sim.done(NAMES[DEPTH_MAX - DEPTH_MIN - 1])
    assert waiting(sim) == list(NAMES[DEPTH_MAX - DEPTH_MIN + 1 :])


def test_no_more_is_sent_than_the_worker_takes_ahead() -> None:
    sim = Sim(chains=True)
    sim.worker("w1", ahead=2)
    for name in "abcd":
        sim.core.learn(name.encode(), 0.001)
    sim.submit(chain("abcd"))
    assert waiting(sim) == ["b", "c"]


def test_of_long_tasks_one_is_sent(sim: Sim) -> None:
    for name in "abc":
        sim.core.durations[name.encode()] = 1.0
    sim.submit(chain("abc"))
    assert waiting(sim) == ["b"]


def two_consumers(make: GraphMaker) -> None:
    a = make.call("a")
    make.gather(make.call("b", a), make.call("c", a))


def unanswered_input(make: GraphMaker) -> None:
    make.call("c", make.call("a"), make.call("b"))


def conditional(make: GraphMaker) -> None:
    make.call("b", run_if=make.call("a"))


def ordered(make: GraphMaker) -> None:
    make.call("b", after=[make.call("a")])


def asynchronous(make: GraphMaker) -> None:
    make.call("b", make.call("a"), asynchronous=True)


def other_amounts(make: GraphMaker) -> None:
    make.call("b", make.call("a"), amounts=(("cpu", 1_000_000), ("gpu", 1_000_000)))


def more_cpu(make: GraphMaker) -> None:
    make.call("b", make.call("a", amounts=(("cpu", 500_000),)))


def lazy_amount(make: GraphMaker) -> None:
    make.call("b", lazy={"cpu": make.call("a")})


def spawning(make: GraphMaker) -> None:
    make.call("b", make.call("a", spawn=True))


def staged(make: GraphMaker) -> None:
    make.call("b", make.call("a"), passthrough=True)


def with_resources(make: GraphMaker) -> None:
    a = make.call("a")
    b = make.call("b", a)
    resource = ResourceRef("db", 1, b"db")
    make.specs[make.spec_of[b]] = make.specs[make.spec_of[b]]._replace(resources=(resource,))


@pytest.mark.parametrize(
    "shape",
    [
        two_consumers,
        unanswered_input,
        conditional,
        ordered,
        asynchronous,
        other_amounts,
        more_cpu,
        lazy_amount,
        spawning,
        staged,
        with_resources,
    ],
)
def test_what_is_more_than_a_link_of_a_chain_is_not_sent(shape: object) -> None:
    sim = Sim(chains=True)
    sim.worker("w1", cpu=2, gpu=1)
    make = GraphMaker()
    shape(make)  # type: ignore[operator]
    sim.submit(make.graph())
    assert not sim.followers


def test_an_input_that_is_there_goes_along(sim: Sim) -> None:
    make = GraphMaker()
    first = make.call("a")
    make.call("c", first, make.call("b", after=[first]))
    sim.submit(make.graph())
    sim.done("a", b"first")
    [follower] = sim.followers.values()
    assert follower.inputs == (b"first", OpenValue(sim.one("b").attempt))


def test_an_object_may_be_lost_so_who_needs_one_waits(sim: Sim) -> None:
    make = GraphMaker()
    first = make.call("a")
    make.call("c", first, make.call("b", after=[first]))
    sim.submit(make.graph())
    sim.done("a", ObjectValue(sim.one("a").attempt, 1 << 20, "w1", "w1:1"))
    assert not sim.followers


# --- others ------------------------------------------------------------------------------------------


def others(sim: Sim, count: int, run_id: str = "other", **options: object) -> None:
    """A run of tasks of a second each: more than may be sent ahead."""
    make = GraphMaker()
    make.gather(*[make.call("slow", **options) for _ in range(count)])  # type: ignore[arg-type]
    sim.core.learn(b"slow", 1.0)
    sim.submit(make.graph(), run_id)


def retracted(sim: Sim) -> list[int]:
    return [command.attempt for command in sim.last if isinstance(command, c.RetractAttempt)]


def test_followers_are_asked_back_when_something_finds_no_room(sim: Sim) -> None:
    sim.submit(chain("abc"))
    asked = list(sim.followers)
    others(sim, 3)
    assert retracted(sim) == asked
    others(sim, 1, "more")
    assert not retracted(sim), "asked once"


def test_nothing_is_sent_while_something_finds_no_room(sim: Sim) -> None:
    others(sim, 3)
    sim.submit(chain("ab"))
    assert not sim.followers


def test_a_follower_that_is_given_back_goes_when_its_turn_comes(sim: Sim) -> None:
    sim.submit(chain("abc"))
    others(sim, 3)
    sim.give_back(next(iter(sim.followers)))
    assert not sim.followers
    assert not sim.core.followers
    sim.done("a")
    b = sim.one("b")
    assert (b.behind, b.inputs) == (0, (b"v",))
    assert not sim.core.attempts[b.attempt].charged, "behind what was sent ahead before"


def test_a_follower_begins_behind_what_was_sent_ahead_before(sim: Sim) -> None:
    sim.submit(chain("ab"))
    make = GraphMaker()
    make.call("x")
    sim.core.learn(b"x", 0.001)
    sim.submit(make.graph(), "other")
    [x] = [attempt for attempt in sim.core.attempts.values() if attempt.run.run_id == "other"]
    sim.done("a")
    b = sim.core.attempts[sim.one("b").attempt]
    assert (x.charged, b.charged) == (True, False)
    sim.done("x")
    assert b.charged


def test_what_waits_for_other_workers_is_in_nobodys_way(sim: Sim) -> None:
    sim.worker("gpu", gpu=1)
    make = GraphMaker()
    amounts = (("cpu", 1_000_000), ("gpu", 1_000_000))
    make.gather(*[make.call("g", amounts=amounts) for _ in range(3)])
    sim.submit(make.graph(), "other")
    sim.submit(chain("ab"))
    assert waiting(sim) == ["b"]


def test_a_run_is_charged_for_followers(sim: Sim) -> None:
    sim.submit(chain("abc"))
    run = sim.core.runs["r"]
    before = run.vtime
    sim.done("a")
    assert run.vtime == pytest.approx(before + 0.001, rel=0.5)


# --- ends --------------------------------------------------------------------------------------------


def test_a_failure_takes_what_follows_along(sim: Sim) -> None:
    sim.submit(chain("abc", retry=Retry(2)))
    sim.failed("a")
    assert sim.assigned == ["a"], "its second try"
    assert waiting(sim) == ["b", "c"], "behind that"
    for name in "abc":
        sim.done(name)
    assert sim.ended.state == "succeeded"
    assert [record.attempt for record in sim.events("TaskExecutionFinished")] == [2, 1, 1]


def test_a_lost_executor_takes_what_follows_along(sim: Sim) -> None:
    sim.submit(chain("ab"))
    old = sim.one("a").attempt
    sim.report(e.AttemptLost(old, "killed"))
    [follower] = sim.followers.values()
    assert follower.behind == sim.one("a").attempt != old
    assert [record.task for record in sim.events("TaskLost")] == ["a"]


def test_a_lost_worker_takes_what_follows_along(sim: Sim) -> None:
    sim.submit(chain("ab"))
    sim.lose_worker("w1")
    assert not sim.core.followers
    assert not sim.of(c.CancelAttempt)
    sim.worker("w2")
    assert waiting(sim) == ["b"]


def test_a_tail_takes_what_follows_along(sim: Sim) -> None:
    make = GraphMaker()
    make.call("n")
    sim.submit(chain("ab"))
    run = sim.core.runs["r"]
    assert run.followers
    sim.tail("a", make.graph())  # it may not return one, as b needs its value
    assert not sim.core.followers
    assert sim.ended.state == "failed"


def test_a_cancelled_run_ends_when_a_follower_that_had_begun_has_stopped(sim: Sim) -> None:
    sim.submit(chain("ab"))
    a, [b] = sim.one("a").attempt, sim.followers
    sim.turn(e.RunCancelRequested("r"))
    assert [command.attempt for command in sim.last if isinstance(command, c.CancelAttempt)] == [a, b]
    sim.report(e.AttemptDone(a, b"v"))  # before it was told
    assert not sim.of(c.RunEnded)
    sim.report(e.AttemptCancelled(b))
    assert sim.ended.state == "cancelled"


def test_a_cancelled_run_does_not_wait_for_followers_that_had_not_begun(sim: Sim) -> None:
    sim.submit(chain("abc"))
    sim.turn(e.RunCancelRequested("r"))
    _, [b, _] = sim.one("a"), sim.followers
    sim.turn(e.WorkerReported("w1", (e.AttemptCancelled(b),)))
    assert not sim.core.followers
    sim.report(e.AttemptCancelled(sim.one("a").attempt))
    assert sim.ended.state == "cancelled"


def test_a_reconnect_keeps_what_the_worker_holds(sim: Sim) -> None:
    sim.submit(chain("abc"))
    a, b, third = sim.one("a").attempt, *sim.followers
    sim.turn(e.WorkerDisconnected("w1", "broken"))
    hello = e.WorkerConnected(
        "w1", "w1", (("cpu", 1_000_000),), 10, 4, "", held=(e.Held(a, "running"), e.Held(b, "waiting"))
    )
    sim.turn(hello)
    [welcome] = [command for command in sim.last if isinstance(command, c.WelcomeWorker)]
    assert (welcome.keep, welcome.drop) == ((a, b), ())
    assert third not in sim.core.followers


def test_a_reconnect_keeps_a_follower_that_has_ended(sim: Sim) -> None:
    sim.submit(chain("ab"))
    a, [b] = sim.one("a").attempt, sim.followers
    sim.turn(e.WorkerDisconnected("w1", "broken"))
    held = (e.Held(a, "finished"), e.Held(b, "finished"))
    sim.turn(e.WorkerConnected("w1", "w1", (("cpu", 1_000_000),), 10, 4, "", held=held))
    sim.turn(e.WorkerReported("w1", (e.AttemptDone(a, b"v"), e.AttemptDone(b, b"v"))))
    assert sim.ended.state == "succeeded"


def test_nothing_is_sent_to_a_worker_that_drains(sim: Sim) -> None:
    sim.submit(chain("abc"))
    b = next(iter(sim.followers))
    sim.turn(e.WorkerReported("w1", draining=True))
    sim.give_back(b)
    assert not sim.core.followers
    sim.done("a")
    assert not sim.assigned


# --- limits ------------------------------------------------------------------------------------------


def limit(kind: str, scope: str = "global", **options: object) -> e.ConstraintSet:
    return e.ConstraintSet(checked(Constraint("", scope, kind, **options), 1000.0), 1)  # type: ignore[arg-type]


def test_a_pause_asks_followers_back_and_is_answered_when_none_will_start(sim: Sim) -> None:
    sim.submit(chain("abc"))
    sim.turn(e.WorkerReported("w1", started=(sim.one("a").attempt,)))
    b, third = sim.followers
    sim.turn(limit(PAUSE))
    assert retracted(sim) == [b, third]
    assert not sim.of(c.ConstraintsAnswered)
    del sim.followers[third], sim.followers[b]
    sim.turn(e.WorkerReported("w1", (e.AttemptReturned(b),), promised=1))
    assert sim.of(c.ConstraintsAnswered)
    sim.done("a")
    assert not sim.assigned
    assert not sim.followers


def test_no_follower_is_sent_under_a_limit(sim: Sim) -> None:
    sim.turn(limit(CONCURRENCY, "task:b", limit=1))
    sim.submit(chain("ab"))
    assert not sim.followers


def test_a_follower_that_begins_under_a_limit_counts_for_it(sim: Sim) -> None:
    sim.submit(chain("ab"))
    sim.turn(limit(CONCURRENCY, "task:b", limit=1))
    sim.done("a")  # it had begun before the worker was asked
    [held] = sim.core.lines.limits
    assert held.running == 1
    sim.done("b")
    assert held.running == 0


def test_a_start_under_a_pause_is_not_asked_back(sim: Sim) -> None:
    sim.submit(chain("ab"))
    [b] = sim.followers
    a = sim.one("a").attempt
    sim.turn(e.WorkerReported("w1", started=(a, b)))
    sim.turn(limit(PAUSE))
    assert not retracted(sim)


def test_explain_and_views_see_a_follower_as_waiting(sim: Sim) -> None:
    sim.submit(chain("ab"))
    told = explain(sim.core, sim.core.runs["r"], 1)
    assert told.info.state == "waiting"
    assert told.reasons == ("It waits for its inputs: 'a' (running).",)
