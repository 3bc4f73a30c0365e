"""A core with a clock that jumps, workers that are lists, and invariants checked after every turn."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import TypeVar

from cascade_scheduler.core import commands as c
from cascade_scheduler.core import events as e
from cascade_scheduler.core.graph import (
    EdgeKind,
    FunctionRef,
    Graph,
    NodeKind,
    Retry,
    Spec,
    Timer,
    validate,
)
from cascade_scheduler.core.invariants import check
from cascade_scheduler.core.plans import solve
from cascade_scheduler.core.state import Core, Settings
from cascade_scheduler.core.values import ErrorInfo, ObjectValue, OpenValue

CPU = (("cpu", 1_000_000),)
T = TypeVar("T")


class GraphMaker:
    """Puts a graph together node by node; every method returns the node's index."""

    def __init__(self) -> None:
        self.specs: list[Spec] = []
        self.spec_of: list[int] = []
        self.edges: list[list[tuple[int, EdgeKind]]] = []
        self.args: list[bytes] = []
        self.maps: list[tuple[int, int]] = []
        self.columns: dict[int, int] = {}
        self.functions: list[FunctionRef] = []
        self.amounts: dict[tuple[int, int], str] = {}
        self.timers: dict[int, Timer] = {}

    def node(self, spec: Spec, edges: Sequence[tuple[int, EdgeKind]] = (), args: bytes = b"") -> int:
        if spec not in self.specs:
            self.specs.append(spec)
        self.spec_of.append(self.specs.index(spec))
        self.edges.append(list(edges))
        self.args.append(args)
        return len(self.spec_of) - 1

    def function(self, name: str) -> int:
        for index, function in enumerate(self.functions):
            if function.name == name:
                return index
        self.functions.append(FunctionRef(name.encode(), name))
        return len(self.functions) - 1

    def call(
        self,
        name: str,
        *inputs: int,
        run_if: int | None = None,
        after: Sequence[int] = (),
        gate: int | None = None,
        amounts: tuple[tuple[str, int], ...] = CPU,
        retry: Retry | None = None,
        priority: int = 0,
        asynchronous: bool = False,
        kind: NodeKind = NodeKind.CALL,
        items: Sequence[int] = (),
        passthrough: bool = False,
        lazy: Mapping[str, int] | None = None,
        spawn: bool = False,
        args: bytes = b"",
    ) -> int:
        spec = Spec(
            kind,
            name,
            self.function(name),
            asynchronous,
            amounts=() if asynchronous else amounts,
            retry=retry,
            priority=priority,
            passthrough=passthrough,
            spawn=spawn,
        )
        edges = [(s, EdgeKind.DATA) for s in inputs] + [(s, EdgeKind.ITEMS) for s in items]
        if run_if is not None:
            edges.append((run_if, EdgeKind.CONDITION))
        edges += [(s, EdgeKind.SEQUENCE) for s in after]
        if gate is not None:
            edges.append((gate, EdgeKind.GATE))
        return self.with_amounts(spec, edges, lazy or {}, args)

    def with_amounts(
        self, spec: Spec, edges: list[tuple[int, EdgeKind]], lazy: Mapping[str, int], args: bytes = b""
    ) -> int:
        first = len(edges)
        node = self.node(spec, edges + [(s, EdgeKind.AMOUNT) for s in lazy.values()], args)
        for at, name in enumerate(lazy, first):
            self.amounts[node, at] = name
        return node

    def router(self, selector: int, *routes: int) -> int:
        edges = [(selector, EdgeKind.SELECTOR), *((s, EdgeKind.ROUTE) for s in routes)]
        return self.node(Spec(NodeKind.ROUTER, "router"), edges, b"keys of %d" % len(self.spec_of))

    def literal(self, value: bytes = b"literal") -> int:
        return self.node(Spec(NodeKind.LITERAL, "literal"), (), value)

    def wait(
        self,
        delay: float | None = None,
        *,
        lazy: int | None = None,
        run_if: int | None = None,
        topic: str = "",
    ) -> int:
        edges = [] if run_if is None else [(run_if, EdgeKind.CONDITION)]
        spec = Spec(NodeKind.RECV, "recv") if topic else Spec(NodeKind.WAIT, "wait")
        node = self.with_amounts(spec, edges, {} if lazy is None else {"": lazy})
        if delay is not None or topic:
            self.timers[node] = Timer(delay, topic)
        return node

    def gather(self, *inputs: int) -> int:
        return self.node(Spec(NodeKind.GATHER, "gather"), [(s, EdgeKind.DATA) for s in inputs], b"template")

    def collect(self, *inputs: int, gate: int | None = None) -> int:
        edges = [(s, EdgeKind.DATA) for s in inputs]
        if gate is not None:
            edges.append((gate, EdgeKind.GATE))
        return self.node(Spec(NodeKind.COLLECT, "map"), edges)

    def gate(self, run_if: int) -> int:
        return self.node(Spec(NodeKind.GATE, "map"), [(run_if, EdgeKind.CONDITION)])

    def graph(self, target: int | None = None) -> Graph:
        n = len(self.spec_of)
        start, source, kinds = array("L", [0]), array("L"), bytearray()
        for edges in self.edges:
            for s, kind in edges:
                source.append(s)
                kinds.append(kind)
            start.append(len(source))
        made = Graph(
            specs=self.specs,
            functions=self.functions,
            node_spec=self.spec_of,
            node_ids=b"".join(i.to_bytes(16, "big") for i in range(n)),
            node_args=self.args,
            edge_start=start,
            edge_source=source,
            edge_kind=bytes(kinds),
            target=n - 1 if target is None else target,
            maps=self.maps,
            map_columns=self.columns,
            amount_names={start[node] + at: name for (node, at), name in self.amounts.items()},
            timers=self.timers,
        )
        validate(made)
        return made


