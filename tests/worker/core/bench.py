"""A worker core on a bench: every turn is followed by a check of everything that has to be true."""

from __future__ import annotations

import math
from typing import Any, TypeVar

from cascade_worker.core import Core, Limits, commands, events, invariants

C = TypeVar("C")
CPU = 1_000_000


class Bench:
    """Drives a core as a shell and a scheduler would."""

    def __init__(self, slots: int = 1, amounts: dict[str, int] | None = None, **limits: Any) -> None:
        limits.setdefault("executors_max", 8)
        limits.setdefault("birth", math.inf)
        limits.setdefault("started_delay", math.inf)  # starts ride on other messages, and wake nobody
        self.core = Core({"cpu": slots * CPU, **(amounts or {})}, Limits(slots=slots, **limits))
        self.now = 0.0
        self.sequence = 1
        self.bodies = 0
        self.attempts = 0
        self.log: list[commands.Command] = []

    @property
    def state(self) -> Any:
        """The core's state."""
        return self.core.state

    def turn(self, *happened: events.Event, at: float | None = None) -> list[commands.Command]:
        """One turn, checked. `Reclaim` is left to the test."""
        self.now = self.now if at is None else at
        out = self.core.turn(self.now, happened)
        invariants.check(self.core.state)
        self.log.extend(out)
        return out

    def connect(self, **welcome: Any) -> list[commands.Command]:
        """The scheduler answers."""
        self.sequence = 1
        out = self.turn(events.Connected(**welcome))
        for command in out:
            if isinstance(command, commands.StartExecutor):
                self.turn(events.ExecutorStarted(command.executor))
        return out

    def body(
        self,
        name: str = "f",
        amounts: tuple[tuple[str, int], ...] = (("cpu", CPU),),
        timeout: float | None = None,
        asynchronous: bool = False,
        expected: float | None = None,
        run: int = 1,
        policy: bool = False,
    ) -> int:
        """A new body; `expected` makes its duration known."""
        self.bodies += 1
        if asynchronous and amounts == (("cpu", CPU),):
            amounts = ()
        facts = (name, name.encode(), asynchronous, timeout, amounts)
        known = events.BodyKnown(self.bodies, run, *facts, policy=policy)
        self.work(bodies=(known,))
        if expected is not None:
            self.state.bodies[self.bodies].profile.expected = expected
        return self.bodies

    def work(self, acked: int = 0, **parts: Any) -> list[commands.Command]:
        """One message of the scheduler."""
        self.sequence += 1
        return self.turn(events.WorkReceived(self.sequence, acked, **parts))

    def assign(
        self, body: int, count: int = 1, ahead: bool = False, ready: bool = True
    ) -> tuple[list[int], list[commands.Command]]:
        """Assigns new attempts; returns them and what the core says."""
        attempts = [self.attempts + number for number in range(1, count + 1)]
        self.attempts += count
        assigned = tuple(events.Assigned(attempt, body, ahead, ready) for attempt in attempts)
        return attempts, self.work(assigned=assigned)

    def end(
        self, attempt: int, ok: bool = True, duration: float = 0.001, **fields: Any
    ) -> list[commands.Command]:
        """The attempt's executor says that it has ended."""
        executor = self.state.attempts[attempt].executor
        result = events.Result(attempt, ok, ("payload", attempt), int(duration * 1e9), **fields)
        return self.turn(events.ExecutorReported(executor.id, [result]))

    def flush(self) -> commands.SendReports | None:
        """The next message."""
        return self.core.flush()

    def ack(self, through: int) -> list[commands.Command]:
        """The scheduler's mark moves."""
        self.sequence += 1
        return self.turn(events.MarkMoved(self.sequence, through))

    def endings(self) -> dict[int, commands.Ending]:
        """What the next message reports."""
        sent = self.flush()
        return dict(sent.endings) if sent else {}

    def phase(self, attempt: int) -> str:
        """Where an attempt stands; "gone" when it is off the books."""
        held = self.state.attempts.get(attempt)
        return held.phase.name if held else "gone"


def every(out: list[commands.Command], kind: type[C]) -> list[C]:
    """The commands of one kind."""
    return [command for command in out if isinstance(command, kind)]


_REQUIRED = object()


def one(out: list[commands.Command], kind: type[C], default: Any = _REQUIRED) -> Any:
    """The only command of a kind."""
    found = every(out, kind)
    if not found and default is not _REQUIRED:
        return default
    assert len(found) == 1, out
    return found[0]
