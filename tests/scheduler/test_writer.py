"""Records go to the store in order, one batch at a time, again and again until they have landed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from cascade_scheduler.core.cached import Facts
from cascade_scheduler.core.commands import (
    SaveCheckpoint,
    SaveFacts,
    SaveFailure,
    SaveFrame,
    SaveOutcome,
    SaveResult,
    SaveSkip,
)
from cascade_scheduler.core.values import ErrorInfo
from cascade_scheduler.store import writer as module
from cascade_scheduler.store.base import (
    Batch,
    Record,
    StoredFrame,
    StoredFunction,
    StoredJump,
    StoredRun,
    StoreFenced,
    StoreUnavailable,
)
from cascade_scheduler.store.memory import MemoryStore
from cascade_scheduler.store.sizes import size_of
from cascade_scheduler.store.writer import StoreWriter, Written


def skip(number: int) -> SaveSkip:
    """One record."""
    return SaveSkip("r", number, f"{number}", "Pruned")


END = SaveOutcome("r", "succeeded", "")
"""Somebody waits for it."""


class Scripted:
    """A store that does what a test says, one word per commit: land, away, fence."""

    url = "scripted://"
    immediate = False

    def __init__(self, *script: str) -> None:
        self.script = list(script)
        self.seen: list[Batch] = []
        self.flying = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def open(self) -> int:
        """The first epoch."""
        return 1

    async def load(self) -> AsyncIterator[StoredRun]:
        """Nothing."""
        for run in list[StoredRun]():
            yield run

    def apply(self, batch: Batch) -> None:
        """Not immediate."""
        raise AssertionError

    async def commit(self, batch: Batch) -> None:
        """The next word of the script."""
        self.flying += 1
        assert self.flying == 1, "one batch in flight"
        await self.gate.wait()
        self.flying -= 1
        self.seen.append(batch)
        word = self.script.pop(0) if self.script else "land"
        if word == "away":
            raise StoreUnavailable("no answer")
        if word == "fence":
            raise StoreFenced("another epoch")
        if word == "bug":
            raise ZeroDivisionError

    async def close(self) -> None:
        """Nothing."""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting between tries."""
    monkeypatch.setattr(module, "RETRY_FIRST", 0.0)
    monkeypatch.setattr(module, "RETRY_MAX", 0.0)


def never(error: StoreFenced) -> None:
    """Nobody is fenced off here."""
    raise AssertionError(error)


async def test_an_immediate_store_answers_at_once() -> None:
    store = MemoryStore()
    await store.open()
    writer = StoreWriter(store, on_fenced=never)
    called: list[int] = []
    writer.put([skip(1)], [lambda: called.append(1)])
    writer.put([], [lambda: called.append(2)])
    assert called == [1, 2]


async def test_what_comes_meanwhile_is_the_next_batch() -> None:
    store = Scripted()
    store.gate.clear()
    writer = StoreWriter(store, on_fenced=never)
    called: list[int] = []
    writer.put([], [lambda: called.append(0)])
    assert called == [0], "nothing to store, nothing to wait for"
    for number, record in ((1, END), (2, skip(2)), (3, skip(3))):
        writer.put([record], [lambda number=number: called.append(number)])  # type: ignore[misc]
        await asyncio.sleep(0)
    writer.put([], [lambda: called.append(4)])
    assert called == [0]
    store.gate.set()
    assert await writer.flush(5)
    assert called == [0, 1, 2, 3, 4]
    assert [(batch.number, list(batch.records)) for batch in store.seen] == [
        (1, [END]),
        (2, [skip(2), skip(3)]),
    ]


