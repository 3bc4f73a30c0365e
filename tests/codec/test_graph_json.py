"""Targets as JSON, and back."""

from __future__ import annotations

import enum
import functools
import json
import math
import threading
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cascade_dist as cs
from cascade_dist.graph.build import build
from cascade_dist.graph.model import Graph
from cascade_dist.language.jump import bind, select_jump


class Color(enum.Enum):
    RED = 1


@dataclass(frozen=True)
class Box:
    item: Any
    size: int = 1


Pair = namedtuple("Pair", "left right")


@cs.task
def load(n: Any = 0) -> Any:
    return n


@cs.task(pure=True, retry=3, timeout=2.5, resources={"gpu": 0.5})
def join(left: Any, right: Any = None, *rest: Any, **more: Any) -> Any:
    return left


def plain(x: Any) -> Any:
    return x


async def gentle(x: Any) -> Any:
    return x


class Holder:
    @staticmethod
    @cs.task
    def inside(x: Any) -> Any:
        return x


def back(target: Any, **options: Any) -> Any:
    """A target's way through JSON."""
    return cs.from_json(cs.to_json(target), **options)


def shape(graph: Graph) -> list[Any]:
    return [
        (
            node.name,
            node.spec.kind,
            node.spec.func,
            node.spec.retry,
            node.spec.timeout,
            node.spec.amounts,
            node.spec.priority,
            node.spec.pure,
            node.spec.passthrough,
            node.sources,
            node.kinds,
            node.edge_args,
            node.structural_id,
        )
        for node in graph.nodes
    ]


def same(target: Any, params: Any = None, **options: Any) -> Graph:
    """The graph of a target that came back; it is the graph that it was."""
    graph, restored = build(target, params), build(back(target, **options), params)
    assert shape(restored) == shape(graph)
    assert (restored.target, restored.template_id) == (graph.target, graph.template_id)
    return restored


def test_s15_a_graph_comes_back_as_it_was() -> None:
    base = load(1).with_retry(4, delay=0.5, backoff=2.0, jitter=0.1, max_delay=9, on=(KeyError, OSError))
    flag = load(2).with_timeout(3).with_priority(5)
    router = cs.Router(load("k"), {"k": base, 2: [flag, 1], None: cs.Router(flag, {1: "x"})})
    stage = cs.pipeline(
        {"seed": 1}, [join, lambda v: join(1, v).run_if(flag), lambda v: join(right=v, left=1)]
    )
    mapped = join.map(left=[base, 2], right=cs.unmapped([flag])).after(base)
    lazily = load.map(n=router).with_constraints(cpu=flag, gpu=2)
    last = cs.sequence([load(7), load(8).with_constraints(cpu=0.5)])
    target = [join(router, right=(stage, {"m": mapped}), other=lazily).after(last), {base, flag}, Box(last)]
    graph = same(target)
    assert len(graph.nodes) > 15


def test_params_stay_open() -> None:
    target = join(
        cs.Param("n", default=3, type=int, description="how many"), cs.Router(cs.Param("mode"), {"a": 1})
    ).run_if(cs.Env("FLAG", default="yes"))
    same(target, {"n": "9", "mode": "a"})
    assert build(back(target), {"mode": "b"}).nodes[0].value == "b"
    with pytest.raises(cs.ParamMissingError, match="'mode'"):
        build(back(target))


def test_values_come_back_as_they_were() -> None:
    values = [
        None, True, 0, -5, 2**80, 1.5, "text", "", [], [1, [2]], {}, {"k": {"$x": 1}}, {1: "a", None: 2},
        (), (1, (2, [3])), {1, 2}, frozenset({"a"}), b"bytes", Color.RED, Box([1], 2), Pair(1, [2]),
        Box, plain, math.sin, len, {"$node": 3}, "\ud800", {("x", 1): {Color.RED}},
    ]  # fmt: skip
    (restored,) = back(load(values)).args
    assert restored == values
    assert [type(value) for value in restored] == [type(value) for value in values]
    (odd,) = back(load([math.inf, -math.inf])).args
    assert odd == [math.inf, -math.inf]
    assert math.isnan(back(load(math.nan)).args[0])


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.lists(inner, max_size=3).map(tuple)
            | st.dictionaries(st.text() | st.integers(), inner, max_size=3)
        ),
        max_leaves=10,
    )
)
def test_any_plain_value_comes_back(value: Any) -> None:
    assert back(load(value)).args == (value,)


def test_what_json_has_stands_there_as_it_is() -> None:
    document = json.loads(cs.to_json(load({"a": [1, None, "x"]})))
    assert document["format"] == "cascade-graph"
    assert document["nodes"] == [{"kind": "call", "task": 0, "args": [{"a": [1, None, "x"]}]}]
    assert document["target"] == {"$node": 0}
    assert "\n" in cs.to_json(load(1), indent=2)


def test_tasks_of_plain_functions_and_other_options_come_back() -> None:
    first = cs.task(plain, name="other", pure=True)
    target = [first(1), first(1), cs.task(gentle)(2), cs.task(load.func, mode="compute")(3), Holder.inside(4)]
    restored = back(target)
    assert restored[0].task is restored[1].task
    assert restored[0].task.options() == first.options()
    assert [lazy.task.func for lazy in restored] == [plain, plain, gentle, load.func, Holder.inside.func]
    assert restored[3].task.mode == "compute"
    assert restored[4].task is Holder.inside
    same(target)


def test_policies_and_resources_come_back(tmp_path: Any) -> None:
    call = load(1).with_cache(cs.FileExistenceCache(str(tmp_path / "x")))
    restored = back(call, allow_pickle=True)
    assert type(restored.chain.cache) is cs.FileExistenceCache
    assert back(load(cs.inject("db"))).args[0].name == "db"


