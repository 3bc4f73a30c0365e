"""The turn loop with a tiny core: order, gating, wake-ups, bugs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from cascade_scheduler.core.commands import (
    CancelAttempt,
    Command,
    EventRecord,
    ReleaseObject,
    RetractAttempt,
    RunEnded,
    RunRefused,
    SaveOutcome,
    SaveSkip,
    TargetValue,
    WelcomeWorker,
    WorkerGone,
)
from cascade_scheduler.core.events import Event, RunCancelRequested, RunForgotten, Tick
from cascade_scheduler.outbox import Bell
from cascade_scheduler.store.base import Record, RunDropped
from cascade_scheduler.store.writer import NOTHING_WRITTEN, Make, Written
from cascade_scheduler.story import write_story
from cascade_scheduler.turn import Turn

Then = Callable[[], None]
SAVED = SaveSkip("r", 0, "aa", "Pruned")
TOLD = TargetValue("r", 0, b"\x80")
ENDED = RunEnded("r", "succeeded", None, "", "", 0, "", 1.0)


class TinyCore:
    """Answers every turn with the commands of a script."""

    def __init__(self, *script: Sequence[Command]) -> None:
        self.script = list(script)
        self.turns: list[tuple[list[Event], float]] = []
        self.next_wakeup: float | None = None
        self.error: Exception | None = None

    def turn(self, events: Sequence[Event], now: float) -> list[Command]:
        """Notes the events."""
        self.turns.append((list(events), now))
        if self.error is not None:
            raise self.error
        return list(self.script.pop(0)) if self.script else []


class Books:
    """Listener and writer that note what they are told."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self.records: list[Sequence[Record]] = []
        self.waiting: list[Then] = []
        self.hold = False
        self.now = 100.0
        self.bugs: list[tuple[BaseException, int]] = []

    def put(
        self,
        records: Sequence[Record],
        then: Sequence[Then],
        *,
        soon: Make | None = None,
        late: Make | None = None,
    ) -> None:
        """Calls back at once, or when `land` is called."""
        self.records.append(tuple(records))
        self.waiting.extend(then)
        if not self.hold:
            self.land()

    def land(self) -> None:
        """Everything has landed."""
        waiting, self.waiting = self.waiting, []
        for call in waiting:
            call()

    def orders(self, commands: Sequence[object]) -> None:
        """Notes orders."""
        self.told.extend(commands)

    def welcome(self, command: WelcomeWorker) -> None:
        """Notes."""
        self.told.append(command)

    def worker_gone(self, command: WorkerGone) -> None:
        """Notes."""
        self.told.append(command)

    def events(self, commands: Sequence[EventRecord]) -> tuple[Written, Make | None, Make | None]:
        """Notes events."""
        self.told.extend(commands)
        return NOTHING_WRITTEN, None, None

    def foresee(self, commands: Sequence[TargetValue | RunEnded]) -> None:
        """Is not noted: nothing depends on it."""

    def tell(self, commands: Sequence[TargetValue | RunEnded]) -> None:
        """Notes what clients are told."""
        self.told.extend(commands)

    def run_refused(self, command: RunRefused) -> Sequence[Record]:
        """Notes; takes back."""
        self.told.append(command)
        return (RunDropped(command.run_id),)

    def run_ending(self, command: RunEnded, outcome: SaveOutcome | None) -> Sequence[Record]:
        """Notes."""
        self.told.append(("ending", command.run_id))
        return ()

    def clock(self) -> float:
        """The time."""
        return self.now

    def bug(self, error: BaseException, story: Sequence[tuple[float, Sequence[Event]]]) -> None:
        """Notes a bug."""
        self.bugs.append((error, len(story)))


def turn_of(core: TinyCore, books: Books) -> Turn:
    """A turn between a core and books."""
    return Turn(core, books, books, bell=Bell(), clock=books.clock, on_bug=books.bug)


async def settle() -> None:
    """Lets everything that is ready run."""
    for _ in range(3):
        await asyncio.sleep(0)


async def test_events_that_come_together_make_one_turn() -> None:
    core, books = TinyCore(), Books()
    turn = turn_of(core, books)
    first, second, third = RunForgotten("a"), RunCancelRequested("b"), RunForgotten("c")
    turn.post(first)
    assert core.turns == [([first], 100.0)], "one that comes alone waits for nothing"
    turn.post(second)
    turn.post(third)
    assert turn.count == 1
    await settle()
    assert core.turns[1:] == [([second, third], 100.0)]


