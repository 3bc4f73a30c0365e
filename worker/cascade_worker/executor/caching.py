"""Caching policies in an executor: asked before a task runs, told when it has run.

A policy never fails a task. What it raises, and what it takes too long for, is a line of the task's stderr,
once for each policy and text, and counts as a miss.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from cascade_dist.caching.policies import CacheHit, CachePolicy, Inputs, hit_of
from cascade_dist.storage.seal import give_seal_key
from cascade_worker.executor.frames import BodyInfo

__all__ = ["BoundPolicy", "Policies", "SyncPolicies"]

POLICY_SECONDS_MAX = 60.0
"""How long one check or save may take."""
_POLICIES_MAX = 256
_WARNINGS_MAX = 16
_RESOURCES = "cascade_dist.language.resources"
"""Where the markers come from that stand as defaults of injected parameters."""


class BoundPolicy:
    """A policy, the task that it is for, and what it has complained of.

    Args:
        name: the task's name.
        task_id: what the policy knows the task by.
        policy: the policy.
        func: the task's function.
    """

    def __init__(self, name: str, task_id: str, policy: CachePolicy, func: Callable[..., Any]) -> None:
        self._name = name
        self._task_id = task_id
        self._policy = policy
        try:
            self._signature: inspect.Signature | None = inspect.signature(func, follow_wrapped=False)
        except (ValueError, TypeError):  # some builtins have none
            self._signature = None
        self._warned: set[str] = set()

        parameters = self._signature.parameters if self._signature else {}
        self._injected = {name for name, p in parameters.items() if type(p.default).__module__ == _RESOURCES}

    def inputs(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Inputs:
        """Every argument by parameter name, defaults among them; not what is injected by a default."""
        try:
            if self._signature is not None:
                bound = self._signature.bind(*args, **kwargs)
                bound.apply_defaults()
                given = bound.arguments
                return Inputs({name: given[name] for name in given if name not in self._injected})
        except TypeError:  # it says another signature than it has; the call will show
            pass
        return Inputs({**{str(position): value for position, value in enumerate(args)}, **kwargs})

    async def check(self, inputs: Mapping[str, Any]) -> CacheHit | None:
        """What the policy has; None for a miss, also when it fails."""
        try:
            async with asyncio.timeout(POLICY_SECONDS_MAX):
                return hit_of(await _awaited(self._policy.check(self._task_id, inputs)))
        except Exception as error:
            self._warn("could not be asked, so the task runs", error)
            return None

    async def save(self, inputs: Mapping[str, Any], output: Any) -> None:
        """Tells the policy a value; a failure is said and has no effect."""
        if type(output).__module__.startswith("cascade_dist.language"):
            return  # a lazy value is no value yet
        try:
            async with asyncio.timeout(POLICY_SECONDS_MAX):
                await _awaited(self._policy.save(self._task_id, inputs, output))
        except Exception as error:
            self._warn("could not keep the value", error)

    def _warn(self, what: str, error: Exception) -> None:
        why = f"{type(error).__name__}: {error}"
        if isinstance(error, TimeoutError) and not str(error):
            why = f"it took longer than {POLICY_SECONDS_MAX:g} s"
        text = f"the cache of task {self._name!r} {what}: {why}"
        if text not in self._warned and len(self._warned) < _WARNINGS_MAX:
            self._warned.add(text)
            print(text, file=sys.stderr)


async def _awaited(answer: Any) -> Any:
    return await answer if inspect.isawaitable(answer) else answer


class Policies:
    """The policies of one executor: one instance for each policy and run."""

    def __init__(self) -> None:
        self._bound: OrderedDict[tuple[str, bytes], BoundPolicy | None] = OrderedDict()

    def of(self, info: BodyInfo, func: Callable[..., Any]) -> BoundPolicy | None:
        """The policy of a task; None, said once, when it cannot be loaded."""
        key = (info.run_id, info.cache_policy)
        if key in self._bound:
            self._bound.move_to_end(key)
            return self._bound[key]
        if info.seal_key:
            give_seal_key(info.seal_key)
        bound: BoundPolicy | None = None
        try:
            task_id, policy = pickle.loads(info.cache_policy)
            bound = BoundPolicy(info.name, task_id, policy, func)
        except Exception as error:
            text = f"the caching policy of task {info.name!r} could not be loaded, so nothing is cached"
            print(f"{text}: {type(error).__name__}: {error}", file=sys.stderr)
        self._bound[key] = bound
        if len(self._bound) > _POLICIES_MAX:
            self._bound.popitem(last=False)
        return bound


class SyncPolicies:
    """Runs policies to their end in a thread that has no event loop."""

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """The result of a coroutine, in a loop that stays from call to call, as connections need it.

        Raises:
            BaseException: what a stop signal raises in the middle.
        """
        runner = self._runner
        if runner is None:
            runner = self._runner = asyncio.Runner()
        try:
            return runner.run(work)
        except BaseException:  # a stop: what it was in the middle of goes with its loop
            self._runner = None
            with contextlib.suppress(Exception):
                runner.close()
            raise
