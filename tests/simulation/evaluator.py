"""What a target means: a plain, slow evaluation of lazy objects by the words of the specification.

It shares no code with the compiler, the scheduler or the workers. It walks the lazy objects themselves, with
recursion and a memo, and runs the tasks where it stands. The sections in brackets are those of the language's
specification.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from dataclasses import replace as dataclass_replace
from typing import Any, NamedTuple, TypeAlias

import cascade_dist as cs
from cascade_dist.language.lazy import UNSET, LazyResult, MappedLazyResult, Unmapped
from tests.simulation import tasks

__all__ = ["Problem", "SkippedCall", "Verdict", "evaluate"]

CONDITION_FALSE = "ConditionFalse"
BY_CONDITION = "UpstreamSkipped_Condition"
BY_SEQUENCE = "UpstreamSkipped_Sequence"
BY_ROUTE = "UpstreamSkipped_Route"
BY_DATA = "UpstreamSkipped_Data"
PRUNED = "Pruned"


class Problem(NamedTuple):
    """An error that a run may fail with. Users' errors have a message; of the others only the type counts."""

    type: str
    message: str | None = None


class SkippedCall(NamedTuple):
    """A call that is skipped, for one of the reasons."""

    name: str
    reasons: frozenset[str]


class Verdict(NamedTuple):
    """What has to come of a run.

    Attributes:
        kind: "value", "missing" (`DependencyMissingError`) or "failed".
        value: of kind "value".
        problems: of kind "failed": the run fails with one of these.
        skipped: every skipped call. Of a failed run that was cancelled, only some of these need be told.
        executed: how often calls of a name succeed, maps and their children among them. Of a failed run that
            was cancelled, at most.
        retries: tries that failed and were followed by another, by name.
    """

    kind: str
    value: Any
    problems: tuple[Problem, ...]
    skipped: tuple[SkippedCall, ...]
    executed: Counter[str]
    retries: Counter[str]


@dataclass(frozen=True)
class _Value:
    value: Any


@dataclass(frozen=True)
class _Skipped:
    reasons: frozenset[str]


@dataclass(frozen=True)
class _Failed:
    """It failed, or needs something that failed: it never ends."""


@dataclass(frozen=True)
class _NoRoute:
    """A router's selector chose none of its keys: whoever wants its value fails."""

    problem: Problem


_State: TypeAlias = _Value | _Skipped | _Failed | _NoRoute
FAILED = _Failed()


def evaluate(target: Any, params: Mapping[str, Any] | None = None) -> Verdict:
    """What a run of the target has to come to."""
    return _Evaluation(params or {}).run(target)


