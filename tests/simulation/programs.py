"""Random programs: plain data that prints and shrinks well, and the lazy objects that it describes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, Union

from hypothesis import strategies as st

import cascade_dist as cs
from tests.simulation import tasks

__all__ = ["Built", "Program", "build", "programs"]

STEPS_MAX = 14

# --- what a program is made of ------------------------------------------------------------------------


@dataclass(frozen=True)
class Ref:
    """The result of an earlier step."""

    step: int


@dataclass(frozen=True)
class Const:
    """A plain value."""

    value: Any


@dataclass(frozen=True)
class Given:
    """A param of the run."""

    name: str


@dataclass(frozen=True)
class Box:
    """A container; `kind` is "list", "tuple", "dict" or "pair"."""

    kind: str
    parts: tuple[Arg, ...]


Arg: TypeAlias = Union[Ref, Const, Given, Box]


@dataclass(frozen=True)
class Call:
    """A call of one of the functions in `tasks`."""

    op: str
    args: tuple[Arg, ...] = ()
    named: tuple[tuple[str, Arg], ...] = ()
    run_if: Arg | None = None
    after: tuple[int, ...] = ()
    retry: int = 0
    passthrough: bool = False
    pure: bool = False
    policy: str = ""


@dataclass(frozen=True)
class Map:
    """A map; a column is a `Ref`, a `Given`, a `Box` of kind "list", or ("unmapped", argument)."""

    op: str
    columns: tuple[tuple[str, Any], ...]
    run_if: Arg | None = None
    after: tuple[int, ...] = ()
    retry: int = 0
    pure: bool = False
    policy: str = ""


@dataclass(frozen=True)
class Route:
    """A router; keys are indices into `tasks.KEYS`."""

    selector: Arg
    routes: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Pipe:
    """A pipeline; each stage is a function and its condition, or None."""

    initial: Arg
    stages: tuple[tuple[str, Arg | None], ...]


@dataclass(frozen=True)
class Chain:
    """A sequence of earlier steps, in their order."""

    steps: tuple[int, ...]


Step: TypeAlias = Union[Call, Map, Route, Pipe, Chain]


@dataclass(frozen=True)
class Program:
    """Steps, each of which may use those before it.

    Attributes:
        target: a `Ref` or a `Box`.
        own_names: every call has a name of its own; else that of its function, so that calls share specs.
        params: what the run is given.
        on_failure: as `cluster.submit` takes it.
    """

    steps: tuple[Step, ...]
    target: Arg
    own_names: bool = True
    params: Mapping[str, Any] = field(default_factory=dict)
    on_failure: str = "cancel"


# --- building -----------------------------------------------------------------------------------------


class Built:
    """The lazy objects of a program. Made anew for every run, because chaining changes them."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._made: list[Any] = []
        self._shared: dict[Any, cs.Task[Any]] = {}
        for number, step in enumerate(program.steps):
            self._made.append(_BUILDERS[type(step)](self, number, step))
        self.target = self._arg(program.target)

    def _task(self, op: str, name: str, pure: bool = False) -> cs.Task[Any]:
        own = self._program.own_names and not pure
        key = (op, name if own else "", pure)
        if key not in self._shared:
            name = name if own else f"{op}_pure" if pure else op
            self._shared[key] = cs.task(getattr(tasks, op), name=name, pure=pure, spawn=op == "nest")
        return self._shared[key]

    def _arg(self, arg: Arg) -> Any:
        if isinstance(arg, Ref):
            return self._made[arg.step]
        if isinstance(arg, Const):
            return arg.value
        if isinstance(arg, Given):
            return cs.Param(arg.name, default=4)
        parts = [self._arg(part) for part in arg.parts]
        if arg.kind == "dict":
            return {f"k{i}": part for i, part in enumerate(parts)}
        if arg.kind == "pair":
            return tasks.Pair(parts[0], parts[1:])
        return parts if arg.kind == "list" else tuple(parts)

    def _chained(self, lazy: Any, step: Call | Map) -> Any:
        if step.run_if is not None:
            lazy.run_if(self._arg(step.run_if))
        if step.after:
            lazy.after(*[self._made[i] for i in step.after])
        if step.retry:
            lazy.with_retry(step.retry)
        return tasks.POLICIES[step.policy](lazy) if step.policy else lazy

    def _call(self, number: int, step: Call) -> Any:
        task = self._task(step.op, f"n{number}", step.pure)
        lazy = task(*map(self._arg, step.args), **{name: self._arg(arg) for name, arg in step.named})
        if step.passthrough:
            lazy.passthrough()
        return self._chained(lazy, step)

    def _map(self, number: int, step: Map) -> Any:
        columns = {}
        for name, column in step.columns:
            if isinstance(column, tuple):
                columns[name] = cs.unmapped(self._arg(column[1]))
            else:
                columns[name] = self._arg(column)
        return self._chained(self._task(step.op, f"n{number}", step.pure).map(**columns), step)

    def _route(self, number: int, step: Route) -> Any:
        routes = {tasks.KEYS[key]: self._made[i] for key, i in step.routes}
        return cs.Router(self._arg(step.selector), routes)

    def _pipe(self, number: int, step: Pipe) -> Any:
        stages = [self._stage(number, i, op, condition) for i, (op, condition) in enumerate(step.stages)]
        return cs.pipeline(self._arg(step.initial), stages)

    def _stage(self, number: int, at: int, op: str, condition: Arg | None) -> Callable[[Any], Any]:
        task = self._task(op, f"n{number}.{at}")
        if condition is None:
            return task
        return lambda value: task(value).run_if(self._arg(condition))

    def _chain(self, number: int, step: Chain) -> Any:
        return cs.sequence([self._made[i] for i in step.steps])


