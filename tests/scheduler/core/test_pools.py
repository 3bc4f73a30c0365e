"""Pools and lazy amounts in the core, event by event. The invariants are checked after every turn."""

from __future__ import annotations

import pytest

from cascade_scheduler.core import commands as c
from cascade_scheduler.core import events as e
from cascade_scheduler.core import waiting
from cascade_scheduler.core.graph import Graph, NodeKind, Retry
from cascade_scheduler.core.plans import solve

from .harness import CPU, GraphMaker, Sim

Amounts = tuple[tuple[str, int], ...]


def units(**amounts: float) -> Amounts:
    return tuple((name, round(amount * 1_000_000)) for name, amount in sorted(amounts.items()))


def many(count: int, amounts: Amounts, **options: object) -> Graph:
    make = GraphMaker()
    make.gather(*[make.call("f", amounts=amounts, **options) for _ in range(count)])  # type: ignore[arg-type]
    return make.graph()


def submit(sim: Sim, graph: Graph, run_id: str = "r", **pools: float) -> None:
    sim.turn(e.RunSubmitted(run_id, graph, solve(graph), pools=units(**pools)))


def refused(sim: Sim) -> str:
    [refusal] = sim.of(c.RunRefused)
    return refusal.message


def blocked(sim: Sim) -> list[tuple[str, str]]:
    return [(record.task, record.reason) for record in sim.events("TaskBlocked")]


@pytest.fixture
def sim() -> Sim:
    made = Sim()
    made.worker("w1", cpu=4)
    return made


# --- of one run --------------------------------------------------------------------------------------


def test_nodes_share_the_pool_of_their_run(sim: Sim) -> None:
    submit(sim, many(4, units(cpu=1, slots=1)), slots=2)
    for left in (2, 2, 1, 0):
        assert len(sim.open) == (2 if left == 2 else left + 1)
        sim.done("f")
        assert len(sim.open) == left
    assert sim.ended.state == "succeeded"
    assert not sim.core.lines.run_pools


def test_every_run_has_pools_of_its_own(sim: Sim) -> None:
    for run_id in ("r1", "r2"):
        submit(sim, many(3, units(cpu=1, slots=1)), run_id, slots=1)
    submit(sim, many(3, units(cpu=1, slots=1)), "r3", slots=3)
    assert sorted(assign.run_id for assign in sim.open.values()) == ["r1", "r2", "r3", "r3"]


def test_a_pool_that_is_full_is_in_nobody_elses_way(sim: Sim) -> None:
    make = GraphMaker()
    hungry = [make.call("hungry", amounts=units(cpu=1, slots=1)) for _ in range(3)]
    make.gather(*hungry, make.call("modest"))
    submit(sim, make.graph(), slots=1)
    assert sorted(sim.assigned) == ["hungry", "modest"]


def test_a_pool_stands_before_what_workers_have(sim: Sim) -> None:
    submit(sim, many(20, units(cpu=1)), cpu=9)
    assert len(sim.open) == 9
    assert all(assign.amounts == () for assign in sim.open.values())
    assert sim.core.workers["w1"].free["cpu"] == 4_000_000


def test_a_worker_is_told_what_it_has_to_give_when_that_is_not_what_the_spec_says(sim: Sim) -> None:
    submit(sim, many(1, units(cpu=1, slots=1)), "r1", slots=1)
    submit(sim, many(1, units(cpu=1)), "r2", slots=1)
    assert [assign.amounts for assign in sim.open.values()] == [CPU, None]


def test_all_or_nothing_of_pool_and_worker() -> None:
    sim = Sim()
    sim.worker("w1", cpu=1, gpu=1)
    make = GraphMaker()
    make.gather(
        make.call("holder", amounts=units(gpu=1)),
        make.call("both", amounts=units(cpu=1, gpu=1, slots=1)),
        make.call("slot", amounts=units(slots=1), priority=-1),
    )
    submit(sim, make.graph(), slots=1)
    assert sorted(sim.assigned) == ["holder", "slot"], "a node that waits for a gpu holds no slot"
    sim.done("slot")
    sim.done("holder")
    assert sim.assigned == ["both"]


