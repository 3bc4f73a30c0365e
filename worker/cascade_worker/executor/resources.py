"""Resources in an executor: set up before a task's arguments are loaded, torn down in the opposite order.

What lives around one attempt belongs to its `Step`; what lives longer belongs to the executor and is shared.
The code is written once, as coroutines. In a sync executor nothing in them ever waits: there the generators
that are async run on a loop of their own, which runs only while one of them is set up or torn down.

Teardown is for generators that stand at their yield. So whatever a stop signal interrupts, none is forgotten
that was set up, and none that failed is torn down.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from types import GeneratorType
from typing import Any, Final

from cascade_dist.language.resources import Filler, Resource
from cascade_worker.executor.frames import RESOURCE
from cascade_worker.executor.generators import Host, Loops, end, never

__all__ = ["Definition", "Keeper", "Step", "definitions_of"]

TASK_SCOPE, RUN_SCOPE, WORKER_SCOPE = 1, 2, 3
_SCOPE_NAMES: Final = {TASK_SCOPE: "task", RUN_SCOPE: "run", WORKER_SCOPE: "worker"}

SAME_NAME_MAX: Final = 2
"""Definitions of one name that an executor keeps set up when nobody uses them."""
KEPT_MAX: Final = 32
"""Resources of scope "worker" that an executor keeps set up when nobody uses them."""
REASON_CHARS_MAX: Final = 500

Key = tuple[Any, ...]


class Definition:
    """A resource as tasks name it, with its function loaded."""

    __slots__ = ("filler", "func", "key", "name", "requires", "resource", "scope")

    def __init__(
        self, name: str, scope: int, cid: bytes, requires: tuple[str, ...], func: Any, needs: tuple[Key, ...]
    ) -> None:
        self.name = name
        self.scope = scope
        self.requires = requires
        self.func = func
        self.filler = Filler(func)
        self.key: Key = (name, scope, cid, needs)
        """Equal for what may be shared."""
        self.resource = Resource(func, name=name, scope=_SCOPE_NAMES[scope])


def definitions_of(
    described: tuple[tuple[str, int, bytes, tuple[str, ...]], ...], load: Callable[[bytes, str], Any]
) -> tuple[Definition, ...]:
    """The definitions of a body, each after what it needs.

    Args:
        described: name, scope, CID and the names of what it needs.
        load: gives the function of a CID.
    """
    keys: dict[str, Key] = {}
    made = []
    for name, scope, cid, requires in described:
        needs = tuple(keys[need] for need in requires)
        definition = Definition(name, scope, cid, tuple(requires), load(cid, name), needs)
        keys[name] = definition.key
        made.append(definition)
    return tuple(made)


class Instance:
    """A resource that is set up, or was."""

    __slots__ = (
        "attempt",
        "definition",
        "generator",
        "host",
        "needs",
        "number",
        "run_id",
        "told",
        "used",
        "value",
    )

    def __init__(self, definition: Definition, number: int, run_id: str, attempt: int) -> None:
        self.definition = definition
        self.number = number
        self.run_id = run_id
        self.attempt = attempt
        """The attempt for which it is set up."""
        self.generator: GeneratorType[Any, None, None] | None = None
        self.host: Host | None = None
        self.value: Any = None
        self.needs: tuple[Instance, ...] = ()
        self.used = 0
        """Steps that have it now; in the places of shared instances."""
        self.told = False
        """The worker knows of it."""

    @property
    def standing(self) -> bool:
        """It stands at its yield, so there is something to tear down."""
        if self.host is not None:
            return self.host.standing
        return self.generator is not None and inspect.getgeneratorstate(self.generator) == "GEN_SUSPENDED"


class Step:
    """What one attempt, or one step of a leased loop, has of resources."""

    __slots__ = ("attempt", "definitions", "own", "run_id", "shared", "values")

    def __init__(self, definitions: tuple[Definition, ...], attempt: int, run_id: str) -> None:
        self.definitions = definitions
        self.attempt = attempt
        self.run_id = run_id
        self.values: dict[str, Any] = {}
        """By name, what is injected."""
        self.own: list[Instance] = []
        self.shared: dict[str, Instance] = {}

    @property
    def resources(self) -> Mapping[str, Resource]:
        """The definitions, for graphs that the attempt's code makes."""
        return {definition.name: definition.resource for definition in self.definitions}


class _Place:
    """Where a shared instance stands; only one attempt at a time sets it up."""

    __slots__ = ("instance", "lock")

    def __init__(self, lock: AbstractAsyncContextManager[Any]) -> None:
        self.lock = lock
        self.instance: Instance | None = None


