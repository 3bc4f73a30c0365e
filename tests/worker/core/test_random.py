"""Random lives: whatever happens in whatever order, every attempt ends once and nothing is left over."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import pytest

from cascade_worker.core import Core, Limits, commands, events, invariants
from cascade_worker.core.commands import EndingKind
from cascade_worker.core.state import Phase, Wanted

CPU = 1_000_000
STEPS = 150
GIVEN_BACK = (EndingKind.RETURNED, EndingKind.CANCELLED)


class World:
    """A shell, executors and a scheduler, all of them made up; one seed is one life."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        slots = self.dice.choice([1, 1, 2, 3])
        limits = Limits(
            slots=slots,
            executors_max=slots + self.dice.choice([0, 1, 3]),
            async_max=self.dice.choice([1, 3]),
            ahead_max=self.dice.choice([2, 32]),
            report_bytes_max=50,
        )
        self.core = Core({"cpu": slots * CPU, "gpu": CPU}, limits)
        self.now = 0.0
        self.starting: list[int] = []
        self.tasks: dict[int, deque[int]] = {}
        """Written to executors and not taken."""
        self.taken: dict[int, list[int]] = {}
        """Sync executors take one at a time, async ones all."""
        self.asynchronous: dict[int, bool] = {}
        self.doomed: list[int] = []
        self.fetching: list[int] = []
        self.storing: list[int] = []
        self.stopped: set[int] = set()
        self.sequence = 1
        self.bodies: list[int] = []
        self.attempts = 0
        self.wanted: set[int] = set()
        """Assigned, and not yet reported or dropped."""
        self.endings: dict[int, EndingKind] = {}
        self.dropped: set[int] = set()
        self.asked = self.to_promise = self.promised = 0
        """The last number that was asked for, in this session, and promised."""
        self.mark = 1
        self.exited = False
        self.connected = False
        self.behind: dict[int, int] = {}
        """Followers, and what they follow."""
        self.values: set[int] = set()
        """Attempts that have returned a value, as far as their executors or the store said."""

    def turn(self, *happened: events.Event) -> None:
        """One turn and all that it sets in motion, checked."""
        queue = list(happened)
        while queue:
            out = self.core.turn(self.now, queue)
            invariants.check(self.core.state)
            queue = [event for command in out if (event := self.carry_out(command)) is not None]

    def flush(self, force: bool = False) -> None:
        """What the scheduler is told."""
        said = self.core.flush(force)
        invariants.check(self.core.state)
        if said is None:
            return
        assert said.sequence == self.mark + 1
        self.mark = said.sequence
        for attempt, ending in said.endings:
            assert attempt in self.wanted, "reported twice, or never assigned"
            if attempt in self.behind and ending.kind not in GIVEN_BACK:
                told = self.endings.keys() | self.dropped
                assert self.behind[attempt] in told, "reported before what it follows"
            self.wanted.discard(attempt)
            self.endings[attempt] = ending.kind
        assert not set(said.started) & set(self.endings)
        self.check_promise(said.promised)

    def carry_out(self, command: commands.Command) -> events.Event | None:
        """What a shell would do; returns what happens at once."""
        match command:
            case commands.StartExecutor(executor, asynchronous):
                self.starting.append(executor)
                self.tasks[executor], self.taken[executor] = deque(), []
                self.asynchronous[executor] = asynchronous
            case commands.SendTasks(executor, attempts):
                assert executor in self.tasks
                self.tasks[executor].extend(attempts)
                followed = {self.behind[attempt] for attempt in attempts if attempt in self.behind}
                assert followed <= self.values, "a follower goes on without its input"
            case commands.Reclaim(executor):
                back = tuple(self.tasks.get(executor, ()))
                self.tasks.get(executor, deque()).clear()
                return events.ExecutorReclaimed(executor, back)
            case commands.StopAttempt(_, attempt, _):
                self.stopped.add(attempt)
            case commands.KillExecutor(executor) | commands.CloseExecutor(executor):
                self.doomed.append(executor)
            case commands.FetchInputs(attempt, made):
                assert (made is not None) == (attempt in self.behind)
                self.fetching.append(attempt)
            case commands.Forget(attempts):
                for attempt in attempts:
                    self.forget(attempt)
            case commands.Publish(attempt, _):
                self.storing.append(attempt)
            case commands.Exit():
                self.exited = True
            case commands.EndSession(reason):
                raise AssertionError(reason)
        return None

    def forget(self, attempt: int) -> None:
        """Off the books: a follower without a report, when what it follows has come to no value."""
        if attempt in self.wanted and attempt not in self.core.state.attempts:
            assert attempt in self.behind, "forgotten, and never reported"
            first = self.core.state.attempts.get(self.behind[attempt])
            if first is not None:
                assert first.ending is not None
                assert first.tail or first.ending.kind != EndingKind.DONE
            self.wanted.discard(attempt)

    # --- things that happen -------------------------------------------------------------------------

    def connect(self) -> None:
        """A new session; some attempts are not wanted any more, and lost reports come again."""
        if self.connected:
            self.turn(events.Disconnected())
        held = {attempt: phase.name for attempt, phase in self.core.held()}
        known = tuple(
            a for a in held if a in self.endings and held[a] == "FINISHED" and self.dice.random() < 0.5
        )
        drop = tuple(a for a in held if a not in known and (a in self.dropped or self.dice.random() < 0.1))
        keep = tuple(a for a in held if a not in known and a not in drop)
        self.dropped.update(drop)
        self.wanted.difference_update(drop)
        self.wanted.update(keep)
        for attempt in keep:
            self.endings.pop(attempt, None)
        self.sequence, self.mark, self.connected = 1, 1, True
        self.to_promise = self.promised = 0
        self.bodies = []
        self.turn(events.Connected(1, keep, drop, known, self.dice.choice([None, 0.5])))

    def say(self, **work: Any) -> None:
        """A message of the scheduler."""
        self.sequence += 1
        acked = self.dice.randint(0, self.mark)
        self.turn(events.WorkReceived(self.sequence, acked, **work))

    def assign(self) -> None:
        """New work."""
        known = ()
        if not self.bodies or self.dice.random() < 0.2:
            number = len(self.bodies) + 1
            self.bodies.append(number)
            asynchronous = self.dice.random() < 0.2
            amounts = self.dice.choice(
                [(("cpu", CPU),), (("cpu", CPU // 2),), (("cpu", CPU), ("gpu", CPU)), ()]
            )
            known = (
                events.BodyKnown(
                    number,
                    self.dice.randint(1, 3),
                    f"f{number}",
                    self.dice.choice([b"quick", b"slow", b"other"]),
                    asynchronous,
                    self.dice.choice([None, None, 0.05]),
                    () if asynchronous else amounts,
                ),
            )
        assigned = []
        for _ in range(self.dice.choice([1, 1, 3, 12])):
            self.attempts += 1
            self.wanted.add(self.attempts)
            ahead, ready = self.dice.random() < 0.7, self.dice.random() < 0.8
            amounts = self.dice.choice([None, None, (("cpu", CPU // 2),), (("cpu", 0),)])
            body = self.dice.choice(self.bodies)
            behind = max(0, self.attempts - self.dice.randint(1, 8)) if self.dice.random() < 0.4 else 0
            if behind:
                self.behind[self.attempts] = behind
                ahead, ready = True, False
            assigned.append(events.Assigned(self.attempts, body, ahead, ready, amounts, behind=behind))
        self.say(bodies=known, assigned=tuple(assigned))

    def wish(self, kind: str) -> None:
        """Retract or cancel some."""
        some = [attempt for attempt in self.wanted if self.dice.random() < 0.2]
        self.asked += kind == "retract"
        self.say(**{kind: tuple(sorted(some))}, promise=self.asked if kind == "retract" else 0)
        if kind == "retract":
            self.to_promise = self.asked

    def work(self) -> None:
        """Executors come up, take tasks, answer, die."""
        for executor in list(self.tasks):
            if executor in self.starting:
                if self.dice.random() < 0.1:
                    self.die(executor)
                elif self.dice.random() < 0.6:
                    self.starting.remove(executor)
                    self.turn(events.ExecutorStarted(executor))
            elif executor in self.doomed or self.dice.random() < 0.02:
                self.die(executor)
            else:
                self.take_and_answer(executor)

    def die(self, executor: int) -> None:
        """A process ends."""
        unread = tuple(self.tasks.pop(executor))
        del self.taken[executor], self.asynchronous[executor]
        self.starting = [other for other in self.starting if other != executor]
        self.doomed = [other for other in self.doomed if other != executor]
        self.turn(events.ExecutorDied(executor, "died", unread))

    def take_and_answer(self, executor: int) -> None:
        """Takes tasks and answers some of them, as the real ones do."""
        results = []
        tasks, taken = self.tasks[executor], self.taken[executor]
        for _ in range(self.dice.choice([1, 2, 8])):
            if tasks and (self.asynchronous[executor] or not taken):
                taken.append(tasks.popleft())
            if taken and self.dice.random() < 0.7:
                results.append(self.result(taken.pop(0)))
        if results:
            self.turn(events.ExecutorReported(executor, results))

    def result(self, attempt: int) -> events.Result:
        """Some answer."""
        ok = self.dice.random() < 0.8
        duration = self.dice.choice([10_000, 50_000, 30_000_000])
        stopped = not ok and attempt in self.stopped
        publish, tail = ok and self.dice.random() < 0.1, ok and self.dice.random() < 0.1
        if ok and not tail:
            self.values.add(attempt)
        return events.Result(attempt, ok, "payload", duration, 20, stopped, publish, tail)

    def fetch(self) -> None:
        """Fetches and publishes end."""
        while self.fetching:
            attempt = self.fetching.pop()
            lost = self.dice.random() < 0.2
            self.turn(events.InputsFailed(attempt, "lost") if lost else events.InputsReady(attempt))
        while self.storing:
            attempt = self.storing.pop()
            failed = self.dice.random() < 0.2
            self.turn((events.PublishFailed if failed else events.Published)(attempt, "stored"))

    def step(self) -> None:
        """Something happens."""
        self.now += self.dice.choice([0.0, 0.001, 0.01, 0.3])
        happens = self.dice.random()
        if happens < 0.02:
            self.connect()
        elif happens < 0.3:
            self.assign()
        elif happens < 0.35:
            self.wish("retract")
        elif happens < 0.4:
            self.wish("cancel")
        elif happens < 0.5:
            self.fetch()
        elif happens < 0.6:
            self.flush(self.dice.random() < 0.1)
        elif happens < 0.62:
            self.say(ended_runs=(9,))
        elif happens < 0.75:
            self.turn(events.Ticked())
        else:
            self.work()

    def check_promise(self, number: int) -> None:
        """What was to be given back before the number was asked for has been, or had started after all."""
        if number:
            assert self.promised < number <= self.to_promise
            self.promised = number
        if self.promised == self.to_promise != 0 and not self.core.state.draining:
            retracted = [a for a in self.core.state.attempts.values() if a.wanted == Wanted.RETRACT]
            assert not [a.id for a in retracted if a.phase in (Phase.WAITING, Phase.SENT)]

    def settle(self) -> None:
        """Lets everything come to its end."""
        for _ in range(2000):
            self.now += 0.1
            self.turn(events.Ticked())
            self.fetch()
            self.work()
            self.flush()
            self.sequence += 1
            self.turn(events.MarkMoved(self.sequence, self.mark))
            if not self.core.state.attempts:
                assert self.promised == self.to_promise
                return
        raise AssertionError(f"never settles: {self.core.held()}")


def live(seed: int) -> None:
    """One life, from the first session to the last acknowledgement."""
    world = World(seed)
    world.connect()
    drains = seed % 3 == 0
    try:
        for _ in range(STEPS):
            world.step()
        if drains:
            world.turn(events.DrainRequested(5.0))
        world.settle()
    except Exception as error:
        raise AssertionError(f"seed {seed}: live({seed}) repeats it") from error
    state = world.core.state
    assert world.wanted == set(), f"seed {seed}: never reported"
    assert state.free == state.total, f"seed {seed}"
    left = [*state.queue, *state.ready, *state.async_ready, *state.unacknowledged]
    assert left == [], f"seed {seed}"
    assert world.exited == drains, f"seed {seed}"


@pytest.mark.parametrize("first", range(0, 80, 10))
def test_every_attempt_ends_once(first: int) -> None:
    for seed in range(first, first + 10):
        live(seed)


@pytest.mark.long
def test_every_attempt_ends_once_in_many_lives() -> None:
    for seed in range(1000, 5000):
        live(seed)
