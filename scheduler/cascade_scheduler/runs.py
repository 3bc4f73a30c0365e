"""The shell's books about runs: what clients were told, and what they may still ask for."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from cascade_scheduler.core.commands import EventRecord, RunEnded, RunRefused, SaveOutcome, TargetValue
from cascade_scheduler.core.values import BlobValue, Value
from cascade_scheduler.core.views import Progress, Tree
from cascade_scheduler.eventlog import EventLog, LogLine

if TYPE_CHECKING:
    from cascade_scheduler.services.client_session import ClientSession, Feed, Foreseen

__all__ = ["RunBook", "RunRecord", "SubmitFacts"]

EVENTS_OF_FINISHED_MAX = 1_000_000
"""Events of finished runs that are kept in sum; past it the oldest runs' go."""

RECALLED_MAX = 1_000
"""Runs that had ended before this scheduler began and that it holds, because somebody asked for them."""


class SubmitFacts:
    """What a second submit with the same id is compared with."""

    __slots__ = ("node_count", "on_failure", "params_digest", "target_id", "template_id")

    def __init__(
        self, *, target_id: str, template_id: bytes, params_digest: bytes, node_count: int, on_failure: str
    ) -> None:
        self.target_id = target_id
        self.template_id = template_id
        self.params_digest = params_digest
        self.node_count = node_count
        self.on_failure = on_failure

    def differences(self, other: SubmitFacts) -> list[str]:
        """What differs, in words; empty when both are the same submit."""
        found = []
        if self.node_count != other.node_count:
            found.append(f"the number of nodes ({self.node_count}, now {other.node_count})")
        if self.params_digest != other.params_digest:
            found.append("the params")
        if self.template_id != other.template_id:
            found.append("the target's code or shape")
        elif self.target_id != other.target_id and self.params_digest == other.params_digest:
            found.append("the target's arguments")
        if self.on_failure != other.on_failure:
            found.append(f"the option on_failure ({self.on_failure!r}, now {other.on_failure!r})")
        return found


class Waiting(NamedTuple):
    """A client that waits for a run to be accepted."""

    session: ClientSession
    logs: bool
    """It wants the lines that tasks print."""
    joined: bool
    """Somebody else has submitted the run."""
    soon: bool
    """It is to be told in a message of its own."""


class RunRecord:
    """One run as its clients see it."""

    __slots__ = (
        "accepted",
        "cancel_on_disconnect",
        "cancel_requested",
        "disconnect_grace",
        "ended",
        "ending",
        "events",
        "facts",
        "feeds",
        "foreseen",
        "graph_bytes",
        "kept",
        "late",
        "logs",
        "name",
        "only_key",
        "owner",
        "owner_lost",
        "params",
        "pieces",
        "pinned",
        "pools",
        "recalled",
        "refused",
        "results",
        "resume",
        "run_id",
        "stored_through",
        "submitted",
        "waiting",
    )

    def __init__(self, run_id: str, name: str, facts: SubmitFacts, *, logs: bool, submitted: float) -> None:
        self.run_id = run_id
        self.name = name
        self.facts = facts
        self.logs = logs
        """Somebody wants the lines that tasks print."""
        self.submitted = submitted
        self.params = b""
        """Pickled, for the workers."""
        self.pools: tuple[tuple[str, int], ...] = ()
        """What its nodes share among themselves, in micros."""
        self.accepted = False
        self.refused: RunRefused | None = None
        self.ending: tuple[RunEnded, Tree | None, Progress] | None = None
        """How it ended in the core, before its clients may know."""
        self.ended: tuple[RunEnded, Tree | None, Progress] | None = None
        self.foreseen: Foreseen | None = None
        self.late: tuple[SaveOutcome, tuple[tuple[int, str], ...]] | None = None
        """What is stored of its end when its clients have been told, and the key of its value by its node."""
        self.only_key = ""
        """Of a run of one task whose events are made later: what names that in them."""
        self.results: list[tuple[int, Value]] = []
        """What the target's value is made of, as far as clients may know it. It only grows."""
        self.events = EventLog()
        self.stored_through = 0
        """Id of the last event that went to the store."""
        self.pieces: deque[int] | None = None
        """First ids of the pieces in which events went to the store."""
        self.feeds: dict[ClientSession, Feed] = {}
        self.owner: ClientSession | None = None
        self.owner_lost = False
        self.cancel_on_disconnect = False
        self.disconnect_grace = 0.0
        self.cancel_requested = False
        self.recalled = False
        """It had ended before this scheduler began, and was read from the store."""
        self.resume = False
        """What is stored under its id is not to be lost."""
        self.graph_bytes = 0
        """What its graph counts as, until it has ended."""
        self.pinned: tuple[bytes, ...] = ()
        """Functions and blobs that the graph needs, until the run has ended."""
        self.kept: list[bytes] = []
        """Blobs that the target's value is made of, until the run is forgotten."""
        self.waiting: list[Waiting] = []
        """Clients that wait for the run to be accepted."""

    def add_piece(self, first: int) -> tuple[int, ...]:
        """Notes a piece of events that goes to the store; returns those that are past the bound by now."""
        pieces = self.pieces
        if pieces is None:
            pieces = self.pieces = deque()
        pieces.append(first)
        dropped = []
        while len(pieces) > 1 and pieces[1] <= self.events.first:
            dropped.append(pieces.popleft())
        return tuple(dropped)

    @property
    def live(self) -> bool:
        """Its clients have not been told of an end."""
        return self.ended is None and self.refused is None


