"""A run that is over at once: its client hears that it is accepted and how it ended in one message."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from cascade_dist.v1 import client_pb2
from cascade_scheduler.core.commands import RunEnded, RunRefused, SaveOutcome, TargetValue
from cascade_scheduler.core.views import Progress
from cascade_scheduler.eventlog import LogLine
from cascade_scheduler.outbox import Bell
from cascade_scheduler.runs import RunBook, RunRecord, SubmitFacts, Waiting
from cascade_scheduler.services.accepting import accept, tell_end
from cascade_scheduler.services.client_session import ClientSession, foresee

FACTS = SubmitFacts(target_id="ab", template_id=b"t", params_digest=b"p", node_count=1, on_failure="cancel")
GOOD = RunEnded("r", "succeeded", None, "", "", 0, "", 0.5)
COUNTS = Progress(1, 1, 0, 0, 0, 0)
LINE = LogLine("r", 1.0, 0, "f", "w", 1, "printed")


class Stream:
    """Takes messages, serialized ones too as long as `quick`; or, when `stuck`, none for now."""

    def __init__(self, *, quick: bool = True) -> None:
        self.heard: list[tuple[str, client_pb2.OpenResponse]] = []
        self.quick = quick
        self.stuck: asyncio.Future[None] | None = None

    async def write(self, message: Any) -> None:
        """The common way."""
        if self.stuck is not None:
            await self.stuck
        self.heard.append(("common", message))

    def write_now(self, message: bytes) -> bool:
        """The shortest."""
        if self.quick:
            self.heard.append(("quick", client_pb2.OpenResponse.FromString(message)))
        return self.quick


class Case:
    """A run that one session has submitted, and that has ended in the core."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.bell = Bell()
        self.session = ClientSession(stream, self.bell)  # type: ignore[arg-type]
        self.record = RunRecord("r", "", FACTS, logs=True, submitted=1.0)
        self.waits(self.session)
        self.runs = RunBook(lambda _: None, lambda _: None, lambda *_: None, shows_at_once=False)
        self.runs.add(self.record)

    def waits(self, session: ClientSession, *, soon: bool = False) -> None:
        """One more waits for the run to be accepted."""
        self.record.waiting.append(Waiting(session, True, False, soon))

    def ends(self) -> None:
        """In the core; the store is waited for, with its beginning and its end in one."""
        self.record.late = (SaveOutcome("r", "succeeded", ""), ())
        self.record.ending = (GOOD, 0, COUNTS)
        foresee(self.runs, [TargetValue("r", 0, b"value"), GOOD])

    def lands(self) -> None:
        """The client may know of the end now."""
        with self.bell:
            for record in self.runs.tell([TargetValue("r", 0, b"value"), GOOD]):
                if record.waiting:
                    tell_end(record)
                for session, feed in record.feeds.items():
                    session.news(feed)

    def said(self) -> list[tuple[str, str | None]]:
        """By which ways what was said."""
        return [(way, message.WhichOneof("body")) for way, message in self.stream.heard]


@pytest.fixture
async def stream() -> Stream:
    return Stream()


@pytest.fixture
async def case(stream: Stream) -> Any:
    made = Case(stream)
    yield made
    made.session.close()


async def test_its_end_goes_the_shortest_way(case: Case) -> None:
    case.ends()
    accept(case.record)
    assert case.record.accepted
    assert case.said() == [], "it has not landed"
    case.lands()
    assert case.said() == [("quick", "update")]
    update = case.stream.heard[0][1].update
    assert update.results[0].value.inline == b"value"
    assert update.finish.tree.node == 0
    assert (case.record.waiting, case.session.feeds) == ([], {})


async def test_what_is_longer_under_way_is_accepted_first(case: Case) -> None:
    accept(case.record)
    assert set(case.session.feeds) == {"r"}
    case.ends()
    case.lands()
    assert case.said() == [("common", "update")], "it was over before there was need to say that"


def others() -> Iterator[tuple[str, Any]]:
    yield "a stream that takes no bytes", lambda case: setattr(case.stream, "quick", False)
    yield "somebody else waits too", lambda case: case.waits(case.session, soon=True)
    yield "a line was printed", lambda case: case.runs.record_line(case.record, LINE)
    yield "another message is to be said before", lambda case: case.session.say(NOTHING)


NOTHING = client_pb2.OpenResponse(accepted=client_pb2.Accepted(run_id="another"))


@pytest.mark.parametrize("change", [change for _, change in others()], ids=[name for name, _ in others()])
async def test_else_it_goes_the_common_way(case: Case, change: Any) -> None:
    case.ends()
    accept(case.record)
    with case.bell:  # as in a turn
        change(case)
        case.lands()
    assert {way for way, _ in case.said()} == {"common"}
    updates = [message.update for _, message in case.stream.heard if message.HasField("update")]
    assert [update.finish.tree.node for update in updates if update.HasField("finish")] == [0]


async def test_a_client_that_has_gone_is_told_nothing(case: Case) -> None:
    case.ends()
    accept(case.record)
    case.session.close()
    case.lands()
    assert case.said() == []
    assert case.record.waiting == []


async def test_a_run_that_is_refused_is_refused_at_once(case: Case) -> None:
    case.record.refused = RunRefused("r", "infeasible", "no")
    accept(case.record)
    assert case.said() == [("common", "refused")]
    assert not case.record.accepted


async def test_a_write_that_has_not_ended_is_not_overtaken(case: Case) -> None:
    case.stream.stuck = asyncio.get_running_loop().create_future()
    case.session.say(NOTHING)
    case.ends()
    accept(case.record)
    case.lands()
    assert case.said() == []
    case.stream.stuck.set_result(None)
    async with asyncio.timeout(20):
        while len(case.stream.heard) < 2:  # noqa: ASYNC110 - the stream is the one that would tell
            await asyncio.sleep(0)
    assert case.said() == [("common", "accepted"), ("common", "update")]
