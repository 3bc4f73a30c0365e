"""A real worker's life: connecting, losing the scheduler, draining, dying."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import pytest
import pytest_asyncio

from cascade_dist.v1 import value_pb2, worker_pb2
from cascade_worker.__main__ import _configure, _parser
from tests.worker.processes import WorkerProcess, alive, descendants
from tests.worker.scheduler import Scheduler, value_of
from tests.worker.test_tasks import refer_to_first_input


@pytest_asyncio.fixture
async def scheduler() -> AsyncIterator[Scheduler]:
    """A scheduler of the test's own."""
    made = Scheduler()
    await made.start()
    yield made
    await made.stop()


@pytest_asyncio.fixture
async def start(scheduler: Scheduler, tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Starts workers and ends them."""
    started: list[WorkerProcess] = []

    async def begin(*arguments: str, **fields: Any) -> WorkerProcess:
        address = fields.pop("address", scheduler.address)
        directory = tmp_path / str(len(started))
        process = await WorkerProcess.start(address, directory, *arguments, **fields)
        started.append(process)
        return process

    yield begin
    for process in started:
        await process.stop()


async def settled(condition: Callable[[], bool], patience: float = 30) -> None:
    """Waits for something that nobody tells."""
    async with asyncio.timeout(patience):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_what_is_held_survives_a_lost_scheduler(
    scheduler: Scheduler, start: Any, tmp_path: Path
) -> None:
    await start("--slots", "2")
    first = await scheduler.worker()
    first.acks = False
    gate = tmp_path / "gate"

    def wait(path: str) -> str:
        import os
        import time

        while not os.path.exists(path):
            time.sleep(0.01)
        return "went on"

    quick = scheduler.task(lambda: "quick")
    slow, unwanted = scheduler.task(wait, str(gate)), scheduler.task(wait, "/no/such/path")
    await first.send(quick, slow, unwanted)
    await scheduler.report(quick.attempt)
    await scheduler.until(lambda: slow.attempt in scheduler.started)
    address = scheduler.address
    await scheduler.stop()
    gate.touch()
    held: dict[int, int] = {}

    def welcome(hello: worker_pb2.Hello) -> worker_pb2.Welcome:
        held.update({item.attempt: item.state for item in hello.held})
        answer = scheduler.default_welcome(worker_pb2.Hello())
        answer.known.append(quick.attempt)
        answer.keep.append(slow.attempt)
        answer.drop.append(unwanted.attempt)
        return answer

    scheduler.welcome = welcome
    await scheduler.start(address)
    second = await scheduler.worker(2)
    assert second.hello.worker_id == first.hello.worker_id
    assert held[quick.attempt] == worker_pb2.HELD_STATE_FINISHED
    assert held[slow.attempt] in (worker_pb2.HELD_STATE_RUNNING, worker_pb2.HELD_STATE_FINISHED)
    assert held[unwanted.attempt] == worker_pb2.HELD_STATE_RUNNING
    assert value_of(await scheduler.report(slow.attempt)) == "went on"
    (report,) = await second.submit(scheduler.task(lambda: "and works"))
    assert value_of(report) == "and works"
    assert len(scheduler.reports[quick.attempt]) == 1
    assert unwanted.attempt not in scheduler.reports


async def test_a_silent_scheduler_is_left_and_found_again(scheduler: Scheduler, start: Any) -> None:
    scheduler.heartbeat = (0.1, 0.5)
    await start("--slots", "1")
    first = await scheduler.worker()
    await asyncio.wait_for(first.ended.wait(), 30)  # nobody sends heartbeats here
    assert await scheduler.worker(2)


async def test_heartbeats_come_when_nothing_else_does(scheduler: Scheduler, start: Any) -> None:
    scheduler.heartbeat = (0.1, 30)
    await start("--slots", "1")
    session = await scheduler.worker()
    await scheduler.until(lambda: len(session.messages) >= 5)
    assert {message.WhichOneof("body") for message in session.messages} == {"heartbeat"}


async def test_a_peer_fetches_a_large_result(scheduler: Scheduler, start: Any) -> None:
    await start("--slots", "1", "--name", "a")
    maker = await scheduler.worker(1)
    await start("--slots", "1", "--name", "b")
    user = await scheduler.worker(2)
    (made,) = await maker.submit(scheduler.task(lambda: np.arange(1_000_000)))
    value = value_pb2.Value(object=made.done.value.object)

    def look(array: Any) -> Any:
        return int(array.sum()), array.flags.writeable

    tasks = [scheduler.task(look, inputs=[value], payload=refer_to_first_input()) for _ in range(3)]
    for report in await user.submit(*tasks):
        assert value_of(report) == (499_999_500_000, False)
    dead = value_pb2.Value(object=made.done.value.object)
    dead.object.attempt += 5000
    dead.object.holders[:] = ["127.0.0.1:1"]
    (report,) = await user.submit(scheduler.task(look, inputs=[dead], payload=refer_to_first_input()))
    assert list(report.failed.lost_inputs) == [dead.object.attempt]


# --- the end ----------------------------------------------------------------------------------------


async def test_sigterm_drains(scheduler: Scheduler, start: Any) -> None:
    process = await start("--slots", "1")
    session = await scheduler.worker()
    running = scheduler.task(time.sleep, 0.4, name="s")
    ahead = scheduler.task(time.sleep, 0.4, name="s", ahead=True)
    await session.send(running, ahead)
    await scheduler.until(lambda: running.attempt in scheduler.started)
    below = descendants(process.pid)
    assert len(below) >= 2, "a fork server and an executor"
    process.send(signal.SIGTERM)
    assert (await scheduler.report(ahead.attempt)).WhichOneof("outcome") == "returned"
    assert any(message.reports.draining for message in session.messages)
    late = scheduler.task(lambda: 1)
    await session.send(late)
    assert (await scheduler.report(late.attempt)).WhichOneof("outcome") == "returned"
    assert (await scheduler.report(running.attempt)).WhichOneof("outcome") == "done"
    assert await process.wait() == 0
    assert not any(map(alive, below))


async def test_a_drain_is_bounded(scheduler: Scheduler, start: Any) -> None:
    process = await start("--slots", "1", "--drain-timeout", "0.2s")
    session = await scheduler.worker()
    task = scheduler.task(time.sleep, 60)
    await session.send(task)
    await scheduler.until(lambda: task.attempt in scheduler.started)
    process.send(signal.SIGTERM)
    report = await scheduler.report(task.attempt)
    assert report.lost.innocent
    assert await process.wait() == 0


async def test_a_second_signal_ends_it_at_once(scheduler: Scheduler, start: Any, tmp_path: Path) -> None:
    process = await start("--slots", "1")
    session = await scheduler.worker()
    await session.send(task := scheduler.task(time.sleep, 60))
    await scheduler.until(lambda: task.attempt in scheduler.started)
    process.send(signal.SIGTERM)
    await scheduler.until(lambda: any(message.reports.draining for message in session.messages))
    process.send(signal.SIGTERM)
    assert await process.wait() == 0
    assert leftovers(tmp_path) == []


def leftovers(root: Path) -> list[str]:
    """What workers left in their directories."""
    return [str(path) for path in root.glob("**/cascade-*/*")]


async def test_nothing_survives_a_worker_that_is_killed(
    scheduler: Scheduler, start: Any, tmp_path: Path
) -> None:
    process = await start("--slots", "2")
    session = await scheduler.worker()

    def work() -> None:
        import subprocess
        import time

        subprocess.Popen(["sleep", "600"])
        time.sleep(600)

    async def wait() -> None:
        import asyncio

        await asyncio.sleep(600)

    tasks = [scheduler.task(work), scheduler.task(work), scheduler.task(wait, asynchronous=True)]
    await session.send(*tasks)
    await settled(lambda: len(descendants(process.pid)) >= 6)
    below = descendants(process.pid)
    assert leftovers(tmp_path)
    process.send(signal.SIGKILL)
    await process.wait()
    await settled(lambda: not any(map(alive, below)))
    await settled(lambda: leftovers(tmp_path) == [])


async def test_what_a_dead_worker_left_is_swept(scheduler: Scheduler, start: Any, tmp_path: Path) -> None:
    dead = tmp_path / "0" / f"cascade-{os.getuid()}" / "dead-worker"
    (dead / "objects").mkdir(parents=True)
    (dead / "lock").touch()
    (dead / "objects" / "0000000000000001").write_bytes(b"x" * 100)
    await start("--slots", "1")
    await scheduler.worker()
    assert not dead.exists()


@pytest.mark.parametrize(("further", "returns"), [((), True), (("--lifeline-fd", "5"), False)])
def test_a_scheduler_of_who_holds_the_lifeline_does_not_come_back(
    further: tuple[str, ...], returns: bool, tmp_path: Path
) -> None:
    options = _parser().parse_args(["127.0.0.1:1", "--local-dir", str(tmp_path), *further])
    made, _ = _configure(options)
    assert made.core_limits.scheduler_returns is returns


async def test_it_ends_with_its_lifeline(scheduler: Scheduler, start: Any, tmp_path: Path) -> None:
    read, write = os.pipe()
    process = await start("--slots", "1", "--lifeline-fd", str(read), pass_fds=(read,))
    os.close(read)
    session = await scheduler.worker()
    await session.send(task := scheduler.task(time.sleep, 60))
    await scheduler.until(lambda: task.attempt in scheduler.started)
    below = descendants(process.pid)
    os.close(write)
    assert await process.wait() == 0
    await settled(lambda: not any(map(alive, below)))
    assert leftovers(tmp_path) == []


async def test_good_bye_for_ever(scheduler: Scheduler, start: Any) -> None:
    process = await start("--slots", "1")
    session = await scheduler.worker()
    await session.say(goodbye=worker_pb2.Goodbye(reason="not wanted"))
    assert await process.wait() == 1
    assert "not wanted" in process.errors


async def test_good_bye_for_now(scheduler: Scheduler, start: Any) -> None:
    await start("--slots", "1")
    session = await scheduler.worker()
    await session.say(goodbye=worker_pb2.Goodbye(reason="restarting", reconnect=True))
    assert await scheduler.worker(2)


# --- it cannot work ---------------------------------------------------------------------------------


async def test_a_wrong_token_ends_it_with_a_reason(start: Any) -> None:
    guarded = Scheduler(token="right")
    await guarded.start()
    process = await start(address=guarded.address, CASCADE_TOKEN="wrong")
    assert await process.wait() == 1
    assert f"the scheduler at {guarded.address} refuses the token" in process.errors
    assert "Traceback" not in process.errors
    assert "wrong" not in process.errors.replace("is not", "")
    await guarded.stop()


async def test_another_version_ends_it_with_both_named(scheduler: Scheduler, start: Any) -> None:
    def welcome(hello: worker_pb2.Hello) -> worker_pb2.Welcome:
        answer = scheduler.default_welcome(hello)
        answer.versions.python = "2.7.18"
        return answer

    scheduler.welcome = welcome
    process = await start()
    assert await process.wait() == 1
    assert "Python 2.7.18" in process.errors
    assert "Traceback" not in process.errors


async def test_another_service_ends_it_with_a_reason(start: Any) -> None:
    other = grpc.aio.server()
    port = other.add_insecure_port("127.0.0.1:0")
    await other.start()
    process = await start(address=f"127.0.0.1:{port}")
    assert await process.wait() == 1
    assert "is no Cascade scheduler" in process.errors
    await other.stop(0)


async def test_without_a_scheduler_it_gives_up_when_told_to(start: Any) -> None:
    process = await start("--death-timeout", "0.3s", address="127.0.0.1:1")
    assert await process.wait() == 1
    assert "no scheduler at 127.0.0.1:1" in process.errors
    assert "--death-timeout" in process.errors


async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A web server that does not know HTTP/2."""
    await reader.readline()
    writer.write(b"HTTP/1.1 505 HTTP Version Not Supported\r\nContent-Length: 0\r\n\r\n")
    writer.close()


async def words(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An old web server, and services that greet."""
    writer.write(b"<!DOCTYPE HTML>\n<html>Bad request</html>\n")
    writer.close()


async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Something that waits for a word that never comes."""
    await reader.read()
    writer.close()


@pytest.mark.parametrize(
    ("service", "text"),
    [
        (web, "a web server, not a cascade-scheduler"),
        (words, "does not speak gRPC, so it is no cascade-scheduler"),
        (silence, "no answer within 2 s: it is another service"),
    ],
)
async def test_what_is_no_scheduler_is_called_that_in_time(start: Any, service: Any, text: str) -> None:
    server = await asyncio.start_server(service, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    warm = time.monotonic()
    assert await (await start("--slots", "none")).wait() == 2
    begun = time.monotonic()
    process = await start("--death-timeout", "2s", address=f"127.0.0.1:{port}")
    assert await process.wait() == 1
    server.close()
    assert text in process.errors.splitlines()[-1]
    assert f"127.0.0.1:{port}" in process.errors.splitlines()[-1]
    start_up = begun - warm
    assert 2 <= time.monotonic() - begun < 2 + 1 + 3 * start_up, "as long as told, a second, and the start"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--slots", "none"), "--slots: 'none'"),
        (("--resources", "gpu"), "gpu"),
        (("--cancel-grace", "soon"), "--cancel-grace: 'soon' is not a duration; write it like '30s'"),
        (("--drain-timeout", "soon"), "--drain-timeout: 'soon' is not a duration; write it like '30s'"),
        (("--death-timeout=-3s",), "--death-timeout: '-3s' is not a duration"),
        (("--lifeline-fd", "x"), "--lifeline-fd: 'x' is not a whole number, 0 or more"),
        (("--object-dir", "/proc/x"), "--object-dir /proc/x cannot be used: No such file or directory"),
        (("--local-dir", "/proc/x"), "--local-dir /proc/x cannot be used: No such file or directory"),
        (("--object-memory", "1"), "--object-memory 1 is less than any large result has: give 64KiB or more"),
        (("--spill-max", "9KiB"), "--spill-max 9216 is less than any large result has"),
        (("--object-memory", "0", "--spill-max", "0"), "no result above 64 KiB could be kept"),
        (("--object-memory", "much"), "--object-memory: 'much' is not a size"),
        (("--host", "0.0.0.0"), "--token-file"),
        (("--token-file", "/no/such/file"), "/no/such/file"),
    ],
)
async def test_bad_settings_are_named(start: Any, arguments: tuple[str, ...], text: str) -> None:
    process = await start(*arguments)
    assert await process.wait() in (1, 2)
    assert text in process.errors
    assert process.errors.startswith("cascade-worker: ")
    assert process.errors.count("\n") == 1
