"""A worker and its executor child: passes frames on to the child and its answers back.

The child is forked before anything of gRPC is imported, as executors come from a fork server that never does.
"""

from __future__ import annotations

import os
import socket
import sys
from typing import Any

from benchmarks.bare import LENGTH, METHOD_WORKER, RECORD_BYTES, SERVICE

FRAME_BYTES_MAX = 4 << 20


def noop() -> None:
    """What a task does."""


def execute(tasks: socket.socket) -> None:
    """The child: answers every frame with one as long, and calls a function for every record in it."""
    reader = tasks.makefile("rb", buffering=1 << 16)
    while True:
        head = reader.read(LENGTH.size)
        if not head:
            return
        frame = reader.read(LENGTH.unpack(head)[0])
        for _ in range(len(frame) // RECORD_BYTES):
            noop()
        tasks.sendall(head + frame)


async def serve(path: str, tasks: socket.socket) -> None:
    """Serves until the relay ends the stream."""
    import asyncio

    import grpc.aio

    from benchmarks.bare.streams import Outgoing
    from cascade_dist.wire import Address, open_channel
    from cascade_dist.wire.direct import open_stream

    class Answers(asyncio.Protocol):
        """What the child says."""

        def __init__(self, out: Outgoing) -> None:
            self._out = out
            self._kept = b""

        def data_received(self, data: bytes) -> None:
            data = self._kept + data
            start = 0
            frames = []
            while len(data) - start >= LENGTH.size:
                end = start + LENGTH.size + LENGTH.unpack_from(data, start)[0]
                if end > len(data):
                    break
                frames.append(data[start + LENGTH.size : end])
                start = end
            self._kept = data[start:]
            if frames:
                self._out.post(b"".join(frames))

    relay = Address("", 0, socket=path)
    call: Any = await open_stream(relay, open_channel(relay), f"/{SERVICE}/{METHOD_WORKER}", (), bytes)
    loop = asyncio.get_running_loop()
    pipe, _ = await loop.create_connection(lambda: Answers(Outgoing(call.write)), sock=tasks)
    while (message := await call.read()) is not grpc.aio.EOF:
        pipe.write(LENGTH.pack(len(message)) + message)


def main() -> None:
    """`python -m benchmarks.bare.worker PATH`"""
    ours, childs = socket.socketpair()
    if os.fork() == 0:
        ours.close()
        os.close(0)  # the parent's life line is not the child's; its own is the socket pair
        execute(childs)
        os._exit(0)
    childs.close()
    ours.setblocking(False)

    import uvloop

    from benchmarks.bare.streams import end_with_parent

    end_with_parent()
    uvloop.run(serve(sys.argv[1], ours))


if __name__ == "__main__":
    main()
