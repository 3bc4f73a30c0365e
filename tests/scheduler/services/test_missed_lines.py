"""Lines printed while the client cannot be told: the store has yet to take the run, or the client is away."""

from __future__ import annotations

import asyncio

from cascade_dist.v1 import client_pb2, value_pb2
from cascade_scheduler.eventlog import LogLine
from cascade_scheduler.runs import RunRecord
from cascade_scheduler.store.base import Batch
from cascade_scheduler.store.memory import MemoryStore
from tests.scheduler.peers import SECONDS, Client, Worker, done, one_task, pickled, scheduler


class GatedStore(MemoryStore):
    """A store far away: it acknowledges nothing until the gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()

    @property
    def immediate(self) -> bool:
        """What is put lands later."""
        return False

    async def commit(self, batch: Batch) -> None:
        """Lands a batch when it may."""
        await self.gate.wait()
        await super().commit(batch)


async def until_printed(record: RunRecord, lines: int) -> None:
    """Waits until the scheduler has so many lines of a run; without the store it acknowledges none."""
    async with asyncio.timeout(SECONDS):
        while True:
            events, _ = record.events.since(0, record.events.last)
            if sum(isinstance(event, LogLine) for _, event in events) == lines:
                return
            await asyncio.sleep(0.01)


async def until_finished(client: Client) -> list[str]:
    """What a client hears of its run: that it was accepted, and each line, in order."""
    heard: list[str] = []
    while True:
        message = await client.read()
        if message.HasField("accepted"):
            heard.append("accepted")
        heard.extend(line.text for line in message.update.output)
        if message.update.HasField("finish"):
            assert message.update.finish.state == client_pb2.RUN_STATE_SUCCEEDED
            return heard


async def test_lines_from_before_the_run_was_accepted_are_told() -> None:
    store = GatedStore()
    async with (
        scheduler(store) as it,
        Client(it.address) as client,
        Client(it.address) as deaf,
        Worker(it.address) as worker,
    ):
        await client.submit("r", one_task(name="chatty"), logs=True)
        work = await worker.work()
        await deaf.submit("r", one_task(name="chatty"))
        attempt = work.assignments[0].attempt

        def line(text: str) -> value_pb2.LogLine:
            return value_pb2.LogLine(attempt=attempt, stream=value_pb2.LOG_STREAM_STDOUT, text=text)

        await worker.report(logs=[line("one"), line("two")])
        record = it.hub.runs.get("r")
        assert record is not None
        await until_printed(record, 2)
        assert not record.accepted, "the store still has it"
        store.gate.set()
        async with asyncio.timeout(SECONDS):
            while not record.accepted:  # noqa: ASYNC110 - else it may end in the batch in which it begins
                await asyncio.sleep(0.01)
        await worker.report(done(attempt, pickled(1)), logs=[line("three")])
        assert await until_finished(client) == ["accepted", "one", "two", "three"]
        assert await until_finished(deaf) == ["accepted"]


async def test_a_client_that_was_away_is_told_the_lines_that_it_missed() -> None:
    async with scheduler() as it, Client(it.address) as client, Worker(it.address) as worker:
        await client.submit("r", one_task(name="chatty"), logs=True)
        await client.accepted()
        attempt = (await worker.work()).assignments[0].attempt

        async def prints(*texts: str) -> None:
            lines = [
                value_pb2.LogLine(attempt=attempt, stream=value_pb2.LOG_STREAM_STDOUT, text=text)
                for text in texts
            ]
            await worker.report(logs=lines)

        async def hears(by: Client, count: int) -> list[client_pb2.TaskOutput]:
            heard: list[client_pb2.TaskOutput] = []
            while len(heard) < count:
                heard.extend((await by.read()).update.output)
            return heard

        await prints("one", "two")
        first, second = await hears(client, 2)
        assert 0 < first.event_id < second.event_id
        async with Client(it.address) as again:
            attach = client_pb2.Attach(run_id="r", logs=True, lines_after=first.event_id)
            await again.say(attach=attach)
            await again.accepted()
            assert [line.text for line in await hears(again, 1)] == ["two"]
        async with Client(it.address) as new:
            await new.say(attach=client_pb2.Attach(run_id="r", logs=True))
            await new.accepted()
            await prints("three")
            assert [line.text for line in await hears(new, 1)] == ["three"], "only what comes"
