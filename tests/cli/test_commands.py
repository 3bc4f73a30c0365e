"""The commands of ``cascade``: what they print and how they end."""

from __future__ import annotations

import json
import re
import signal
import socket
from pathlib import Path

import pytest

import cascade_dist as cs
from cascade_dist.v1 import client_pb2 as pb
from cascade_dist.v1 import value_pb2
from tests.cli.conftest import Cli, start
from tests.client.fake import FakeScheduler, Known
from tests.client.test_events import make


def _known(scheduler: FakeScheduler, *run_ids: str) -> None:
    for run_id in run_ids:
        scheduler.call(lambda run_id=run_id: scheduler.runs.update({run_id: Known()}))  # type: ignore[misc]


# --- asking ---------------------------------------------------------------------------------------


def test_status(cli: Cli, scheduler: FakeScheduler) -> None:
    result = cli("status")
    assert result.code == 0
    assert f"scheduler: {scheduler.address}, cascade-dist {cs.__version__}" in result.out
    assert "free:      cpu 0/2" in result.out
    assert "pools:     license 0.5/3 free" in result.out
    assert cli("status", "-o", "json").json["pools"] == {"license": 3}


def test_workers(cli: Cli, scheduler: FakeScheduler) -> None:
    lines = cli("workers").out.splitlines()
    assert lines[0].split()[:3] == ["NAME", "STATE", "FREE"]
    assert lines[1].split()[:4] == ["w1", "connected", "cpu", "0.5/2"]


def test_runs_and_show(cli: Cli, scheduler: FakeScheduler) -> None:
    assert cli("runs").out == "no runs\n"
    _known(scheduler, "r1")
    assert re.search(r"^r1 +a name +succeeded +1/2 done +.* ago +1.5s$", cli("runs").out, re.MULTILINE)
    shown = cli("show", "r1")
    assert "status:    succeeded" in shown.out
    assert re.search(r"^3 +slow +running +w1$", shown.out, re.MULTILINE)


def test_cancel(cli: Cli, scheduler: FakeScheduler) -> None:
    _known(scheduler, "r1")
    assert cli("cancel", "r1").out == "run r1: cancelling\n"
    assert scheduler.runs["r1"].cancelled.is_set()


def test_logs(cli: Cli, scheduler: FakeScheduler) -> None:
    _known(scheduler, "r1")
    err = value_pb2.LOG_STREAM_STDERR
    scheduler.events = [
        make("RunStarted", 1),
        make("LogLine", 2, task="f", worker="w1", text="hello"),
        make("LogLine", 3, task="f", worker="w1", text="oh no", stream=err),
        make("RunFinished", 4),
    ]
    result = cli("logs", "r1", "-f")
    assert (result.out, result.err) == ("(f w1) hello\n", "(f w1) oh no\n")
    lines = [json.loads(line) for line in cli("logs", "r1", "-o", "json").out.splitlines()]
    assert [(line["stream"], line["text"]) for line in lines] == [("stdout", "hello"), ("stderr", "oh no")]


def test_json_everywhere_before_and_behind(cli: Cli, scheduler: FakeScheduler, flow: str) -> None:
    _known(scheduler, "r1")
    commands: list[tuple[str, ...]] = [
        ("status",),
        ("workers",),
        ("runs",),
        ("show", "r1"),
        ("cancel", "r1"),
        ("version",),
        ("run", f"{flow}:main"),
        ("run", f"{flow}:main", "--detach"),
    ]
    for command in commands:
        behind = cli(*command, "-o", "json")
        before = cli("--output", "json", *command)
        assert behind.code == before.code == 0
        assert type(behind.json) is type(before.json)
        assert behind.json
    assert cli("runs", "-o", "json").json[0]["submitted"] == "2026-11-20T10:00:00+00:00"


def test_version_needs_no_cluster(cli: Cli) -> None:
    assert cs.__version__ in cli("version").out


# --- running --------------------------------------------------------------------------------------


