"""A target as JSON, and back to one that runs.

What is written is what was said, not what it compiles to: calls, maps, routers and what is chained onto them,
with params open. A call names its function by module and qualified name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from cascade_dist.codec.json_values import Reader, Writer, reference_of, resolve
from cascade_dist.errors import GraphError
from cascade_dist.graph.frames import root_of
from cascade_dist.graph.scan import Found, Scanner
from cascade_dist.language.jump import Selector
from cascade_dist.language.lazy import UNSET, Chain, LazyResult, MappedLazyResult, Unmapped
from cascade_dist.language.policies import MICROS
from cascade_dist.language.router import Router
from cascade_dist.language.structural import Recv, Wait, recv, wait
from cascade_dist.language.task import Task

__all__ = ["from_json", "to_json"]

FORMAT: Final = "cascade-graph"
VERSION: Final = 1


def to_json(target: Any, *, indent: int | None = None) -> str:
    """A target as JSON, for `from_json`.

    What JSON has no form for is pickled into it; functions are named, so they stand at the top of modules.

    Args:
        target: what `cs.run` would take.
        indent: spaces by which what is inside is moved in; None: all in one line.

    Raises:
        GraphError: it is no target, or holds something that cannot be written; names it.
    """
    return json.dumps(_Document(target).made(), indent=indent, ensure_ascii=False, allow_nan=False)


def from_json(text: str | bytes, *, allow_pickle: bool = False) -> Any:
    """The target that `to_json` wrote.

    It imports the modules that the text names, and running it calls the functions that it names.

    Args:
        text: the JSON.
        allow_pickle: also load pickles in it, which runs whatever code they say.

    Raises:
        GraphError: the text is none of `to_json`, names something that is not here, or holds a pickle.
    """
    try:
        document = json.loads(text)
    except ValueError as error:
        raise GraphError(f"this is no JSON: {error}") from error
    except RecursionError:
        raise GraphError("this JSON is nested too deeply") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise GraphError(f"this is JSON, but no graph: its format is not {FORMAT!r}")
    if document.get("version") != VERSION:
        raise GraphError(
            f"this graph has version {document.get('version')!r}, and this Cascade Dist reads {VERSION}"
        )
    try:
        return _Restored(document, allow_pickle).target
    except GraphError:
        raise
    except RecursionError:
        raise GraphError("a value in this graph is nested too deeply") from None
    except (KeyError, IndexError, AttributeError, TypeError, ValueError) as error:
        raise GraphError(
            "this graph is not well formed, or does not go with the code here: "
            f"{type(error).__name__}: {error}"
        ) from error


# --- writing --------------------------------------------------------------------------------------


def _parts(lazy: LazyResult[Any]) -> Iterator[Any]:
    """What a lazy result is made of."""
    if isinstance(lazy, MappedLazyResult):
        for column in lazy.columns.values():
            yield column.value if isinstance(column, Unmapped) else column
    elif isinstance(lazy, Router):
        yield lazy.selector
        yield from lazy.routes.values()
    elif isinstance(lazy, Wait):
        yield lazy.delay
    else:
        yield from lazy.args
        yield from lazy.kwargs.values()


def _chained(chain: Chain) -> Iterator[Any]:
    """What is chained onto a lazy result and may be or hold lazy results."""
    yield chain.condition
    yield from chain.after
    yield from chain.lazy_amounts.values()
    if chain.passed is not UNSET:
        yield chain.passed
    if chain.selector is not None:
        yield from chain.selector.routes.values()


class _Document:
    """One target on its way into JSON."""

    def __init__(self, target: Any) -> None:
        root_of(target)  # refuses what is none
        self._target = target
        self._scanner = Scanner()
        self._tasks: dict[Task[Any], int] = {}
        self._task_entries: list[dict[str, Any]] = []
        self._selectors: dict[int, int] = {}
        self._selector_entries: list[list[Any]] = []
        order = self._ordered(self._all())
        self._numbers = {lazy: number for number, lazy in enumerate(order)}
        self._writer = Writer(self._numbers.__getitem__)

    def made(self) -> dict[str, Any]:
        """The document."""
        try:
            nodes = [self._node(lazy) for lazy in self._numbers]
            target = self._writer.write(self._target, "the target")
        except RecursionError:
            raise GraphError("an argument is nested too deeply, or a container holds itself") from None
        # The order in which they were made, which is that of sets.
        ranks = sorted(self._numbers, key=lambda lazy: lazy.serial)
        return {
            "format": FORMAT,
            "version": VERSION,
            "tasks": self._task_entries,
            "nodes": nodes,
            "selectors": self._selector_entries,
            "made": [self._numbers[lazy] for lazy in ranks],
            "target": target,
        }

    def _lazies_in(self, values: Iterator[Any], where: str) -> Found:
        found: Found = {}
        try:
            for value in values:
                self._scanner.scan(value, where, found)
        except RecursionError:
            raise GraphError(f"{where} is nested too deeply, or a container holds itself") from None
        return found

    def _all(self) -> list[LazyResult[Any]]:
        seen = self._lazies_in(iter((self._target,)), "the target")
        todo = list(seen)
        while todo:
            lazy = todo.pop()
            found = self._lazies_in(_parts(lazy), _named(lazy))
            if lazy.chain is not None:
                found |= self._lazies_in(_chained(lazy.chain), _named(lazy))
            for other in found:
                if other not in seen:
                    seen[other] = ""
                    todo.append(other)
        return list(seen)

    def _ordered(self, lazies: list[LazyResult[Any]]) -> list[LazyResult[Any]]:
        """Each after what it is made of."""
        order: dict[LazyResult[Any], None] = {}
        opened: set[LazyResult[Any]] = set()
        stack = sorted(lazies, key=lambda lazy: -lazy.serial)
        while stack:
            lazy = stack[-1]
            if lazy in order:
                stack.pop()
                continue
            needs = [need for need in self._lazies_in(_parts(lazy), _named(lazy)) if need not in order]
            if not needs:
                order[lazy] = None
                stack.pop()
            elif lazy in opened:
                raise GraphError(f"{_named(lazy)} needs itself for its arguments")
            else:
                opened.add(lazy)
                stack += needs
        return list(order)

    def _node(self, lazy: LazyResult[Any]) -> dict[str, Any]:
        what, write = _named(lazy), self._writer.write
        entry: dict[str, Any]
        if isinstance(lazy, MappedLazyResult):
            columns = {name: write(column, what) for name, column in lazy.columns.items()}
            entry = {"kind": "map", "task": self._task(lazy.task), "columns": columns}
        elif isinstance(lazy, Router):
            routes = [[write(key, what), write(route, what)] for key, route in lazy.routes.items()]
            entry = {"kind": "router", "selector": write(lazy.selector, what), "routes": routes}
        elif isinstance(lazy, Wait):
            entry = {"kind": "wait", "delay": write(lazy.delay, what)}
        elif isinstance(lazy, Recv):
            entry = {"kind": "recv", "topic": lazy.topic, "timeout": lazy.timeout}
        elif type(lazy) is LazyResult:
            entry = {"kind": "call", "task": self._task(lazy.task)}
            if lazy.args:
                entry["args"] = write(list(lazy.args), what)
            if lazy.kwargs:
                entry["kwargs"] = {name: write(value, what) for name, value in lazy.kwargs.items()}
        else:
            raise GraphError(f"{what} is a {type(lazy).__name__}, which cannot be written as JSON")
        if lazy.chain is not None:
            entry["chain"] = self._chain(lazy, lazy.chain)
        return entry

    def _chain(self, lazy: LazyResult[Any], chain: Chain) -> dict[str, Any]:
        what, write = _named(lazy), self._writer.write
        entry: dict[str, Any] = {}
        if chain.condition is not True:
            entry["run_if"] = write(chain.condition, what)
        if chain.after:
            entry["after"] = [self._numbers[before] for before in chain.after]
        if chain.retry is not None:
            entry["retry"] = write(chain.retry, what)
        if chain.timeout is not UNSET:
            entry["timeout"] = chain.timeout
        if chain.amounts is not None:
            counted = {name: micros / MICROS for name, micros in chain.amounts.items()}
            entry["constraints"] = write({**counted, **chain.lazy_amounts}, what)
        if chain.priority:
            entry["priority"] = chain.priority
        if chain.cache is not None:
            entry["cache"] = write(chain.cache, what)
        if chain.passed is not UNSET:
            entry["passthrough"] = self._passed(lazy, chain.passed)
        if chain.selector is not None:
            entry["selector"] = self._selector(chain.selector)
        return entry

    def _passed(self, lazy: LazyResult[Any], passed: Any) -> dict[str, Any]:
        """What a stage passes on, by the argument that it is; else itself."""
        for position, arg in enumerate(lazy.args):
            if arg is passed:
                return {"position": position}
        for name, arg in lazy.kwargs.items():
            if arg is passed:
                return {"name": name}
        return {"value": self._writer.write(passed, _named(lazy))}

    def _selector(self, selector: Selector) -> int:
        number = self._selectors.get(id(selector))
        if number is None:
            number = self._selectors[id(selector)] = len(self._selector_entries)
            what = "a key of select_jump"
            self._selector_entries.append(
                [
                    [self._writer.write(key, what), None if route is None else self._numbers[route]]
                    for key, route in selector.routes.items()
                ]
            )
        return number

    def _task(self, task: Task[Any]) -> int:
        number = self._tasks.get(task)
        if number is None:
            number = self._tasks[task] = len(self._task_entries)
            reference = reference_of(task.func, f"the function of task {task.name!r}")
            self._task_entries.append({"function": reference, **_options(task, self._writer)})
        return number


def _named(lazy: LazyResult[Any]) -> str:
    return f"task {lazy.task.name!r}"


def _options(task: Task[Any], writer: Writer) -> dict[str, Any]:
    """The options of a task that are not those of `Task(func)`, as JSON."""
    usual = Task(task.func).options()
    what = f"an option of task {task.name!r}"
    changed = {name: value for name, value in task.options().items() if value != usual[name]}
    return (
        {"options": {name: writer.write(value, what) for name, value in changed.items()}} if changed else {}
    )


# --- reading --------------------------------------------------------------------------------------


class _Restored:
    """One target on its way out of JSON."""

    def __init__(self, document: Mapping[str, Any], allow_pickle: bool) -> None:
        self._lazies: list[LazyResult[Any]] = []
        self._reader = Reader(self._lazy, allow_pickle=allow_pickle)
        self._tasks = [self._task(entry) for entry in document["tasks"]]
        entries = document["nodes"]
        for entry in entries:
            self._lazies.append(self._node(entry))
        self._renumber(document["made"])
        self._selectors = [
            Selector(
                {
                    self._reader.read(key, "a key of select_jump"): None if to is None else self._lazy(to)
                    for key, to in routes
                }
            )
            for routes in document["selectors"]
        ]
        for lazy, entry in zip(self._lazies, entries, strict=True):
            self._chain(lazy, entry.get("chain", {}))
        self.target = self._reader.read(document["target"], "the target")
        root_of(self.target)

    def _lazy(self, number: Any) -> LazyResult[Any]:
        if type(number) is not int or not 0 <= number < len(self._lazies):
            raise GraphError(f"node {number!r} is named before it is there, or is not there at all")
        return self._lazies[number]

    def _renumber(self, made: Any) -> None:
        """Lets the lazy results have been made in the order in which they were."""
        if sorted(made) != list(range(len(self._lazies))):
            raise GraphError("this graph is not well formed: 'made' does not name every node once")
        serials = sorted(lazy.serial for lazy in self._lazies)
        for number, serial in zip(made, serials, strict=True):
            self._lazies[number].serial = serial

    def _task(self, entry: Mapping[str, Any]) -> Task[Any]:
        found = resolve(entry["function"], "the function of a task")
        options = entry.get("options", {})
        if isinstance(found, Task):
            if _options(found, Writer(_no_node)).get("options", {}) == options:
                return found
            found = found.func
        if not callable(found):
            raise GraphError(f"{entry['function']} is {found!r}, which is no function")
        what = f"an option of {entry['function']}"
        return Task(found, **{name: self._reader.read(value, what) for name, value in options.items()})

    def _node(self, entry: Mapping[str, Any]) -> LazyResult[Any]:
        read, number = self._reader.read, len(self._lazies)
        kind = entry["kind"]
        if kind == "call":
            task = self._tasks[entry["task"]]
            what = f"node {number}, task {task.name!r},"
            args = read(entry.get("args", []), what)
            kwargs = {name: read(value, what) for name, value in entry.get("kwargs", {}).items()}
            made: LazyResult[Any] = task(*args, **kwargs)
            return made
        if kind == "map":
            task = self._tasks[entry["task"]]
            what = f"node {number}, a map of task {task.name!r},"
            columns = {name: read(column, what) for name, column in entry["columns"].items()}
            mapped: LazyResult[Any] = task.map(**columns)
            return mapped
        if kind == "router":
            what = f"node {number}, a Router,"
            routes = {read(key, what): read(route, what) for key, route in entry["routes"]}
            return Router(read(entry["selector"], what), routes)
        if kind == "wait":
            return wait(read(entry["delay"], f"node {number}, a wait,"))
        if kind == "recv":
            return recv(entry["topic"], entry["timeout"])
        raise GraphError(f"node {number} is of kind {kind!r}, which this version does not know")

    def _chain(self, lazy: LazyResult[Any], entry: Mapping[str, Any]) -> None:
        read, what = self._reader.read, _named(lazy)
        if "run_if" in entry:
            lazy.run_if(read(entry["run_if"], what))
        if "after" in entry:
            lazy.after(*map(self._lazy, entry["after"]))
        if "retry" in entry:
            policy = read(entry["retry"], what)
            lazy.with_retry(
                policy.max_attempts, policy.delay, policy.backoff, policy.jitter, policy.max_delay, policy.on
            )
        if "timeout" in entry:
            lazy.with_timeout(entry["timeout"])
        if "constraints" in entry:
            lazy.with_constraints(**read(entry["constraints"], what))
        if "priority" in entry:
            lazy.with_priority(entry["priority"])
        if "cache" in entry:
            lazy.with_cache(read(entry["cache"], what))
        if "passthrough" in entry:
            lazy._chained().passed = self._passed(lazy, entry["passthrough"])
        if "selector" in entry:
            lazy._chained().selector = self._selectors[entry["selector"]]

    def _passed(self, lazy: LazyResult[Any], written: Mapping[str, Any]) -> Any:
        if "position" in written:
            return lazy.args[written["position"]]
        if "name" in written:
            return lazy.kwargs[written["name"]]
        return self._reader.read(written["value"], _named(lazy))


def _no_node(lazy: LazyResult[Any]) -> int:
    raise GraphError(f"{lazy!r} stands where no lazy result can")
