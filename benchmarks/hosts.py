"""Two hosts on one machine: each with a network and a /dev/shm of its own.

Namespaces of the kernel, held by a process each, so nothing is left when those have ended. Needs root.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["Host", "two_hosts", "why_not"]

ADDRESSES = ("10.213.7.1", "10.213.7.2")


@dataclass(frozen=True, slots=True)
class Host:
    """One of them."""

    pid: int
    address: str

    def command(self, arguments: Sequence[str]) -> list[str]:
        """A command line as it is run there."""
        return ["nsenter", "--target", str(self.pid), "--net", "--mount", "--wdns=" + os.getcwd(), *arguments]

    def start(self, *arguments: str, **options: object) -> subprocess.Popen[bytes]:
        """Starts a process there."""
        return subprocess.Popen(self.command(arguments), stdin=subprocess.DEVNULL, **options)  # type: ignore[call-overload,no-any-return]


def why_not() -> str:
    """Why there can be no two hosts here; empty: there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "two hosts are network namespaces of Linux, which root alone may make"
    tried = subprocess.run(
        [
            "unshare",
            "--net",
            "--mount",
            "--",
            "sh",
            "-c",
            "ip link set lo up && mount -t tmpfs none /dev/shm",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    return tried.stderr.strip() if tried.returncode else ""


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Two hosts that reach each other by a cable of their own.

    Raises:
        subprocess.CalledProcessError: they cannot be made.
    """
    holders = [_hold() for _ in ADDRESSES]
    hosts = [Host(holder.pid, address) for holder, address in zip(holders, ADDRESSES, strict=True)]
    ends = [f"cb{os.getpid() % 100_000}{side}" for side in "ab"]
    try:
        subprocess.run(["ip", "link", "add", ends[0], "type", "veth", "peer", "name", ends[1]], check=True)
        for host, end in zip(hosts, ends, strict=True):
            subprocess.run(["ip", "link", "set", end, "netns", str(host.pid)], check=True)
            for command in (
                ("ip", "addr", "add", f"{host.address}/24", "dev", end),
                ("ip", "link", "set", end, "up"),
                ("ip", "link", "set", "lo", "up"),
                ("mount", "-t", "tmpfs", "none", "/dev/shm"),
            ):
                subprocess.run(host.command(command), check=True)
        yield hosts[0], hosts[1]
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()


def _hold() -> subprocess.Popen[bytes]:
    """A process that sleeps in namespaces of its own; returns when it is there."""
    process = subprocess.Popen(
        ["unshare", "--net", "--mount", "--", "sh", "-c", "echo there; exec sleep infinity"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    return process
