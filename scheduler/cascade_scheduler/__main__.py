"""`cascade-scheduler`: the command line."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import stat
import sys
import time
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import cascade_dist.wire.grpc_import  # isort: skip  # noqa: F401 - gRPC as we want it, before all others

from cascade_dist import wire
from cascade_dist._version import __version__
from cascade_dist.config import Settings as Config
from cascade_dist.config import (
    format_duration,
    format_size,
    load_settings,
    option_type,
    parse_count,
    parse_duration,
    parse_size,
)
from cascade_dist.errors import CascadeError, ConfigError
from cascade_dist.storage.seal import state_directory
from cascade_scheduler.app import Scheduler, SchedulerOptions, StartError
from cascade_scheduler.blobs.base import BlobError
from cascade_scheduler.blobs.choose import BlobPlace, choose_blobs
from cascade_scheduler.blobs.collecting import GRACE_SECONDS
from cascade_scheduler.core.books import EPOCH_SHIFT
from cascade_scheduler.core.state import Settings
from cascade_scheduler.hub import Bounds, Times
from cascade_scheduler.leading import LEASE_SECONDS
from cascade_scheduler.logs import set_up_logging
from cascade_scheduler.store.base import RunStore, StoreError
from cascade_scheduler.store.choose import STATE_TTL_SECONDS, choose_cache, choose_store, seal_key_of
from cascade_scheduler.store.keeper import CLIENT_STATE
from cascade_scheduler.store.shared import Holder

__all__ = ["main"]

CONFIGURED = (
    *("host", "port", "state", "token_file", "tls_cert", "tls_key", "tls_ca", "closed"),
    *("infeasible_after", "blobs", "log_level", "log_format", "solver", "solver_timeout"),
    *("fast_loops", "recovery_grace"),
)
"""Arguments that files and the environment may also give."""
HEARTBEAT_PERIOD_MIN = 0.01
BLOB_BYTES_MIN = 1 << 20
LEASE_SECONDS_MIN = 0.5
STATE_TTL_SECONDS_MIN = 60.0
BACKLOG_BYTES_MIN = 64 << 10
RENEWALS = 24
"""In the time that runs stay in Redis."""
SOCKET_BYTES_MAX = 107 if sys.platform == "linux" else 103
"""The longest name of a unix socket that the system has room for."""
_PRIVATE_NAME = re.compile(r"cascade-[0-9]+-[^/]+")
"""What the directories of private clusters are called; no others are ever removed."""
_REMOVE_TRIES = 20
_REMOVE_PAUSE = 0.05
_DURATION, _SIZE = option_type(parse_duration), option_type(parse_size)
EPOCH_MAX = (1 << (64 - EPOCH_SHIFT)) - 1

logger = logging.getLogger("cascade.scheduler")


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong; the usage of so many options would bury it."""

    def error(self, message: str) -> NoReturn:
        """Ends the process with exit code 2."""
        self.exit(2, f"{self.prog}: {message.removeprefix('argument ')} (options: {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="cascade-scheduler",
        description="Solves graphs, runs their control flow and gives ready nodes to workers.",
        epilog="Argument > environment > file > default. Durations like 30s or 1h 30m, sizes like 4GiB.",
    )
    add = parser.add_argument
    add("--version", action="version", version=f"cascade-scheduler {__version__}")
    add("--host", help="address to listen on (default 127.0.0.1; another needs --token-file or mutual TLS)")
    add("--port", help="port to listen on; 0: any free one, which is printed (default 7420)")
    add("--state", help="memory://, redis://HOST:PORT/DB, rediss://… or unix://PATH (default memory://)")
    add(
        "--state-ttl",
        type=_DURATION,
        default=STATE_TTL_SECONDS,
        help="how long runs stay in Redis after they were last written; live ones are renewed (default 24h)",
    )
    add(
        "--state-wait",
        type=_DURATION,
        default=30.0,
        help="how long a Redis that is not there yet is waited for at the start (default 30s)",
    )
    add(
        "--standby",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="wait while another scheduler leads the same state, and take over when it is gone (default)",
    )
    add(
        "--lease",
        type=_DURATION,
        default=LEASE_SECONDS,
        help="how long standbys wait for a leader that says nothing (default 3s; the same for all of them)",
    )
    add("--token-file", help="a file that holds the cluster's token")
    add("--tls-cert", help="PEM file with this side's certificate")
    add("--tls-key", help="PEM file with its private key")
    add("--tls-ca", help="PEM file with the authorities of clients' certificates: mutual TLS")
    add(
        "--socket",
        metavar="PATH",
        help="for private clusters: a unix socket to listen on too, and PATH.direct for sessions; no TLS",
    )
    add("--ready-file", help="written when the scheduler listens: JSON with address and pid")
    add(
        "--lifeline-fd",
        type=option_type(parse_count(0)),
        help="an inherited pipe; its end of file ends the scheduler at once",
    )
    add(
        "--remove-dir",
        metavar="DIR",
        help="for private clusters: their directory, cascade-PID-…, which is removed when the lifeline ends, "
        "and at the scheduler's end unless it failed",
    )
    _add_bounds(parser)
    add("--log-level", help="debug, info, warning or error (default info)")
    add("--log-format", help="text or json (default text)")
    return parser


