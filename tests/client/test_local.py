"""Private clusters: how their processes start, fail and end. Stand-ins take the processes' place."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

import cascade_dist as cs
from cascade_dist.client import local
from cascade_dist.client.local import LocalCluster
from cascade_dist.errors import CascadeError

STAND_IN = """
import json, os, pathlib, signal, sys, threading
options = dict(zip(sys.argv[1:], sys.argv[2:]))
def ready():
    file = pathlib.Path(options["--ready-file"])
    draft = file.with_suffix(".draft")
    draft.write_text(json.dumps({"address": "127.0.0.1:1", "pid": os.getpid()}))
    draft.rename(file)
def live():
    lifeline = int(options["--lifeline-fd"])
    os.read(lifeline, 1)
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts programs in the place of scheduler and worker."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.syspath_prepend(tmp_path)

    def put(scheduler: str = "ready(); live()", worker: str = "live()") -> None:
        for name, body in (("cascade_scheduler", scheduler), ("cascade_worker", worker)):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / "__init__.py").touch()
            (tmp_path / name / "__main__.py").write_text(STAND_IN + textwrap.dedent(body))

    put()
    yield put
    assert list((tmp_path / "temporary").iterdir()) == []


def gone(pids: dict[str, int]) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if not any(psutil.pid_exists(pid) for pid in pids.values()):
            return True
        time.sleep(0.01)
    return False


def test_processes_start_and_end(install: Install) -> None:
    cluster = LocalCluster(workers=2)
    cluster.start()
    assert sorted(cluster.pids) == ["scheduler", "worker-0", "worker-1"]
    assert cluster.address == "127.0.0.1:1"
    assert cluster.token_file is not None
    token = Path(cluster.token_file)
    assert token.stat().st_mode & 0o777 == 0o600
    assert token.parent.stat().st_mode & 0o777 == 0o700
    assert len(token.read_text()) == 64
    assert cluster.failure() is None
    assert cluster.broken() is None
    pids = cluster.pids
    cluster.stop()
    assert gone(pids)
    cluster.stop()
    assert cluster.broken() == "the private cluster was stopped; connect again"


