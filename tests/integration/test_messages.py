"""Nodes that wait, messages, shell commands, subscribers and connectors, on real processes."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from concurrent.futures import CancelledError
from typing import Any

import pytest
from typer.testing import CliRunner

import cascade_dist as cs
from cascade_dist.client.control import apply_constraint

pytestmark = pytest.mark.integration


@cs.task
def echo(value: Any) -> Any:
    return value


@cs.task
def half() -> float:
    return 0.05


@cs.task
def greet(name: str, count: int) -> str:
    return " ".join([f"Hello {name}!"] * count)


def send_soon(cluster: cs.Cluster, topic: str, value: Any) -> None:
    """Sends until somebody has heard it."""

    def send() -> None:
        end = time.monotonic() + 30
        while not cluster.send(topic, value) and time.monotonic() < end:
            time.sleep(0.02)

    threading.Thread(target=send, daemon=True).start()


# --- waiting ---------------------------------------------------------------------------------------


def test_s97_a_wait_lasts_as_long_as_it_says(cluster: cs.Cluster) -> None:
    started = time.monotonic()
    assert cluster.run([echo(1), cs.wait(0.1)], timeout=30) == [1, None]
    assert time.monotonic() - started >= 0.1


def test_a_wait_holds_no_slot(cluster: cs.Cluster) -> None:
    run = cluster.submit([cs.wait(0.5) for _ in range(50)])
    assert cluster.run(echo("meanwhile"), timeout=30) == "meanwhile"
    assert run.result(30) == [None] * 50


def test_a_delay_may_be_lazy(cluster: cs.Cluster) -> None:
    started = time.monotonic()
    cluster.run(cs.wait(half()), timeout=30)
    assert time.monotonic() - started >= 0.05


def test_what_comes_after_a_wait_comes_later(cluster: cs.Cluster) -> None:
    run = cluster.submit(echo("late").after(cs.wait(0.2)))
    assert run.result(30) == "late"
    started = [e for e in run.events() if isinstance(e, cs.events.TaskExecutionStarted)]
    begun = next(e for e in run.events() if isinstance(e, cs.events.RunStarted))
    assert (started[0].timestamp - begun.timestamp).total_seconds() >= 0.2


def test_a_wait_is_cancelled_at_once(cluster: cs.Cluster) -> None:
    run = cluster.submit(cs.wait(3600))
    run.cancel()
    with pytest.raises(CancelledError):
        run.result(10)


def test_s83_a_recv_waits_for_a_message(cluster: cs.Cluster) -> None:
    run = cluster.submit(echo(cs.recv("s83/topic")))
    time.sleep(0.1)
    assert not run.done()
    send_soon(cluster, "s83/topic", {"answer": [1, 2]})
    assert run.result(30) == {"answer": [1, 2]}


def test_s83_a_recv_with_a_bound_times_out(cluster: cs.Cluster) -> None:
    with pytest.raises(TimeoutError, match="s83/nobody"):
        cluster.run(echo(cs.recv("s83/nobody", timeout=0.1)), timeout=30)


def test_a_retained_message_is_there_for_those_who_come_later(cluster: cs.Cluster) -> None:
    topic = f"kept/{time.monotonic_ns()}"
    cluster.send(topic, "news", retain=True)
    assert cluster.run(echo(cs.recv(topic, timeout=20)), timeout=30) == "news"
    cluster.send(topic, None, retain=True)
    with pytest.raises(TimeoutError):
        cluster.run(cs.recv(topic, timeout=0.1), timeout=30)


def test_a_message_has_a_bound(cluster: cs.Cluster) -> None:
    with pytest.raises(ValueError, match="at most"):
        cluster.send("topic", b"x" * 200_000)
    with pytest.raises(ValueError, match="wildcard"):
        cluster.send("topic/#", 1)
    with pytest.raises(cs.SerializationError):
        cluster.send("topic", threading.Lock())


# --- shell -----------------------------------------------------------------------------------------


def test_s95_a_command_that_fails_says_so(cluster: cs.Cluster) -> None:
    with pytest.raises(RuntimeError, match="failed with exit code 1"):
        cluster.run(cs.shell("echo before; exit 1"), timeout=30)
    assert cluster.run(cs.shell("echo before; exit 1", check=False), timeout=30) == "before"


def test_s95_mapped_commands_keep_their_order(cluster: cs.Cluster) -> None:
    commands = ["sleep 0.2; echo first", "echo second"]
    assert cluster.run(cs.shell.map(command=commands), timeout=30) == ["first", "second"]


def test_a_command_ends_with_its_task(cluster: cs.Cluster, tmp_path: Any) -> None:
    mark = tmp_path / "mark"
    run = cluster.submit(cs.shell(f"echo $$ > {mark}; sleep 60 & wait"))
    end = time.monotonic() + 20
    while not (mark.exists() and mark.read_text().strip()) and time.monotonic() < end:
        time.sleep(0.02)
    run.cancel()
    pid = int(mark.read_text())
    while time.monotonic() < end:
        look = f"kill -0 {pid} 2>/dev/null && echo lives || echo gone"
        if cluster.run(cs.shell(look), timeout=30) == "gone":
            break
    else:
        pytest.fail("the command's shell lives on")


# --- who listens -----------------------------------------------------------------------------------


def test_s77_a_subscriber_that_raises_fails_no_run(cluster: cs.Cluster) -> None:
    bus, kinds = cs.MessageBus(), list[str]()

    def broken(event: cs.events.Event) -> None:
        raise RuntimeError("on purpose")

    bus.subscribe(cs.events.Event, broken)
    bus.subscribe(cs.events.Event, lambda event: kinds.append(event.kind))
    assert cluster.run(echo(1), bus=bus, timeout=30) == 1
    assert kinds[0] == "RunStarted"
    assert kinds[-1] == "RunFinished"


def test_s78_events_are_written_as_lines(cluster: cs.Cluster, capfd: pytest.CaptureFixture[str]) -> None:
    cluster.run(echo(1), log_format="json", log_level="INFO", timeout=30)
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    assert [line["event"] for line in lines][-1] == "RunFinished"
    with pytest.raises(ZeroDivisionError):
        cluster.run(echo(_broken()), log_level="ERROR", timeout=30)
    shown = capfd.readouterr().err
    assert "ZeroDivisionError" in shown
    assert "started" not in shown


@cs.task
def _broken() -> float:
    return 1 / 0


async def heard(connector: Any, pattern: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []

    async def on_message(topic: str, payload: Any) -> None:
        found.append((topic, payload))

    await connector.subscribe(pattern, on_message)
    return found


async def test_s79_the_engine_starts_after_the_connection_and_stops_before_its_end(
    cluster: cs.Cluster,
) -> None:
    calls: list[str] = []

    class Watched(cs.connectors.InProcessConnector):
        async def connect(self) -> None:
            calls.append("connect")
            await super().connect()

        async def disconnect(self) -> None:
            calls.append("disconnect")
            await super().disconnect()

        async def publish(self, topic: str, payload: Any, *, retain: bool = False) -> None:
            body = payload["body"]
            calls.append(body.get("event") or body["state"])
            await super().publish(topic, payload, retain=retain)

    connector = Watched()
    found = await heard(connector, "cascade/telemetry/#")
    await asyncio.to_thread(cluster.run, echo(1), connector=connector, timeout=30)
    assert calls == ["connect", "ENGINE_STARTED", "RUNNING", "COMPLETED", "ENGINE_STOPPED", "disconnect"]
    assert found[0][1]["body"]["event"] == "ENGINE_STARTED"
    assert found[-1][1]["body"]["event"] == "ENGINE_STOPPED"


async def test_s83_a_message_comes_through_a_connector(cluster: cs.Cluster) -> None:
    connector = cs.connectors.InProcessConnector()
    run = await asyncio.to_thread(
        cluster.submit, echo(cs.recv("via/connector", timeout=60)), connector=connector
    )
    end = time.monotonic() + 30
    while not run.done() and time.monotonic() < end:
        await connector.publish("via/connector", {"n": 3})
        await asyncio.sleep(0.05)
    assert await asyncio.to_thread(run.result, 30) == {"n": 3}


def test_something_that_is_no_connector_is_refused(cluster: cs.Cluster) -> None:
    wrong: Any = object()
    with pytest.raises(TypeError, match="connect, disconnect"):
        cluster.run(echo(1), connector=wrong)
    with pytest.raises(ValueError, match="log_level"):
        cluster.run(echo(1), log_level="LOUD")


def test_a_connector_that_cannot_connect_fails_the_submit(cluster: cs.Cluster) -> None:
    class Broken(cs.connectors.InProcessConnector):
        async def connect(self) -> None:
            raise ConnectionRefusedError("no broker here")

    with pytest.raises(ConnectionRefusedError, match="no broker"):
        cluster.run(echo(1), connector=Broken())


def test_a_connector_that_hangs_is_given_up_by_name(
    cluster: cs.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silent(cs.connectors.InProcessConnector):
        async def connect(self) -> None:
            await asyncio.Event().wait()

    monkeypatch.setattr("cascade_dist.client.bridge.CALL_SECONDS", 0.1)
    with pytest.raises(TimeoutError, match=r"connector, a Silent, did not answer within 0.1 s"):
        cluster.run(echo(1), connector=Silent())


def test_a_connector_that_refuses_a_topic_leaves_no_run_behind(cluster: cs.Cluster) -> None:
    class Picky(cs.connectors.InProcessConnector):
        async def subscribe(self, topic: str, callback: Any) -> Any:
            if topic == "not/allowed":
                raise PermissionError(topic)
            return await super().subscribe(topic, callback)

    with pytest.raises(PermissionError, match="not/allowed"):
        cluster.submit(cs.recv("not/allowed", timeout=60), run_id="refused-topic", connector=Picky())
    with pytest.raises(CancelledError):
        cluster.attach("refused-topic").result(30)


def test_a_constraint_with_odd_parts_is_reported_and_changes_nothing(
    cluster: cs.Cluster, capfd: pytest.CaptureFixture[str]
) -> None:
    odd = {"id": "odd", "scope": "task:odd", "type": "concurrency"}
    apply_constraint(cluster, "cascade/constraints/task/odd", {**odd, "params": [1]})
    apply_constraint(
        cluster, "cascade/constraints/task/odd", {**odd, "params": {"limit": 1}, "expires_at": "soon"}
    )
    shown = capfd.readouterr().err
    assert "its params are [1]" in shown
    assert "its expires_at is 'soon'" in shown
    assert not [found for found in cluster.constraints() if found.scope == "task:odd"]


# --- a command line --------------------------------------------------------------------------------


def test_s21_a_command_line_runs_the_target(cluster: cs.Cluster) -> None:
    target = greet(cs.Param("name"), cs.Param("count", type=int, default=1))
    shown = CliRunner().invoke(cs.create_cli(target, cluster=cluster), ["--name", "World", "--count", "2"])
    assert shown.exit_code == 0, shown.output
    assert "Hello World! Hello World!" in shown.output
