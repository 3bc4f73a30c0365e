"""`cascade-scheduler` says in one line which option cannot be read, and why."""

from __future__ import annotations

import pytest

from cascade_scheduler.__main__ import SOCKET_BYTES_MAX, main


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--heartbeat-period", "x"], "--heartbeat-period: 'x' is not a duration; write it like '30s', '5m'"),
        (["--heartbeat-period", "9" * 400], "is not a duration"),
        (["--heartbeat-period", "0"], "--heartbeat-period must be at least 10.0ms"),
        (["--cancel-grace=-1s"], "--cancel-grace: '-1s' is not a duration"),
        (["--drain-timeout", ""], "--drain-timeout: '' is not a duration"),
        (["--infeasible-after", "soon"], "--infeasible-after: 'soon' is not a duration"),
        (["--blob-bytes-max", "-4"], "--blob-bytes-max: '-4' is not a size; write it like '64KiB'"),
        (["--graph-bytes-max", "much"], "--graph-bytes-max: 'much' is not a size"),
        (["--graph-nodes-max", "0"], "--graph-nodes-max: '0' is not a whole number, 1 or more"),
        (["--runs-kept", "-1"], "--runs-kept: '-1' is not a whole number, 0 or more"),
        (["--expect-workers", "two"], "--expect-workers: 'two' is not a whole number, 0 or more"),
        (["--lifeline-fd", "-1"], "--lifeline-fd: '-1' is not a whole number"),
        (["--port", "99999"], "--port: '99999' is not a port"),
        (["--pool", "license"], "'license' is not an amount; write it like 'gpu=2'"),
        (["--pool", "license=-1"], "amount 'license': '-1' must be a finite number, 0 or more"),
        (["--pool", "license=1", "--pool", "license=2"], "the amount 'license' is given twice"),
        (["--state", "client://"], "--state 'client://' is for the scheduler of a private cluster"),
        (["--socket", "/tmp/" + "é" * 48], "--socket: a path of 101 bytes is too long"),
        (["--socket", "/tmp/" + "s" * 200], f"unix sockets; at most {SOCKET_BYTES_MAX - 7} are taken"),
        (["--log-level", "loud"], "--log-level: 'loud' must be one of debug"),
        (["--no-such-option"], "unrecognized arguments: --no-such-option"),
    ],
)
def test_what_cannot_be_read(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], told: str
) -> None:
    monkeypatch.setenv("CASCADE_CONFIG", "")
    try:
        code: object = main(["--port", "0", *arguments])
    except SystemExit as end:
        code = end.code
    said = capsys.readouterr()
    assert (code, said.out) == (2, "")
    assert said.err.startswith("cascade-scheduler: ")
    assert told in said.err
    assert said.err.count("\n") == 1
