"""The cluster's cache in the core: what is asked, what a hit makes superfluous, what is kept."""

from __future__ import annotations

from typing import Any

import pytest

from cascade_dist.graph.keys import key_of_parts
from cascade_scheduler.core import commands as c
from cascade_scheduler.core import events as e
from cascade_scheduler.core.candidates import OBSERVE_DIGEST, OBSERVE_TRUTH
from cascade_scheduler.core.cluster_cache import known_keys
from cascade_scheduler.core.graph import EdgeKind, Graph, KeyPart, NodeKind, Spec, ValueKey
from cascade_scheduler.core.plans import solve
from cascade_scheduler.core.values import BlobValue, ObjectValue
from tests.scheduler.core.harness import CPU, GraphMaker, Sim


def digest(text: str) -> bytes:
    return text.encode().ljust(16, b".")


class Maker(GraphMaker):
    """Graphs with value keys: `pure` makes a node whose only argument is its inputs, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: dict[int, ValueKey] = {}

    def pure(
        self,
        name: str,
        *inputs: int,
        cached: bool = True,
        known: bool = True,
        run_if: int | None = None,
        after: tuple[int, ...] = (),
        x: str = "",
        passthrough: bool = False,
    ) -> int:
        spec = Spec(
            NodeKind.CALL,
            name,
            self.function(name),
            pure=True,
            amounts=CPU,
            cluster_cache=cached,
            passthrough=passthrough,
        )
        edges = [(s, EdgeKind.DATA) for s in inputs]
        if run_if is not None:
            edges.append((run_if, EdgeKind.CONDITION))
        edges += [(s, EdgeKind.SEQUENCE) for s in after]
        node = self.node(spec, edges)
        parts = [KeyPart("code", digest(name), -1)]
        if known:
            parts.append(KeyPart("x", digest(x or "-".join(map(str, inputs))), -1))
        else:
            parts += [KeyPart("x", b"", at) for at in range(len(inputs))]
        self.keys[node] = ValueKey(tuple(parts), known)
        return node

    def graph(self, target: int | None = None) -> Graph:
        made = super().graph(target)
        made.value_keys = self.keys
        made.digested = made._digested()
        return made


def submit(sim: Sim, graph: Graph, hits: dict[int, Any] | None = None, on_failure: str = "cancel") -> None:
    sim.turn(e.RunSubmitted("r", graph, solve(graph), on_failure=on_failure, hits=hits))


def lookups(sim: Sim) -> list[c.LookUpCached]:
    return [command for command in sim.last if isinstance(command, c.LookUpCached)]


def answer(sim: Sim, asked: c.LookUpCached, value: bytes | BlobValue | None, trouble: str = "") -> None:
    sim.turn(e.CacheAnswered(asked.frame_id, asked.node, asked.number, value, trouble))


def skips(sim: Sim) -> list[tuple[str, str]]:
    return [(record.task, record.reason) for record in sim.events("TaskSkipped")]


def started(sim: Sim) -> set[str]:
    return {record.task for record in sim.events("TaskExecutionFinished")}


@pytest.fixture
def sim() -> Sim:
    made = Sim()
    made.worker("w", cpu=4)
    return made


# --- known at submit -------------------------------------------------------------------------------------


def test_a_hit_dispatches_nothing_and_prunes_what_only_it_needed(sim: Sim) -> None:
    make = Maker()
    a = make.pure("a", cached=False)
    b = make.pure("b", a, cached=False)
    make.pure("f", b)
    submit(sim, make.graph(), hits={2: b"cached"})
    assert sim.ended.state == "succeeded"
    assert not sim.of(c.Assign)
    assert sorted(skips(sim)) == [("a", "Pruned"), ("b", "Pruned"), ("f", "CacheHit")]
    assert [(told.node, told.value) for told in sim.of(c.TargetValue)] == [(2, b"cached")]
    assert not lookups(sim)


def test_what_others_need_runs(sim: Sim) -> None:
    make = Maker()
    shared = make.pure("shared", cached=False)
    only = make.pure("only", cached=False)
    f = make.pure("f", shared, only)
    g = make.call("g", shared)
    make.gather(f, g)
    submit(sim, make.graph(), hits={f: b"cached"})
    assert sim.assigned == ["shared"]
    sim.done("shared")
    sim.done("g")
    assert sim.ended.state == "succeeded"
    assert sorted(skips(sim)) == [("f", "CacheHit"), ("only", "Pruned")]


def test_of_hits_above_each_other_the_lower_is_pruned(sim: Sim) -> None:
    make = Maker()
    a = make.pure("a")
    b = make.pure("b", a)
    make.pure("f", b)
    submit(sim, make.graph(), hits={0: b"1", 1: b"2", 2: b"3"})
    assert sim.ended.state == "succeeded"
    assert sorted(skips(sim)) == [("a", "Pruned"), ("b", "Pruned"), ("f", "CacheHit")]


def test_a_hit_below_feeds_what_runs(sim: Sim) -> None:
    make = Maker()
    a = make.pure("a")
    make.pure("f", a)
    submit(sim, make.graph(), hits={0: b"from the cache"})
    assert sim.one("f").inputs == (b"from the cache",)
    sim.done("f", b"made")
    assert sim.ended.state == "succeeded"
    assert [(kept.task, kept.value) for kept in sim.of(c.StoreCached)] == [("f", b"made")]


@pytest.mark.parametrize("truth", [True, False])
def test_a_condition_decides_before_a_hit(sim: Sim, truth: bool) -> None:
    make = Maker()
    condition = make.call("condition")
    a = make.pure("a", cached=False)
    make.pure("f", a, run_if=condition)
    submit(sim, make.graph(), hits={2: b"cached"})
    assert sim.assigned == ["condition"]
    sim.done("condition", truth=truth)
    assert ("a", "Pruned") in skips(sim)
    assert ("f", "CacheHit" if truth else "ConditionFalse") in skips(sim)
    assert sim.ended.state == ("succeeded" if truth else "failed")


def test_order_is_kept_before_a_hit(sim: Sim) -> None:
    make = Maker()
    first = make.call("first")
    make.pure("f", after=(first,))
    submit(sim, make.graph(), hits={1: b"cached"})
    assert skips(sim) == []
    sim.done("first")
    assert skips(sim) == [("f", "CacheHit")]


def test_an_unconditional_hit_does_not_wait_for_inputs_that_others_need(sim: Sim) -> None:
    make = Maker()
    shared = make.pure("shared", cached=False)
    f = make.pure("f", shared)
    g = make.call("g", f)
    h = make.call("h", shared)
    make.gather(g, h)
    submit(sim, make.graph(), hits={f: b"cached"})
    assert sorted(sim.assigned) == ["g", "shared"]
    sim.done("shared")
    sim.done("g")
    sim.done("h")
    assert sim.ended.state == "succeeded"
    assert skips(sim).count(("f", "CacheHit")) == 1


def test_s39_what_a_selector_needs_of_a_hit_is_observed(sim: Sim) -> None:
    make = Maker()
    selector = make.pure("selector")
    a, b = make.call("a"), make.call("b")
    router = make.router(selector, a, b)
    make.call("f", router)
    submit(sim, make.graph(), hits={selector: b"cached"})
    assert sim.assigned == ["selector"]
    assert sim.one("selector").observe_only
    sim.done("selector", routes=(1,))
    assert sim.assigned == ["b"]
    sim.done("b")
    sim.done("f")
    assert sim.ended.state == "succeeded"
    assert sorted(skips(sim)) == [("a", "Pruned"), ("selector", "CacheHit")]


def test_the_truth_of_a_hit_is_observed(sim: Sim) -> None:
    make = Maker()
    condition = make.pure("condition")
    make.call("f", run_if=condition)
    submit(sim, make.graph(), hits={condition: b"cached"})
    assert sim.one("condition").observe == OBSERVE_TRUTH
    sim.done("condition", truth=False)
    assert ("f", "ConditionFalse") in skips(sim)


def test_a_hit_in_a_branch_waits_for_the_router(sim: Sim) -> None:
    make = Maker()
    selector = make.call("selector")
    inner = make.pure("inner", cached=False)
    a, b = make.pure("a", inner), make.call("b")
    router = make.router(selector, a, b)
    make.call("f", router)
    graph = make.graph()
    submit(sim, graph, hits={a: b"cached"})
    assert sim.assigned == ["selector"]
    assert skips(sim) == [("inner", "Pruned")]
    sim.done("selector", routes=(0,))
    assert sim.one("f").inputs == (b"cached",)
    sim.done("f")
    assert sorted(skips(sim)) == [("a", "CacheHit"), ("b", "Pruned"), ("inner", "Pruned")]


@pytest.mark.parametrize("twice", [False, True])
def test_a_hit_in_a_branch_does_not_wait_for_an_input_that_another_router_has_left_out(
    sim: Sim, twice: bool
) -> None:
    """`shared` is the input of `hit`, which needs none, and a route that is not taken: so it never runs."""
    make = Maker()
    first, second = make.call("first"), make.call("second")
    shared = make.pure("shared", cached=False)
    hit = make.pure("hit", shared, *([shared] if twice else []))
    a, b = make.call("a"), make.call("b")
    make.call("f", make.router(first, shared, a), make.router(second, hit, b))
    submit(sim, make.graph(), hits={hit: b"cached"})
    sim.done("first", routes=(1,))
    assert skips(sim) == [("shared", "Pruned")]
    sim.done("second", routes=(0,))
    sim.done("a", b"made")
    assert sim.one("f").inputs == (b"made", b"cached")
    sim.done("f")
    assert sim.ended.state == "succeeded"
    assert sorted(skips(sim)) == [("b", "Pruned"), ("hit", "CacheHit"), ("shared", "Pruned")]


def test_a_value_that_was_let_go_is_there_again_when_it_is_needed(sim: Sim) -> None:
    sim.worker("other", cpu=4)
    make = Maker()
    below = make.pure("below", cached=False)
    hit = make.pure("hit", below)
    mid = make.call("mid", hit)
    slow = make.call("slow")
    make.call("end", mid, slow)
    submit(sim, make.graph(), hits={hit: b"cached"})
    holder = sim.one("mid").worker
    sim.done("mid", ObjectValue(sim.one("mid").attempt, 10, holder, "there"))
    sim.lose_worker(holder)
    assert sim.one("mid").inputs == (b"cached",)
    sim.done("mid", b"again")
    sim.done("slow")
    sim.done("end")
    assert sim.ended.state == "succeeded"
    assert skips(sim).count(("hit", "CacheHit")) == 1


# --- at run time -----------------------------------------------------------------------------------------


def test_other_keys_are_asked_for_when_the_inputs_are_known(sim: Sim) -> None:
    make = Maker()
    source = make.call("source")
    make.pure("f", source, known=False)
    submit(sim, make.graph(), hits={})
    assert sim.one("source").observe == OBSERVE_DIGEST
    sim.done("source", digest=digest("content"))
    [asked] = lookups(sim)
    assert asked.key == key_of_parts((("code", digest("f")), ("x", digest("content"))))
    assert sim.assigned == []
    answer(sim, asked, b"cached")
    assert sim.ended.state == "succeeded"
    assert skips(sim) == [("f", "CacheHit")]


def test_a_miss_runs_and_is_kept(sim: Sim) -> None:
    make = Maker()
    source = make.call("source")
    make.pure("f", source, known=False)
    submit(sim, make.graph(), hits={})
    sim.done("source", digest=digest("content"))
    [asked] = lookups(sim)
    answer(sim, asked, None)
    assert sim.one("f").publish
    sim.done("f", BlobValue(b"cid", 100_000))
    assert [(kept.key, kept.value) for kept in sim.of(c.StoreCached)] == [
        (asked.key, BlobValue(b"cid", 100_000))
    ]


def test_late_and_repeated_answers_change_nothing(sim: Sim) -> None:
    make = Maker()
    source = make.call("source")
    f = make.pure("f", source, known=False)
    make.call("g", f)
    submit(sim, make.graph(), hits={})
    sim.done("source", digest=digest("content"))
    [asked] = lookups(sim)
    answer(sim, asked, None)
    answer(sim, asked, b"too late")
    assert sim.assigned == ["f"]
    sim.turn(e.CacheAnswered("unknown", 0, 1, b"value"))
    sim.done("f")
    answer(sim, asked, b"too late")
    sim.done("g")
    assert sim.ended.state == "succeeded"


def test_a_pure_input_counts_by_its_own_key(sim: Sim) -> None:
    make = Maker()
    source = make.call("source")
    pure = make.pure("pure", source, cached=False, known=False)
    make.pure("f", pure, known=False)
    submit(sim, make.graph(), hits={})
    sim.done("source", digest=digest("content"))
    assert not lookups(sim), "its value is not kept"
    assert not sim.one("pure").observe
    sim.done("pure")
    [asked] = lookups(sim)
    below = key_of_parts((("code", digest("pure")), ("x", digest("content"))))
    assert asked.key == key_of_parts((("code", digest("f")), ("x", below)))


def test_a_stage_that_was_skipped_counts_by_what_passes(sim: Sim) -> None:
    make = Maker()
    source = make.call("source")
    condition = make.call("condition")
    stage = make.pure("stage", source, cached=False, known=False, run_if=condition, passthrough=True)
    make.pure("f", stage, known=False)
    submit(sim, make.graph(), hits={})
    sim.done("source", digest=digest("content"))
    sim.done("condition", truth=False)
    [asked] = lookups(sim)
    assert asked.key == key_of_parts((("code", digest("f")), ("x", digest("content"))))


def test_a_digest_that_nobody_made_is_observed(sim: Sim) -> None:
    make = Maker()
    literal = make.literal()
    selector, other = make.call("selector"), make.call("other")
    router = make.router(selector, literal, other)
    make.pure("f", router, known=False)
    submit(sim, make.graph(), hits={})
    sim.done("selector", routes=(0,))
    [observing] = sim.open.values()
    assert observing.observe_only
    assert observing.observe == OBSERVE_DIGEST
    sim.report(e.AttemptDone(observing.attempt, b"", digest=digest("literal")))
    assert len(lookups(sim)) == 1


def test_without_a_digest_nothing_is_asked_and_nothing_kept(sim: Sim) -> None:
    make = Maker()
    source = make.call("source")
    make.pure("f", source, known=False)
    submit(sim, make.graph(), hits={})
    sim.done("source", digest=b"")
    assert not lookups(sim)
    sim.done("f")
    assert sim.ended.state == "succeeded"
    assert not sim.of(c.StoreCached)


def test_a_frame_that_was_not_looked_up_asks_for_all_its_keys(sim: Sim) -> None:
    make = Maker()
    a = make.pure("a")
    make.pure("f", a)
    graph = make.graph()
    submit(sim, graph, hits=None)
    [asked] = lookups(sim)
    assert asked.key == dict(known_keys(graph))[a]
    answer(sim, asked, None)
    sim.done("a")
    [asked] = lookups(sim)
    answer(sim, asked, b"cached")
    assert sim.ended.state == "succeeded"


def test_a_cancelled_run_does_not_wait_for_answers(sim: Sim) -> None:
    make = Maker()
    make.pure("f")
    submit(sim, make.graph(), hits=None)
    [asked] = lookups(sim)
    sim.turn(e.RunCancelRequested("r"))
    assert sim.ended.state == "cancelled"
    answer(sim, asked, b"too late")


def test_a_failure_elsewhere_lets_answers_come_in_a_run_that_is_finished(sim: Sim) -> None:
    make = Maker()
    bad = make.call("bad")
    f = make.pure("f")
    make.gather(bad, f)
    submit(sim, make.graph(), hits=None, on_failure="finish")
    [asked] = lookups(sim)
    sim.failed("bad", retryable=False)
    assert not sim.of(c.RunEnded)
    answer(sim, asked, b"cached")
    assert sim.ended.state == "failed"


# --- why -------------------------------------------------------------------------------------------------


def test_a_miss_says_which_part_has_changed(sim: Sim) -> None:
    def reason(x: str) -> str:
        make = Maker()
        make.pure("f", x=x)
        run_id = f"r{len(sim.core.runs)}"
        graph = make.graph()
        sim.turn(e.RunSubmitted(run_id, graph, solve(graph), hits={}))
        cached = sim.core.runs[run_id].cached
        assert cached is not None
        return cached.misses[0]

    assert reason("one") == "no value of 'f' was looked for before"
    assert reason("two") == "since the last call of 'f', argument 'x' has changed"
    assert "has not been kept, or is gone" in reason("two")
