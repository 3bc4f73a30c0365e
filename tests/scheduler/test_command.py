"""`cascade-scheduler` as a process: how it starts, what it refuses, how it ends."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from cascade_dist import wire
from cascade_dist.v1 import client_pb2, client_pb2_grpc
from cascade_scheduler.__main__ import SOCKET_BYTES_MAX, _announce_standby
from cascade_scheduler.app import Scheduler, SchedulerOptions
from cascade_scheduler.blobs.memory import MemoryBlobStore
from cascade_scheduler.core import commands
from cascade_scheduler.store.memory import ForgetfulStore
from cascade_scheduler.store.shared import Holder
from tests.integration.processes import Redis
from tests.machine import free_port, own_certificate
from tests.scheduler.old_redis import old_redis
from tests.scheduler.peers import Client, Worker, code_of, done, one_task, pickled

SECONDS = 20.0


class Command:
    """Starts schedulers in a state directory of the test's own, and stops them."""

    def __init__(self, root: Path, directory: Path) -> None:
        self.directory = directory
        self.environ = {
            **os.environ,
            "PYTHONPATH": f"{root}:{root / 'scheduler'}",
            "XDG_STATE_HOME": str(directory / "state"),
            "TMPDIR": str(directory / "tmp"),
            "CASCADE_CONFIG": "",
        }
        (directory / "tmp").mkdir()
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str, **more: Any) -> subprocess.Popen[str]:
        """A process; its address is awaited by `address`."""
        process = subprocess.Popen(
            [sys.executable, "-m", "cascade_scheduler", *arguments],
            env=self.environ,
            cwd=self.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **more,
        )
        self.started.append(process)
        return process

    def serve(self, *arguments: str, **more: Any) -> tuple[subprocess.Popen[str], str]:
        """A process that listens on a free port: (process, address)."""
        process = self.start("--port", "0", *arguments, **more)
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            pytest.fail(f"it did not start: {process.communicate()[1]}")
        words = line.split()
        assert words[:3] == ["cascade-scheduler", "listening", "on"]
        return process, words[3]

    def refuse(self, *arguments: str) -> tuple[int, str]:
        """A process that does not start: (exit code, what it says)."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=SECONDS)
        assert out == ""
        return process.returncode, err

    def stop(self) -> None:
        """Kills what still runs."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.communicate()


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """(exit code, stderr) of a process that ends by itself."""
    _, err = process.communicate(timeout=SECONDS)
    return process.returncode, err


@pytest.fixture
def command(root: Path, tmp_path: Path) -> Iterator[Command]:
    """Starts schedulers."""
    made = Command(root, tmp_path)
    yield made
    made.stop()


def test_it_starts_says_where_and_ends_on_sigterm(command: Command, tmp_path: Path) -> None:
    ready = tmp_path / "ready.json"
    process, address = command.serve("--ready-file", str(ready))
    assert json.loads(ready.read_text()) == {"address": address, "pid": process.pid}
    assert stat.S_IMODE(ready.stat().st_mode) == 0o600
    host, port = address.split(":")
    assert host == "127.0.0.1"
    assert int(port) > 0
    process.send_signal(signal.SIGTERM)
    code, err = end(process)
    assert code == 0
    assert "a restart forgets all runs" in err
    assert "cascade.scheduler - INFO" in err
    assert not ready.exists()
    assert list((tmp_path / "tmp").iterdir()) == [], "its blob directory is gone"


def test_logs_can_be_json(command: Command) -> None:
    process, address = command.serve("--log-format", "json")
    process.send_signal(signal.SIGINT)
    code, err = end(process)
    assert code == 0
    lines = [json.loads(line) for line in err.splitlines()]
    assert lines[0]["level"] == "info"
    assert lines[0]["logger"] == "cascade.scheduler"
    assert address in lines[0]["message"]


def test_the_port_taken_is_one_clear_line(command: Command) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        code, err = command.refuse("--port", port)
    assert code == 1
    assert err == (
        f"cascade-scheduler: cannot listen on 127.0.0.1:{port}: another process listens there; "
        f"choose another port with --port (0: any free one)\n"
    )


def test_the_longest_path_of_a_socket_that_is_taken_is_listened_on(command: Command, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "").ljust(SOCKET_BYTES_MAX - len(".direct"), "s")
        command.serve("--socket", path)
        for name in (path, f"{path}.direct"):
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(name)