@pytest.mark.parametrize("end", ["failed", "lost", "returned", "gone", "cancelled"])
def test_what_was_taken_comes_back_however_an_attempt_ends(sim: Sim, end: str) -> None:
    submit(sim, many(2, units(cpu=1, slots=1), retry=Retry(2, delay=5.0)), slots=1)
    [attempt] = sim.open
    if end == "failed":
        sim.failed("f")
    elif end == "lost":
        sim.report(e.AttemptLost(attempt, "killed"))
    elif end == "returned":
        sim.report(e.AttemptReturned(attempt))
    elif end == "gone":
        sim.lose_worker("w1")
        sim.worker("w2")
    else:
        sim.turn(e.RunCancelRequested("r"))
        sim.report(e.AttemptCancelled(attempt))
        assert sim.ended.state == "cancelled"
        return
    assert len(sim.open) == 1
    assert attempt not in sim.open


def test_an_amount_above_the_pool_is_refused_at_submit(sim: Sim) -> None:
    submit(sim, many(1, units(cpu=1, slots=2)), slots=1)
    assert "needs slots=2, but the most there is in this run's pool is 1" in refused(sim)
    assert not sim.core.lines.run_pools


def test_a_name_that_nobody_declares_is_refused_at_submit(sim: Sim) -> None:
    submit(sim, many(1, units(cpu=1, slot=1)), slots=1)
    assert "needs slot=1, but no worker declares 'slot'" in refused(sim)


def test_without_pools_or_without_workers_a_name_may_still_be_declared(sim: Sim) -> None:
    submit(sim, many(1, units(gpu=1)))
    assert blocked(sim) == [("f", "ResourceContention")]
    early = Sim()
    submit(early, many(1, units(cpu=1, gpu=1)), slots=1)
    assert not early.of(c.RunRefused)
    early.worker("w1")
    assert early.ended.error is not None
    assert early.ended.error.type == "AmountError"


def test_a_map_counts_too(sim: Sim) -> None:
    make = GraphMaker()
    make.call("f", items=[make.call("xs")], kind=NodeKind.MAP, amounts=units(slots=2))
    submit(sim, make.graph(), slots=1)
    assert "slots=2" in refused(sim)


def test_a_run_with_the_id_of_an_earlier_one_has_its_own_pools(sim: Sim) -> None:
    submit(sim, many(1, units(cpu=1, slots=1)), slots=1)
    sim.done("f")
    sim.turn(e.RunForgotten("r"))
    submit(sim, many(3, units(cpu=1, slots=1)), slots=2)
    assert len(sim.open) == 2


# --- of the cluster ----------------------------------------------------------------------------------


def test_runs_share_the_pools_of_the_cluster() -> None:
    sim = Sim(pools=units(license=2))
    sim.worker("w1", cpu=8)
    for run_id in ("r1", "r2"):
        submit(sim, many(2, units(cpu=1, license=1)), run_id)
    assert len(sim.open) == 2
    sim.done("f")
    assert len(sim.open) == 2


def test_the_clusters_pools_are_closed_too() -> None:
    sim = Sim(pools=units(license=2))
    submit(sim, many(1, units(license=3)))
    assert "needs license=3, but the most there is in the cluster's pool is 2" in refused(sim)


def test_a_runs_pool_stands_before_the_clusters() -> None:
    sim = Sim(pools=units(license=1))
    sim.worker("w1", cpu=8)
    submit(sim, many(3, units(cpu=1, license=1)), "r1", license=3)
    submit(sim, many(3, units(cpu=1, license=1)), "r2")
    assert sorted(assign.run_id for assign in sim.open.values()) == ["r1", "r1", "r1", "r2"]


# --- starving ----------------------------------------------------------------------------------------


def test_many_small_ones_do_not_starve_a_large_one() -> None:
    sim = Sim(starving_after=0.5)
    sim.worker("w1", cpu=50)
    make = GraphMaker()
    small = [make.call("small", amounts=units(cpu=1, slots=1)) for _ in range(40)]
    make.gather(*small, make.call("large", amounts=units(cpu=1, slots=4), priority=-1))
    submit(sim, make.graph(), slots=4)
    steps = 0
    while "large" not in sim.assigned:
        steps += 1
        assert steps < 20, "the large one starves"
        sim.done("small")
        sim.after(0.2)
    while sim.open:
        sim.done(sim.assigned[0])
    assert sim.ended.state == "succeeded"