async def one_more(store: Scripted, batches: int) -> None:
    """Gives the writer the turns of the loop that it needs to land so many batches, and to say so."""
    async with asyncio.timeout(20):
        while len(store.seen) < batches:  # noqa: ASYNC110 - the store is the one that would tell
            await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_what_nobody_is_in_a_hurry_for_goes_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOGETHER_SECONDS", 3_600.0)
    store = Scripted()
    writer = StoreWriter(store, on_fenced=never)
    called: list[int] = []
    for number in (1, 2):
        writer.put([skip(number)], [lambda number=number: called.append(number)])  # type: ignore[misc]
        await asyncio.sleep(0)
    assert (store.seen, called) == ([], [])
    writer.put([END], [lambda: called.append(3)])  # the end of a run: its client waits
    await one_more(store, 1)
    assert [list(batch.records) for batch in store.seen] == [[skip(1), skip(2), END]]
    assert called == [1, 2, 3]
    writer.put([skip(4)], [])
    writer.put([], [lambda: called.append(4)])  # somebody waits until all that is there has landed
    await one_more(store, 2)
    assert called == [1, 2, 3, 4]
    assert list(store.seen[1].records) == [skip(4)]


class Maker:
    """Makes records when it is asked, and notes what becomes of them."""

    def __init__(self, name: str, story: list[str], *records: Record) -> None:
        self.name = name
        self.story = story
        self.records = records

    def __call__(self) -> Written:
        """They are wanted."""
        self.story.append(f"{self.name} made")
        return Written(self.records, (lambda: self.story.append(f"{self.name} landed"),))


async def test_what_may_come_late_is_made_when_the_rest_has_landed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOGETHER_SECONDS", 3_600.0)
    store, story = Scripted(), list[str]()
    writer = StoreWriter(store, on_fenced=never)
    store.gate.clear()
    soon, late = Maker("soon", story, skip(2)), Maker("late", story, skip(3), END)
    writer.put([skip(1)], [lambda: story.append("begun")], soon=Maker("earlier", story, skip(0)))
    writer.put([END], [lambda: story.append("told")], soon=soon, late=late)
    await asyncio.sleep(0)
    assert story == ["soon made", "earlier made"], "the last turn's first"
    writer.put([skip(4)], [lambda: story.append("next")])
    store.gate.set()
    await one_more(store, 1)
    assert story[2:] == ["begun", "told", "soon landed", "earlier landed", "late made"]
    assert list(store.seen[0].records) == [skip(1), END, skip(2), skip(0)]
    await asyncio.sleep(0.01)
    assert len(store.seen) == 1, "nobody is in a hurry"
    assert await writer.flush(5)
    assert list(store.seen[1].records) == [skip(3), END, skip(4)], "before what was put since"
    assert story[7:] == ["late landed", "next"]


async def test_what_may_come_late_counts_until_it_has_landed() -> None:
    store = Scripted()
    writer = StoreWriter(store, on_fenced=never, backlog_max=1_000)
    many = [skip(number) for number in range(20)]
    store.gate.clear()
    writer.put([END], [], late=Maker("late", [], *many))
    assert writer.room.is_set()
    store.gate.set()
    await one_more(store, 1)
    assert not writer.room.is_set()
    await asyncio.wait_for(writer.room.wait(), 20)
    assert list(store.seen[1].records) == many


async def test_an_immediate_store_takes_all_of_it_at_once() -> None:
    store, story = MemoryStore(), list[str]()
    await store.open()
    writer = StoreWriter(store, on_fenced=never)
    writer.put([skip(1)], [], soon=Maker("soon", story, skip(2)), late=Maker("late", story, skip(3)))
    assert story == ["soon made", "soon landed", "late made", "late landed"]


async def test_a_turn_may_have_nothing_but_what_is_made_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOGETHER_SECONDS", 3_600.0)
    store, story = Scripted(), list[str]()
    writer = StoreWriter(store, on_fenced=never)
    writer.put([], [], soon=Maker("soon", story, skip(1)))
    await asyncio.sleep(0.01)
    assert (store.seen, story) == ([], []), "it waits for more"
    assert await writer.flush(5)
    assert list(store.seen[0].records) == [skip(1)]
    writer.put([], [lambda: story.append("told")], late=Maker("late", story, skip(2)))
    assert await writer.flush(5)
    assert story == ["soon made", "soon landed", "told", "late made", "late landed"]