def test_the_socket_taken_is_one_clear_line_and_stays_its_owners(command: Command, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    first, _ = command.serve("--socket", path)
    code, err = command.refuse("--socket", path, "--port", "0")
    assert code == 1
    assert err == (
        f"cascade-scheduler: cannot listen on {path}: another process listens there; choose another path "
        "with --socket\n"
    )
    for name in (path, f"{path}.direct"):
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(name)
    first.kill()  # it leaves its sockets behind, at which nobody listens
    end(first)
    again, _ = command.serve("--socket", path)
    again.send_signal(signal.SIGTERM)
    assert end(again)[0] == 0
    assert not list(tmp_path.glob("socket*"))


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--host", "0.0.0.0"], 2, "--token-file"),
        (["--host", "no.such.host.invalid", "--token-file", "token"], 1, "is no address of this machine"),
        (["--port", "99999"], 2, "is not a port"),
        (["--state", "mongodb://x"], 2, "memory://, redis://HOST:PORT/DB, rediss://… or unix://PATH"),
        (["--state", "redis://:x@127.0.0.1:1/0", "--state-wait", "0s"], 1, "no Redis at redis://:***@127"),
        (["--state", "redis://127.0.0.1:1/abc"], 2, "'abc' is no number of a database"),
        (["--state", "redis://:secret@127.0.0.1:1/0?foo=bar"], 2, "has the unknown option 'foo'"),
        (["--backlog-bytes-max", "0"], 2, "--backlog-bytes-max must be at least"),
        (["--token-file", "nowhere"], 1, "nowhere"),
        (["--infeasible-after", "soon"], 2, "'soon' is not a duration"),
        (["--drain-timeout", "soon"], 2, "soon"),
        (["--tls-cert", "token"], 2, "--tls-key"),
        (["--tls-cert", "token", "--tls-key", "token", "--socket", "s"], 2, "--socket"),
        (["--expect-workers", "2"], 2, "--closed"),
        (["--heartbeat-timeout", "1s"], 2, "at least twice --heartbeat-period"),
        (["--blobs", "token/blobs"], 1, "--blobs"),
        (["--blobs", "http://x:1"], 2, "is not memory://, file:///DIRECTORY, a path, or ipfs://HOST:PORT"),
        (["--blob-bytes-max", "0"], 2, "--blob-bytes-max must be at least 1.0 MiB"),
        (["--blobs", "ipfs://nowhere"], 2, "give the address of its RPC, like ipfs://127.0.0.1:5001"),
        (["--state-ttl", "1s"], 2, "at least 1m"),
        (["--state-ttl", "48h"], 2, "longer than --blob-grace 1d 1h: blobs would go before the runs"),
        (["--lease", "1ms"], 2, "--lease must be at least 500ms"),
        (["--ready-file", "nowhere/ready"], 1, "--ready-file nowhere/ready cannot be written"),
    ],
)
def test_what_it_refuses(
    command: Command, tmp_path: Path, arguments: list[str], code: int, told: str
) -> None:
    (tmp_path / "token").write_text("secret")
    if "--port" not in arguments:
        arguments = ["--port", "0", *arguments]
    found, err = command.refuse(*arguments)
    assert (found, told in err) == (code, True), err
    assert "Traceback" not in err
    assert "secret" not in err