def test_run_prints_the_value(cli: Cli, scheduler: FakeScheduler, flow: str) -> None:
    assert cli("run", f"{flow}:target", "-p", "n=4").out == "5\n"
    assert cli("run", f"{flow}:many").out == "[2, 3]\n"
    assert cli("run", f"{flow}:text").out == "ab\n"
    assert cli("run", f"{flow}:main", "--run-id", "mine", "--name", "n").out == "42\n"
    assert cli("run", "flow_for_cli:main").out == "42\n"
    assert scheduler.wait_heard("submit")[3].run_id == "mine"
    result = cli("run", f"{flow}:main", "-o", "json", "--run-id", "other")
    assert result.json == {"run_id": "other", "status": "succeeded", "value": 42}


def test_what_a_users_file_defines_travels_by_value(
    cli: Cli, scheduler: FakeScheduler, flow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli("run", f"{flow}:main")
    [body] = scheduler.bodies.values()
    assert b"flow_for_cli" in body
    monkeypatch.delitem(__import__("sys").modules, "flow_for_cli")
    from cascade_dist.codec.functions import load_function

    assert load_function(body)(1) == 2


@pytest.mark.parametrize("place", ["{}:target", "early_flow:target"])
def test_a_module_that_runs_tasks_while_it_is_loaded(
    scheduler: FakeScheduler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    file = tmp_path / "early_flow.py"
    file.write_text(
        "import cascade_dist as cs\n@cs.task\ndef add(a):\n    return a + 1\ntarget = add(cs.run(add(1)))\n"
    )
    monkeypatch.chdir(tmp_path)
    with start("run", place.format(file), CASCADE_ADDRESS=scheduler.address) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "3\n", "")
    # The fake scheduler loads what it is sent, here, where there is no such module.
    assert "early_flow" not in __import__("sys").modules


def test_a_failed_run(cli: Cli, scheduler: FakeScheduler, flow: str) -> None:
    result = cli("run", f"{flow}:failing")
    assert result.code == 1
    assert result.err.count("\n") == 1
    assert result.err.startswith("error: ValueError: no | luck (raised by task 'failing' in run ")
    debug = cli("--debug", "run", f"{flow}:failing")
    assert debug.code == 1
    assert "Traceback" in debug.err
    assert 'raise ValueError("no\\nluck")' in debug.err


def test_a_run_whose_task_leaves(cli: Cli, scheduler: FakeScheduler, flow: str) -> None:
    result = cli("run", f"{flow}:leaving")
    assert (result.code, result.out, result.err.count("\n")) == (1, "", 1)
    assert result.err.startswith("error: SystemExit: 0 (raised by task ")


def test_resume_goes_with_the_submit(cli: Cli, scheduler: FakeScheduler, flow: str) -> None:
    assert cli("run", f"{flow}:main", "--run-id", "mine", "--resume").out == "42\n"
    submit = scheduler.wait_heard("submit")[-1]
    assert submit.run_id == "mine"
    assert submit.options.resume


def test_resume_needs_an_id(cli: Cli, flow: str) -> None:
    result = cli("run", f"{flow}:main", "--resume")
    assert result.code == 2
    assert "--run-id" in result.err


def test_detach_prints_the_id_and_leaves_the_run(cli: Cli, scheduler: FakeScheduler, flow: str) -> None:
    scheduler.hold = True
    result = cli("run", f"{flow}:main", "--detach")
    assert (result.code, result.err) == (0, "")
    [submit] = scheduler.wait_heard("submit")
    assert result.out == f"{submit.run_id}\n"
    assert not submit.options.cancel_on_disconnect
    assert not scheduler.runs[submit.run_id].cancelled.is_set()


def test_detach_needs_a_cluster_that_goes_on(cli: Cli, flow: str) -> None:
    result = cli("run", f"{flow}:main", "--detach")
    assert result.code == 2
    assert "--address" in result.err


def test_a_timeout_cancels(cli: Cli, scheduler: FakeScheduler, flow: str) -> None:
    scheduler.hold = True
    result = cli("run", f"{flow}:main", "--timeout", "50ms")
    assert result.code == 1
    assert "not done within 50ms" in result.err
    scheduler.wait_heard("cancel")


def test_a_refused_run(cli: Cli, scheduler: FakeScheduler, flow: str) -> None:
    scheduler.refuse = (pb.REFUSAL_CODE_INFEASIBLE, "gpu=1 is more than any worker has (0)")
    result = cli("run", f"{flow}:main")
    assert (result.code, result.err) == (1, "error: gpu=1 is more than any worker has (0)\n")


# --- wrong usage ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["frobnicate"], "frobnicate"),
        (["show"], "RUN"),
        (["status", "--nope"], "--nope"),
        (["status", "-o", "xml"], "xml"),
        (["run", "nocolon"], "MODULE:TARGET"),
        (["run", "no_such_module_here:x"], "no module 'no_such_module_here'"),
        (["run", "no/such/file.py:x"], "no file"),
        (
            ["run", "flow_for_cli:nope"],
            "what it defines: add, fail, failing, leave, leaving, main, many, needs, target, text",
        ),
        (["run", "flow_for_cli:needs"], r"needs arguments \(x\)"),
        (["run", "flow_for_cli:main", "-p", "novalue"], "-p name=value"),
        (["run", "flow_for_cli:main", "-p", "a=1", "-p", "a=2"], "given twice"),
        (["run", "flow_for_cli:main", "--timeout", "soon"], "'soon' is not a duration"),
        (["up", "--slots", "few"], "few"),
    ],
)
def test_wrong_usage_exits_2(
    cli: Cli, scheduler: FakeScheduler, flow: str, arguments: list[str], says: str
) -> None:
    result = cli(*arguments)
    assert result.code == 2
    assert re.search(says, result.err)
    assert "Traceback" not in result.err


