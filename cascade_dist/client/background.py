"""The one background thread of this process, in which all sessions live.

One loop for all of them: gRPC's asyncio layer wakes every loop that it knows for every message, so a second
loop would cost each session something.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, TypeVar

from cascade_dist.client.patience import result_of
from cascade_dist.errors import ClusterClosedError, ConnectionFailedError

__all__ = ["BackgroundLoop", "acquire", "release"]

T = TypeVar("T")

STOP_SECONDS = 5.0

_lock = threading.Lock()
_shared: BackgroundLoop | None = None
_forked_from = 0
"""The process that this one was forked from, when that one had talked gRPC by then."""
_used = False


class BackgroundLoop:
    """A thread that runs an event loop until its last user has gone."""

    def __init__(self, name: str = "cascade-client") -> None:
        self.loop = _new_loop()
        self.pid = os.getpid()
        self.users = 0
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()

    def _main(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.set_exception_handler(_on_loop_exception)
        try:
            self.loop.run_forever()
            tasks = asyncio.all_tasks(self.loop)
            for task in tasks:
                task.cancel()
            if tasks:
                self.loop.run_until_complete(asyncio.wait(tasks, timeout=STOP_SECONDS))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
        finally:
            asyncio.set_event_loop(None)
            self.loop.close()

    @property
    def inside(self) -> bool:
        """Whether the caller runs on this very thread, where waiting would never end."""
        return threading.get_ident() == self._thread.ident

    def check_outside(self) -> None:
        """Refuses to wait on the background thread.

        Raises:
            RuntimeError: the caller is that thread.
        """
        if self.inside:
            raise RuntimeError(
                "this call waits for the cluster, and was made on the thread that talks to it (a callback "
                "of a run, or code that runs while a result is unpickled): make it on another thread"
            )

    def post(self, callback: Callable[..., object], *args: Any) -> None:
        """Calls something on the loop, soon. Any thread.

        Raises:
            ClusterClosedError: the loop has ended.
        """
        try:
            self.loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            raise ClusterClosedError("the cluster handle is closed") from None

    def start(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Starts a coroutine on the loop. Any thread.

        Raises:
            ClusterClosedError: the loop has ended.
        """
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        except RuntimeError:
            coroutine.close()
            raise ClusterClosedError("the cluster handle is closed") from None

    def call(self, coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Runs a coroutine on the loop and waits for it; it is cancelled when the caller is interrupted.

        Raises:
            TimeoutError: it took longer than `timeout` seconds.
            RuntimeError: the caller is the background thread itself.
        """
        try:
            self.check_outside()
        except RuntimeError:
            coroutine.close()
            raise
        future = self.start(coroutine)
        try:
            return result_of(future, timeout)
        except (KeyboardInterrupt, FutureTimeoutError):
            future.cancel()
            raise

    def stop(self) -> None:
        """Ends the thread; waits for it unless it is the caller."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        if not self.inside:
            self._thread.join(STOP_SECONDS)


def _new_loop() -> asyncio.AbstractEventLoop:
    if sys.platform == "win32":
        return asyncio.new_event_loop()
    import uvloop

    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def _on_loop_exception(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # Where the user's program has a loop with gRPC of its own, both wait for gRPC's one wake-up pipe, and the
    # one that comes second finds it empty. Nothing is lost.
    if not isinstance(context.get("exception"), BlockingIOError):
        loop.default_exception_handler(context)


def acquire() -> BackgroundLoop:
    """The background loop, started if need be; `release` it.

    Raises:
        ConnectionFailedError: this is a forked child of a process that had connected.
    """
    global _shared, _used
    if _forked_from:
        raise ConnectionFailedError(
            f"process {os.getpid()} was forked from process {_forked_from}, which had connected to a cluster "
            "before: gRPC does not survive a fork. Start such processes with multiprocessing's 'spawn' or "
            "'forkserver', or fork before the first connect"
        )
    with _lock:
        _used = True
        if _shared is None:
            _shared = BackgroundLoop()
        _shared.users += 1
        return _shared


def release(background: BackgroundLoop) -> None:
    """Gives the background loop back; the last one ends it."""
    global _shared
    if background.pid != os.getpid():
        return
    with _lock:
        background.users -= 1
        if background.users:
            return
        if _shared is background:
            _shared = None
    background.stop()


def _forget_after_fork() -> None:
    # The child has the object but not its thread; and gRPC, used in it, would disturb the parent's sockets.
    global _shared, _lock, _forked_from
    _lock = threading.Lock()
    _forked_from = _forked_from or (os.getppid() if _used else 0)
    _shared = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)