def test_jumps_come_back_even_in_a_circle() -> None:
    source = load(1)
    bind(source, select_jump({"again": source, "other": join(source, 2), None: None}))
    restored = back(source)
    routes = restored.chain.selector.routes
    assert list(routes) == ["again", "other", None]
    assert routes["again"] is restored
    assert routes["other"].args[0] is restored
    assert routes[None] is None


def test_structural_nodes_come_back() -> None:
    pause, message = cs.wait(load(0.5)).after(load(1)), cs.recv("topic", timeout=3).run_if(load(2))
    same([pause, message, cs.wait(2)])


def test_a_long_chain_comes_back() -> None:
    value: Any = load(0)
    for number in range(5_000):
        value = join(value, number).after(value)
    assert len(same(value).nodes) == 5_001


def test_what_json_lacks_is_pickled_and_says_so() -> None:
    text = cs.to_json(load([1, np.arange(3), OrderedDict(a=1), slice(1)]))
    assert '"type": "numpy.ndarray"' in text
    with pytest.raises(cs.GraphError, match=r"node 0, task 'load', is or holds a pickled numpy.ndarray"):
        cs.from_json(text)
    values = cs.from_json(text, allow_pickle=True).args[0]
    assert values[1].tolist() == [0, 1, 2]
    assert values[2:] == [OrderedDict(a=1), slice(1)]


exploded: list[int] = []


class Bomb:
    """Says so when it is unpickled."""

    def __reduce__(self) -> Any:
        return exploded.append, (1,)


def test_nothing_is_unpickled_unasked() -> None:
    texts = [
        cs.to_json(load(Bomb())),
        cs.to_json(load.map(n=[Bomb()])),
        cs.to_json(cs.Router("a", {"a": Bomb()})),
        cs.to_json([load(1), {"k": Bomb()}]),
    ]
    for text in texts:
        with pytest.raises(cs.GraphError, match="allow_pickle=True"):
            cs.from_json(text)
    assert exploded == []


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: cs.task(lambda x: x, name="short")(1), "'short' is .*<lambda>, which is a lambda"),
        (lambda: cs.task(local_function())(1), "'local' is .*<locals>.local, which is local to a function"),
        (lambda: cs.task(functools.partial(plain, 1), name="bound")(), "'bound' is a functools.partial"),
        (lambda: cs.task(impostor)(1), "'plain' is .*plain, but that name stands for something else"),
        (lambda: load(threading.Lock()), "task 'load' is or holds a _thread.lock, which can neither"),
        (lambda: load(Hidden(load(1))), "task 'load' is or holds a .*Hidden, which can neither"),
        (lambda: load(cs.Param("p", type=lambda x: x)), "a lambda"),
        (lambda: load, "call"),
        (lambda: 3, "nothing to run"),
        (lambda: load(deep(100_000)), "nested too deeply"),
        (lambda: cs.Router("a", {"a": 1}).routes.update() or looped(), "needs itself"),
    ],
)
def test_what_cannot_be_written_is_refused_by_name(make: Any, word: str) -> None:
    with pytest.raises(cs.GraphError, match=word):
        cs.to_json(make())


def local_function() -> Any:
    def local(x: Any) -> Any:
        return x

    return local


def impostor(x: Any) -> Any:
    return x


impostor.__qualname__ = impostor.__name__ = "plain"


class Hidden:
    """Holds a lazy result where nobody looks."""

    def __init__(self, lazy: Any) -> None:
        self.lazy = lazy


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def looped() -> Any:
    router = cs.Router("a", {"a": 1})
    router.routes["b"] = load(router)
    return router


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda d: "no json {", "no JSON"),
        (lambda d: [], "no graph"),
        (lambda d: d | {"format": "other"}, "no graph"),
        (lambda d: d | {"version": 99}, "version 99"),
        (lambda d: {"format": "cascade-graph", "version": 1}, "not well formed"),
        (lambda d: d | {"tasks": [{"function": "no.such.module:f"}]}, "no.such.module:f, which is not here"),
        (lambda d: d | {"tasks": [{"function": "math:nothing"}]}, "which is not here"),
        (lambda d: d | {"tasks": [{"function": "math"}]}, "a name is written module:name"),
        (lambda d: d | {"tasks": [{"function": "math:pi"}]}, "which is no function"),
        (lambda d: d | {"target": {"$node": 5}}, "node 5 is named"),
        (lambda d: d | {"target": {"$node": "0"}}, "node '0' is named"),
        (lambda d: d | {"target": {"$what": 5}}, r"tag '\$what'"),
        (lambda d: d | {"target": 5}, "nothing to run"),
        (lambda d: d | {"target": [{"$tuple": 5}]}, "not well formed"),
        (lambda d: d | {"target": [{"$enum": ["builtins:int", "real"]}]}, "as a class, which it is not"),
        (lambda d: d | {"target": [{"$dataclass": ["builtins:int", {}]}]}, "as a dataclass, which it is not"),
        (lambda d: d | {"made": [7]}, "'made' does not name every node once"),
        (lambda d: d | {"nodes": [{"kind": "what"}]}, "of kind 'what'"),
        (
            lambda d: d | {"nodes": [{"kind": "call", "task": 0, "args": [1, 2, 3]}]},
            "does not go with the code",
        ),
        (lambda d: d | {"nodes": [d["nodes"][0] | {"args": [{"$node": 0}]}]}, "before it is there"),
    ],
)
def test_a_text_that_is_no_graph_is_refused(change: Any, word: str) -> None:
    changed = change(json.loads(cs.to_json(load(1))))
    with pytest.raises(cs.GraphError, match=word):
        cs.from_json(changed if isinstance(changed, str) else json.dumps(changed))