class _Evaluation:
    """One run of one target, or of a target that a task returned."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self._params = params
        self._states: dict[Any, _State] = {}
        self._problems: list[Problem] = []
        self._skipped: list[SkippedCall] = []
        self._executed: Counter[str] = Counter()
        self._retries: Counter[str] = Counter()
        self._pure: dict[Any, LazyResult[Any]] = {}
        self._tails: set[Any] = set()
        """The target, and what its routers chose: only these may return a target to go on with."""
        self._kept: list[Any] = []
        """What is known by its `id` stays alive."""

    def run(self, target: Any) -> Verdict:
        """Evaluates, then says what was pruned: all that the target might have needed and did not. [3]"""
        if _is_lazy(target):
            self._tails.add(self._identity(target))
            state = self._visit(target)
        else:
            state = self._container(list(target) if isinstance(target, tuple) else target)  # [S20] a list
        if isinstance(state, _NoRoute):
            state = self._fails(state.problem)
        self._prune(target)
        return self._verdict(state)

    def _verdict(self, state: _State) -> Verdict:
        kind, value = "failed", None
        if not self._problems:
            if isinstance(state, _Value) and _is_lazy(state.value):
                return self._gone_on(evaluate(state.value, self._params))
            if isinstance(state, _Value):
                kind, value = "value", state.value
            else:
                assert isinstance(state, _Skipped)
                # [4] a target that is skipped by its sequence: the run succeeds with None
                kind = "value" if state.reasons == {BY_SEQUENCE} else "missing"
        return Verdict(
            kind, value, tuple(self._problems), tuple(self._skipped), self._executed, self._retries
        )

    def _gone_on(self, rest: Verdict) -> Verdict:
        """[10] The run goes on as the target that its target returned."""
        skipped = (*self._skipped, *rest.skipped)
        executed, retries = self._executed + rest.executed, self._retries + rest.retries
        return Verdict(rest.kind, rest.value, rest.problems, skipped, executed, retries)

    # --- what stands in arguments ---------------------------------------------------------------------

    def _needs(self, value: Any) -> Iterator[Any]:
        """Lazy results and routers at any depth, in order. [1]"""
        if _is_lazy(value):
            yield value
        elif isinstance(value, Unmapped):
            yield from self._needs(value.value)
        else:
            for part in _parts(value):
                yield from self._needs(part)

    def _filled(self, value: Any) -> Any:
        """The value with everything lazy in it replaced by its value, all of which are there."""
        if _is_lazy(value):
            state = self._wanted(value)
            assert isinstance(state, _Value)
            return state.value
        if isinstance(value, cs.Param | cs.Env):
            return self._input(value)
        return _rebuilt(value, self._filled)

    def _input(self, value: Any) -> Any:
        """[5] given, else the default; converted to the type."""
        given = self._params.get(value.name, value.default)
        kind = getattr(value, "type", None)
        return given if kind is None or type(given) is kind else kind(given)

    # --- states ---------------------------------------------------------------------------------------

    def _visit(self, lazy: Any) -> _State:
        """What becomes of a lazy result or router that is needed."""
        key = self._identity(lazy)
        state = self._states.get(key)
        if state is None:
            if _is_router(lazy):
                state = self._router(lazy)
            elif isinstance(lazy, MappedLazyResult):
                state = self._map(lazy)
            else:
                state = self._call(lazy)
            self._states[key] = state
        return state

    def _wanted(self, lazy: Any) -> _State:
        """As `_visit`, for who wants the value: through skipped stages it is what they would have got. [4]"""
        state = self._visit(lazy)
        while isinstance(state, _Skipped) and _passes(lazy):
            lazy = lazy.chain.passed
            if not _is_lazy(lazy):
                return self._container(lazy)
            state = self._visit(lazy)
        return state

    def _container(self, value: Any) -> _State:
        """The state of a value in which lazy results stand: that of a node which wants them all."""
        states = [(lazy, self._wanted(lazy)) for lazy in self._needs(value)]
        if any(isinstance(state, _Failed) for _, state in states):
            return FAILED
        missing = next((state for lazy, state in states if _says_why(lazy, state)), None)
        if missing is not None:
            return missing
        if any(isinstance(state, _Skipped) for _, state in states):
            return _Skipped(frozenset({BY_DATA}))
        return _Value(self._filled(value))

    def _router(self, router: Any) -> _State:
        """[3] It waits for the selector and the chosen route, never for the others."""
        selector = router.selector
        chosen = self._wanted(selector) if _is_lazy(selector) else _Value(self._filled(selector))
        if isinstance(chosen, _Skipped):
            return _Skipped(frozenset({BY_DATA}))
        if not isinstance(chosen, _Value):
            return chosen
        try:
            hash(chosen.value)
        except TypeError:
            return _NoRoute(Problem("TypeError"))
        if chosen.value not in router.routes:
            return _NoRoute(Problem("RouteNotFoundError"))
        route = router.routes[chosen.value]
        if self._identity(router) in self._tails and _is_lazy(route):
            self._tails.add(self._identity(route))
        state = self._wanted(route) if _is_lazy(route) else self._container(route)
        return _Skipped(frozenset({BY_ROUTE})) if isinstance(state, _Skipped) else state

    # --- decisions ------------------------------------------------------------------------------------

    def _before(self, lazy: LazyResult[Any]) -> _State | None:
        """[4] Condition, then order; None: it may go. Its sources have been visited and none has failed."""
        chain = lazy.chain
        if chain is None:
            return None
        condition = chain.condition
        if _is_lazy(condition):
            state = self._visit(condition)
            if isinstance(state, _Skipped):
                return _Skipped(frozenset({BY_CONDITION}))
            if isinstance(state, _NoRoute):
                return self._fails(state.problem)
            assert isinstance(state, _Value)
            try:
                holds = bool(state.value)
            except Exception as error:
                return self._fails(_problem(error))
        else:
            holds = bool(self._filled(condition))
        if not holds:
            return _Skipped(frozenset({CONDITION_FALSE}))
        for other in chain.after:
            state = self._visit(other)
            if isinstance(state, _NoRoute):
                return self._fails(state.problem)
            if isinstance(state, _Skipped):
                return _Skipped(frozenset({BY_SEQUENCE}))
        return None

    def _by_values(self, states: list[tuple[Any, _State]]) -> _State | None:
        """[4] Then routes, then data; None: all values are there."""
        missing = next((state for lazy, state in states if _says_why(lazy, state)), None)
        if missing is not None:
            return self._fails(missing.problem) if isinstance(missing, _NoRoute) else missing
        if any(isinstance(state, _Skipped) for _, state in states):
            return _Skipped(frozenset({BY_DATA}))
        return None

    def _fails(self, problem: Problem) -> _State:
        self._problems.append(problem)
        return FAILED

    def _gate(self, lazy: LazyResult[Any]) -> bool:
        """Everything that a call has in its chain has ended; False: something there failed."""
        chain = lazy.chain
        others = [] if chain is None else [c for c in (chain.condition, *chain.after) if _is_lazy(c)]
        states = [self._visit(other) for other in others]
        return FAILED not in states

    # --- calls ----------------------------------------------------------------------------------------

    def _call(self, lazy: LazyResult[Any]) -> _State:
        states = [(need, self._wanted(need)) for need in self._needs((lazy.args, dict(lazy.kwargs)))]
        boxed = lazy.chain is not None and _passes(lazy) and not _is_lazy(lazy.chain.passed)
        if not self._gate(lazy) or any(isinstance(state, _Failed) for _, state in states):
            return FAILED
        verdict = self._before(lazy) or self._by_values(states)
        if isinstance(verdict, _Skipped) and boxed and BY_ROUTE in verdict.reasons:
            verdict = _Skipped(verdict.reasons | {BY_DATA})  # the container with the router is missing too
        if verdict is not None:
            if isinstance(verdict, _Skipped):
                self._skipped.append(SkippedCall(lazy.task.name, verdict.reasons))
            return verdict
        args = self._filled(lazy.args)
        kwargs = {name: self._filled(value) for name, value in lazy.kwargs.items()}
        return self._execute(lazy, lazy.task.name, args, kwargs)

    def _execute(self, lazy: LazyResult[Any], name: str, args: Any, kwargs: Any) -> _State:
        """[8] Attempts, until one succeeds or no more are left."""
        policy = lazy.task.retry
        if lazy.chain is not None and lazy.chain.retry is not None:
            policy = lazy.chain.retry
        most = 1 if policy is None else policy.max_attempts
        for attempt in range(1, most + 1):
            tasks.oracle_attempt = attempt
            try:
                value = _called(lazy.task.func, args, kwargs)
            except Exception as error:
                if policy is not None and attempt < most and isinstance(error, policy.on):
                    self._retries[name] += 1
                    continue
                return self._fails(_problem(error))
            return self._returned(lazy, name, value)
        raise AssertionError("a retry policy allows no attempt")

    def _returned(self, lazy: LazyResult[Any], name: str, value: Any) -> _State:
        """A task has returned. [10] A lazy value is what the run, or the node, goes on as, or an error."""
        is_tail = self._identity(lazy) in self._tails and name == lazy.task.name
        if _is_lazy(value) and not is_tail and not lazy.task.spawn:
            return self._fails(Problem("GraphError"))
        self._executed[name] += 1
        if is_tail or not _is_lazy(value):
            return _Value(value)
        nested = evaluate(value, self._params)
        self._skipped += nested.skipped
        self._executed += nested.executed
        self._retries += nested.retries
        if nested.kind == "value":
            return _Value(nested.value)
        for problem in nested.problems or (Problem("DependencyMissingError"),):
            self._fails(problem)
        return FAILED

    # --- maps -----------------------------------------------------------------------------------------

    def _map(self, lazy: MappedLazyResult[Any]) -> _State:
        """[2] Zipped by position; its condition and order are the whole map's."""
        columns = self._columns(lazy)
        known = all(isinstance(column, list | Unmapped) for column in columns.values())
        state = self._known_map(lazy, columns) if known else self._lazy_map(lazy, columns)
        name = lazy.task.name
        if isinstance(state, _Skipped):
            self._skipped.append(SkippedCall(f"{name}.map", state.reasons))
        elif isinstance(state, _Value):
            self._executed[f"{name}.map"] += 1
        return state

    def _columns(self, lazy: MappedLazyResult[Any]) -> dict[str, Any]:
        """What is mapped over; and what all children get, unless it is known that there are none."""
        columns = {
            name: list(self._input(column)) if isinstance(column, cs.Param | cs.Env) else column
            for name, column in lazy.columns.items()
        }
        if all(isinstance(column, Unmapped) or column == [] for column in columns.values()):
            return {name: column for name, column in columns.items() if not isinstance(column, Unmapped)}
        return columns

    def _lazy_map(self, lazy: MappedLazyResult[Any], columns: dict[str, Any]) -> _State:
        states = [(need, self._wanted(need)) for need in self._needs(columns)]
        if not self._gate(lazy) or any(isinstance(state, _Failed) for _, state in states):
            return FAILED
        verdict = self._before(lazy) or self._by_values(states)
        if verdict is not None:
            return verdict
        lists: dict[str, Any] = {}
        for name, column in columns.items():
            if not isinstance(column, Unmapped):
                value = self._filled(column)
                if not isinstance(value, list | tuple | dict):
                    return self._fails(Problem("TypeError"))
                lists[name] = list(value)
        if len({len(items) for items in lists.values()}) > 1:
            return self._fails(Problem("ValueError"))
        children = []
        for i in range(len(next(iter(lists.values())))):
            kwargs = {n: lists[n][i] if n in lists else self._filled(c.value) for n, c in columns.items()}
            children.append(self._execute(lazy, f"{lazy.task.name}[{i}]", (), kwargs))
        if any(isinstance(child, _Failed) for child in children):
            return FAILED
        return _Value([child.value for child in children if isinstance(child, _Value)])

    def _known_map(self, lazy: MappedLazyResult[Any], columns: dict[str, Any]) -> _State:
        """Each child waits for what stands in its own items."""
        if not self._gate(lazy):
            self._visit_all(columns)
            return FAILED
        verdict = self._before(lazy)
        if verdict is not None:
            return FAILED if self._visit_all(columns) else verdict
        length = next(len(column) for column in columns.values() if isinstance(column, list))
        children: list[_State] = []
        for i in range(length):
            args = {n: c.value if isinstance(c, Unmapped) else c[i] for n, c in columns.items()}
            states = [(need, self._wanted(need)) for need in self._needs(args)]
            if any(isinstance(state, _Failed) for _, state in states):
                children.append(FAILED)
                continue
            state = self._by_values(states)
            if state is None:
                state = self._execute(lazy, f"{lazy.task.name}[{i}]", (), self._filled(args))
            children.append(state)
        if any(isinstance(child, _Failed) for child in children):
            return FAILED
        reasons = {reason for child in children if isinstance(child, _Skipped) for reason in child.reasons}
        if reasons:
            return _Skipped(frozenset(reasons | {BY_DATA}))
        return _Value([child.value for child in children if isinstance(child, _Value)])

    def _visit_all(self, columns: dict[str, Any]) -> bool:
        """Children are not reached, but what they would have got is made; True: some of it fails."""
        states = [self._visit(need) for need in self._needs(columns)]
        return FAILED in states

    # --- identity -------------------------------------------------------------------------------------

    def _identity(self, lazy: Any) -> Any:
        """[1] One object is one node; equal calls of a pure task are one."""
        if _is_router(lazy) or not lazy.task.pure:
            self._kept.append(lazy)
            return id(lazy)
        chain = lazy.chain
        policies: Any = None
        if chain is not None:
            condition = chain.condition
            policies = (
                self._identity(condition) if _is_lazy(condition) else bool(self._filled(condition)),
                tuple(sorted({repr(self._identity(other)) for other in chain.after})),
                (chain.retry, chain.priority, chain.timeout, repr(chain.amounts)),
                self._content(chain.passed) if _passes(lazy) else None,
            )
            if policies == (True, (), (None, 0, UNSET, "None"), None):
                policies = None
        columns = getattr(lazy, "columns", None)
        content = self._content((lazy.args, dict(lazy.kwargs), columns))
        return (lazy.task.func, columns is None, content, policies)

    def _content(self, value: Any) -> Any:
        if _is_lazy(value):
            return self._identity(value)
        if isinstance(value, cs.Param | cs.Env):
            return self._content(self._input(value))
        if isinstance(value, Unmapped):
            return ("unmapped", self._content(value.value))
        parts = list(_parts(value))
        return (type(value), repr(value) if not parts else tuple(map(self._content, parts)))

    # --- pruning --------------------------------------------------------------------------------------

    def _prune(self, target: Any) -> None:
        """[3] What only unchosen routes need is skipped: `Pruned`."""
        seen: set[Any] = set()
        todo = list(self._needs(target))
        while todo:
            lazy = todo.pop()
            key = self._identity(lazy)
            if key in seen:
                continue
            seen.add(key)
            if _is_router(lazy):
                todo += [lazy.selector] if _is_lazy(lazy.selector) else self._needs(lazy.selector)
                todo += [need for route in lazy.routes.values() for need in self._needs(route)]
                continue
            columns = self._columns(lazy) if isinstance(lazy, MappedLazyResult) else {}
            todo += self._needs((lazy.args, dict(lazy.kwargs), columns))
            if lazy.chain is not None:
                todo += [c for c in (lazy.chain.condition, *lazy.chain.after) if _is_lazy(c)]
            if key not in self._states:
                is_map = isinstance(lazy, MappedLazyResult)
                name = f"{lazy.task.name}.map" if is_map else lazy.task.name
                self._skipped.append(SkippedCall(name, frozenset({PRUNED})))


