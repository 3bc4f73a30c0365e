"""`python -m benchmarks objects`: large arrays from one task to the next, on one host and between two.

On one host: milliseconds from the end of the task that made an array to the begin of the one that takes
it, the copy into shared memory included; the first time, and once files are written again. Between hosts
(network namespaces; only for root): bytes a second from "it is there" to the task's begin, beside a bare
gRPC stream whose bytes are dropped. And the scheduler's resident memory while many bytes pass between
workers.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

import cascade_dist as cs
from benchmarks.hosts import Host, two_hosts, why_not
from benchmarks.objects_sides import MAKER, RAY_WITHOUT_TOKEN, USER, link, times
from benchmarks.processes import stop_children

__all__ = ["main"]

ROOT = Path(__file__).resolve().parent.parent
PORT = 7420
MIB, GB = 1 << 20, 10**9
START_SECONDS = 60.0
STOP_SECONDS = 10.0
SIDE_SECONDS = 300.0
NAMES = {"cascade": "Cascade Dist", "ray": "Ray", "dask": "Dask", "bare": "bare gRPC stream"}


class AbsentError(Exception):
    """A side that gave nothing, and why."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks objects", description=__doc__)
    for name, default, help_ in (
        ("size", 16_000_000, "bytes of an array on one host"),
        ("steps", 30, "arrays in a chain"),
        ("chains", 3, "chains, and fetches between hosts, of a round"),
        ("hosts-size", 128 * MIB, "bytes of an array between hosts; 0: none"),
        ("total", 10 * GB, "bytes that pass while the scheduler is watched; 0: none"),
        ("repeat", 3, "rounds"),
    ):
        parser.add_argument(
            f"--{name}", type=int, default=default, metavar="N", help=f"{help_} ({default:,})"
        )
    parser.add_argument("--peers", default="ray,dask", help="`none`, or names from ray,dask (default: both)")
    options = parser.parse_args(arguments)
    options.peers = [] if options.peers == "none" else options.peers.split(",")
    if unknown := set(options.peers) - {"ray", "dask"}:
        parser.error(f"--peers: unknown {', '.join(sorted(unknown))}; known are ray and dask")
    return options


def _side(side: str, part: str, *arguments: str, host: Host | None = None) -> Any:
    """The figures of one side in a process of its own.

    Raises:
        AbsentError: it gave none.
    """
    command = [sys.executable, "-m", "benchmarks.objects_sides", side, part, *arguments]
    if host is not None:
        command = host.command(command)
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SIDE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise AbsentError(f"not done within {SIDE_SECONDS:.0f} s") from None
    finally:
        stop_children_but(host)
    for line in done.stdout.splitlines():
        if line.startswith("figures "):
            return json.loads(line.removeprefix("figures "))
    raise AbsentError(done.stderr.strip()[-500:] or f"exit code {done.returncode}")


def stop_children_but(host: Host | None) -> None:
    """Ends what a side of one host left behind; those between hosts have their own end."""
    if host is None:
        stop_children()


# --- one host ---------------------------------------------------------------------------------------


def one_host(options: argparse.Namespace, console: Console) -> None:
    """The table of hand-overs on one host."""
    sides = [("cascade", 1), ("cascade", 2), *(("ray", 2) for _ in options.peers if _ == "ray")]
    found: dict[tuple[str, int], list[list[float]]] = {}
    absent: dict[str, str] = {}
    for _ in range(options.repeat):
        for side, workers in sides:
            if side in absent:
                continue
            sizes = (
                "--size",
                str(options.size),
                "--steps",
                str(options.steps),
                "--chains",
                str(options.chains),
            )
            try:
                chains = _side(side, "host", *sizes, "--workers", str(workers))
            except AbsentError as reason:
                absent[side] = str(reason)
                continue
            found.setdefault((side, workers), []).extend(chains)
    table = Table("one host", "first, ms", "median, ms", "best chain", "worst chain", "of Ray's")
    ray = found.get(("ray", 2))
    theirs = statistics.median(spent for chain in ray for spent in chain) if ray else 0.0
    for (side, workers), chains in found.items():
        medians = [statistics.median(chain) for chain in chains]
        # The first array of the first chain of each round found no file that could be written again.
        first = statistics.median(chain[0] for chain in chains[:: options.chains])
        median = statistics.median(spent for chain in chains for spent in chain)
        share = f"{median / theirs:.2f}" if theirs else ""
        table.add_row(
            f"{NAMES[side]}, {workers} worker{'s' * (workers > 1)}",
            *(f"{value:.1f}" for value in (first, median, min(medians), max(medians))),
            share,
        )
    console.print(f"{options.size:,} bytes from one task to the next", table, sep="\n")
    _tell_absent(absent, console)


