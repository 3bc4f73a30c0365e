"""Random graphs under random reports, losses and cancels: every run ends, and ends right.

The oracle is a plain evaluation of the same graph, node by node.
"""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_scheduler.core import commands as c
from cascade_scheduler.core import events as e
from cascade_scheduler.core import views
from cascade_scheduler.core.graph import EdgeKind, Graph, NodeKind, Retry
from cascade_scheduler.core.values import BlobValue, ErrorInfo, ObjectValue

from .harness import GraphMaker, Sim

MAKERS = (NodeKind.CALL, NodeKind.LITERAL)
"""Nodes whose value is their own, and inline here: the bytes b"v" and the node's number."""


def random_graph(rng: Random, *, routers: bool) -> Graph:
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
        elif routers and which < 0.45 and earlier:
            selector = rng.choice(list(earlier))
            lists.append(make.router(selector, *rng.choices(list(earlier), k=rng.randint(1, 4))))
        elif routers and which < 0.5:
            lists.append(make.literal(b"v%d" % len(earlier)))
        elif routers and which < 0.55:
            delay = rng.choice([0.0, 0.3])
            run_if = rng.choice(list(earlier)) if earlier and rng.random() < 0.5 else None
            make.wait(delay, run_if=run_if)
        else:
            if routers:
                options["passthrough"] = bool(inputs) and rng.random() < 0.4
                if earlier and not options.get("asynchronous") and rng.random() < 0.1:
                    options["lazy"] = {"cpu": rng.choice(list(earlier))}
            lists.append(make.call(f"t{i}", *inputs, **options))  # type: ignore[arg-type]
    consumed = {s for edges in make.edges for s, _ in edges}
    rest = make.gather(*[i for i in range(len(make.spec_of)) if i not in consumed])
    if routers and rng.random() < 0.3:
        make.router(rng.randrange(rest), rest, rng.randrange(rest))
    return make.graph()


def truth_of(node: int) -> bool:
    return node % 3 != 0


def length_of(node: int) -> int:
    return node % 4


def amount_of(node: int) -> int:
    return 1_000_000 * (node % 2)


def route_of(node: int, router: int, routes: int) -> int:
    return (node * 7 + router) % routes