_BUILDERS: dict[type, Callable[[Built, int, Any], Any]] = {
    Call: Built._call,
    Map: Built._map,
    Route: Built._route,
    Pipe: Built._pipe,
    Chain: Built._chain,
}


def build(program: Program) -> Any:
    """The program's target, in lazy objects that nobody else has."""
    return Built(program).target


# --- drawing ------------------------------------------------------------------------------------------

CONSTS = (0, 1, 2, 3, True, False, None, "", "a", "text", 2.5, (), (1, "x"))
OPS = (
    "mix",
    "mix",
    "later",
    "echo",
    "pack",
    "pair",
    "select",
    "select",
    "pick",
    "truth",
    "truth",
    "items",
    "wide",
)
MAPPED = ("mix", "later", "pair", "mix")
STAGES = ("mix", "echo", "later", "pack", "items", "select")


class _Draft:
    """A program that is being drawn: what its steps may give, as far as that can be known."""

    def __init__(self, draw: Callable[[Any], Any], fails: bool, ops: tuple[str, ...]) -> None:
        self.draw = draw
        self.fails = fails
        self.ops = ops
        self.steps: list[Step] = []
        self.gives: list[str] = []
        """Per step: "list", "map", "key", "truth", "router" or "any"."""

    def chance(self, percent: int) -> bool:
        """False shrinks."""
        return bool(self.draw(st.integers(0, 99)) >= 100 - percent)

    def of(self, *kinds: str) -> list[int]:
        """Steps that give one of these; all steps, if none is named."""
        return [i for i, gives in enumerate(self.gives) if not kinds or gives in kinds]

    def but(self, kind: str) -> list[int]:
        """Steps that do not give this."""
        return [i for i, gives in enumerate(self.gives) if gives != kind]

    def object_of(self, step: int) -> int:
        """The step that made what this one gives: a sequence stands for its last."""
        found = self.steps[step]
        return found.steps[-1] if isinstance(found, Chain) else step

    def ref(self, *kinds: str) -> Ref:
        """One of these steps, the last few more often, so that most of a program is needed."""
        some = self.of(*kinds)
        return Ref(self.draw(st.sampled_from(some[-3:] if self.chance(50) else some)))

    def leaf(self) -> Arg:
        if self.steps and self.chance(75):
            return self.ref()
        if self.chance(8):
            return Given(self.draw(st.sampled_from(("p", "q"))))
        return Const(self.draw(st.sampled_from(CONSTS)))

    def arg(self) -> Arg:
        if self.chance(25):
            parts = tuple(self.leaf() for _ in range(self.draw(st.integers(1, 3))))
            if self.chance(25):
                parts += (Box("list", (self.leaf(),)),)
            return Box(self.draw(st.sampled_from(("list", "tuple", "dict", "pair"))), parts)
        return self.leaf()

    def args(self, least: int = 0, most: int = 3) -> tuple[Arg, ...]:
        return tuple(self.arg() for _ in range(self.draw(st.integers(least, most))))

    def turn(self) -> tuple[Arg, Arg]:
        """The first arguments of a task that returns targets: how often, and what comes last."""
        ends = tasks.ENDS if self.fails else tasks.ENDS[:4]
        return Const(self.draw(st.integers(0, 5))), Const(self.draw(st.sampled_from(ends)))

    def condition(self, percent: int) -> Arg | None:
        if not self.chance(percent):
            return None
        if self.of("truth") and self.chance(60):
            return self.ref("truth")
        if self.steps and self.chance(80):
            return self.ref()
        plain: Arg = self.draw(st.sampled_from((Const(True), Const(False), Given("p"))))
        return plain

    def policy(self) -> str:
        """Shrinks to none."""
        return str(self.draw(st.sampled_from(sorted(tasks.POLICIES)))) if self.chance(8) else ""

    def after(self, percent: int) -> tuple[int, ...]:
        if not self.steps or not self.chance(percent):
            return ()
        return tuple(self.draw(st.lists(st.integers(0, len(self.steps) - 1), min_size=1, max_size=2)))

    def add(self, step: Step, gives: str) -> None:
        self.steps.append(step)
        self.gives.append(gives)