async def test_what_may_come_late_is_not_made_of_what_never_lands() -> None:
    store, story = Scripted("fence"), list[str]()
    fenced: list[StoreFenced] = []
    writer = StoreWriter(store, on_fenced=fenced.append)
    writer.put([END], [lambda: story.append("told")], late=Maker("late", story, skip(1)))
    await writer.flush(5)
    assert (len(fenced), story) == (1, [])


async def test_it_goes_by_itself_after_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOGETHER_SECONDS", 0.0)
    store = Scripted()
    writer = StoreWriter(store, on_fenced=never)
    landed = asyncio.Event()
    for number in (1, 2):
        writer.put([skip(number)], [landed.set])
    await asyncio.wait_for(landed.wait(), 20)
    assert [list(batch.records) for batch in store.seen] == [[skip(1), skip(2)]]
    await writer.close()


async def test_much_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOGETHER_SECONDS", 3_600.0)
    store = Scripted()
    writer = StoreWriter(store, on_fenced=never)
    landed = asyncio.Event()
    value = bytes(module.BATCH_BYTES_AT_ONCE)
    writer.put([SaveResult("r", 0, "aa", 1, value)], [landed.set])
    await asyncio.wait_for(landed.wait(), 20)


async def test_a_writer_that_is_closed_writes_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOGETHER_SECONDS", 0.0)
    store = Scripted()
    writer = StoreWriter(store, on_fenced=never)
    writer.put([skip(1)], [])
    await writer.close()
    await asyncio.sleep(0)
    assert store.seen == []


async def test_a_store_that_is_away_is_tried_again(quick: None, caplog: pytest.LogCaptureFixture) -> None:
    store = Scripted("away", "away", "land")
    writer = StoreWriter(store, on_fenced=never)
    called: list[int] = []
    writer.put([skip(1)], [lambda: called.append(1)])
    assert await writer.flush(5)
    assert called == [1]
    assert [batch.number for batch in store.seen] == [1, 1, 1]
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    assert not writer.away


async def test_fenced_off_is_said_once_and_nothing_is_told() -> None:
    store = Scripted("fence")
    fenced: list[StoreFenced] = []
    writer = StoreWriter(store, on_fenced=fenced.append)
    called: list[int] = []
    writer.put([skip(1)], [lambda: called.append(1)])
    await asyncio.sleep(0.01)
    assert len(fenced) == 1
    assert called == []


async def test_a_large_turn_is_several_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_BYTES_MAX", 1000)
    store = Scripted()
    writer = StoreWriter(store, on_fenced=never)
    called: list[int] = []
    records = [SaveResult("r", number, f"{number}", 1, b"\x80" * 400) for number in range(5)]
    writer.put(records, [lambda: called.append(len(store.seen))])
    assert await writer.flush(5)
    assert [len(batch.records) for batch in store.seen] == [2, 2, 1]
    assert [batch.number for batch in store.seen] == [1, 2, 3]
    assert called == [3], "told when the last of it has landed"


async def test_there_is_no_room_past_the_bound() -> None:
    store = Scripted()
    store.gate.clear()
    writer = StoreWriter(store, on_fenced=never, backlog_max=1000)
    for number in range(8):
        writer.put([skip(number)], [])
        assert writer.room.is_set()
    for number in range(4):
        writer.put([skip(number)], [])
    assert not writer.room.is_set()
    store.gate.set()
    await asyncio.wait_for(writer.room.wait(), 5)
    assert await writer.flush(5)


async def test_flush_gives_up_in_time() -> None:
    store = Scripted()
    store.gate.clear()
    writer = StoreWriter(store, on_fenced=never)
    writer.put([skip(1)], [])
    assert not await writer.flush(0.01)
    await writer.close()