def _tell_absent(absent: dict[str, str], console: Console) -> None:
    for side, reason in absent.items():
        console.print(f"absent: {NAMES[side]}: {reason}", soft_wrap=True)


# --- two hosts --------------------------------------------------------------------------------------


@contextlib.contextmanager
def _stopped(processes: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Ends processes of a side, and what they have started."""
    try:
        yield
    finally:
        below = []
        for process in reversed(processes):
            with contextlib.suppress(psutil.NoSuchProcess):
                below += psutil.Process(process.pid).children(recursive=True)
            process.terminate()
        for process in reversed(processes):
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for one in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()


def _wait_for_port(host: Host, address: str) -> None:
    """Waits until somebody listens there."""
    name, port = address.split(":")
    code = f"import socket; socket.create_connection(({name!r}, {port}), 1).close()"
    deadline = time.monotonic() + START_SECONDS
    while subprocess.run(
        host.command([sys.executable, "-c", code]), capture_output=True, check=False
    ).returncode:
        if time.monotonic() > deadline:
            raise AbsentError(f"nothing listens on {address}")
        time.sleep(0.2)


def _between(side: str, hosts: tuple[Host, Host], options: argparse.Namespace, folder: str) -> list[float]:
    first, second = hosts
    address = f"{first.address}:{PORT}"
    python, sizes = sys.executable, ("--size", str(options.hosts_size), "--chains", str(options.chains))
    quiet: dict[str, Any] = {"cwd": ROOT, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started: list[subprocess.Popen[bytes]] = []
    more: list[str] = []
    at = first
    with _stopped(started):
        if side == "bare":
            serve = ("-m", "benchmarks.objects_sides", "bare", "serve", "--address", address)
            started.append(first.start(python, *serve, **quiet))
            at = second
        elif side == "cascade":
            token = Path(folder, "token")
            token.write_text(secrets.token_hex(16))
            token.chmod(0o600)
            more = ["--token", str(token)]
            given = ("--token-file", str(token))
            scheduler = ("-m", "cascade_scheduler", "--host", first.address, "--port", str(PORT))
            started.append(first.start(python, *scheduler, *given, **quiet))
            _wait_for_port(first, address)
            for host, name in zip(hosts, (MAKER, USER), strict=True):
                local = ("--local-dir", str(Path(folder, name)))  # they share the disk, as hosts do not
                worker = ("-m", "cascade_worker", address, "--slots", "1", "--host", host.address, *local)
                started.append(host.start(python, *worker, *given, "--resources", f"{name}=1", **quiet))
        elif side == "ray":
            ray = str(Path(python).with_name("ray"))
            head = ("--head", f"--port={PORT}", "--include-dashboard=false")
            for host, name, role in ((first, MAKER, head), (second, USER, (f"--address={address}",))):
                node = (f"--node-ip-address={host.address}", "--num-cpus=1", f'--resources={{"{name}":1}}')
                store = f"--object-store-memory={8 * options.hosts_size}"
                os.environ.setdefault(*RAY_WITHOUT_TOKEN)
                started.append(host.start(ray, "start", "--block", *role, *node, store, **quiet))
                _wait_for_port(first, address)
        else:
            scheduler = ("-m", "distributed.cli.dask_scheduler", "--host", first.address)
            started.append(first.start(python, *scheduler, "--port", str(PORT), "--no-dashboard", **quiet))
            _wait_for_port(first, address)
            for host, name in zip(hosts, (MAKER, USER), strict=True):
                worker = ("-m", "distributed.cli.dask_worker", f"tcp://{address}", "--host", host.address)
                rest = ("--nthreads", "1", "--no-dashboard", "--resources", f"{name}=1")
                started.append(host.start(python, *worker, *rest, **quiet))
            address = f"tcp://{address}"
        if side != "dask":
            _wait_for_port(first, address)
        found: list[float] = _side(side, "hosts", *sizes, "--address", address, *more, host=at)
        return found


def between_hosts(options: argparse.Namespace, console: Console) -> None:
    """The table of fetches between hosts."""
    reason = why_not()
    if reason:
        console.print(f"no figures between hosts: {reason}")
        return
    found: dict[str, list[float]] = {}
    absent: dict[str, str] = {}
    for _ in range(options.repeat):
        for side in ("bare", "cascade", *options.peers):
            if side in absent:
                continue
            with (
                two_hosts() as hosts,
                tempfile.TemporaryDirectory(prefix="cascade-bench-", dir=ROOT.parent) as folder,
            ):
                try:
                    found.setdefault(side, []).extend(_between(side, hosts, options, folder))
                except (AbsentError, OSError) as error:
                    absent[side] = str(error)
    table = Table("between hosts", "seconds", "MB/s", "of the bare stream", "fetches")
    bare = statistics.median(found["bare"]) if found.get("bare") else 0.0
    for side, spent in found.items():
        if spent:
            median = statistics.median(spent)
            rounds = " ".join(f"{one:.2f}" for one in spent)
            rate = options.hosts_size / median / 1e6
            share = f"{bare / median:.2f}" if bare else ""
            table.add_row(NAMES[side], f"{median:.3f}", f"{rate:,.0f}", share, rounds)
    console.print(f"{options.hosts_size:,} bytes from a worker to another host's", table, sep="\n")
    _tell_absent(absent, console)


# --- the scheduler ----------------------------------------------------------------------------------


def scheduler_memory(options: argparse.Namespace, console: Console) -> None:
    """The scheduler's resident memory while arrays go to and fro between two workers.

    Neither sees the other's files, so all bytes go over the loopback.
    """
    with (
        tempfile.TemporaryDirectory(prefix="cascade-bench-") as folder,
        _two_workers(folder) as (address, watched),
    ):
        step, last = cs.task(link), cs.task(times)
        with cs.connect(address) as cluster:
            steps = 40
            passed, samples = 0, []
            began = time.monotonic()
            while passed < options.total:
                value: Any = None
                for number in range(steps):
                    amounts = {(MAKER, USER)[number % 2]: 1}
                    value = step(value, options.size).with_constraints(**amounts)
                cluster.submit(last(value)).result(timeout=SIDE_SECONDS)
                passed += (steps - 1) * options.size
                samples.append(watched.memory_info().rss / MIB)
            seconds = time.monotonic() - began
    console.print(
        f"{passed / GB:.1f} GB passed between two workers in {seconds:.0f} s; scheduler, resident: "
        f"{samples[0]:.1f} MiB after the first {(steps - 1) * options.size / GB:.1f} GB, "
        f"{samples[-1]:.1f} MiB at the end, {max(samples):.1f} MiB at most"
    )


@contextlib.contextmanager
def _two_workers(folder: str) -> Iterator[tuple[str, psutil.Process]]:
    ready = Path(folder, "ready.json")
    python = sys.executable
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> None:
        started.append(
            subprocess.Popen([python, "-m", *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        )

    with contextlib.ExitStack() as places, _stopped(started):
        start("cascade_scheduler", "--port", "0", "--ready-file", str(ready), "--log-level", "error")
        deadline = time.monotonic() + START_SECONDS
        while not ready.exists():
            if time.monotonic() > deadline:
                raise AbsentError("the scheduler did not start")
            time.sleep(0.02)
        address = json.loads(ready.read_text())["address"]
        for name in (MAKER, USER):
            place = Path("/dev/shm" if Path("/dev/shm").is_dir() else folder, f"{Path(folder).name}-{name}")
            place.mkdir()
            places.callback(shutil.rmtree, place, ignore_errors=True)
            given = ("--slots", "1", "--resources", f"{name}=1", "--object-dir", str(place))
            start(
                "cascade_worker",
                address,
                *given,
                "--local-dir",
                str(Path(folder, name)),
                "--log-level",
                "error",
            )
        yield address, psutil.Process(started[0].pid)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 whatever the figures are."""
    options = parse(None if arguments is None else list(arguments))
    console = Console(width=None if sys.stdout.isatty() else 140)
    one_host(options, console)
    if options.hosts_size:
        between_hosts(options, console)
    if options.total:
        scheduler_memory(options, console)
    return 0