class Sim:
    """Drives a core. `open` holds the attempts that workers have and have not reported, by attempt id.

    Nothing is sent as a follower, unless `chains` says so: then `followers` holds those that have not begun.
    """

    def __init__(self, *, chains: bool = False, **settings: object) -> None:
        self.core = Core(Settings(chains=chains, **settings))  # type: ignore[arg-type]
        self.now = 1000.0
        self.log: list[c.Command] = []
        self.last: list[c.Command] = []
        self.open: dict[int, c.Assign] = {}
        self.followers: dict[int, c.Assign] = {}
        self.executed: list[str] = []

    def turn(self, *events: e.Event) -> list[c.Command]:
        for event in events:
            if isinstance(event, e.WorkerReported):
                for report in event.reports:
                    self.go_on(report)
            elif isinstance(event, e.WorkerDisconnected) and event.gone:
                self.followers = {a: f for a, f in self.followers.items() if f.worker != event.worker}
        self.last = self.core.turn(events, self.now)
        self.log += self.last
        for command in self.last:
            if isinstance(command, c.Assign):
                (self.followers if command.behind else self.open)[command.attempt] = command
        check(self.core)
        return self.last

    def go_on(self, report: e.Report) -> None:
        """What a worker does with what follows an attempt that has ended."""
        follower = next((f for f in self.followers.values() if f.behind == report.attempt), None)
        if follower is None:
            return
        del self.followers[follower.attempt]
        if isinstance(report, e.AttemptDone):
            inputs = [report.value if isinstance(i, OpenValue) else i for i in follower.inputs]
            self.open[follower.attempt] = follower._replace(inputs=tuple(inputs))
        else:
            self.go_on(e.AttemptReturned(follower.attempt))

    def give_back(self, attempt: int) -> list[c.Command]:
        """A follower that has not begun is given back."""
        worker = self.followers.pop(attempt).worker
        return self.turn(e.WorkerReported(worker, (e.AttemptReturned(attempt),)))

    def worker(self, name: str, cpu: int = 1, ahead: int = 4, credits: int = 1000, **amounts: int) -> None:
        have = {"cpu": cpu, **amounts}
        micros = tuple((k, v * 1_000_000) for k, v in have.items())
        self.turn(e.WorkerConnected(name, name, micros, credits, ahead, f"{name}:1"))

    def submit(self, graph: Graph, run_id: str = "r", on_failure: str = "cancel") -> None:
        self.turn(e.RunSubmitted(run_id, graph, solve(graph), on_failure=on_failure))

    def report(self, *reports: e.Report) -> list[c.Command]:
        events = []
        for report in reports:
            assign = self.open.pop(report.attempt)
            events.append(e.WorkerReported(assign.worker, (report,)))
        return self.turn(*events)

    def done(self, name: str, value: bytes | ObjectValue = b"v", **facts: object) -> list[c.Command]:
        assign = self.one(name)
        if not assign.observe_only:
            self.executed.append(name)
        return self.report(e.AttemptDone(assign.attempt, value, **facts))  # type: ignore[arg-type]

    def tail(self, name: str, graph: Graph, **facts: object) -> list[c.Command]:
        """A task returns a graph, whose plan is known unless `plan` says otherwise."""
        facts.setdefault("plan", solve(graph))
        plan, iterations = facts.pop("plan"), facts.pop("iterations", 0)
        frame = e.NextFrame(graph, plan, pins=(b"pin",), size=10, **facts)  # type: ignore[arg-type]
        self.executed.append(name)
        return self.report(e.AttemptTail(self.one(name).attempt, frame, 0.001, iterations=iterations))  # type: ignore[arg-type]

    def failed(self, name: str, **facts: object) -> list[c.Command]:
        error = ErrorInfo("ValueError", "no")
        return self.report(e.AttemptFailed(self.one(name).attempt, error, **facts))  # type: ignore[arg-type]

    def lose_worker(self, name: str) -> list[c.Command]:
        for attempt, assign in list(self.open.items()):
            if assign.worker == name:
                del self.open[attempt]
        return self.turn(e.WorkerDisconnected(name, "killed", gone=True))

    def after(self, seconds: float) -> list[c.Command]:
        self.now += seconds
        return self.turn(e.Tick())

    def one(self, name: str) -> c.Assign:
        found = [a for a in self.open.values() if self.name_of(a) == name]
        assert found, f"{name} is not assigned; open: {[self.name_of(a) for a in self.open.values()]}"
        return found[0]

    def name_of(self, assign: c.Assign) -> str:
        return self.core.runs[assign.frame_id or assign.run_id].task(assign.node)

    @property
    def assigned(self) -> list[str]:
        return [self.name_of(a) for a in self.open.values()]

    def of(self, kind: type[T]) -> list[T]:
        return [command for command in self.log if isinstance(command, kind)]

    def events(self, kind: str = "") -> list[c.EventRecord]:
        return [record for record in self.of(c.EventRecord) if not kind or record.kind == kind]

    @property
    def ended(self) -> c.RunEnded:
        [end] = self.of(c.RunEnded)
        return end


def skips(sim: Sim) -> list[tuple[str, str]]:
    """What users were told was skipped, and why."""
    return [(s.task, s.reason) for s in sim.events("TaskSkipped")]


def observe(sim: Sim, **facts: object) -> None:
    """Answers the one attempt that only observes."""
    [assign] = [a for a in sim.open.values() if a.observe_only]
    sim.report(e.AttemptDone(assign.attempt, b"", **facts))  # type: ignore[arg-type]
