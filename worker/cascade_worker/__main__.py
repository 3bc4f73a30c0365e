"""`cascade-worker ADDRESS`: runs a worker until it is drained."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from cascade_dist import config
from cascade_dist._version import __version__
from cascade_dist.codec.values import INLINE_BYTES_MAX
from cascade_dist.errors import AuthenticationError, CascadeError, ConfigError
from cascade_dist.storage.kubo import Kubo, api_url
from cascade_dist.wire import (
    TokenAuth,
    check_bind,
    client_credentials,
    parse_addresses,
    read_token,
    server_credentials,
)
from cascade_worker.app import Worker
from cascade_worker.config import WorkerConfig
from cascade_worker.core import Limits
from cascade_worker.directories import default_memory, default_object_dir
from cascade_worker.logs import set_up_logging
from cascade_worker.session import FatalError

__all__ = ["main"]

log = logging.getLogger("cascade.worker")

EXIT_FAILED, EXIT_USAGE = 1, 2
_LIFELINE_GRACE = 3.0
_REAP_PERIOD = 1.0
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 32 << 20


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong; the usage of so many options would bury it."""

    def error(self, message: str) -> NoReturn:
        """Ends the process with exit code 2."""
        self.exit(2, f"{self.prog}: {message.removeprefix('argument ')} (options: {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="cascade-worker",
        description="Runs tasks for a Cascade scheduler.",
        epilog="SIGTERM drains: what runs is finished, what has not started is given back. A second one, or "
        "SIGINT, ends the worker at once. Settings may also come from CASCADE_* variables and cascade.toml.",
    )
    add = parser.add_argument
    add("address", nargs="?", help="host:port of the scheduler; several with commas (CASCADE_ADDRESS)")
    add("--slots", help="how many cpus it offers; auto: one per core (default)")
    add("--resources", help="further amounts, like 'gpu=2,memory_gb=8'")
    add("--name", help="a name for people (default: host name and pid)")
    add("--executors-max", help="most sync executors at once (default: 4 × slots, at least 8)")
    add("--object-dir", help="where large results go (default: /dev/shm with 1 GiB free, else --local-dir)")
    add("--local-dir", help="where everything else goes (default: the system's temporary directory)")
    add(
        "--object-memory",
        help="most bytes of large results in --object-dir; past it those used least go to "
        "--local-dir (default: 30%% of what is free in /dev/shm; elsewhere no bound)",
    )
    add(
        "--spill-max",
        help="most bytes of large results in --local-dir (default: as many as there is room for)",
    )
    add("--host", help="address that other workers fetch results from (default: 127.0.0.1)")
    add(
        "--ipfs",
        metavar="URI",
        help="this host's IPFS node: ipfs://HOST:PORT of its RPC, or none (default: the scheduler's)",
    )
    add("--cancel-grace", help="from telling user code to stop until it is killed (default: 5s)")
    add(
        "--drain-timeout",
        type=config.option_type(config.parse_duration),
        default=60.0,
        help="how long running tasks may take after SIGTERM (default: 60s)",
    )
    add("--death-timeout", help="exit when there is no scheduler for so long (default: never)")
    add("--token-file", help="file with the cluster's token (CASCADE_TOKEN_FILE, CASCADE_TOKEN)")
    add("--tls-ca", help="PEM file with the authorities that are trusted")
    add("--tls-cert", help="PEM file with this worker's certificate")
    add("--tls-key", help="PEM file with its private key")
    add("--log-level", help="debug, info (default), warning or error")
    add("--log-format", help="text (default) or json")
    add(
        "--lifeline-fd",
        type=config.option_type(config.parse_count(0)),
        help="an inherited pipe; the worker ends when its other end is closed",
    )
    add(
        "--socket",
        metavar="PATH",
        help="for private clusters: the scheduler's unix socket, a shorter way to it",
    )
    add("--version", action="version", version=f"cascade-worker {__version__}")
    return parser