async def test_what_records_hold_counts() -> None:
    function = StoredFunction(b"cid", "f", b"x" * 10, b"")
    graph = StoredFrame(b"x" * 100, b"x" * 20, (function,))
    assert size_of(SaveFrame("r", 1, graph)) == 100 + 130
    assert size_of(SaveFrame("r", 1, StoredJump(1, (), b"x" * 7))) == 100 + 7
    assert size_of(SaveCheckpoint("r", 1, b"n" * 16, b"x" * 50)) == 100 + 50
    assert size_of(SaveFacts("r", 1, "k", Facts(items=(b"x" * 5, b"y")))) == 100 + 6
    assert size_of(SaveFailure("r", 1, -1, ErrorInfo("E", "abc", "trace", b"12"), "f")) == 100 + 10
    assert size_of(skip(1)) == 100


async def test_a_bug_is_told_and_nobody_hears_of_what_was_lost() -> None:
    store, bugs, called = Scripted("bug"), list[BaseException](), list[int]()
    writer = StoreWriter(store, on_fenced=never)
    writer.on_bug = bugs.append
    writer.put([skip(1)], [lambda: called.append(1)])
    await writer.flush(5)
    assert isinstance(bugs[0], ZeroDivisionError)
    assert not called


# --- a store that takes batches without a task ---------------------------------------------------------


class Prompt(Scripted):
    """A store that takes batches at once, as long as `takes` says so; the test says what became of them."""

    def __init__(self, *script: str) -> None:
        super().__init__(*script)
        self.takes = True
        self.begun: list[Batch] = []
        self.answer: list[Callable[[bool], None]] = []
        self.prepared: list[Record] = []
        self.story: list[str] = []

    def prepare(self, records: Sequence[Record]) -> None:
        """There is time."""
        self.prepared.extend(records)

    def begin(self, batch: Batch, then: Callable[[bool], None]) -> bool:
        """Sends it."""
        if self.takes:
            self.begun.append(batch)
            self.answer.append(then)
            self.story.append(f"begin {batch.number}")
        return self.takes

    def settle(self) -> None:
        """The writer has told of it."""
        self.story.append("settle")

    def land(self, landed: bool = True) -> None:
        """Answers the batch that was sent."""
        self.answer.pop()(landed)


def prompt_writer(store: Prompt) -> tuple[StoreWriter, list[int], Callable[..., None]]:
    """A writer, what it has told, and how to put a turn with a number in."""
    writer = StoreWriter(store, on_fenced=never)
    called: list[int] = []

    def put(number: int, *records: Record) -> None:
        writer.put(records, [lambda: called.append(number)])

    return writer, called, put


async def test_a_batch_goes_out_and_is_told_of_without_a_turn_of_the_loop() -> None:
    store = Prompt()
    writer, called, put = prompt_writer(store)
    put(1, skip(1), END)
    assert [(batch.number, list(batch.records)) for batch in store.begun] == [(1, [skip(1), END])]
    put(2, skip(2))
    put(3)
    assert called == [], "it is under way"
    store.land()
    assert called == [1], "the second turn goes next, and the third waits for it"
    assert [batch.number for batch in store.begun] == [1, 2]
    store.land()
    assert called == [1, 2, 3]
    put(4)
    assert called == [1, 2, 3, 4], "nothing is under way any more"
    assert store.seen == [], "no task was needed"
    assert writer.batches == 2


async def test_who_only_waited_for_what_has_landed_is_told_at_once() -> None:
    store = Prompt()
    _, called, put = prompt_writer(store)
    put(1, END)
    put(2)
    put(3)
    store.land()
    assert called == [1, 2, 3]
    assert len(store.begun) == 1


async def test_the_books_of_the_store_are_kept_behind_what_is_told_and_before_the_next_batch() -> None:
    store = Prompt()
    writer, _, put = prompt_writer(store)
    writer.put([END], [lambda: store.story.append("told")])
    put(2, END)
    store.land()
    assert store.story == ["begin 1", "told", "settle", "begin 2"]
    store.land()
    assert store.story[-1] == "settle"