# --- all of them -----------------------------------------------------------------------------------------


class Keeper:
    """The resources of one executor.

    Args:
        say: sends a frame to the worker, and calls back when it is on its way, before a stop can interrupt.
        speak_for: has what is printed from now on count as an attempt's.
        loops: where async generators run.
    """

    def __init__(
        self,
        say: Callable[[tuple[Any, ...], Callable[[], None]], None],
        speak_for: Callable[[int], None],
        loops: Loops,
    ) -> None:
        self._say = say
        self._speak_for = speak_for
        self._loops = loops
        self._places: dict[Key, _Place] = {}
        """Shared instances, in the order in which they were set up or, of scope "worker", last used."""
        self._last = 0

    # --- steps --------------------------------------------------------------------------------------

    async def begin_step(self, step: Step) -> None:
        """Sets up what a step needs. When it raises, `end_step` has to follow all the same.

        Raises:
            BaseException: what a generator raised; RuntimeError when it did not yield.
        """
        held: dict[str, Instance] = {}
        for definition in step.definitions:
            if definition.scope == TASK_SCOPE:
                instance = self._new(definition, step)
                step.own.append(instance)
                await self._set_up(instance, step, held)
            else:
                instance = await self._share(definition, step, held)
            held[definition.name] = instance
            step.values[definition.name] = instance.value

    async def end_step(self, step: Step, error: BaseException | None) -> None:
        """Tears down what was set up for a step alone, last first. Never raises.

        Args:
            step: the step.
            error: how it failed, which is thrown into the generators; None: it did not.
        """
        while step.own:
            await self._tear_down(step.own.pop(), error)
        for instance in step.shared.values():
            instance.used -= 1
        step.shared.clear()

    # --- what lives longer --------------------------------------------------------------------------

    async def close_run(self, run_id: str, grace: float | None = None) -> None:
        """Tears down what was set up for a run, last first. Never raises.

        Args:
            run_id: the run.
            grace: seconds after which what is async is cancelled.
        """
        places = [
            (key, place)
            for key, place in self._places.items()
            if place.instance is not None and key[0] == RUN_SCOPE and key[1] == run_id
        ]
        await self._close(places, grace)
        self._speak_for(0)

    async def close_all(self, grace: float | None = None) -> None:
        """Tears down everything, last first. Never raises."""
        await self._close(list(self._places.items()), grace)
        self._loops.close()

    async def _close(self, places: list[tuple[Key, _Place]], grace: float | None) -> None:
        standing = [(place.instance.number, key, place.instance) for key, place in places if place.instance]
        for _, key, instance in sorted(standing, key=lambda entry: entry[0], reverse=True):
            self._places.pop(key, None)
            self._speak_for(instance.attempt)
            await self._tear_down(instance, None, grace)

    async def _share(self, definition: Definition, step: Step, held: dict[str, Instance]) -> Instance:
        """A shared instance for a step, set up if there is none."""
        owner = step.run_id if definition.scope == RUN_SCOPE else ""
        key: Key = (definition.scope, owner, definition.key)
        while True:
            place = self._places.get(key)
            if place is None:
                place = self._places[key] = _Place(self._loops.lock())
            async with place.lock:
                if self._places.get(key) is place:  # else it was taken away while this waited
                    instance = await self._instance_at(key, place, definition, step, held)
                    break
        if definition.name not in step.shared:
            instance.used += 1
            step.shared[definition.name] = instance
        if definition.scope == WORKER_SCOPE:
            self._places[key] = self._places.pop(key)
        return instance

    async def _instance_at(
        self, key: Key, place: _Place, definition: Definition, step: Step, held: dict[str, Instance]
    ) -> Instance:
        if place.instance is not None and place.instance.standing:
            return place.instance
        place.instance = None
        if definition.scope == WORKER_SCOPE:
            await self._make_room(definition.name)
            self._speak_for(step.attempt)
        instance = self._new(definition, step)
        step.own.append(instance)  # until it stands, the step answers for it
        try:
            await self._set_up(instance, step, held)
            place.instance = instance
            step.own.remove(instance)
        except BaseException:
            if place.instance is None:
                del self._places[key]
            raise
        return instance

    async def _make_room(self, name: str) -> None:
        """Tears down what nobody uses, the least recently used first, when there is too much of it."""
        needed = {
            id(need) for place in self._places.values() if place.instance for need in place.instance.needs
        }
        idle = [
            (key, place)
            for key, place in self._places.items()
            if key[0] == WORKER_SCOPE
            and place.instance is not None
            and not place.instance.used
            and id(place.instance) not in needed
        ]
        alike = [entry for entry in idle if entry[1].instance and entry[1].instance.definition.name == name]
        surplus = alike[: max(0, len(alike) - SAME_NAME_MAX + 1)]
        others = [entry for entry in idle if entry not in surplus]
        surplus += others[: max(0, len(idle) - len(surplus) - KEPT_MAX + 1)]
        await self._close(surplus, None)

    # --- one instance -------------------------------------------------------------------------------

    def _new(self, definition: Definition, step: Step) -> Instance:
        self._last += 1
        return Instance(definition, self._last, step.run_id, step.attempt)

    async def _set_up(self, instance: Instance, step: Step, held: dict[str, Instance]) -> None:
        definition = instance.definition
        instance.needs = tuple(held[name] for name in definition.requires)
        began = time.perf_counter_ns()
        args, kwargs = definition.filler.fill((), {}, step.values)
        made = definition.func(*args, **kwargs)
        if inspect.isasyncgen(made):
            await self._set_up_async(instance, made)
        else:
            instance.generator = made
            try:
                instance.value = next(made)
            except StopIteration:
                raise never(definition.name) from None
        self._tell(instance, False, "", time.perf_counter_ns() - began)

    async def _set_up_async(self, instance: Instance, generator: Any) -> None:
        loops = self._loops
        loop = loops.loop()
        with loops.held():  # a stop between the two would leave a generator that nobody knows
            host = instance.host = Host(instance.definition.name, generator, loop)
        try:
            outcome = await loops.until(host.ready)
        except BaseException:  # it is not wanted any more
            host.task.cancel()
            if not host.standing:
                await self._patiently(host.task)
            raise
        if outcome.error is not None:
            raise outcome.error
        instance.value = outcome.value

    async def _tear_down(
        self, instance: Instance, error: BaseException | None, grace: float | None = None
    ) -> None:
        if not instance.standing:
            return
        name = instance.definition.name
        began = time.perf_counter_ns()
        problem: BaseException | None
        try:
            if instance.host is not None:
                problem = await self._tear_down_async(instance.host, name, error, grace)
            else:
                problem = end(name, instance.generator, error)
        except BaseException as raised:  # a stop signal between two steps of ours
            problem = raised
        reason = "" if problem is None else _text(problem)
        if reason:
            print(f"teardown of resource {name!r}: {reason}", file=sys.stderr)
        if instance.told:
            self._tell(instance, True, reason, time.perf_counter_ns() - began)

    async def _tear_down_async(
        self, host: Host, name: str, error: BaseException | None, grace: float | None
    ) -> BaseException | None:
        host.end(error)
        if grace is not None:
            late = self._loops.loop().call_later(grace, host.task.cancel)
        try:
            problem = await self._patiently(host.task)
        finally:
            if grace is not None:
                late.cancel()
        if isinstance(problem, asyncio.CancelledError) and not isinstance(error, asyncio.CancelledError):
            return TimeoutError(
                f"it took longer than the grace of {grace:g} s" if grace else "it was cancelled"
            )
        return problem

    async def _patiently(self, task: asyncio.Task[BaseException | None]) -> BaseException | None:
        """Waits for the end of a generator's task, whoever cancels the attempt meanwhile."""
        while not task.done():
            try:
                await self._loops.until(task)
            except BaseException as raised:
                if isinstance(raised, Exception) and not task.done():
                    raise  # the loop itself does not work
        if task.cancelled():
            return asyncio.CancelledError()
        return task.exception() or task.result()

    def _tell(self, instance: Instance, released: bool, reason: str, duration_ns: int) -> None:
        definition = instance.definition

        def sent() -> None:  # one step with the sending: a stop between the two would tell half of a pair
            instance.told = not released

        self._say(
            (
                RESOURCE,
                instance.attempt if definition.scope == TASK_SCOPE or not released else 0,
                instance.number,
                instance.run_id,
                definition.name,
                definition.scope,
                released,
                reason,
                duration_ns,
            ),
            sent,
        )


def _text(problem: BaseException) -> str:
    try:
        text = f"{type(problem).__name__}: {problem}"
    except Exception:  # an exception class can raise wherever it is asked for something
        text = type(problem).__name__
    return text[:REASON_CHARS_MAX]
