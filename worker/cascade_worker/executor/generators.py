"""Generators that stand at their yield, sync and async, and the loops that async ones run on."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple, Protocol

__all__ = ["Host", "LoopOfTheTask", "LoopOnDemand", "Loops", "complete", "end", "never"]


class Loops(Protocol):
    """Where async generators run."""

    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop."""

    async def until(self, future: asyncio.Future[Any]) -> Any:
        """Waits for something on it; when that is interrupted, what is waited for goes on."""

    def held(self) -> AbstractContextManager[None]:
        """A stop that comes meanwhile is raised behind it."""

    def lock(self) -> AbstractAsyncContextManager[Any]:
        """Lets one attempt in at a time."""

    def close(self) -> None:
        """It is needed no more."""


class LoopOfTheTask:
    """The loop of an async executor."""

    def loop(self) -> asyncio.AbstractEventLoop:
        """The running loop."""
        return asyncio.get_running_loop()

    async def until(self, future: asyncio.Future[Any]) -> Any:
        """Waits as coroutines do."""
        return await asyncio.shield(future)

    def held(self) -> AbstractContextManager[None]:
        """Nothing is raised here but where something waits."""
        return nullcontext()

    def lock(self) -> AbstractAsyncContextManager[Any]:
        """A lock: attempts run side by side."""
        return asyncio.Lock()

    def close(self) -> None:
        """It is somebody else's."""


class LoopOnDemand:
    """A loop for a sync executor, made when the first async generator comes.

    A stop signal raises in the main thread, wherever that is. Raised within the loop's own code it would take
    a callback with it that others wait for. So while the loop runs, a stop ends its run, and is raised then.
    Code that blocks the loop is not interrupted: it ends with its process, when the grace is over.
    """

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None
        self._held = False
        self._deferred: BaseException | None = None

    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop, which does not run."""
        if self._runner is None:
            self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        return self._runner.get_loop()

    async def until(self, future: asyncio.Future[Any]) -> Any:
        """Runs the loop, here and now."""
        loop = self.loop()
        with self.held():
            future.add_done_callback(self._halt)
            # Not run_until_complete: a halt that is left over from an earlier run would end it with an error.
            while not future.done() and self._deferred is None:
                loop.run_forever()
            future.remove_done_callback(self._halt)
            return future.result() if future.done() else None

    def defer(self, error: BaseException) -> bool:
        """For the signal handler: whether the error is raised later, since the loop is at work."""
        if not self._held:
            return False
        self._deferred = error
        if self._runner is not None:
            self._runner.get_loop().call_soon_threadsafe(self._halt)
        return True

    def _halt(self, _: object = None) -> None:
        """Ends a run of ours; one that comes late costs the next run a further round."""
        if self._held:
            self.loop().stop()

    @contextmanager
    def held(self) -> Iterator[None]:
        """A stop that comes meanwhile is raised behind it, whatever else has happened."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
            if self._deferred is not None:
                error, self._deferred = self._deferred, None
                raise error from None

    def lock(self) -> AbstractAsyncContextManager[Any]:
        """No lock: there is one attempt at a time, and a stop could leave one locked."""
        return nullcontext()

    def close(self) -> None:
        """Ends it."""
        if self._runner is not None:
            self._runner.close()


def complete(work: Coroutine[Any, Any, Any]) -> Any:
    """Runs a coroutine that never waits."""
    try:
        work.send(None)
    except StopIteration as stop:
        return stop.value
    work.close()
    raise RuntimeError("something waits in an executor that has no loop")


# --- generators -----------------------------------------------------------------------------------


class Outcome(NamedTuple):
    """What setting up gave."""

    value: Any
    error: BaseException | None


class Host:
    """An async generator in a task of its own: what it enters before its yield, it leaves in that task."""

    def __init__(self, name: str, generator: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._name = name
        self._generator = generator
        self.ready: asyncio.Future[Outcome] = loop.create_future()
        self._end: asyncio.Future[BaseException | None] = loop.create_future()
        self.task = loop.create_task(self._live())
        self.standing = False

    async def _live(self) -> BaseException | None:
        generator = self._generator
        try:
            value = await anext(generator)
        except StopAsyncIteration:
            self._say(Outcome(None, never(self._name)))
            return None
        except BaseException as error:
            self._say(Outcome(None, error))
            return None
        self.standing = True
        self._say(Outcome(value, None))
        thrown: BaseException | None
        try:
            thrown = await self._end
        except asyncio.CancelledError as cancelled:  # by a task group that it has entered, say
            thrown = cancelled
        self.standing = False
        try:
            if thrown is None:
                await anext(generator)
            else:
                await generator.athrow(thrown)
        except StopAsyncIteration:
            return None
        except BaseException as raised:
            return None if _is_same(raised, thrown) else raised
        try:
            await generator.aclose()
        except BaseException:
            return _twice(self._name)
        return _twice(self._name)

    def _say(self, outcome: Outcome) -> None:
        if not self.ready.done():
            self.ready.set_result(outcome)

    def end(self, error: BaseException | None) -> None:
        """Lets it tear down."""
        if not self._end.done():
            self._end.set_result(error)


def _is_same(raised: BaseException, thrown: BaseException | None) -> bool:
    """What was thrown in came out again; Python wraps the exceptions that end generators."""
    return thrown is not None and (raised is thrown or raised.__cause__ is thrown)


def never(name: str) -> RuntimeError:
    return RuntimeError(
        f"resource {name!r} ended without a yield: it has to yield its value exactly once, with the teardown "
        "behind the yield"
    )


def _twice(name: str) -> RuntimeError:
    return RuntimeError(
        f"resource {name!r} yields a second time: behind its only yield it tears down and ends"
    )


def end(name: str, generator: Any, error: BaseException | None) -> BaseException | None:
    """Lets a generator tear down; what went wrong there, if anything."""
    try:
        if error is None:
            next(generator)
        else:
            generator.throw(error)
    except StopIteration:
        return None
    except BaseException as raised:
        return None if _is_same(raised, error) else raised
    try:
        generator.close()
    except BaseException:
        return _twice(name)
    return _twice(name)