class Oracle:
    """What becomes of a graph's nodes: which are skipped, and why; whose value each has."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.reasons: dict[int, str] = {}
        self.base: dict[int, int] = {}
        """Node with a value → the node that makes it."""
        for node in range(len(graph)):
            self._evaluate(node)
        self._prune()

    def _evaluate(self, node: int) -> None:
        graph = self.graph
        if graph.spec(node).kind == NodeKind.ROUTER:
            self._route(node)
            return
        reason = self._reason(node)
        if reason is None:
            self.base[node] = node
            return
        self.reasons[node] = reason
        if graph.spec(node).passthrough and node != graph.target:
            source = graph.first_input(node)
            if source in self.base:
                self.base[node] = self.base[source]

    def _route(self, node: int) -> None:
        routes = self.graph.routes(node)
        selector = self.graph.sources(node)[0][0]
        if selector not in self.base:
            self.reasons[node] = "UpstreamSkipped_Data"
            return
        route = routes[route_of(self.base[selector], node, len(routes))]
        if route in self.base:
            self.base[node] = self.base[route]
        else:
            self.reasons[node] = "UpstreamSkipped_Route"

    def _reason(self, node: int) -> str | None:
        edges = self.graph.sources(node)
        for s, kind in edges:
            if kind == EdgeKind.CONDITION:
                if s in self.reasons:
                    return "UpstreamSkipped_Condition"
                if not self._truth(s):
                    return "ConditionFalse"
        if any(kind == EdgeKind.SEQUENCE and s in self.reasons for s, kind in edges):
            return "UpstreamSkipped_Sequence"
        values = [s for s, kind in edges if kind in (EdgeKind.DATA, EdgeKind.ITEMS, EdgeKind.AMOUNT)]
        for s in values:
            if s in self.reasons and self.graph.spec(s).kind == NodeKind.ROUTER:
                return self.reasons[s]
        return "UpstreamSkipped_Data" if any(s not in self.base for s in values) else None

    def _truth(self, node: int) -> bool:
        node = self.base[node]
        return self._length(node) > 0 if self.graph.spec(node).kind == NodeKind.MAP else truth_of(node)

    def _length(self, node: int) -> int:
        node = self.base[node]
        while self.graph.spec(node).kind == NodeKind.MAP:
            [source] = [s for s, kind in self.graph.sources(node) if kind == EdgeKind.ITEMS]
            node = self.base[source]
        return length_of(node)

    def _prune(self) -> None:
        graph = self.graph
        self.needed: set[int] = set()
        if not any(kind == EdgeKind.ROUTE for kind in graph.edge_kind):
            self.needed.update(range(len(graph)))
            return
        todo = [graph.target]
        while todo:
            node = todo.pop()
            if node in self.needed:
                continue
            self.needed.add(node)
            todo.extend(s for s, kind in graph.sources(node) if kind != EdgeKind.ROUTE)
            selector = graph.sources(node)[0][0] if graph.routes(node) else -1
            if selector in self.base:
                routes = graph.routes(node)
                todo.append(routes[route_of(self.base[selector], node, len(routes))])
        for node in range(len(graph)):
            if node not in self.needed:
                self.reasons[node] = "Pruned"


def drive(seed: int, *, chaos: bool, routers: bool = False, fail: bool = False) -> None:
    rng = Random(seed)
    graph = random_graph(rng, routers=routers)
    oracle = Oracle(graph)
    sim = Sim(loss_budget=10_000, worker_grace=2.0, chains=seed % 4 != 0)
    made = 0

    def add_worker() -> None:
        nonlocal made
        made += 1
        sim.worker(f"w{made}", cpu=rng.randint(1, 3), ahead=rng.randint(0, 8))

    add_worker()
    add_worker()
    sim.submit(graph, on_failure="finish" if fail else "cancel")
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
        elif dice < 0.18 and sim.followers:
            sim.give_back(rng.choice(list(sim.followers)))
        else:
            some = rng.sample(list(sim.open), min(len(sim.open), rng.randint(1, 3)))
            for attempt in some:
                check_inputs(sim, graph, oracle, sim.open[attempt])
            reports = [
                failure(sim.open[attempt])
                if fail and not sim.open[attempt].observe_only and rng.random() < 0.1
                else outcome(rng, sim, attempt, chaos=chaos and not calm)
                for attempt in some
            ]
            sim.report(*reports)
    if not run.failed:
        check_end(sim, graph, oracle, seed)
    else:
        assert fail, f"seed {seed}: {run.error}"
    finished = [record.node for record in sim.events("TaskExecutionFinished")]
    assert len(finished) == len(set(finished)), f"seed {seed}: a node finished twice"
    assert not sim.core.attempts
    assert not sim.core.followers
    assert not sim.open
    assert not sim.followers


def check_inputs(sim: Sim, graph: Graph, oracle: Oracle, assign: c.Assign) -> None:
    """An attempt gets the values that it is to have, be it by routers and skipped stages."""
    if assign.node >= len(graph) or assign.observe_only:
        return
    for source, value in zip(graph.inputs(assign.node), assign.inputs, strict=True):
        base = oracle.base[source]
        if isinstance(value, bytes) and graph.spec(base).kind in MAKERS:
            assert value == b"v%d" % base
        elif isinstance(value, ObjectValue) and value.attempt in sim.core.objects:
            assert sim.core.objects[value.attempt][1] == base


def check_end(sim: Sim, graph: Graph, oracle: Oracle, seed: int) -> None:
    run = sim.core.runs["r"]
    reasons = {n: skip.reason for n, skip in run.skips.items() if n < len(graph)}
    assert reasons == oracle.reasons, f"seed {seed}"
    told = [(record.node, record.reason) for record in sim.events("TaskSkipped")]
    assert len(told) == len(set(told)), f"seed {seed}: a skip was told twice"
    assert all(graph.spec(node).kind != NodeKind.ROUTER for node, _ in told)
    if graph.target in oracle.reasons:
        assert sim.ended.skip_reason == oracle.reasons[graph.target]
        return
    assert sim.ended.state == "succeeded", f"seed {seed}: {sim.ended}"
    values = {command.node for command in sim.of(c.TargetValue)}
    todo = [views.target_tree(run)]
    while todo:
        tree = todo.pop()
        if isinstance(tree, int):
            assert tree in values, f"seed {seed}: a part of the target's value was not told"
        else:
            todo.extend(tree.items if isinstance(tree, views.TreeList) else tree.inputs)


def failure(assign: c.Assign) -> e.Report:
    return e.AttemptFailed(assign.attempt, ErrorInfo("ValueError", "no"), retryable=False)


def outcome(rng: Random, sim: Sim, attempt: int, *, chaos: bool) -> e.Report:
    assign = sim.open[attempt]
    dice = rng.random()
    if chaos and dice < 0.1:
        return e.AttemptLost(attempt, "killed", innocent=rng.random() < 0.5)
    if assign.ahead and dice < 0.2:
        return e.AttemptReturned(attempt)
    if dice < 0.3 and assign.spec.retry is not None and assign.try_ < assign.spec.retry.max_attempts:
        return e.AttemptFailed(attempt, ErrorInfo("ValueError", "flaky"))
    value: bytes | ObjectValue | BlobValue = b"v%d" % assign.node
    if chaos and not assign.publish and rng.random() < 0.4:
        value = ObjectValue(attempt, 1 << 17, assign.worker, f"{assign.worker}:1")
    length = length_of(assign.node) if assign.observe & 2 else None
    items = tuple(b"i" for _ in range(length)) if length else ()
    if assign.observe_only and length and rng.random() < 0.5:
        value, items = BlobValue(b"split", 1 << 17), ()
    graph = sim.core.runs["r"].graph
    routers = [int(keys.rpartition(b" ")[2]) for keys in assign.route_keys]
    return e.AttemptDone(
        attempt,
        value,
        0.001,
        truth=truth_of(assign.node) if assign.observe & 1 else None,
        length=length,
        items=items,
        routes=tuple(route_of(assign.node, r, len(graph.routes(r))) for r in routers),
        amount=amount_of(assign.node) if assign.observe & 8 else None,
    )


@given(seed=st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_random_graphs_end_right(seed: int) -> None:
    drive(seed, chaos=False)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=250, deadline=None)
def test_random_graphs_end_right_under_loss(seed: int) -> None:
    drive(seed, chaos=True)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=250, deadline=None)
def test_random_graphs_with_routers_end_right(seed: int) -> None:
    drive(seed, chaos=False, routers=True)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=400, deadline=None)
def test_random_graphs_with_routers_end_right_under_loss(seed: int) -> None:
    drive(seed, chaos=True, routers=True)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_random_graphs_end_when_the_rest_is_finished_after_a_failure(seed: int) -> None:
    drive(seed, chaos=seed % 2 == 0, routers=True, fail=True)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(5000))
def test_many_random_graphs(seed: int) -> None:
    drive(seed, chaos=True, routers=seed % 2 == 0, fail=seed % 8 == 0)