def _draw_call(draft: _Draft) -> None:
    op = draft.draw(st.sampled_from(draft.ops))
    named: tuple[tuple[str, Arg], ...] = ()
    retry = 0
    args: tuple[Arg, ...]
    if draft.fails and draft.chance(20):
        op = draft.draw(st.sampled_from(("fail", "stubborn", "flaky")))
    elif draft.chance(8):
        op = "flaky"
    elif draft.chance(6):
        op = "nest"
    if op == "nest":
        args = (*draft.turn(), *draft.args(0, 2))
    elif op == "flaky":
        failures = draft.draw(st.integers(0, 2))
        retry = draft.draw(st.integers(1, 3)) if draft.fails else failures + 1
        args = (Const(failures), *draft.args(0, 2))
    elif op == "pair":
        args = draft.args(1, 2)
    else:
        args = draft.args(1 if op == "echo" else 0)
    if op == "mix" and draft.chance(20):
        named = (("named", draft.arg()),)
    if not retry and draft.chance(5):
        retry = 2
    pure = draft.chance(12)
    passes = bool(args) and op not in ("flaky", "nest") and draft.chance(10)
    policy = draft.policy()
    step = Call(op, args, named, draft.condition(25), draft.after(15), retry, passes, pure, policy)
    kind = {"items": "list", "wide": "list", "select": "key", "pick": "key", "truth": "truth"}.get(op, "any")
    draft.add(step, kind)


def _draw_map(draft: _Draft) -> None:
    op = draft.draw(st.sampled_from(MAPPED))
    names = ("left", "right") if op == "pair" else ("a", "b")
    columns: list[tuple[str, Any]] = []
    length = draft.draw(st.integers(0, 3))
    for name in names[: draft.draw(st.integers(1, 2))]:
        if draft.of("list", "map") and draft.chance(65):
            source = draft.ref("list", "map")
            if columns and isinstance(columns[0][1], Ref) and draft.chance(70):
                source = columns[0][1]
            columns.append((name, source))
        elif columns and draft.chance(40):
            columns.append((name, ("unmapped", draft.arg())))
        else:
            columns.append((name, Box("list", tuple(draft.arg() for _ in range(length)))))
    if draft.fails and draft.steps and draft.chance(10):
        columns[0] = (columns[0][0], draft.ref())
    retry = 2 if draft.chance(10) else 0
    pure = draft.chance(8)
    policy = draft.policy()
    draft.add(Map(op, tuple(columns), draft.condition(20), draft.after(15), retry, pure, policy), "map")


def _draw_route(draft: _Draft) -> None:
    keyed = draft.of("key")
    selector: Arg = Given("p")
    if keyed and draft.chance(85):
        selector = draft.ref("key")
    elif draft.but("map") and draft.chance(50):
        selector = Ref(draft.draw(st.sampled_from(draft.but("map"))))
    some = draft.draw(st.lists(st.integers(0, len(tasks.KEYS) - 1), min_size=1, max_size=8, unique=True))
    if not draft.fails or draft.chance(70):
        some = list(range(len(tasks.KEYS)))
    draft.add(Route(selector, tuple((key, draft.ref().step) for key in some)), "router")


def _draw_pipe(draft: _Draft) -> None:
    stages = [
        (draft.draw(st.sampled_from(STAGES)), draft.condition(45))
        for _ in range(draft.draw(st.integers(1, 4)))
    ]
    draft.add(Pipe(draft.arg(), tuple(stages)), "any")


def _draw_chain(draft: _Draft) -> None:
    some = draft.draw(st.lists(st.sampled_from(draft.but("router")), min_size=1, max_size=4))
    row = sorted({draft.object_of(step) for step in some})
    draft.add(Chain(tuple(row)), draft.gives[row[-1]])


@st.composite
def programs(draw: Callable[[Any], Any], resources: bool = False) -> Program:
    """Programs of all that the language has; those that have resources injected need real executors."""
    fails = draw(st.integers(0, 3)) == 3
    draft = _Draft(draw, fails, (*OPS, "using") if resources else OPS)
    for _ in range(draw(st.integers(1, STEPS_MAX))):
        dice = draw(st.integers(0, 99))
        if dice >= 82 and draft.steps:
            _draw_route(draft)
        elif dice >= 70:
            _draw_map(draft)
        elif dice >= 64:
            _draw_pipe(draft)
        elif dice >= 60 and draft.but("router"):
            _draw_chain(draft)
        else:
            _draw_call(draft)
    tail = draft.chance(12)
    if tail:  # only the target may go on as another one
        draft.add(
            Call("turn", (*draft.turn(), *draft.args(0, 3)), (), draft.condition(10), draft.after(15)), "any"
        )
    last = len(draft.steps) - 1
    target: Arg = Ref(last)
    if draft.chance(35) and (not tail or draft.fails):
        others = draw(st.lists(st.integers(0, last), max_size=3))
        parts: tuple[Arg, ...] = (Ref(last), *map(Ref, others))
        if draft.chance(20):
            parts += (Const("literal"), Box("list", (Ref(last),)))
        target = Box(draw(st.sampled_from(("list", "tuple", "dict"))), parts)
    params = {"p": draw(st.sampled_from((0, 1, "a")))} if draw(st.booleans()) else {}
    on_failure = draw(st.sampled_from(("cancel", "finish")))
    return Program(tuple(draft.steps), target, not draft.chance(25), params, on_failure)