def _add_bounds(parser: argparse.ArgumentParser) -> None:
    """What holds for all runs: amounts, blobs, times, sizes."""
    add = parser.add_argument
    closing = parser.add_mutually_exclusive_group()
    closing.add_argument(
        "--closed", action="store_true", default=None, help="an amount that no worker has is an error at once"
    )
    closing.add_argument(
        "--open",
        dest="closed",
        action="store_false",
        help="such a node waits for --infeasible-after (default)",
    )
    add(
        "--expect-workers",
        type=option_type(parse_count(0)),
        default=0,
        help="of a closed cluster: how many workers will come",
    )
    add(
        "--pool",
        action="append",
        metavar="NAME=AMOUNT",
        help="an amount that all nodes share, whatever workers have, like license=4; repeat it",
    )
    add("--infeasible-after", help="how long a node waits for an amount no worker has (default 60s)")
    add(
        "--blobs",
        metavar="URI",
        help="where large arguments, functions and results are: memory://, file:///DIRECTORY, or "
        "ipfs://HOST:PORT of a Kubo node's RPC (default: files in the state or temp directory)",
    )
    add("--blob-bytes-max", type=_SIZE, default=64 << 30, help="bound of the blob store (default 64GiB)")
    add(
        "--blob-grace",
        type=_DURATION,
        default=GRACE_SECONDS,
        help="how long a blob stays that nothing needs (25h); results of stored runs are lost with theirs",
    )
    add("--seal-key-file", help="key that records in Redis are sealed with (default: made once per user)")
    add("--heartbeat-period", type=_DURATION, default=2.0, help="(default 2s)")
    add(
        "--heartbeat-timeout",
        type=_DURATION,
        default=20.0,
        help="silence after which a worker is lost (20s)",
    )
    add("--cancel-grace", type=_DURATION, default=5.0, help="what user code gets to end in (default 5s)")
    add(
        "--fast-loops",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="workers go on with loops by themselves, and say how far they are (default)",
    )
    add(
        "--recovery-grace",
        help="after a restart: how long runs wait for the workers of before (default 10s)",
    )
    add("--solver", help="who orders graphs: native (default), csp, or one that a package has installed")
    add("--solver-timeout", help="how long another solver than native may take for one graph (default 5s)")
    add("--drain-timeout", type=_DURATION, default=30.0, help="what runs get to end in at SIGTERM (30s)")
    add(
        "--graph-nodes-max",
        type=option_type(parse_count(1)),
        default=Bounds().graph_nodes_max,
        help="larger graphs are refused",
    )
    add(
        "--graph-bytes-max",
        type=_SIZE,
        default=Bounds().graph_bytes_max,
        help="larger graphs are refused",
    )
    add(
        "--backlog-bytes-max",
        type=_SIZE,
        default=SchedulerOptions().backlog_bytes_max,
        help="results that may wait while Redis is away; past it nothing more is taken (default 256MiB)",
    )
    add(
        "--runs-kept",
        type=option_type(parse_count(0)),
        default=Settings().runs_kept,
        help="finished runs that stay known (1000)",
    )


