"""What tests need of the machine: free ports, servers, patience."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

__all__ = ["ROOT", "find_redis", "first_own_port", "free_port", "lacking", "own_certificate", "wait_until"]

ROOT = Path(__file__).resolve().parent.parent
_PORT_MIN = 10_000
_OWN_PORTS = 32_768
"""Where the ports of connections begin on most systems."""
_dice = random.SystemRandom()


def lacking(reason: str) -> NoReturn:
    """Something that a test needs is not on this machine: a skip on a laptop, a failure in CI."""
    if os.environ.get("CI"):
        pytest.fail(f"{reason} (CI is set, so this is a failure)", pytrace=False)
    pytest.skip(reason)


def find_redis() -> str:
    """The path of a redis-server; without one the test is lacking."""
    command = [sys.executable, str(ROOT / "scripts" / "ensure_redis.py"), "--find"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        lacking(found.stderr.strip())
    return found.stdout.strip()


def own_certificate(folder: Path) -> tuple[Path, Path]:
    """Makes own.pem and own.key for localhost, signed by itself; without openssl the test is lacking."""
    if shutil.which("openssl") is None:
        lacking("openssl is not installed")
    cert, key = folder / "own.pem", folder / "own.key"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost".split()
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command += ["-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


def free_port() -> int:
    """A port that nobody listens on at this moment, and that no connection gets for its own end.

    Who listens there may be killed and started again: nobody's connection has the port by then. It is low
    enough for a Redis Cluster, which adds 10,000.
    """
    while True:
        port = _dice.randrange(_PORT_MIN, first_own_port())
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def first_own_port() -> int:
    """The lowest port that the kernel chooses for the own end of a connection."""
    try:
        low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        return _OWN_PORTS
    return low if low > 2 * _PORT_MIN else _OWN_PORTS


def wait_until(what: Callable[[], Any], seconds: float = 30.0) -> None:
    """Waits for something; fails when it does not come to pass."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come to pass in time"
        time.sleep(0.02)