async def test_what_is_posted_within_a_turn_is_the_next_one() -> None:
    core, books = TinyCore(), Books()
    turn = turn_of(core, books)
    turn.post(RunForgotten("a"), then=lambda: turn.post(RunForgotten("b")))
    assert turn.count == 1
    await settle()
    assert [events for events, _ in core.turns] == [[RunForgotten("a")], [RunForgotten("b")]]


async def test_orders_go_at_once_and_clients_wait_for_the_store() -> None:
    orders, release = [RetractAttempt("w", 1), CancelAttempt("w", 2)], ReleaseObject("w", 3)
    core, books = TinyCore([release, *orders, SAVED, TOLD, ENDED]), Books()
    books.hold = True
    turn = turn_of(core, books)
    turn.post(RunForgotten("a"), then=lambda: books.told.append("posted"), records=[RunDropped("first")])
    await settle()
    assert books.told == [("ending", "r"), *orders]
    assert books.records == [(RunDropped("first"), SAVED)]
    books.land()
    assert books.told[3:] == ["posted", TOLD, ENDED, release], "a value stays until it is not needed"


async def test_records_that_can_wait_are_made_behind_the_orders_and_land_before_those_of_the_core() -> None:
    order, begun = CancelAttempt("w", 2), RunDropped("begun")
    core, books = TinyCore([order, SAVED]), Books()
    turn = turn_of(core, books)

    def make() -> Sequence[Record]:
        books.told.append("made")
        turn.post(None, records=[RunDropped("before")])
        for name in ("of the next turn", "the second"):
            turn.post(None, later=partial(tuple, [RunDropped(name)]))
        turn.post(None, records=[RunDropped("behind")])
        return (begun,)

    turn.post(RunForgotten("a"), later=make)
    await settle()
    assert books.told == [order, "made"]
    next_turn = map(RunDropped, ("before", "of the next turn", "the second", "behind"))
    assert books.records == [(begun, SAVED), tuple(next_turn)]


async def test_a_refused_run_is_taken_back_in_the_same_batch() -> None:
    refused = RunRefused("r", "infeasible", "no gpu")
    core, books = TinyCore([refused]), Books()
    turn_of(core, books).post(RunForgotten("r"), records=[SAVED])
    await settle()
    assert books.records == [(SAVED, RunDropped("r"))]


async def test_a_tick_comes_last_and_in_time() -> None:
    core, books = TinyCore(), Books()
    turn = turn_of(core, books)
    core.next_wakeup = 100.005
    turn.post(RunForgotten("a"))
    await settle()
    books.now = 100.005
    turn.post(RunForgotten("b"))
    await settle()
    assert core.turns[-1] == ([RunForgotten("b"), Tick()], 100.005)
    core.next_wakeup = 100.006
    turn.post(RunForgotten("c"))
    await settle()
    books.now = 100.006
    async with asyncio.timeout(5):
        while core.turns[-1][0] != [Tick()]:
            core.next_wakeup = None if core.turns[-1][0] == [Tick()] else 100.006
            await asyncio.sleep(0.001)


async def test_an_overdue_wakeup_does_not_spin() -> None:
    core, books = TinyCore(), Books()
    core.next_wakeup = 1.0
    turn = turn_of(core, books)
    turn.post(RunForgotten("a"))
    for _ in range(200):
        await asyncio.sleep(0)
    assert turn.count < 20
    turn.stop()


async def test_a_bug_stops_everything_and_tells_its_story(tmp_path: Path) -> None:
    core, books = TinyCore(), Books()
    turn = turn_of(core, books)
    turn.post(RunForgotten("a"))
    await settle()
    core.error = ZeroDivisionError("in the core")
    turn.post(RunCancelRequested("b"))
    await settle()
    assert books.bugs == [(core.error, 2)]
    turn.post(RunForgotten("c"))
    await settle()
    assert len(core.turns) == 2


async def test_an_unknown_command_is_a_bug() -> None:
    core, books = TinyCore([("what", "is this")]), Books()  # type: ignore[list-item]
    turn_of(core, books).post(RunForgotten("a"))
    await settle()
    assert "nobody carries out" in str(books.bugs[0][0])


def test_a_story_shows_shapes_and_not_data(tmp_path: Path) -> None:
    events: list[Event] = [RunForgotten("r" * 10_000), RunCancelRequested("x", "why")]
    path = write_story(tmp_path / "new", 1000.0, "Traceback …\n", [(5.0, events), (6.0, [Tick()])])
    assert path is not None
    text = path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert "Traceback …" in text
    assert "turn at 5.0" in text
    assert "RunCancelRequested('x', 'why', )" in text
    assert max(map(len, text.splitlines())) < 5000
    (tmp_path / "file").write_text("")
    assert write_story(tmp_path / "file", 1000.0, "", []) is None