def main(argv: list[str] | None = None) -> int:
    """Runs a scheduler; returns the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        given = {name: getattr(arguments, name) for name in CONFIGURED}
        given["pool"] = ",".join(arguments.pool) if arguments.pool else None
        config = load_settings("scheduler", given, command=True)
        set_up_logging(config["log_level"] or "info", config["log_format"])
        return _run(_serve(arguments, config))
    except (CascadeError, StartError, StoreError, BlobError) as error:
        print(f"cascade-scheduler: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        return 130


def _run(serve: Coroutine[Any, Any, int]) -> int:
    factory: Any = None
    try:
        with contextlib.suppress(ImportError):
            import uvloop

            factory = uvloop.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(serve)
    finally:
        serve.close()  # Ctrl-C may come before it has begun


def _options(arguments: argparse.Namespace, config: Config) -> SchedulerOptions:
    token = wire.read_token(None, config["token_file"]) if config["token_file"] else config["token"]
    if token is None:
        token = wire.read_token()
    mutual_tls = bool(config["tls_cert"] and config["tls_ca"])
    wire.check_bind(config["host"], token=token, mutual_tls=mutual_tls)
    if arguments.socket:
        _check_socket(arguments.socket, encrypts=bool(config["tls_cert"]))
    if arguments.expect_workers and not config["closed"]:
        raise ConfigError("--expect-workers says when a closed cluster is complete; give --closed too")
    times = Times(
        arguments.heartbeat_period,
        arguments.heartbeat_timeout,
        arguments.cancel_grace,
        renew=arguments.state_ttl / RENEWALS,
    )
    if times.heartbeat_period < HEARTBEAT_PERIOD_MIN:
        raise ConfigError(f"--heartbeat-period must be at least {format_duration(HEARTBEAT_PERIOD_MIN)}")
    if times.heartbeat_timeout < 2 * times.heartbeat_period:
        raise ConfigError(
            "--heartbeat-timeout must be at least twice --heartbeat-period, or live workers are lost"
        )
    if arguments.backlog_bytes_max < BACKLOG_BYTES_MIN:
        raise ConfigError(f"--backlog-bytes-max must be at least {BACKLOG_BYTES_MIN:,} bytes")
    if arguments.state_ttl < STATE_TTL_SECONDS_MIN:
        raise ConfigError(f"--state-ttl must be at least {format_duration(STATE_TTL_SECONDS_MIN)}")
    if arguments.blob_bytes_max < BLOB_BYTES_MIN:
        raise ConfigError(f"--blob-bytes-max must be at least {format_size(BLOB_BYTES_MIN)}")
    if arguments.state_ttl > arguments.blob_grace:
        raise ConfigError(
            f"--state-ttl {format_duration(arguments.state_ttl)} is longer than --blob-grace "
            f"{format_duration(arguments.blob_grace)}: blobs would go before the runs that name them"
        )
    if arguments.lease < LEASE_SECONDS_MIN:
        raise ConfigError(f"--lease must be at least {format_duration(LEASE_SECONDS_MIN)}")
    return SchedulerOptions(
        host=config["host"],
        port=config["port"],
        socket=arguments.socket or "",
        token=token,
        credentials=wire.server_credentials(config["tls_cert"], config["tls_key"], config["tls_ca"]),
        core=Settings(
            closed=config["closed"],
            expected_workers=arguments.expect_workers,
            infeasible_after=config["infeasible_after"],
            cancel_grace=times.cancel_grace,
            graph_nodes_max=arguments.graph_nodes_max,
            runs_kept=arguments.runs_kept,
            pools=tuple((config["pool"] or {}).items()),
            fast_loops=config["fast_loops"],
        ),
        bounds=Bounds(graph_nodes_max=arguments.graph_nodes_max, graph_bytes_max=arguments.graph_bytes_max),
        times=times,
        drain_timeout=arguments.drain_timeout,
        recovery_grace=config["recovery_grace"],
        blob_grace=arguments.blob_grace,
        backlog_bytes_max=arguments.backlog_bytes_max,
        store_wait=arguments.state_wait,
        standby=arguments.standby,
        lease=arguments.lease,
        solver=config["solver"],
        solver_timeout=config["solver_timeout"],
        seal_key=seal_key_of(config["state"], arguments.seal_key_file),
        story_dir=state_directory() / "bugs",
    )


async def _serve(arguments: argparse.Namespace, config: Config) -> int:
    options = _options(arguments, config)
    private = _private_directory(arguments.remove_dir)
    if config["state"] == CLIENT_STATE and arguments.lifeline_fd is None:
        raise ConfigError(
            f"--state {CLIENT_STATE!r} is for the scheduler of a private cluster, whose client keeps the "
            "state: cs.run(…, state_backend=…) starts one"
        )
    store = choose_store(
        config["state"],
        epoch=1 + secrets.randbelow(EPOCH_MAX),
        seal_key_file=arguments.seal_key_file,
        ttl=arguments.state_ttl,
    )
    cache = choose_cache(
        config["state"],
        bytes_max=options.bounds.cluster_cache_bytes_max,
        seal_key_file=arguments.seal_key_file,
    )
    place = choose_blobs(config["blobs"], state=config["state"], bytes_max=arguments.blob_bytes_max)
    with place:
        scheduler = Scheduler(options, store, place.store, cache)
        address = await scheduler.start()
        with contextlib.ExitStack() as stack:
            try:
                _listen_to_signals(scheduler, stack)
                if arguments.lifeline_fd is not None:
                    _hold_lifeline(arguments.lifeline_fd, place, private)
                if arguments.ready_file:
                    _write_ready_file(Path(arguments.ready_file), address, stack)
            except BaseException:
                scheduler.stop_now()
                await scheduler.run()
                raise
            leader = scheduler.leader
            if leader is None:
                _announce(address, store)
            else:
                _announce_standby(address, leader, config["blobs"])
                scheduler.on_lead = partial(_announce, address, store)
            code = await scheduler.run()
    if code == 0:  # else the log of the failure may lie there
        _remove(private)
    return code


def _check_socket(path: str, *, encrypts: bool) -> None:
    if encrypts:
        raise ConfigError(
            "--socket is for private clusters, and what it carries is not encrypted: leave it out"
        )
    length, ending = len(os.fsencode(path)), len(wire.Address("", 0, socket=path).direct) - len(path)
    if length + ending > SOCKET_BYTES_MAX:
        raise ConfigError(
            f"--socket: a path of {length} bytes is too long for PATH and PATH.direct to be unix sockets; "
            f"at most {SOCKET_BYTES_MAX - ending} are taken"
        )


def _private_directory(text: str | None) -> Path | None:
    """The directory that goes with this process.

    Raises:
        ConfigError: it is not the directory of a private cluster.
    """
    if text is None:
        return None
    path = Path(text).absolute()
    try:
        found = path.lstat()
    except OSError as error:
        raise ConfigError(f"--remove-dir {text!r} cannot be used: {error.strerror or error}") from None
    if not _PRIVATE_NAME.fullmatch(path.name) or not stat.S_ISDIR(found.st_mode):
        raise ConfigError(
            f"--remove-dir {text!r} is not the directory of a private cluster: only a directory that is "
            "itself named like cascade-1234-abcd is ever removed"
        )
    if found.st_uid != os.getuid():
        raise ConfigError(f"--remove-dir {text!r} belongs to another user")
    return path


def _remove(directory: Path | None) -> None:
    """Removes a private cluster's directory; its workers, which end now too, may still write to it."""
    if directory is None:
        return
    for _ in range(_REMOVE_TRIES):
        shutil.rmtree(directory, ignore_errors=True)
        if not directory.exists():
            return
        time.sleep(_REMOVE_PAUSE)