def test_another_address_needs_a_token_and_then_listens(command: Command, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    (tmp_path / "token").chmod(0o600)
    process, address = command.serve("--host", "0.0.0.0", "--token-file", "token")
    assert address.startswith("0.0.0.0:")
    process.send_signal(signal.SIGTERM)
    code, err = end(process)
    assert code == 0
    assert "secret" not in err


async def test_a_socket_asks_for_the_token_too(command: Command, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    (tmp_path / "token").chmod(0o600)
    with tempfile.TemporaryDirectory() as directory:  # whose name is short, as a socket's has to be
        path = os.path.join(directory, "socket")
        _, address = command.serve("--token-file", "token", "--socket", path)
        there = wire.parse_addresses(address)[0]._replace(socket=path)
        for token, told in (("secret", grpc.StatusCode.OK), ("guess", grpc.StatusCode.UNAUTHENTICATED)):
            async with wire.open_channel(there) as channel:
                stub = client_pb2_grpc.ClientServiceStub(channel)  # type: ignore[no-untyped-call]
                metadata = wire.TokenAuth(token).metadata
                call = stub.GetStatus(client_pb2.GetStatusRequest(), timeout=SECONDS, metadata=metadata)
                assert await call.code() == told


async def test_mutual_tls_in_a_token_s_place(command: Command, tmp_path: Path) -> None:
    own, key = await asyncio.to_thread(own_certificate, tmp_path)
    files = ["--tls-cert", "own.pem", "--tls-key", "own.key", "--tls-ca", "own.pem"]
    _, address = command.serve("--host", "0.0.0.0", *files)
    port = address.rpartition(":")[2]
    for credentials, through in (
        (wire.client_credentials(own, own, key), True),
        (wire.client_credentials(own), False),
        (None, False),
    ):
        async with wire.open_channel(f"127.0.0.1:{port}", credentials) as channel:
            stub = client_pb2_grpc.ClientServiceStub(channel)  # type: ignore[no-untyped-call]
            call = stub.GetStatus(client_pb2.GetStatusRequest(), timeout=SECONDS)
            assert await call.code() == (grpc.StatusCode.OK if through else grpc.StatusCode.UNAVAILABLE)


def test_the_lifeline_ends_it_at_once(command: Command, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    process, _ = command.serve("--lifeline-fd", str(reading), pass_fds=[reading])
    os.close(reading)
    assert process.poll() is None
    os.close(writing)
    code, _ = end(process)
    assert code == 0
    assert list((tmp_path / "tmp").iterdir()) == []


async def test_a_drain_lets_runs_end_and_refuses_new_ones(command: Command) -> None:
    process, address = command.serve()
    async with Client(address) as client, Worker(address) as worker:
        await client.submitted("r", one_task())
        attempt = (await worker.work()).assignments[0].attempt
        process.send_signal(signal.SIGTERM)
        await refusing(client)
        await worker.report(done(attempt, pickled(1)))
        _, finish = await client.finish("r")
        assert finish.state == client_pb2.RUN_STATE_SUCCEEDED
        while not (message := await worker.read()).HasField("goodbye"):
            pass
        assert message.goodbye.reconnect
        code, details = await code_of(client.call)
        assert (code, details) == (grpc.StatusCode.UNAVAILABLE, "the scheduler is going away")
    code_, err = await asyncio.to_thread(end, process)
    assert code_ == 0
    assert "may go on for 30 s; new ones are refused" in err


async def test_a_drain_has_a_bound(command: Command) -> None:
    process, address = command.serve("--drain-timeout", "100ms")
    async with Client(address) as client, Worker(address):
        await client.submitted("r", one_task())
        process.send_signal(signal.SIGTERM)
        code, err = await asyncio.to_thread(end, process)
    assert code == 0
    assert "1 runs did not end in time" in err


async def test_a_second_signal_ends_it_now(command: Command) -> None:
    process, address = command.serve("--drain-timeout", "1h")
    async with Client(address) as client, Worker(address):
        await client.submitted("r", one_task())
        process.send_signal(signal.SIGINT)
        await refusing(client)
        process.send_signal(signal.SIGINT)
        code, _ = await asyncio.to_thread(end, process)
    assert code == 0


async def refusing(client: Client) -> None:
    """Submits until it is refused, because the scheduler drains."""
    async with asyncio.timeout(SECONDS):
        for number in itertools.count():
            await client.submit(f"new{number}", one_task())
            message = await client.read()
            if message.HasField("refused"):
                assert message.refused.code == client_pb2.REFUSAL_CODE_DRAINING
                assert "submit to another" in message.refused.message
                return
            await client.say(cancel=client_pb2.Cancel(run_id=f"new{number}"))
            await client.finish(f"new{number}")


@pytest.mark.parametrize(
    ("version", "options", "told"),
    [
        ("5.0.7", "", "is older than version 6"),
        ("5.0.7", "?protocol=2", "is version 5.0.7"),
        ("6.0.16", "", "is version 6.0.16"),
    ],
)
async def test_an_old_redis_is_refused_with_its_version(
    command: Command, version: str, options: str, told: str
) -> None:
    async with old_redis(version) as port:
        url = f"redis://127.0.0.1:{port}/0{options}"
        code, err = await asyncio.to_thread(command.refuse, "--port", "0", "--state", url)
    why = f"Redis at {url} {told}, which is too old: use 6.2 or later (7 is tested)"
    assert (code, err) == (1, f"cascade-scheduler: {why}\n")


async def test_a_run_lives_in_redis(command: Command, redis_server: str) -> None:
    process, address = command.serve("--state", redis_server)
    async with Client(address) as client, Worker(address) as worker:
        await client.submitted("in-redis", one_task())
        work = await worker.work()
        await worker.report(done(work.assignments[0].attempt, pickled(42)))
        values, _ = await client.finish("in-redis")
        assert values[0].inline == pickled(42)
        status = await client.stub.GetStatus(client_pb2.GetStatusRequest())
        assert status.state == redis_server
    process.send_signal(signal.SIGTERM)
    code, err = await asyncio.to_thread(end, process)
    assert code == 0, err
    assert (command.directory / "state" / "cascade" / "seal-key").exists()
    found = await stored(redis_server, (command.directory / "state" / "cascade" / "seal-key").read_bytes())
    assert found["in-redis"] == ("succeeded", [pickled(42)])


async def stored(url: str, key: bytes) -> dict[str, tuple[str, list[object]]]:
    """What the next scheduler would find."""
    from cascade_dist.storage.seal import Sealer
    from cascade_scheduler.store.redis import RedisStore

    store = RedisStore(url, Sealer(key.strip()))
    await store.open()
    found = {
        run.created.run_id: (run.state, [result.value for result in run.results.values()])
        async for run in store.load()
    }
    await store.close()
    return found


async def test_a_bug_ends_it_with_a_story(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = Scheduler(SchedulerOptions(story_dir=tmp_path), ForgetfulStore(7), MemoryBlobStore(1000))
    await made.start()
    run = asyncio.create_task(made.run())

    def broken(*_: object) -> list[commands.Command]:
        raise ZeroDivisionError("a bug")

    made.hub.core.turn = broken  # type: ignore[method-assign]
    async with Client(made.address) as client:
        await client.submit("my-run", one_task())
        code, details = await code_of(client.call)
        assert (code, details) == (grpc.StatusCode.UNAVAILABLE, "the scheduler is going away")
    assert await asyncio.wait_for(run, SECONDS) == 70
    (story,) = await asyncio.to_thread(lambda: list(tmp_path.iterdir()))
    assert str(story) in caplog.text
    text = await asyncio.to_thread(story.read_text)
    assert "ZeroDivisionError: a bug" in text
    assert "RunSubmitted('my-run', 1 nodes" in text


async def test_a_redis_that_starts_later_is_waited_for(command: Command, tmp_path: Path) -> None:
    port = free_port()
    process = command.start("--port", "0", "--state", f"redis://127.0.0.1:{port}/0")
    assert process.stdout is not None
    assert process.stderr is not None
    said = await asyncio.to_thread(process.stderr.readline)
    assert "no Redis at" in said
    assert "it is waited for" in said
    server = Redis(tmp_path, "--save", "", "--appendonly", "yes", port=port)
    try:
        line = await asyncio.to_thread(process.stdout.readline)
        assert line.startswith("cascade-scheduler listening on")
        async with Client(line.split()[3]) as client:
            server.process.freeze()
            status = client_pb2.GetStatusRequest()
            async with asyncio.timeout(SECONDS):
                while "away" not in (await client.stub.GetStatus(status)).state:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            async with Client(line.split()[3]) as other:
                [warning] = other.welcome.warnings
                assert "is away: runs and results wait until it is back" in warning
            with pytest.raises(grpc.aio.AioRpcError, match="is away: try again when it is back"):
                await client.stub.ResumeRun(client_pb2.ResumeRunRequest(run_id="r"))
            server.process.thaw()
            await client.submitted("r", one_task())
            assert "away" not in (await client.stub.GetStatus(status)).state
    finally:
        server.process.thaw()
        server.stop()


async def test_who_may_not_stand_by_is_told_who_leads(command: Command, redis_server: str) -> None:
    _, address = command.serve("--state", redis_server)
    code, err = command.refuse("--port", "0", "--state", redis_server, "--no-standby")
    assert code == 1
    assert err.strip().endswith(
        f"the scheduler at {address} leads the state in {redis_server}: connect to it, or choose another "
        "database in --state"
    )


def test_a_standby_on_another_host_says_what_it_needs_to_have_blobs(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = Holder("owner", "there:7420", "there", "machine", 1, 1)
    _announce_standby("here:1", elsewhere, "ipfs://127.0.0.1:5001")
    _announce_standby("here:1", elsewhere._replace(host=socket.gethostname()), None)
    assert not caplog.records
    _announce_standby("here:1", elsewhere, None)
    assert "on another host (there)" in caplog.text
    assert "--blobs ipfs://… or in a shared directory" in caplog.text
    assert "cascade-scheduler standing by on here:1; there:7420 leads" in capsys.readouterr().out


async def test_a_scheduler_that_lost_the_lead_ends(command: Command, redis_server: str) -> None:
    process, address = command.serve("--state", redis_server)
    async with Client(address) as client:
        await stored(redis_server, b"k" * 32)  # opens a new epoch, as no scheduler would
        await client.submit("r", one_task())
        code, err = await asyncio.to_thread(end, process)
    assert code == 75
    assert "led by another scheduler" in err