async def test_what_is_put_while_others_are_told_comes_after_them() -> None:
    store = Prompt()
    writer, called, put = prompt_writer(store)
    writer.put([END], [lambda: put(2), lambda: called.append(1)])
    store.land()
    assert called == [1, 2]


async def test_a_batch_of_which_nobody_knows_is_sent_again_by_a_task(quick: None) -> None:
    store = Prompt("away", "land")
    writer, called, put = prompt_writer(store)
    put(1, END)
    put(2, END)
    store.land(False)
    assert called == []
    assert await writer.flush(5)
    assert called == [1, 2]
    assert [batch.number for batch in store.seen] == [1, 1, 2]
    put(3, END)
    store.land()
    assert called == [1, 2, 3], "after that there is no need for a task again"
    assert [batch.number for batch in store.begun] == [1, 3]


async def test_a_store_that_is_not_ready_gets_its_batch_by_a_task() -> None:
    store = Prompt()
    store.takes = False
    writer, called, put = prompt_writer(store)
    put(1, END)
    assert await writer.flush(5)
    assert called == [1]
    assert [batch.number for batch in store.seen] == [1]


async def test_a_large_turn_is_left_to_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_BYTES_MAX", 1000)
    store = Prompt()
    writer, called, put = prompt_writer(store)
    put(1, *(SaveResult("r", number, f"{number}", 1, b"\x80" * 400) for number in range(5)), END)
    assert store.begun == []
    assert await writer.flush(5)
    assert called == [1]
    assert len(store.seen) == 3


async def test_flush_waits_for_what_was_sent() -> None:
    store = Prompt()
    writer, called, put = prompt_writer(store)
    put(1, END)
    assert not await writer.flush(0.01)
    asyncio.get_running_loop().call_soon(store.land)
    assert await writer.flush(5)
    assert called == [1]


async def test_nobody_is_told_after_the_end() -> None:
    store = Prompt()
    writer, called, put = prompt_writer(store)
    put(1, END)
    await writer.close()
    store.land()
    put(2, END)
    assert called == []
    assert len(store.begun) == 1
    await writer.close()


async def test_a_bug_while_it_is_sent_or_told_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    store = Prompt()
    writer, called, put = prompt_writer(store)
    bugs: list[BaseException] = []
    writer.on_bug = bugs.append
    writer.put([END], [lambda: called.append(1 // 0)])
    store.land()
    assert [type(bug) for bug in bugs] == [ZeroDivisionError]
    assert await writer.flush(0.01) is False, "what was to be told is lost, and so nothing more is"
    store.begin = lambda batch, then: bool(1 // 0)  # type: ignore[method-assign]
    other, _, put = prompt_writer(store)
    other.on_bug = bugs.append
    put(2, END)
    assert len(bugs) == 2


async def test_what_waits_is_prepared_once_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOGETHER_SECONDS", 3_600.0)
    store = Prompt()
    _, _, put = prompt_writer(store)
    put(1, skip(1))
    put(2, skip(2), skip(3))
    assert store.prepared == [skip(1), skip(2), skip(3)]
    put(3, END)
    assert list(store.begun[0].records) == [skip(1), skip(2), skip(3), END]
    store.prepared.clear()
    put(4, skip(4))
    assert store.prepared == [], "it may wait for the batch that is under way"
    store.land()
    assert store.prepared == [skip(4)]
    put(5, skip(5))
    assert store.prepared == [skip(4), skip(5)]


async def test_a_writer_is_closed_though_it_was_not_told_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CANCEL_SECONDS", 0.01)

    class Deaf(Scripted):
        async def commit(self, batch: Batch) -> None:
            """Loses a cancellation, as what it waits with may."""
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            self.seen.append(batch)
            await asyncio.Event().wait()

    store = Deaf()
    writer = StoreWriter(store, on_fenced=never)
    writer.put([END], [])
    await asyncio.sleep(0)
    await asyncio.wait_for(writer.close(), 20)
    assert len(store.seen) == 1
