"""What every test may ask for. Fixtures of one room belong into that room's own conftest."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from tests import machine
from tests.kubo import KuboNode, find_ipfs

# Tests say themselves which cluster they mean; what the developer's shell says about one is not for them.
for _name in [name for name in os.environ if name.startswith("CASCADE_") and "_TEST_" not in name]:
    del os.environ[_name]


@pytest.fixture(scope="session")
def lacking() -> Callable[[str], NoReturn]:
    """Call it with the reason when something that the test needs is not there."""
    return machine.lacking


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return machine.ROOT


def _stop(process: subprocess.Popen[str]) -> None:
    """Ask a process to end, and make it end."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout:
        process.stdout.close()


@pytest.fixture(scope="session")
def redis_binary() -> str:
    """The path of a redis-server."""
    return machine.find_redis()


@pytest.fixture(scope="session")
def redis_server(redis_binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real Redis of the tests' own, which keeps an append-only file as we ask users to."""
    port = machine.free_port()
    command = [redis_binary, "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    command += ["--appendonly", "yes", "--dir", str(tmp_path_factory.mktemp("redis"))]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, text=True)
    try:
        _wait_for_port(process, port)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        _stop(process)


def _wait_for_port(process: subprocess.Popen[str], port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    pytest.fail(f"nothing listens on port {port}; exit code {process.poll()}", pytrace=False)


@pytest.fixture(scope="session")
def kubo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the RPC of an IPFS node of the tests' own, which knows no other node."""
    ipfs, reason = find_ipfs()
    if not ipfs:
        machine.lacking(reason)
    # Its owner stores files in another way than we do: no test is to pass because a node happens to agree.
    settings = {"Import.UnixFSChunker": "size-1024", "Import.CidVersion": 0, "Import.UnixFSFileMaxLinks": 2}
    node = KuboNode(ipfs, tmp_path_factory.mktemp("kubo"), settings)
    try:
        node.start()
        yield node.url
    finally:
        node.stop()


@pytest.fixture(scope="session")
def cluster_address() -> Iterator[str]:
    """The address of a cluster of real processes: Redis, a scheduler, two workers with one slot each.

    `make test-cluster` has started it already and says where; otherwise the same script starts it here.
    """
    given = os.environ.get("CASCADE_TEST_ADDRESS")
    if given:
        yield given
        return
    command = [sys.executable, str(machine.ROOT / "scripts" / "cluster.py")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("ready "):
                words = dict(word.split("=", 1) for word in line.split()[1:])
                yield words["address"]
                break
        else:
            pytest.fail("scripts/cluster.py started no cluster; its reason is on stderr", pytrace=False)
    finally:
        _stop(process)