# --- plain values -----------------------------------------------------------------------------------


def _is_router(value: Any) -> bool:
    return isinstance(value, cs.Router)


def _is_lazy(value: Any) -> bool:
    return isinstance(value, LazyResult)


def _passes(lazy: Any) -> bool:
    """The call is a stage: made by `pipeline`, or marked `passthrough`."""
    return lazy.chain is not None and lazy.chain.passed is not UNSET


def _says_why(lazy: Any, state: _State) -> bool:
    """Who wants the value is skipped, or fails, for the reason of this router."""
    return isinstance(state, _NoRoute) or (_is_router(lazy) and isinstance(state, _Skipped))


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield item
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from value
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield getattr(value, field.name)


def _rebuilt(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict):
        return {change(key): change(item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_make"):
        return value._make(map(change, value))
    if isinstance(value, (list, tuple, set, frozenset)):
        return type(value)(map(change, value))
    if is_dataclass(value) and not isinstance(value, type):
        return dataclass_replace(value, **{f.name: change(getattr(value, f.name)) for f in fields(value)})
    return value


def _problem(error: Exception) -> Problem:
    return Problem(type(error).__name__, str(error))


def _injected(func: Callable[..., Any]) -> dict[str, Any]:
    """[6] What parameters get whose default is a marker."""
    markers = {name: p.default for name, p in inspect.signature(func).parameters.items()}
    return {
        name: next(marker.resource.func(**_injected(marker.resource.func)))
        for name, marker in markers.items()
        if type(marker).__name__ == "Inject"
    }


def _called(func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    made = func(*args, **{**_injected(func), **kwargs})
    if not inspect.iscoroutine(made):
        return made
    try:
        made.send(None)
    except StopIteration as stop:
        return stop.value
    finally:
        made.close()
    raise AssertionError("the coroutines of random programs never wait")
