"""Connecting: every way in which there is no scheduler at the address gets its own clear error."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import cascade_dist as cs
from tests.client.fake import FakeScheduler
from tests.machine import lacking, own_certificate


@cs.task
def one() -> int:
    return 1


Serve = Callable[[Callable[[socket.socket], None]], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts TCP servers that do one thing with each connection."""
    listeners: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def start(handle: Callable[[socket.socket], None]) -> str:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        listeners.append(listener)

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    try:
                        handle(connection)
                    except OSError:
                        pass

        threads.append(threading.Thread(target=accept))
        threads[-1].start()
        return f"127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
    for thread in threads:
        thread.join(10)


def test_nothing_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(cs.ConnectionFailedError, match=f"no scheduler listens at {address}.*cascade up"):
            cs.connect(address)
    assert time.monotonic() - started < 5


def test_a_web_server(serve: Serve) -> None:
    def web(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\n\r\nbad")

    with pytest.raises(cs.ConnectionFailedError, match="web server"):
        cs.connect(serve(web))


def test_another_protocol(serve: Serve) -> None:
    def redis(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(b"-ERR unknown command\r\n")

    with pytest.raises(cs.ConnectionFailedError, match="does not speak gRPC"):
        cs.connect(serve(redis))


def test_a_server_that_hangs_up(serve: Serve) -> None:
    with pytest.raises(cs.ConnectionFailedError, match=r"closed the connection.*TLS"):
        cs.connect(serve(lambda connection: None))


def test_a_server_that_never_answers(serve: Serve) -> None:
    over = threading.Event()
    try:
        address = serve(lambda connection: over.wait(20) and None)
        with pytest.raises(cs.ConnectionFailedError, match=r"did not answer in time"):
            cs.connect(address, connect_timeout="200ms")
    finally:
        over.set()


def test_an_unknown_host() -> None:
    with pytest.raises(cs.ConnectionFailedError, match="host name"):
        cs.connect("no.such.host.invalid:7420")


def test_another_grpc_service() -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            with pytest.raises(cs.ConnectionFailedError, match="gRPC service that is no cascade-scheduler"):
                cs.connect(f"127.0.0.1:{port}")
        finally:
            server.stop(0).wait()


def test_tls_on_one_side_only(scheduler: FakeScheduler, tmp_path: Path) -> None:
    cert, key = own_certificate(tmp_path)
    with pytest.raises(cs.ConnectionFailedError, match="TLS"):
        cs.connect(scheduler.address, tls_ca=cert)
    with pytest.raises(cs.ConnectionFailedError, match="TLS"):
        cs.connect(f"cascades://{scheduler.address}")
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        credentials = grpc.ssl_server_credentials([(key.read_bytes(), cert.read_bytes())])
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        try:
            with pytest.raises(cs.ConnectionFailedError, match="TLS"):
                cs.connect(f"127.0.0.1:{port}")
            with pytest.raises(cs.ConnectionFailedError, match=r"certificate.*tls_ca"):
                cs.connect(f"cascades://127.0.0.1:{port}")
            with pytest.raises(cs.ConnectionFailedError, match="no cascade-scheduler"):
                cs.connect(f"127.0.0.1:{port}", tls_ca=cert)
        finally:
            server.stop(0).wait()


# --- tokens ---------------------------------------------------------------------------------------


@pytest.fixture
def guarded() -> Iterator[FakeScheduler]:
    made = FakeScheduler(token="secret").start()
    yield made
    made.stop()


def test_tokens(guarded: FakeScheduler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(cs.AuthenticationError, match="CASCADE_TOKEN"):
        cs.connect(guarded.address)
    with pytest.raises(cs.AuthenticationError, match="not this cluster's"):
        cs.connect(guarded.address, token="wrong")
    with cs.connect(guarded.address, token="secret") as cluster:
        assert cluster.run(one()) == 1
        assert cluster.status().workers == 1
    file = tmp_path / "token"
    file.write_text("secret\n")
    file.chmod(0o600)
    with cs.connect(guarded.address, token_file=file) as cluster:
        assert cluster.run(one()) == 1
    monkeypatch.setenv("CASCADE_TOKEN", "wrong")
    with cs.connect(guarded.address, token_file=file) as cluster:
        assert cluster.run(one()) == 1, "an argument goes before the environment"
    monkeypatch.setenv("CASCADE_TOKEN", "secret")
    with cs.connect(guarded.address) as cluster:
        assert cluster.run(one()) == 1
    with pytest.raises(cs.AuthenticationError, match="missing"):
        cs.connect(guarded.address, token_file=tmp_path / "missing")


# --- versions -------------------------------------------------------------------------------------


def test_versions_that_do_not_go_together(scheduler: FakeScheduler) -> None:
    scheduler.versions.python = "3.9.1"
    with pytest.raises(cs.VersionMismatchError, match=r"3\.9"):
        cs.connect(scheduler.address)
    scheduler.versions.python = ".".join(map(str, sys.version_info[:3]))
    scheduler.versions.protocol_major = 99
    with pytest.raises(cs.VersionMismatchError, match="99"):
        cs.connect(scheduler.address)


def test_other_differences_are_told_once(scheduler: FakeScheduler, caplog: pytest.LogCaptureFixture) -> None:
    scheduler.versions.cascade = "0.0.9"
    scheduler.warnings = ["the scheduler has something to say"]
    with caplog.at_level(logging.WARNING, "cascade.client"), cs.connect(scheduler.address) as cluster:
        scheduler.drop_sessions()
        assert cluster.run(one()) == 1
    assert [r.message for r in caplog.records].count("the scheduler has something to say") == 1
    assert any("0.0.9" in record.message for record in caplog.records)


# --- addresses and settings -----------------------------------------------------------------------


def test_the_first_address_that_answers(scheduler: FakeScheduler) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = f"127.0.0.1:{unused.getsockname()[1]}"
        with cs.connect(f"{dead}, {scheduler.address}") as cluster:
            assert cluster.address == scheduler.address
        with pytest.raises(cs.ConnectionFailedError) as caught:
            cs.connect(f"{dead},no.such.host.invalid:1")
    assert "no.such.host" in caught.value.__notes__[0]


def test_the_environment_names_the_cluster(scheduler: FakeScheduler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASCADE_ADDRESS", scheduler.address)
    with cs.connect() as cluster:
        assert cluster.address == scheduler.address
    with cs.connect(workers=3) as cluster:
        assert cluster.address == scheduler.address
    assert cs.run(one()) == 1
    assert scheduler.half_closed == 2
    from cascade_dist.client import api

    assert api._default is not None
    api._default.close()


def test_arguments_that_do_not_go_together(scheduler: FakeScheduler) -> None:
    with pytest.raises(TypeError, match="workers="):
        cs.connect(scheduler.address, workers=3)
    with pytest.raises(TypeError, match="token="):
        cs.connect("local", token="x")
    with pytest.raises(cs.ConfigError, match="address"):
        cs.connect("http://x:1")
    with pytest.raises(cs.ConfigError, match=r"connect_timeout.*'soon'"):
        cs.connect(scheduler.address, connect_timeout="soon")
    with pytest.raises(TypeError, match="nonsense"):
        cs.connect(scheduler.address, nonsense=1)  # type: ignore[call-arg]


# --- forks ----------------------------------------------------------------------------------------

FORKING = """
import os, sys, time
import cascade_dist as cs
@cs.task
def f(x): return x
cluster = cs.connect(sys.argv[1])
assert cluster.run(f(1)) == 1
run = cluster.submit(f(1))
pid = os.fork()
if pid == 0:
    for call in (lambda: cluster.run(f(2)), cluster.status, lambda: cs.connect(sys.argv[1]), cluster.close):
        try:
            call()
        except cs.CascadeError as error:
            print(type(error).__name__, "fork" in str(error), flush=True)
    sys.exit(3)  # runs what runs at exit
assert os.waitpid(pid, 0)[1] == 3 << 8
print(cluster.run(f(5)))
"""


def test_a_forked_child_is_told_and_harms_nobody(scheduler: FakeScheduler) -> None:
    if not hasattr(os, "fork"):
        lacking("there is no fork")
    # Python 3.12 and later say of every fork beside threads that it is risky, which is the point here.
    quiet = ["-W", "error", "-W", "ignore::DeprecationWarning"]
    command = [sys.executable, *quiet, "-c", FORKING, scheduler.address]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    assert done.stderr == ""
    assert done.stdout.split("\n")[:4] == [
        "ClusterClosedError True",
        "ClusterClosedError True",
        "ConnectionFailedError True",
        "5",
    ]


@pytest.mark.parametrize("wrong", ["127.0.0.1:7420", 5])
def test_an_address_is_no_cluster(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"cluster is .*cs\.connect"):
        cs.run(one(), cluster=wrong)
