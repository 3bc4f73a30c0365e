"""Who leads: what a standby waits for, and what it takes a process for."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from cascade_dist import wire
from cascade_dist.storage.seal import Sealer
from cascade_dist.v1 import client_pb2, client_pb2_grpc
from cascade_scheduler.core.limits import Constraint
from cascade_scheduler.leading import Candidate, LeadKeeper, Patience, is_dead, this_process
from cascade_scheduler.store.base import StoreFenced, StoreGap, StoreUnavailable
from cascade_scheduler.store.redis import RedisStore
from cascade_scheduler.store.shared import RELEASED, Holder
from tests.contract.test_run_store import fresh
from tests.scheduler.peers import scheduler

MINE = Holder("mine", "h:1", "h", "another machine", 1, 1)
THEIRS = Holder("theirs", "h:2", "h", "their machine", 1, 1)
NEXT = THEIRS._replace(owner="next")
SECONDS = 20.0


def test_a_missing_lease_is_taken_when_it_has_been_missing_for_a_while() -> None:
    patience = Patience(1.5)
    assert not patience.missing(10.0)
    assert not patience.missing(11.4)
    assert patience.missing(11.5)
    patience.reset()
    assert not patience.missing(20.0)


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that sleeps."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    yield process
    process.kill()
    process.wait()


def test_a_process_of_this_machine_is_seen_to_live_and_to_have_ended(child: subprocess.Popen[bytes]) -> None:
    mine = this_process("h:1")
    assert mine.pid == os.getpid()
    assert not is_dead(mine, mine)
    its_start = int(Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19])
    theirs = mine._replace(pid=child.pid, started=its_start)
    assert not is_dead(theirs, mine)
    assert is_dead(theirs._replace(started=its_start - 1), mine), "another process had its id"
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert is_dead(theirs, mine), "one that nobody has waited for"
    child.wait()
    assert is_dead(theirs, mine)
    assert not is_dead(theirs._replace(machine="elsewhere"), mine), "nobody can know"
    assert not is_dead(theirs._replace(machine=""), mine._replace(machine=""))


class Lease:
    """A store of which only the lease matters; each step says what is seen."""

    def __init__(self, *seen: Holder | type[StoreUnavailable] | None) -> None:
        self.seen = list(seen)
        self.claimed: list[Holder | None] = []

    async def holder(self) -> Holder | None:
        """The next of what is seen."""
        step = self.seen.pop(0) if len(self.seen) > 1 else self.seen[0]
        if isinstance(step, type):
            raise step("away")
        return step

    async def claim(self, mine: Holder, ttl: float, over: Holder | None = None) -> int | None:
        """Nobody is in the way."""
        self.claimed.append(over)
        return 7


def candidate(lease: Any, ttl: float = 0.04) -> Candidate:
    return Candidate(lease, MINE, ttl)


async def test_at_its_start_a_scheduler_takes_what_nobody_has() -> None:
    for free in (None, RELEASED):
        lease = Lease(free)
        assert await candidate(lease).attempt() == 7
        assert lease.claimed == [free]


async def test_at_its_start_it_finds_a_leader() -> None:
    waiting = candidate(Lease(THEIRS))
    assert await waiting.attempt() is None
    assert waiting.leader == THEIRS


async def test_a_standby_tells_of_each_leader_once_and_leads_in_the_end() -> None:
    lease = Lease(THEIRS, THEIRS, NEXT, StoreUnavailable, StoreUnavailable, NEXT, None)
    told: list[Holder] = []
    epoch = await asyncio.wait_for(candidate(lease).wait(told.append), SECONDS)
    assert epoch == 7
    assert told == [THEIRS, NEXT]


async def test_a_lease_that_was_given_back_is_taken_at_once() -> None:
    lease = Lease(THEIRS, RELEASED)
    assert await asyncio.wait_for(candidate(lease, ttl=0.1).wait(lambda holder: None), SECONDS) == 7
    assert lease.claimed == [RELEASED]


@pytest.fixture
async def stores(redis_server: str) -> Any:
    """Two stores on one Redis."""
    await fresh(redis_server)
    made = [RedisStore(redis_server, Sealer(b"k" * 32)) for _ in range(2)]
    yield made
    await fresh(redis_server)  # its lease would keep schedulers of other tests waiting
    for store in made:
        await store.close()


async def test_a_lease_that_is_renewed_is_not_taken(stores: list[RedisStore]) -> None:
    first, second = stores
    lost: list[object] = []
    assert await Candidate(first, MINE, 1.0).attempt() is not None
    keeper = LeadKeeper(first, 1.0, on_fenced=lost.append, on_gap=lost.append, on_bug=lost.append)
    await keeper.start()
    keeper.begun()
    standby = asyncio.create_task(Candidate(second, THEIRS, 1.0).wait(lambda holder: None))
    done, _ = await asyncio.wait((standby,), timeout=3.0)
    assert not done
    await keeper.stop()
    assert await asyncio.wait_for(standby, SECONDS) > 0
    assert not lost


def bug(error: BaseException) -> None:
    raise AssertionError(error)


async def test_whoever_keeps_a_lease_hears_that_it_is_lost_and_what_is(stores: list[RedisStore]) -> None:
    first, second = stores
    fenced: asyncio.Queue[StoreFenced] = asyncio.Queue()
    gaps: asyncio.Queue[StoreGap] = asyncio.Queue()
    await Candidate(first, MINE, 0.2).attempt()
    keeper = LeadKeeper(first, 0.2, on_fenced=fenced.put_nowait, on_gap=gaps.put_nowait, on_bug=bug)
    await keeper.start()
    keeper.begun()
    client: Any = first._client
    await client.flushdb()
    assert "missing" in str(await asyncio.wait_for(gaps.get(), SECONDS))
    await first.take_again()
    await second.claim(THEIRS, 60.0, over=MINE)
    assert "led by another" in str(await asyncio.wait_for(fenced.get(), SECONDS))
    await keeper.stop()
    assert await second.holder() == THEIRS


async def test_who_takes_up_what_was_left_is_waited_for_longer(stores: list[RedisStore]) -> None:
    first, _ = stores
    await Candidate(first, MINE, 0.3).attempt()
    keeper = LeadKeeper(first, 0.3, on_fenced=bug, on_gap=bug, on_bug=bug)
    await keeper.start()
    client: Any = first._client
    assert await client.pttl("cascade:leader") > 20_000
    keeper.begun()
    async with asyncio.timeout(SECONDS):
        while await client.pttl("cascade:leader") > 300:  # noqa: ASYNC110 - Redis does not tell
            await asyncio.sleep(0.02)
    await client.set("cascade:leader", "by hand")
    async with asyncio.timeout(SECONDS):
        while await first.holder() != MINE:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    await keeper.stop()


async def test_a_bug_in_renewing_is_not_passed_over() -> None:
    bugs: list[BaseException] = []

    class Odd:
        calls = 0

        async def renew(self, ttl: float) -> None:
            self.calls += 1
            if self.calls > 1:
                raise KeyError("a bug")

        async def release(self) -> None:
            pass

    odd: Any = Odd()
    keeper = LeadKeeper(odd, 0.03, on_fenced=bug, on_gap=bug, on_bug=bugs.append)
    await keeper.start()
    async with asyncio.timeout(SECONDS):
        while not bugs:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert isinstance(bugs[0], KeyError)
    await keeper.stop()


class Unsteady(RedisStore):
    """A store that goes away once, just when a standby begins to lead."""

    went_away = False

    async def constraints(self) -> Sequence[Constraint]:
        """What a new leader reads first."""
        if not self.went_away:
            self.went_away = True
            raise StoreUnavailable("just now")
        return await super().constraints()


async def test_a_standby_refuses_calls_and_waits_on_when_it_cannot_take_over(
    stores: list[RedisStore], redis_server: str, caplog: pytest.LogCaptureFixture
) -> None:
    leader, _ = stores
    await leader.claim(THEIRS, 60.0)
    unsteady = Unsteady(redis_server, Sealer(b"k" * 32))
    async with scheduler(unsteady, lease=0.5) as made, wire.open_channel(made.address) as channel:
        assert [made.leader] == [THEIRS]
        stub = client_pb2_grpc.ClientServiceStub(channel)  # type: ignore[no-untyped-call]
        with pytest.raises(grpc.aio.AioRpcError, match="is a standby; the leader is at h:2"):
            await stub.GetStatus(client_pb2.GetStatusRequest(), timeout=SECONDS)
        await leader.release()
        async with asyncio.timeout(SECONDS):
            while made.leader is not None:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.02)
        assert "could not take over, and waits on: just now" in caplog.text
        status = await stub.GetStatus(client_pb2.GetStatusRequest(), timeout=SECONDS)
        assert status.epoch == made.hub.epoch