def test_errors_are_one_line(cli: Cli, scheduler: FakeScheduler, flow: str) -> None:
    for arguments, says in (
        (["show", "unknown"], "no run 'unknown'"),
        (["logs", "unknown"], "no run"),
        (["cancel", "unknown"], "no run"),
        (["run", f"{flow}:nothing"], "target"),
        (["run", f"{flow}:target"], "param 'n'"),
        (["run", f"{flow}:target", "-p", "n=x"], "'n'"),
    ):
        result = cli(*arguments)
        assert (result.code, result.err.count("\n")) == (1, 1), result.err
        assert result.err.startswith("error: ")
        assert says in result.err


def test_nobody_there(cli: Cli) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        for arguments in (("status", "-a", address), ("--address", address, "runs")):
            result = cli(*arguments)
            assert result.code == 1
            assert f"no scheduler listens at {address}" in result.err


def test_a_token_from_a_file(cli: Cli, tmp_path: Path) -> None:
    guarded = FakeScheduler(token="secret").start()
    try:
        file = tmp_path / "token"
        file.write_text("secret")
        file.chmod(0o600)
        assert cli("status", "-a", guarded.address).code == 1
        assert cli("status", "-a", guarded.address, "--token-file", str(file)).code == 0
        assert cli("--token-file", str(file), "-a", guarded.address, "status").code == 0
    finally:
        guarded.stop()


def test_a_bad_configuration_file(
    cli: Cli, scheduler: FakeScheduler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cascade.toml").write_text("adress = 'x'\n")
    result = cli("status")
    assert result.code == 2
    assert "did you mean 'address'" in result.err


# --- processes ------------------------------------------------------------------------------------


def test_ctrl_c_exits_130_and_cancels(scheduler: FakeScheduler, flow: str) -> None:
    scheduler.hold = True
    with start("run", f"{flow}:main", "--run-id", "mine", CASCADE_ADDRESS=scheduler.address) as process:
        scheduler.wait_heard("submit", seconds=60)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "cascade: interrupted; cancelled 1 unfinished run (mine)\n"
    scheduler.wait_heard("cancel")


def test_a_reader_that_has_seen_enough(scheduler: FakeScheduler) -> None:
    _known(scheduler, *(f"r{i}" for i in range(2000)))
    with start("runs", "-n", "5000", "-o", "json", CASCADE_ADDRESS=scheduler.address) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1