def _keep_buffers() -> None:
    """Has glibc keep memory of pieces that came and went: pages of new memory would be faults, 256 a piece.

    Up to 32 MiB stay with each of its few arenas.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES // 2)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _configure(options: argparse.Namespace) -> tuple[WorkerConfig, config.Settings]:
    """The worker's configuration.

    Raises:
        CascadeError: a setting cannot be read; names it, where it stands and the remedy.
    """
    given = {
        name: value
        for name, value in vars(options).items()
        if name not in ("drain_timeout", "lifeline_fd", "socket", "version")
    }
    settings = config.load_settings("worker", given, command=True)
    if not settings["address"]:
        raise ConfigError("no scheduler's address: give it as the first argument, or set CASCADE_ADDRESS")
    addresses = parse_addresses(settings["address"])
    if options.socket:
        addresses = (addresses[0]._replace(socket=options.socket), *addresses[1:])
    slots = _cores() if settings["slots"] == "auto" else settings["slots"]
    token = read_token(settings["token"], settings["token_file"])
    ca, cert, key = settings["tls_ca"], settings["tls_cert"], settings["tls_key"]
    check_bind(settings["host"], token=token, mutual_tls=bool(ca and cert and key))
    local_dir = Path(settings["local_dir"] or _temporary()).expanduser().absolute()
    given_dir = settings["object_dir"]
    object_dir = Path(given_dir).expanduser().absolute() if given_dir else default_object_dir(local_dir)
    memory, spill = settings["object_memory"], settings["spill_max"]
    _check_bounds(memory, None if object_dir == local_dir else spill, one=object_dir == local_dir)
    wants_tls = any(address.tls for address in addresses)
    made = WorkerConfig(
        addresses=addresses,
        amounts={"cpu": slots * 1_000_000, **(settings["resources"] or {})},
        name=settings["name"] or f"{socket.gethostname()}-{os.getpid()}",
        executors_max=settings["executors_max"] or max(8, 4 * slots),
        object_dir=object_dir,
        local_dir=local_dir,
        object_memory=default_memory(object_dir) if memory is None else memory,
        spill_max=spill,
        host=settings["host"],
        auth=TokenAuth(token),
        cancel_grace=None if settings.origin("cancel_grace") == "default" else settings["cancel_grace"],
        drain_timeout=options.drain_timeout,
        death_timeout=settings["death_timeout"],
        ipfs=_node_url(settings["ipfs"]),
        client_credentials=client_credentials(ca, cert, key, tls=wants_tls),
        server_credentials=server_credentials(cert, key, ca) if cert else None,
        # Who holds the lifeline has started the scheduler too, and starts no other in its place.
        limits=Limits(scheduler_returns=options.lifeline_fd is None),
    )
    return made, settings


def _check_bounds(memory: int | None, spill: int | None, *, one: bool) -> None:
    """Raises ConfigError for bounds without room for any large result; `one`: there is one directory."""
    for flag, size in (("--object-memory", memory), ("--spill-max", spill)):
        if size and size < INLINE_BYTES_MAX:
            raise ConfigError(
                f"{flag} {size} is less than any large result has: give 64KiB or more, or 0 for none there"
            )
    if memory == 0 and (one or spill == 0):
        raise ConfigError(
            "no result above 64 KiB could be kept: give --object-memory, or --spill-max with a --local-dir "
            "other than --object-dir"
        )


def _node_url(uri: str | None) -> str | None:
    if uri is None or uri == "none":
        return uri and ""
    try:
        url = api_url(uri)
        Kubo(url)  # says so when aiohttp is missing
    except (ValueError, ImportError) as error:
        raise ConfigError(f"--ipfs: {error}") from None
    return url


def _temporary() -> str:
    import tempfile

    return tempfile.gettempdir()


async def _run(worker: Worker, lifeline: int | None) -> None:
    loop = asyncio.get_running_loop()
    if lifeline is not None:
        loop.add_reader(lifeline, _lifeline_cut, worker, lifeline)
    if os.getpid() == 1:
        loop.call_later(_REAP_PERIOD, _reap_orphans, worker)
    await worker.run()


def _lifeline_cut(worker: Worker, fd: int) -> None:
    """Who started this worker is gone."""
    if os.read(fd, 1):
        return
    asyncio.get_running_loop().remove_reader(fd)
    # Ends even when something hangs: nobody is left who would notice.
    timer = threading.Timer(_LIFELINE_GRACE, os._exit, (EXIT_FAILED,))
    timer.daemon = True
    timer.start()
    worker.end()


def _reap_orphans(worker: Worker) -> None:
    """As process 1 of a container it inherits what the fork server, were it killed, would leave behind.

    A period, not SIGCHLD: that signal is uvloop's own.
    """
    asyncio.get_running_loop().call_later(_REAP_PERIOD, _reap_orphans, worker)
    with contextlib.suppress(ChildProcessError):
        while True:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if found is None or found.si_pid == worker.pool.server_pid:
                return
            os.waitpid(found.si_pid, 0)


def main(argv: Sequence[str] | None = None) -> None:
    """The command. Exit codes: 0 drained or told to end, 1 it could not work, 2 usage."""
    options = _parser().parse_args(argv)
    try:
        made, settings = _configure(options)
    except AuthenticationError as error:
        sys.exit(_complain(error, EXIT_FAILED))
    except CascadeError as error:
        sys.exit(_complain(error, EXIT_USAGE))
    _keep_buffers()
    set_up_logging(settings["log_level"] or "info", settings["log_format"], worker=made.name)
    try:
        worker = Worker(made)
    except FatalError as error:
        sys.exit(_complain(error, EXIT_FAILED))
    gc.collect()
    gc.freeze()
    sys.exit(_live(worker, options.lifeline_fd))


def _live(worker: Worker, lifeline: int | None) -> int:
    factory: Any = None
    try:
        import uvloop

        factory = uvloop.new_event_loop
    except ImportError:
        log.info("uvloop is not installed; asyncio's own loop is slower")
    with asyncio.Runner(loop_factory=factory) as runner:
        try:
            runner.run(_run(worker, lifeline))
        except FatalError as error:
            return _complain(error, EXIT_FAILED)
    return 0


def _complain(error: Exception, code: int) -> int:
    print(f"cascade-worker: {error}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    main()