def test_a_line_that_starves_and_is_cancelled_lets_go() -> None:
    sim = Sim(starving_after=0.5, pools=units(slots=2))
    sim.worker("w1", cpu=50)
    submit(sim, many(4, units(cpu=1, slots=1)), "small")
    submit(sim, many(1, units(cpu=1, slots=2)), "large")
    sim.after(0.6)
    [pool] = sim.core.lines.pools.values()
    assert pool.kept
    sim.turn(e.RunCancelRequested("large"))
    sim.done("f")
    assert sim.core.kept is None
    assert len(sim.open) == 2


def test_who_finds_no_room_for_a_while_says_so_once_and_not_for_each(sim: Sim) -> None:
    submit(sim, many(1_000, units(cpu=1, slots=1)), slots=1)
    assert not blocked(sim)
    sim.after(0.6)
    assert blocked(sim) == [("f", "ResourceContention")]
    sim.after(0.6)
    assert len(blocked(sim)) == 1
    sim.done("f")
    sim.after(0.6)
    assert len(blocked(sim)) == 2


def test_why_a_node_waits(sim: Sim) -> None:
    submit(sim, many(2, units(cpu=1, slots=1)), slots=1)
    run = sim.core.runs["r"]
    [node] = [node for node, status in enumerate(run.status) if status == 1]
    assert waiting.reason(sim.core, run, node) == "waits for slots=1 of a pool with 0 of 1 free"


# --- lazy amounts ------------------------------------------------------------------------------------


def lazy(amount: str = "slots", count: int = 1) -> Graph:
    make = GraphMaker()
    need = make.call("need")
    make.gather(*[make.call("f", lazy={amount: need}) for _ in range(count)])
    return make.graph()


def known(sim: Sim, amount: float) -> None:
    sim.done("need", amount=round(amount * 1_000_000))


def test_a_lazy_amount_of_a_pool(sim: Sim) -> None:
    submit(sim, lazy(count=3), slots=4)
    known(sim, 2)
    assert len(sim.open) == 2


def test_a_lazy_amount_of_workers_is_told_to_them() -> None:
    sim = Sim()
    sim.worker("w1", cpu=2, memory_gb=4)
    submit(sim, lazy("memory_gb", 3))
    known(sim, 2)
    assert [assign.amounts for assign in sim.open.values()] == [units(cpu=1, memory_gb=2)] * 2


def test_a_lazy_amount_takes_the_place_of_what_the_spec_says(sim: Sim) -> None:
    submit(sim, lazy("cpu", 5))
    known(sim, 2)
    charged = [assign for assign in sim.open.values() if not assign.ahead]
    assert [assign.amounts for assign in charged] == [units(cpu=2)] * 2
    sim.done("f")
    assert sim.core.workers["w1"].free["cpu"] == 0


def test_a_lazy_amount_above_the_pool_fails_as_soon_as_it_is_known(sim: Sim) -> None:
    submit(sim, lazy(), slots=16)
    known(sim, 64)
    error = sim.ended.error
    assert error is not None
    assert error.type == "AmountError"
    assert "needs slots=64, but the most there is in this run's pool is 16" in error.message


def test_a_lazy_amount_above_all_workers_fails_at_once_where_no_more_will_come() -> None:
    sim = Sim(closed=True, expected_workers=1)
    sim.worker("w1", cpu=2, memory_gb=16)
    submit(sim, lazy("memory_gb"))
    known(sim, 64)
    error = sim.ended.error
    assert error is not None
    assert "needs memory_gb=64, but the most that one worker has is 16" in error.message


def test_a_lazy_amount_above_all_workers_waits_where_more_may_come() -> None:
    sim = Sim(infeasible_after=60.0)
    sim.worker("w1", cpu=2, memory_gb=16)
    submit(sim, lazy("memory_gb"))
    known(sim, 64)
    assert blocked(sim) == [("f", "ResourceContention")]
    sim.worker("w2", cpu=2, memory_gb=64)
    assert sim.assigned == ["f"]


def test_a_lazy_name_that_nobody_declares(sim: Sim) -> None:
    submit(sim, lazy("slits"), slots=16)
    known(sim, 1)
    error = sim.ended.error
    assert error is not None
    assert "no worker declares 'slits'" in error.message


def test_many_different_amounts_leave_nothing_behind(sim: Sim) -> None:
    for number in range(40):
        submit(sim, lazy(), f"r{number}", slots=100)
        known(sim, number + 1)
        sim.done("f")
    sim.turn(e.Tick())
    assert not list(sim.core.queues.everywhere())
    assert not sim.core.queues.classes()
