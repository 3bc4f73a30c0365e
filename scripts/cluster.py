"""Run a Redis, a scheduler and two workers in the foreground; stop them all on Ctrl-C.

    python scripts/cluster.py                       # to play with; prints the address
    python scripts/cluster.py -- COMMAND ARG ...    # run a command against it, then stop; its exit code

The command finds the cluster in `CASCADE_TEST_ADDRESS` and its Redis in `CASCADE_TEST_REDIS_URL`.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

START_SECONDS = 30.0
STOP_SECONDS = 10.0
HOST = "127.0.0.1"


class StartError(Exception):
    """One of the processes did not come up."""


class Cluster:
    """The processes, in the order in which they were started."""

    def __init__(self) -> None:
        self._processes: list[tuple[str, subprocess.Popen[bytes]]] = []

    def start(self, name: str, *command: str, quiet: bool = False) -> None:
        """Start one process, in a session of its own so that a Ctrl-C comes to us alone."""
        output = subprocess.DEVNULL if quiet else None
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, start_new_session=True)
        self._processes.append((name, process))

    def check(self) -> None:
        """Raise if one of the processes has ended."""
        for name, process in self._processes:
            if process.poll() is not None:
                raise StartError(f"{name} ended with exit code {process.returncode}")

    def wait_for_port(self, name: str, port: int) -> None:
        """Wait until something listens on the port."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            self.check()
            with socket.socket() as probe:
                probe.settimeout(1.0)
                if probe.connect_ex((HOST, port)) == 0:
                    return
            time.sleep(0.05)
        raise StartError(f"{name} did not listen on port {port} within {START_SECONDS:.0f} s")

    def stop(self) -> None:
        """Stop the processes, the last one first; kill what does not drain in time."""
        for name, process in reversed(self._processes):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                print(f"{name} did not stop within {STOP_SECONDS:.0f} s: killed", file=sys.stderr)
                process.kill()
                process.wait()


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def redis_binary() -> str:
    """The path of a redis-server, from the script that knows where to look."""
    script = Path(__file__).with_name("ensure_redis.py")
    found = subprocess.run(
        [sys.executable, str(script), "--find"], stdout=subprocess.PIPE, text=True, check=False
    )
    if found.returncode:
        raise StartError("there is no redis-server: run `make redis`")
    return found.stdout.strip()


def parse(argv: list[str]) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port", type=int, default=0, help="the scheduler's port (0: any free one)")
    parser.add_argument("--workers", type=int, default=2, help="how many workers (default: %(default)s)")
    parser.add_argument("--slots", type=int, default=1, help="slots of each worker (default: %(default)s)")
    parser.add_argument("--dir", type=Path, help="where Redis keeps its data (default: a temporary folder)")
    parser.add_argument("command", nargs="*", help="what to run against the cluster, after --")
    return parser.parse_args(argv)


def start_all(cluster: Cluster, options: argparse.Namespace, folder: str) -> tuple[str, str]:
    """Start everything; return the scheduler's address and Redis's URL."""
    redis_port = free_port()
    cluster.start(
        "redis-server",
        *(redis_binary(), "--port", str(redis_port), "--bind", HOST, "--dir", folder),
        *("--appendonly", "yes", "--save", ""),
        quiet=True,
    )
    cluster.wait_for_port("redis-server", redis_port)
    redis_url = f"redis://{HOST}:{redis_port}/0"

    port = options.port or free_port()
    python = sys.executable
    cluster.start("scheduler", python, "-m", "cascade_scheduler", "--port", str(port), "--state", redis_url)
    cluster.wait_for_port("scheduler", port)
    address = f"{HOST}:{port}"
    for number in range(options.workers):
        cluster.start(
            f"worker {number}", python, "-m", "cascade_worker", address, "--slots", str(options.slots)
        )
    return address, redis_url


def interrupt(signum: int, _frame: object) -> None:
    """Turn SIGTERM into the exception that Ctrl-C is, so that one path stops the processes."""
    raise KeyboardInterrupt(signum)


def main(argv: list[str]) -> int:
    """Start the cluster, run the command or wait, stop the cluster."""
    options = parse(argv)
    signal.signal(signal.SIGTERM, interrupt)
    cluster = Cluster()
    with tempfile.TemporaryDirectory(prefix="cascade-cluster-") as scratch:
        if options.dir:
            options.dir.mkdir(parents=True, exist_ok=True)
        try:
            address, redis_url = start_all(cluster, options, str(options.dir or scratch))
            print(f"ready address={address} redis={redis_url}", flush=True)
            if options.command:
                found = {"CASCADE_TEST_ADDRESS": address, "CASCADE_TEST_REDIS_URL": redis_url}
                return subprocess.call(options.command, env={**os.environ, **found})
            while True:
                cluster.check()
                time.sleep(0.2)
        except StartError as problem:
            print(f"the cluster is not running: {problem}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
        finally:
            cluster.stop()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