def _announce(address: str, store: RunStore) -> None:
    """Says that the scheduler is there."""
    print(f"cascade-scheduler listening on {address}", flush=True)
    logger.info("listening on %s; state in %s", address, store.url)
    if store.immediate:
        logger.info("the state is kept in memory: a restart forgets all runs (--state redis://… keeps them)")
    # What is there now stays for ever; collections need not look at it again. And they come rarely: a graph
    # is many objects that live long, which is what the defaults are worst at.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _announce_standby(address: str, leader: Holder, blobs: str | None) -> None:
    """Says that the scheduler waits."""
    print(f"cascade-scheduler standing by on {address}; {leader.address} leads", flush=True)
    if leader.host != socket.gethostname() and not (blobs or "").startswith("ipfs:"):
        logger.warning(
            "the leader is on another host (%s): what it keeps in blobs is there for this standby only with "
            "--blobs ipfs://… or in a shared directory; else large results are lost when this one takes over",
            leader.host,
        )


def _listen_to_signals(scheduler: Scheduler, stack: contextlib.ExitStack) -> None:
    loop = asyncio.get_running_loop()
    drain = format_duration(scheduler.options.drain_timeout)

    def stop(number: signal.Signals) -> None:
        logger.info("%s: runs may go on for %s; once more to end now", number.name, drain)
        scheduler.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
        stack.callback(loop.remove_signal_handler, number)


def _hold_lifeline(descriptor: int, place: BlobPlace, private: Path | None) -> None:
    """Ends this process at once when whoever started it is gone, in whatever way."""

    def look() -> None:
        with contextlib.suppress(BlockingIOError, InterruptedError):
            if not os.read(descriptor, 1024):
                place.clean()
                _remove(private)
                os._exit(0)

    os.set_blocking(descriptor, False)
    asyncio.get_running_loop().add_reader(descriptor, look)


def _write_ready_file(path: Path, address: str, stack: contextlib.ExitStack) -> None:
    """Says where the scheduler listens; whoever reads it never sees half of it."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump({"address": address, "pid": os.getpid()}, file)
        partial.replace(path)
    except OSError as error:
        raise StartError(f"--ready-file {path} cannot be written: {error.strerror or error}") from None
    stack.callback(path.unlink, missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