class RunBook:
    """All runs that clients may ask for, oldest first.

    Args:
        on_end: called when the clients of a run know how it ended.
        on_forget: called when nobody may ask for a run any more.
        on_blob: called with the blobs that results are.
        shows_at_once: watchers see events without waiting for a store.
    """

    def __init__(
        self,
        on_end: Callable[[RunRecord], None],
        on_forget: Callable[[RunRecord], None],
        on_blob: Callable[[RunRecord, BlobValue], None],
        *,
        shows_at_once: bool,
    ) -> None:
        self._runs: OrderedDict[str, RunRecord] = OrderedDict()
        self._finished: OrderedDict[str, RunRecord] = OrderedDict()
        self._finished_events = 0
        self._on_end = on_end
        self._on_forget = on_forget
        self._on_blob = on_blob
        self._shows_at_once = shows_at_once
        self._dirty: dict[RunRecord, None] = {}
        """Those that have had events that watchers may not see yet."""
        self._over: list[RunRecord] = []
        """Runs whose clients are told of the end just now."""

    def __len__(self) -> int:
        return len(self._runs)

    def __contains__(self, run_id: str) -> bool:
        return run_id in self._runs

    def get(self, run_id: str) -> RunRecord | None:
        """The run, if it is known."""
        return self._runs.get(run_id)

    def add(self, record: RunRecord) -> None:
        """A run that was submitted."""
        self._runs[record.run_id] = record

    def add_ended(self, record: RunRecord) -> None:
        """A run that ended in an earlier life; of too many such the oldest are forgotten."""
        self._runs[record.run_id] = self._finished[record.run_id] = record
        self._finished_events += len(record.events)
        recalled = [known for known in self._finished.values() if known.recalled and not known.feeds]
        if len(recalled) > RECALLED_MAX:
            self.forget(recalled[0])

    def oldest_finished(self) -> Iterator[RunRecord]:
        """Runs that have ended."""
        return iter(list(self._finished.values()))

    def newest_first(self) -> Iterator[RunRecord]:
        """All runs."""
        return reversed(self._runs.values())

    def live(self) -> list[RunRecord]:
        """Runs that have not ended."""
        return [record for record in self._runs.values() if record.live]

    def wants_logs(self, run_id: str) -> bool:
        """Somebody wants the lines that the run's tasks print."""
        record = self._runs.get(run_id)
        return record is not None and record.logs

    def params(self, run_id: str) -> bytes:
        """The run's params, pickled, for the workers."""
        record = self._runs.get(run_id)
        return b"" if record is None else record.params

    def record(self, events: Sequence[EventRecord]) -> None:
        """Keeps events."""
        first, count = 0, len(events)
        while first < count:
            run_id = events[first].run_id
            end = first + 1
            while end < count and events[end].run_id is run_id:  # mostly: events come run by run
                end += 1
            record = self._runs.get(run_id)
            if record is not None:
                record.events.extend(events if end - first == count else events[first:end])
                self._recorded(record)
            first = end

    def record_line(self, record: RunRecord, line: LogLine) -> None:
        """Keeps a line that a task printed."""
        record.events.append(line)
        self._recorded(record)

    def _recorded(self, record: RunRecord) -> None:
        if self._shows_at_once:
            record.events.publish(record.events.last)
        else:
            self._dirty[record] = None

    def take_dirty(self) -> list[RunRecord]:
        """Runs that have had events since the last call."""
        dirty = list(self._dirty)
        self._dirty.clear()
        return dirty

    def tell(self, commands: Sequence[TargetValue | RunEnded]) -> Iterable[RunRecord]:
        """Clients may know this now; returns the runs that it is about."""
        touched: dict[RunRecord, None] = {}
        run_id, record = "", None
        for command in commands:
            if command.run_id is not run_id:
                run_id = command.run_id
                record = self._runs.get(run_id)
                if record is not None:
                    touched[record] = None
            if record is None:
                continue
            if type(command) is TargetValue:
                _, node, value = command
                record.results.append((node, value))
                if type(value) is BlobValue:
                    self._on_blob(record, value)
                continue
            record.ended = record.ending
            self._finished[run_id] = record
            self._finished_events += len(record.events)
            record.events.wake()
            self._over.append(record)
        return touched

    def settle_ended(self) -> None:
        """Lets go of what runs needed until their clients were told of the end."""
        over, self._over = self._over, []
        for record in over:
            record.foreseen = None
            self._on_end(record)

    def refuse(self, command: RunRefused) -> RunRecord | None:
        """The core did not take the run."""
        record = self._runs.pop(command.run_id, None)
        if record is not None:
            record.refused = command
            record.events.wake()
            self._on_forget(record)
        return record

    def forget(self, record: RunRecord) -> None:
        """A finished run that nobody may ask for any more."""
        del self._finished[record.run_id]
        del self._runs[record.run_id]
        self._finished_events -= len(record.events)
        self._on_forget(record)

    def prune(self, kept: Callable[[str], bool]) -> None:
        """Forgets finished runs that the core no longer keeps, oldest first, and events past the bound."""
        finished = self._finished
        while finished:
            oldest: RunRecord | None = next(iter(finished.values()))
            if oldest is not None and oldest.recalled:
                oldest = next((record for record in finished.values() if not record.recalled), None)
            if oldest is None or kept(oldest.run_id):
                break
            self.forget(oldest)
        if self._finished_events > EVENTS_OF_FINISHED_MAX:
            for record in self._finished.values():
                self._finished_events -= len(record.events)
                record.events.cut(1)
                self._finished_events += len(record.events)
                if self._finished_events <= EVENTS_OF_FINISHED_MAX:
                    break