def test_what_the_processes_are_given(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(
        "print(json.dumps([sys.argv[1:], {k: v for k, v in os.environ.items() if 'CASCADE' in k}, sys.path]),"
        f" file=open({str(tmp_path / 'given')!r}, 'w'), flush=True); ready(); live()"
    )
    monkeypatch.setenv("CASCADE_REDIS_URL", "redis://production")
    monkeypatch.setenv("CASCADE_SCHEDULER__STATE", "redis://production")
    cluster = LocalCluster(workers=1)
    cluster.start()
    cluster.stop()
    import json

    arguments, variables, path = json.loads((tmp_path / "given").read_text())
    options = dict(itertools.pairwise(arguments))
    assert options["--state"] == "memory://"
    assert options["--host"] == "127.0.0.1"
    assert "--closed" in arguments
    assert variables == {"CASCADE_CONFIG": ""}
    assert [entry for entry in path if entry in sys.path][:1] == [str(tmp_path)]


def test_its_processes_speak_through_a_socket_in_their_directory(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell = f"open({str(tmp_path)!r} + '/%s', 'w').write(options.get('--socket', 'none') + '\\n'); "
    install((tell % "scheduler") + "ready(); live()", (tell % "worker") + "live()")
    for longest in (10_000, 10):
        monkeypatch.setattr(local, "_SOCKET_BYTES_MAX", longest)
        cluster = LocalCluster(workers=1)
        cluster.start()
        assert cluster.token_file is not None
        socket = str(Path(cluster.token_file).with_name("socket")) if longest > 10 else ""
        assert cluster.socket == socket, "a path that is too long for a socket is none"
        told = tmp_path / "worker"
        deadline = time.monotonic() + 20
        while not (told.exists() and told.read_text().endswith("\n")) and time.monotonic() < deadline:
            time.sleep(0.01)
        cluster.stop()
        for name in ("scheduler", "worker"):
            assert (tmp_path / name).read_text() == (socket or "none") + "\n"
            (tmp_path / name).unlink()


def test_a_state_goes_to_the_scheduler_alone_and_not_by_its_command_line(
    install: Install, tmp_path: Path
) -> None:
    tell = (
        "print(json.dumps([sys.argv[1:], {k: v for k, v in os.environ.items() if 'CASCADE' in k}]),"
        f" file=open({str(tmp_path)!r} + '/%s', 'w'), flush=True); "
    )
    install((tell % "scheduler") + "ready(); live()", (tell % "worker") + "live()")
    cluster = LocalCluster(workers=1, state="redis://:secret@host/0")
    cluster.start()
    told = tmp_path / "worker"
    deadline = time.monotonic() + 20
    while not (told.exists() and told.read_text().endswith("\n")) and time.monotonic() < deadline:
        time.sleep(0.01)
    cluster.stop()
    import json

    arguments, variables = json.loads((tmp_path / "scheduler").read_text())
    assert not {"--state", "--blobs"} & set(arguments), "blobs last as long as the state"
    assert variables == {"CASCADE_CONFIG": "", "CASCADE_SCHEDULER__STATE": "redis://:secret@host/0"}
    for name in ("scheduler", "worker"):
        arguments, variables = json.loads((tmp_path / name).read_text())
        assert "secret" not in " ".join(arguments)
    assert variables == {"CASCADE_CONFIG": ""}


def test_a_scheduler_that_does_not_start_shows_its_reason(install: Install) -> None:
    install("print('the port is taken', file=sys.stderr); sys.exit(3)")
    with pytest.raises(CascadeError, match=r"ended with code 3 before it was ready.*\n.*the port is taken"):
        LocalCluster().start()


def test_a_scheduler_that_never_gets_ready(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "START_SECONDS", 0.2)
    install("live()")
    with pytest.raises(CascadeError, match=r"not ready within 0.2 s"):
        LocalCluster().start()


def test_a_worker_that_ends_is_named(install: Install) -> None:
    install(worker="print('no memory'); sys.exit(4)")
    cluster = LocalCluster(workers=1)
    cluster.start()
    try:
        deadline = time.monotonic() + 10
        while cluster.failure() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "worker-0 of the private cluster ended with code 4" in str(cluster.failure())
        assert "no memory" in str(cluster.failure())
        assert cluster.ended() == [("worker-0", 4)]
        assert "worker-0 of the private cluster ended with code 4; connect again; the" in str(
            cluster.broken()
        )
    finally:
        cluster.stop()


def test_a_cluster_goes_on_with_the_workers_that_are_left(install: Install) -> None:
    cluster = LocalCluster(workers=2)
    cluster.start()
    try:
        for name, left in (("worker-1", True), ("worker-0", False)):
            os.kill(cluster.pids[name], signal.SIGKILL)
            cluster._processes[int(name[-1]) + 1][1].wait(10)
            assert "ended with code -9" in str(cluster.failure())
            assert (cluster.broken() is None) is left
    finally:
        cluster.stop()


def test_a_process_that_does_not_want_to_end_is_killed(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "STOP_SECONDS", 0.2)
    install(
        worker="""
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            print("deaf", flush=True)
            while True:
                signal.pause()
        """
    )
    cluster = LocalCluster(workers=1)
    cluster.start()
    log = cluster._directory / "worker-0.log"
    deadline = time.monotonic() + 10
    while "deaf" not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    pids = cluster.pids
    cluster.stop()
    assert gone(pids)


CLIENT = """
import os, sys, time
from cascade_dist.client.local import LocalCluster
cluster = LocalCluster(workers=1)
cluster.start()
if sys.argv[1:] == ["fork"] and os.fork() == 0:
    time.sleep(60)
    os._exit(0)
print(*cluster.pids.values(), flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("fork", ["", "fork"])
def test_they_end_with_their_client_also_when_it_is_killed(
    install: Install, tmp_path: Path, fork: str
) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "TMPDIR": str(tmp_path / "temporary"),
    }
    command = [sys.executable, "-c", CLIENT, *filter(None, [fork])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as client:
        assert client.stdout is not None
        pids = {str(index): int(pid) for index, pid in enumerate(client.stdout.readline().split())}
        assert len(pids) == 2
        children = [p for p in psutil.Process(client.pid).children() if p.pid not in pids.values()]
        client.kill()
        client.wait()
    try:
        assert gone(pids)
        # The next one removes what this one left.
        assert len(list((tmp_path / "temporary").iterdir())) == 1
        local._sweep()
    finally:
        for child in children:
            child.send_signal(signal.SIGKILL)


def test_a_private_cluster_whose_scheduler_is_no_scheduler(install: Install) -> None:
    with pytest.raises(cs.ConnectionFailedError, match=r"127\.0\.0\.1:1"):
        cs.connect("local")
