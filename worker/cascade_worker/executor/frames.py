"""What a worker and its executors say to each other.

Both are the same Python on the same machine, so frames are marshalled tuples: the fastest there is. The first
item says what a frame is.
"""

from __future__ import annotations

import marshal
import os
import signal
import socket
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

__all__ = [
    "ASK",
    "BEGUN",
    "BROKEN",
    "CANCEL",
    "CLOSED",
    "CLOSE_RUN",
    "DONE",
    "EXIT",
    "FAILED",
    "FAST",
    "LEASE",
    "LEASED",
    "LENGTH",
    "LOG",
    "PACKET_BYTES_MAX",
    "READY",
    "RECALL",
    "RESOURCE",
    "SPILLED",
    "STOP_SIGNAL",
    "TAIL",
    "TAILS",
    "TASK",
    "BodyInfo",
    "ExecutorConfig",
    "body_key",
    "body_of",
    "dumps",
    "load_parts",
    "loads",
    "packet_pair",
]

# To an executor, one packet each.
TASK = 1
"""(TASK, attempt, body, args, inputs, node_id, try, map_index, observe, publish, inline_bytes_max, flags,
more, run id); body is a marshalled BodyInfo; args are bytes, or a file as (path, size); inline_bytes_max 0:
as the body says. flags are bits, below; more is None, or a dict of what few tasks have, by the name of the
assignment's field."""
SPILLED = 2
"""(SPILLED, attempt, path): a file with the frame, too large for a packet. Whoever reads it removes it."""
CANCEL = 3
"""(CANCEL, attempt): async executors only."""
EXIT = 4
"""(EXIT, grace): tear resources down, and end. After so many seconds, what is async is cancelled."""
BROKEN = 5
"""(BROKEN, attempt, answer): a task that could not be spilled; in its turn it is answered with this frame."""
CLOSE_RUN = 16
"""(CLOSE_RUN, run id, grace): tear down what was set up for the run, and answer CLOSED."""

RECALL = 6
"""(RECALL, attempt): async executors only; the attempt is to take no further step by itself."""

# Bits of a task's flags.
TAILS = 1
"""A lazy value or a jump that it returns is what its run goes on with."""
FAST = 2
"""A returned call that is like an earlier one need not be compiled, though its code cannot be watched."""
LEASED = 4
"""As long as it returns calls of itself, the executor goes on with them."""

# From an executor, each behind its length.
READY = 1
"""(READY, pid)."""
LOG = 2
"""(LOG, attempt, stream, text)."""
DONE = 3
"""(DONE, attempt, duration_ns, inline or None, object size, truth, length, items, observe error, preview,
publish, more); more is None, or a dict of what few tasks have, by the name of the report's field."""
FAILED = 4
"""(FAILED, attempt, duration_ns, stopped, unloadable, type, message, traceback, pickled, retryable)."""
TAIL = 5
"""(TAIL, attempt, duration_ns, serialized worker_pb2.Tail, uploads, preview, iterations); uploads are (CID,
size, path) of files that have to be in the blob store before anybody is told; iterations as in LEASE."""
LEASE = 6
"""(LEASE, attempt, iterations, args, node id): a leased loop has taken so many steps beyond its first, and
the one that runs has these arguments."""
RESOURCE = 16
"""(RESOURCE, attempt, number, run id, name, scope, released, reason, duration_ns): one was set up, or torn
down. The number is of this executor; the attempt 0 when it was torn down for none."""
BEGUN = 17
"""(BEGUN, attempt): the resources of a task are there, its caching policy has no value, and its function is
called. Tasks that have neither do not say so."""
CLOSED = 18
"""(CLOSED, run id)."""
ASK = 19
"""(ASK, number, key, value or None, ttl or None): gets an entry of the cluster's cache, or keeps one. The
answer comes through a socket of its own, as (number, bytes or None, error or "")."""

LENGTH = struct.Struct("<I")
PACKET_BYTES_MAX = 64 * 1024
"""Frames above it are spilled."""

# SIGUSR1 and SIGUSR2 are often taken by user code: the first real-time signals are not.
STOP_SIGNAL = int(getattr(signal, "SIGRTMIN", signal.SIGUSR2 - 1)) + 1

# Inputs are bytes (a plain pickle) or one of these tuples.
FILE = 1
"""(FILE, path, size): a payload in a file."""
ITEM = 2
"""(ITEM, path, size, index): an item of a packed list in a file."""
LIST = 3
"""(LIST, [inputs])."""
COMPOUND = 4
"""(COMPOUND, template, [inputs]); the template is bytes or a FILE."""
PARTS = 5
"""(PARTS, path, template or None): a list or compound whose inputs are in a file, in marshalled lists.
Whoever reads it removes it."""

dumps = marshal.dumps
loads = marshal.loads


class BodyInfo(NamedTuple):
    """What many tasks share, as executors need it."""

    name: str
    run_id: str
    """Empty: of any run; its tasks say of which."""
    function: bytes
    """CID; the body is in the functions' directory under the CID's hex."""
    retry_on: bytes | None
    """None: no retry policy. Empty: every Exception."""
    compute_threads: int
    """Threads for numeric libraries in mode "compute"; 0: as the environment says."""
    inline_bytes_max: int
    spawn: bool = False
    """A lazy value that it returns is run in its place."""
    params: str = ""
    """Name of the file with the run's params, beside the functions; empty: there are none."""
    cache_policy: bytes = b""
    """The pickled task id and caching policy; empty: none."""
    resources: tuple[tuple[str, int, bytes, tuple[str, ...]], ...] = ()
    """What is injected and what that needs, each after what it needs: name, scope, CID, names of needs."""
    seal_key: bytes = b""
    """Of the cluster, for what a caching policy keeps in Redis; empty: the process's own."""


class ExecutorConfig(NamedTuple):
    """What an executor has to know from birth."""

    worker_id: str
    asynchronous: bool
    object_dirs: tuple[str, ...]
    """Where large results go: the first with room."""
    functions_dir: str
    object_bytes_max: tuple[int | None, ...] = ()
    """Bounds of the object directories; None: as much as fits."""


def packet_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends that keep packets whole and in order."""
    try:
        return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError:  # macOS has datagrams alone, and little room for them unless asked
        pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for end in pair:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * PACKET_BYTES_MAX)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * PACKET_BYTES_MAX)
        return pair


def load_parts(path: str) -> Iterator[Any]:
    """The inputs in a file of parts; removes it."""
    with open(path, "rb") as file:
        os.unlink(path)
        while True:
            try:
                yield from marshal.load(file)
            except EOFError:
                return


def body_key(info: BodyInfo) -> bytes:
    """A body as it stands in frames; executors use it as a key too."""
    return marshal.dumps(tuple(info))


def body_of(key: bytes) -> BodyInfo:
    """The reverse of `body_key`."""
    fields: Any = marshal.loads(key)
    return BodyInfo(*fields)
