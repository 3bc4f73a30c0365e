"""The process of one side of `python -m benchmarks objects`; prints its figures as JSON.

`python -m benchmarks.objects_sides SIDE PART …`. Part `host`: a chain in which each task makes an array and
hands it to the next; milliseconds from the end of one task to the begin of the next. Part `hosts`: an array
that a worker of one host has is wanted by a task on another; seconds from "it is there" to the task's begin.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.processes import adopt_orphans, stop_children

__all__ = ["NOT_INSTALLED", "main"]

NOT_INSTALLED = 3
WAIT_SECONDS = 300.0
PIECE = 1 << 20
RAY_WITHOUT_TOKEN = ("RAY_AUTH_MODE", "disabled")
"""Nodes that are started one by one would each look for a token of their own."""
MAKER, USER = "maker", "user"
"""The amounts by which tasks are bound to hosts."""


# --- tasks ------------------------------------------------------------------------------------------


def link(before: Any, size: int) -> Any:
    """One step of the chain: notes how long the array was on its way, and makes the next one."""
    import numpy as np

    now = time.monotonic()
    spent = [] if before is None else [*before[2], (now - before[0]) * 1e3]
    if before is not None and before[1][-1] != len(spent):
        raise AssertionError("the array is another one")
    array = np.full(size // 8, float(len(spent) + 1))
    return time.monotonic(), array, spent


def times(before: Any) -> Any:
    """What the chain has noted."""
    return before[2]


def make(size: int) -> Any:
    """An array."""
    import numpy as np

    return np.arange(size // 8, dtype=np.float64)


def there(array: Any) -> float:
    """When the array is there for its host."""
    assert len(array)
    return time.monotonic()


def use(array: Any, since: float) -> Any:
    """How long it took to get here; and whether it is whole."""
    now = time.monotonic()
    return now - since, float(array[-1])


# --- this project -----------------------------------------------------------------------------------


def cascade_host(options: argparse.Namespace) -> list[list[float]]:
    """A private cluster."""
    import cascade_dist as cs

    step, last = cs.task(link), cs.task(times)
    chains = []
    with cs.connect(None, workers=options.workers, slots=1) as cluster:
        cluster.run([last((0, 0, [])) for _ in range(2 * options.workers)])
        for _ in range(options.chains):
            value: Any = None
            for _ in range(options.steps):
                value = step(value, options.size)
            chains.append(cluster.submit(last(value)).result(timeout=WAIT_SECONDS))
    return chains


def cascade_hosts(options: argparse.Namespace) -> list[float]:
    """A cluster over both hosts, which runs already."""
    import cascade_dist as cs

    maker, seen, user = cs.task(make), cs.task(there), cs.task(use)
    with cs.connect(options.address, token_file=options.token) as cluster:
        deadline = time.monotonic() + 30
        while len(cluster.workers()) < 2:
            assert time.monotonic() < deadline, "the workers did not come"
            time.sleep(0.05)

        def once() -> Any:
            array = maker(options.size).with_constraints(**{MAKER: 1})
            since = seen(array).with_constraints(**{MAKER: 1})
            run = cluster.submit(user(array, since).with_constraints(**{USER: 1}))
            return run.result(timeout=WAIT_SECONDS)

        return _fetches(once, options)


# --- peers ------------------------------------------------------------------------------------------


def _ray(**given: Any) -> Any:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault(*RAY_WITHOUT_TOKEN)
    import ray

    ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, **given)
    return ray


def ray_host(options: argparse.Namespace) -> list[list[float]]:
    """A local Ray with a CPU per worker."""
    store = max(1 << 28, 16 * options.size)
    ray = _ray(address="local", num_cpus=options.workers, object_store_memory=store)
    step, last = ray.remote(num_cpus=1)(link), ray.remote(num_cpus=1)(times)
    chains = []
    for _ in range(1 + options.chains):
        value: Any = None
        for _ in range(options.steps):
            value = step.remote(value, options.size)
        chains.append(ray.get(last.remote(value), timeout=WAIT_SECONDS))
    ray.shutdown()
    return chains[1:]  # the first one starts its workers


def ray_hosts(options: argparse.Namespace) -> list[float]:
    """A Ray over both hosts, which runs already."""
    ray = _ray(address=options.address)
    deadline = time.monotonic() + 60
    while ray.cluster_resources().get(USER, 0) < 1:
        assert time.monotonic() < deadline, "the second node did not come"
        time.sleep(0.1)
    maker, seen = (ray.remote(resources={MAKER: 0.1})(task) for task in (make, there))
    user = ray.remote(resources={USER: 0.1})(use)

    def once() -> Any:
        array = maker.remote(options.size)
        return ray.get(user.remote(array, seen.remote(array)), timeout=WAIT_SECONDS)

    found = _fetches(once, options)
    ray.shutdown()
    return found


def dask_hosts(options: argparse.Namespace) -> list[float]:
    """A Dask over both hosts, which runs already."""
    from distributed import Client

    with Client(options.address, timeout=60) as client:
        client.wait_for_workers(2, timeout=60)

        def once() -> Any:
            array = client.submit(make, options.size, resources={MAKER: 1}, pure=False)
            since = client.submit(there, array, resources={MAKER: 1}, pure=False)
            return client.submit(use, array, since, resources={USER: 1}, pure=False).result(WAIT_SECONDS)

        return _fetches(once, options)


def _fetches(once: Callable[[], Any], options: argparse.Namespace) -> list[float]:
    spent = []
    for number in range(options.chains + 1):
        seconds, last = once()
        if last != options.size // 8 - 1:
            raise AssertionError("the array is another one")
        if number:  # the first one connects
            spent.append(seconds)
    return spent


# --- bare gRPC --------------------------------------------------------------------------------------


async def _serve(options: argparse.Namespace) -> None:
    import grpc
    import grpc.aio

    from cascade_dist.wire import server_options

    piece = os.urandom(PIECE)

    async def fetch(request: bytes, context: Any) -> None:
        for _ in range(int(request) // PIECE):
            await context.write(piece)

    method: Any = grpc.unary_stream_rpc_method_handler(fetch)
    server = grpc.aio.server(options=server_options())
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bare", {"Fetch": method}),))
    server.add_insecure_port(options.address)
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


async def _drop(options: argparse.Namespace) -> list[float]:
    import grpc
    import grpc.aio

    from cascade_dist.wire import open_channel

    spent = []
    async with open_channel(options.address) as channel:
        for _ in range(options.chains + 1):
            began, came = time.monotonic(), 0
            ask: Any = channel.unary_stream("/bare/Fetch")
            call = ask(str(options.size).encode())
            while (message := await call.read()) is not grpc.aio.EOF:
                came += len(message)
            spent.append(time.monotonic() - began)
            if came != options.size // PIECE * PIECE:
                raise AssertionError("not all bytes came")
    return spent[1:]


def _on_uvloop(main: Any) -> Any:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def bare_serve(options: argparse.Namespace) -> None:
    """Sends bytes to whoever asks, for ever."""
    _on_uvloop(_serve(options))


def bare_hosts(options: argparse.Namespace) -> Any:
    """Reads bytes and drops them."""
    return _on_uvloop(_drop(options))


def main() -> None:
    """Exit code 0: the figures were printed. Else the reason is on stderr."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=["cascade", "ray", "dask", "bare"])
    parser.add_argument("part", choices=["host", "hosts", "serve"])
    for name in ("size", "steps", "chains", "workers"):
        parser.add_argument(f"--{name}", type=int, default=1)
    parser.add_argument("--address", default="")
    parser.add_argument("--token")
    options = parser.parse_args()
    adopt_orphans()
    code = 1
    try:
        found = globals()[f"{options.side}_{options.part}"](options)
        print(f"figures {json.dumps(found)}", flush=True)
        code = 0
    except ImportError as error:
        print(f"not installed: {error}", file=sys.stderr)
        code = NOT_INSTALLED
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    stop_children()
    sys.stderr.flush()
    os._exit(code)  # an interpreter with a peer's threads in it does not always end by itself


if __name__ == "__main__":
    main()
