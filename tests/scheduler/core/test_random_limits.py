"""Random lives with limits that come and go and pools that are small: nothing starts that may not, nothing is
forgotten, every run ends right, and everyone who sets a limit is answered.

The invariants, checked after every turn, say that no node that may go is left waiting.
"""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_scheduler.core import commands as c
from cascade_scheduler.core import events as e
from cascade_scheduler.core.graph import Graph
from cascade_scheduler.core.limits import CONCURRENCY, LATE_SECONDS, PAUSE, RATE_LIMIT, Constraint, checked
from cascade_scheduler.core.plans import solve

from .harness import GraphMaker, Sim
from .test_random import Oracle, outcome, random_graph

CALM_AFTER = 300
SCOPES = ("global", "task:t*", "task:t1", "task:t[2-9]", "task:s", "run:r", "run:s", "task:map*", "run:none")
AMOUNTS = (("cpu", 1_000_000), ("slots", 1_000_000)), (("cpu", 1_000_000), ("slots", 2_000_000))


class Life:
    """One life of a cluster."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = Random(seed)
        self.seed = seed
        chains = rng.random() < 0.7
        self.sim = Sim(chains=chains, loss_budget=10_000, worker_grace=2.0, pools=(("slots", 3_000_000),))
        self.graph = random_graph(rng, routers=rng.random() < 0.5)
        self.workers = 0
        self.requests = 0
        self.promises: list[c.AskPromise] = []
        self.running: set[int] = set()
        """Attempts that have started on their workers; nobody gives them back any more."""
        self.starts: dict[str, tuple[Constraint, float, int]] = {}
        """Rate limits that were set once: since when, and how many have started since."""
        self.calm = False

    def add_worker(self) -> None:
        self.workers += 1
        cpu, ahead = self.rng.randint(1, 3), self.rng.randint(0, 8)
        self.turn(
            e.WorkerConnected(
                f"w{self.workers}",
                f"w{self.workers}",
                (("cpu", cpu * 1_000_000), ("slots", 1_000_000)),
                1000,
                ahead,
                f"w{self.workers}:1",
            )
        )

    def small_run(self) -> Graph:
        make = GraphMaker()
        calls = [make.call("s", amounts=self.rng.choice(AMOUNTS)) for _ in range(self.rng.randint(1, 8))]
        make.gather(*calls)
        return make.graph()

    def turn(self, *events: e.Event) -> None:
        self.sim.turn(*events)
        for command in self.sim.last:
            if isinstance(command, c.Assign) and not command.observe_only:
                self.check_start(command)
        for command in self.sim.last:
            if isinstance(command, c.RetractAttempt):
                self.maybe_started(command.attempt)
            elif isinstance(command, c.AskPromise):
                self.promises.append(command)

    def check_start(self, assign: c.Assign) -> None:
        """Whether it may start, by what every limit says for itself."""
        core = self.sim.core
        for limit in core.lines.limits:
            constraint = limit.constraint
            if not limit.covers(assign.run_id, assign.spec.name):
                continue
            assert not assign.ahead, f"seed {self.seed}: sent ahead under {constraint}"
            assert constraint.type != PAUSE, f"seed {self.seed}: started under {constraint}"
            if constraint.type == CONCURRENCY:
                covered = [
                    attempt
                    for attempt in core.attempts.values()
                    if not attempt.observing and limit.covers(attempt.run.run_id, attempt.spec.name)
                ]
                assert len(covered) <= constraint.limit, f"seed {self.seed}: too many under {constraint}"
            counted = self.starts.get(constraint.id)
            if constraint.type == RATE_LIMIT and counted is not None and counted[0] == constraint:
                since, count = counted[1], counted[2] + 1
                self.starts[constraint.id] = (constraint, since, count)
                most = constraint.capacity + constraint.rate * (self.sim.now - since + LATE_SECONDS)
                assert count <= most + 1e-6, f"seed {self.seed}: {count} starts under {constraint}"

    def maybe_started(self, attempt: int) -> None:
        """A worker decides what becomes of what it is to give back."""
        if attempt in self.sim.open and self.rng.random() < 0.5:
            self.running.add(attempt)

    def constraint(self) -> e.ConstraintSet:
        rng, now = self.rng, self.sim.now
        scope, kind = rng.choice(SCOPES), rng.choice((PAUSE, CONCURRENCY, RATE_LIMIT))
        ttl = rng.choice((None, 0.05, 3.0))
        made = Constraint(
            rng.choice(("", "", "x", "y")),
            scope,
            kind,
            limit=rng.randint(1, 4) if kind == CONCURRENCY else 0,
            rate=rng.choice((1.0, 5.0, 10 / 60, 500.0)) if kind == RATE_LIMIT else 0.0,
            capacity=float(rng.randint(1, 3)) if kind == RATE_LIMIT else 1.0,
            expires_at=None if ttl is None else now + ttl,
        )
        made = checked(made, now)
        self.requests += 1
        if kind == RATE_LIMIT and not self.sim.core.lines.limits.find(scope=scope, kind=kind):
            self.starts[made.id] = (made, now, 0)
        else:
            self.starts.pop(made.id, None)
        return e.ConstraintSet(made, self.requests)

    def clear(self) -> e.ConstraintsCleared:
        self.requests += 1
        if self.rng.random() < 0.3:
            return e.ConstraintsCleared(self.requests)
        return e.ConstraintsCleared(self.requests, scope=self.rng.choice(SCOPES))

    def answer_retracts(self) -> None:
        """What had not started is given back, and then promised."""
        asked, self.promises = self.promises, []
        for promise in asked:
            if promise.worker not in self.sim.core.workers:
                continue
            back = [
                attempt
                for attempt, assign in self.sim.open.items()
                if assign.worker == promise.worker
                and attempt not in self.running
                and attempt in self.sim.core.attempts
                and self.sim.core.attempts[attempt].asked_back
            ]
            for attempt in back:
                if self.starts:
                    self.give_back(self.sim.open[attempt])
                del self.sim.open[attempt]
            for attempt, follower in list(self.sim.followers.items()):
                known = self.sim.core.followers.get(attempt)
                if follower.worker == promise.worker and known is not None and known.asked_back:
                    del self.sim.followers[attempt]
                    back.append(attempt)
            reports = tuple(e.AttemptReturned(attempt) for attempt in back)
            self.turn(e.WorkerReported(promise.worker, reports, promised=promise.number))

    def give_back(self, assign: c.Assign) -> None:
        attempt = self.sim.core.attempts[assign.attempt]
        for limit in attempt.cls.limits:
            counted = self.starts.get(limit.constraint.id)
            if counted is not None and counted[0] == limit.constraint:
                self.starts[limit.constraint.id] = (counted[0], counted[1], counted[2] - 1)

    def report(self) -> None:
        rng, sim = self.rng, self.sim
        some = rng.sample(list(sim.open), min(len(sim.open), rng.randint(1, 3)))
        events: list[e.Event] = []
        for attempt in some:
            assign = sim.open[attempt]
            if assign.run_id == "r":
                report = outcome(rng, sim, attempt, chaos=not self.calm)
            else:
                report = e.AttemptDone(attempt, b"s", 0.001)
            if isinstance(report, e.AttemptReturned):
                self.give_back(assign)
            elif not assign.observe_only and rng.random() < 0.3:
                events.append(e.WorkerReported(assign.worker, started=(attempt,)))
            self.running.discard(attempt)
            del sim.open[attempt]
            events.append(e.WorkerReported(assign.worker, (report,)))
        self.turn(*events)

    def lose_worker(self) -> None:
        worker = self.rng.choice(list(self.sim.core.workers))
        for attempt, assign in list(self.sim.open.items()):
            if assign.worker == worker:
                del self.sim.open[attempt]
        self.turn(e.WorkerDisconnected(worker, "killed", gone=True))
        self.add_worker()

    def step(self) -> None:
        rng, sim = self.rng, self.sim
        dice = rng.random()
        if not self.calm and dice < 0.06:
            self.lose_worker()
        elif not self.calm and dice < 0.25:
            events: list[e.Event] = [self.constraint()]
            if rng.random() < 0.3:
                events.append(self.clear())
                self.starts.clear()
            self.turn(*events)
        elif not self.calm and dice < 0.32:
            self.turn(self.clear())
        elif dice < 0.5 or not sim.open:
            sim.now += rng.choice([0.001, 0.01, 0.6])
            self.turn(e.Tick())
        elif dice < 0.6:
            self.answer_retracts()
        else:
            self.report()

    def live(self) -> None:
        sim, rng = self.sim, self.rng
        self.add_worker()
        self.add_worker()
        pools = rng.choice(((), (), (("cpu", 2_000_000),), (("other", 1_000_000),)))
        self.turn(e.RunSubmitted("r", self.graph, solve(self.graph), pools=pools))
        small = self.small_run()
        self.turn(e.RunSubmitted("s", small, solve(small), pools=rng.choice(((), (("slots", 2_000_000),)))))
        runs = [sim.core.runs[run_id] for run_id in ("r", "s")]
        steps = 0
        while any(run.live for run in runs):
            steps += 1
            assert steps < 20_000, f"seed {self.seed}: a run does not end"
            if steps == CALM_AFTER:
                self.calm = True
                self.starts.clear()
                self.requests += 1
                self.turn(e.ConstraintsCleared(self.requests))
            self.step()
        self.check_end()

    def check_end(self) -> None:
        sim = self.sim
        self.answer_retracts()
        oracle = Oracle(self.graph)
        run = sim.core.runs["r"]
        reasons = {n: skip.reason for n, skip in run.skips.items() if n < len(self.graph)}
        assert reasons == oracle.reasons, f"seed {self.seed}"
        states = {ended.run_id: ended.state for ended in sim.of(c.RunEnded)}
        assert states["s"] == "succeeded", f"seed {self.seed}"
        if self.graph.target not in oracle.reasons:
            assert states["r"] == "succeeded", f"seed {self.seed}"
        assert not sim.core.attempts
        assert not sim.core.lines.run_pools
        assert not list(sim.core.queues.everywhere())
        answers = sorted(answer.request for answer in sim.of(c.ConstraintsAnswered))
        assert answers == list(range(1, self.requests + 1)), f"seed {self.seed}: everyone is answered once"
        self.turn(e.ConstraintsCleared(self.requests + 1))
        assert sim.core.lines.plain is (not sim.core.lines.pools)


def live(seed: int) -> None:
    Life(seed).live()


@given(seed=st.integers(0, 2**32))
@settings(max_examples=300, deadline=None)
def test_random_lives_under_limits_end_right(seed: int) -> None:
    live(seed)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(5000))
def test_many_random_lives_under_limits(seed: int) -> None:
    live(seed)
