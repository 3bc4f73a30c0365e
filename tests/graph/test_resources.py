"""Resources in compiled graphs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import cascade_dist as cs
from cascade_dist.graph.build import Compilation, build
from cascade_dist.graph.model import Node, NodeKind, Scope
from cascade_dist.language import resources
from cascade_dist.v1 import graph_pb2
from cascade_dist.wire.graphs import Part, encode_graph


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of one test are not those of another."""
    monkeypatch.setattr(resources, "_registry", {})


@cs.task
def value(x: Any) -> Any:
    return x


@cs.task
def query(x: int, db: Any = cs.inject("db")) -> Any:
    return x, db


def define(name: str, *needs: str, scope: str = "run", yields: Any = 0) -> cs.Resource:
    """A resource, whose code differs with what it yields."""
    if needs:

        def make(first: Any = cs.inject(needs[0]), last: Any = cs.inject(needs[-1])) -> Iterator[Any]:
            yield yields
    else:

        def make() -> Iterator[Any]:  # type: ignore[misc]
            yield yields

    return cs.resource(make, name=name, scope=scope)  # type: ignore[no-any-return]


def names(node: Node) -> list[str]:
    return [resource.name for resource in node.spec.resources]


def test_what_is_needed_comes_before_what_needs_it() -> None:
    define("config", scope="worker")
    define("url", "config")
    define("db", "url", "config", scope="task")
    [node] = build(query(1)).nodes
    assert names(node) == ["config", "url", "db"]
    config, url, db = node.spec.resources
    assert (config.scope, url.scope, db.scope) == (Scope.WORKER, Scope.RUN, Scope.TASK)
    assert (config.requires, url.requires, db.requires) == ((), ("config",), ("url", "config"))


def test_only_what_a_call_has_injected() -> None:
    define("db")
    define("tmp")
    given, by_default, inside, none = build(
        [query(1, 2), query(1), value([{"k": (1, cs.inject("tmp"))}]), value(1)]
    ).nodes[:4]
    assert [names(node) for node in (given, by_default, inside, none)] == [[], ["db"], ["tmp"], []]
    assert repr(inside.args) == "([{'k': (1, inject('tmp'))}],)"


def test_equal_needs_share_a_spec() -> None:
    define("db")
    first, second, third = build([query(1), query(2), query(3).with_priority(1)]).nodes[:3]
    assert first.spec is second.spec
    assert first.spec is not third.spec
    assert first.spec.resources[0] is third.spec.resources[0]


def test_maps() -> None:
    define("db")
    for graph in (build(query.map(x=[1, 2])), build(query.map(x=value([1])))):
        mapped = [node for node in graph.nodes if node.spec.name == "query"]
        assert [names(node) for node in mapped] == [["db"]] * len(mapped)
    child = build(value.map(x=[[cs.inject("db")], 2])).nodes[0]
    assert names(child) == ["db"]
    shared = build(query.map(x=[1], db=cs.inject("db"))).nodes[0]
    assert names(shared) == ["db"]


def test_the_code_of_a_resource_counts_for_ids() -> None:
    define("db", yields=1)

    def ids(target: Any) -> tuple[bytes, bytes]:
        graph = build(target)
        return graph.structural_id, graph.template_id

    first, inside = ids(query(1)), ids(value([cs.inject("db")]))
    define("db", yields=1)
    assert (ids(query(1)), ids(value([cs.inject("db")]))) == (first, inside)
    define("db", yields=2)
    changed = ids(query(1)), ids(value([cs.inject("db")]))
    for (structural, template), (structural_2, template_2) in zip((first, inside), changed, strict=True):
        assert structural != structural_2
        assert template != template_2
    with cs.override_resource("db", "mock"):
        overridden = ids(query(1))
    assert overridden not in (first, changed[0])
    define("db", yields=2, scope="task")
    assert ids(query(1)) not in (first, changed[0], overridden)


def test_a_pure_call_is_one_node_for_one_resource() -> None:
    define("db")

    @cs.task(pure=True)
    def pure(x: int, db: Any = cs.inject("db")) -> Any:
        return x

    graph = build([pure(1), pure(x=1), pure(1, cs.inject("db")), pure(2)])
    assert [node.spec.name for node in graph.nodes] == ["pure", "pure", "pure", "gather"]


def test_s66_an_unknown_name_is_told_where_it_is_wanted() -> None:
    with pytest.raises(cs.ResourceNotFoundError, match=r"^task 'query' has resource 'db' injected"):
        build(query(1))
    define("db", "config")
    with pytest.raises(cs.ResourceNotFoundError, match=r"^resource 'db' has resource 'config' injected"):
        build(query(1))


def test_a_cycle_names_its_resources() -> None:
    define("db", "b")
    define("b", "c")
    define("c", "b")
    with pytest.raises(cs.CycleError, match="'b' → 'c' → 'b'"):
        build(query(1))
    define("db", "db")
    with pytest.raises(cs.CycleError, match="'db' → 'db'"):
        build(query(1))


def test_what_lives_long_cannot_need_what_lives_short() -> None:
    define("tmp", scope="task")
    define("db", "tmp", scope="run")
    with pytest.raises(cs.GraphError, match="'db' of scope 'run' needs 'tmp' of scope 'task'"):
        build(query(1))


def test_two_resources_of_one_name() -> None:
    first, second = define("db", yields=1), define("db", yields=2)
    with pytest.raises(cs.GraphError, match="two different resources are named 'db'"):
        build([value(cs.inject(first)), value(cs.inject(second))])
    assert len(build([value(cs.inject(second)), value(cs.inject("db"))]).nodes) == 3


@pytest.mark.parametrize("target", [lambda m: [m], lambda m: {"k": value(m), m: 1}])
def test_a_marker_outside_of_calls_is_refused(target: Any) -> None:
    define("db")
    with pytest.raises(cs.GraphError, match=r"inject\('db'\).*given to tasks alone"):
        build(target(cs.inject("db")))


def test_a_marker_as_a_route_or_initial_value_is_refused() -> None:
    define("db")
    for target in (
        value(cs.Router(value(1), {1: cs.inject("db")})),
        cs.pipeline(cs.inject("db"), [value]),
    ):
        with pytest.raises(cs.GraphError, match="given to tasks alone"):
            build(target)


def test_on_the_wire() -> None:
    define("config", scope="worker")
    define("db", "config", scope="task")
    target = [query(1), value([cs.inject("config")]), value(2)]
    parts = list(encode_graph(Compilation(target), run_id="r"))
    [part] = [item for item in parts if isinstance(item, Part)]
    chunk = part.message.chunk
    resources_ = [(r.name, r.scope, list(r.requires)) for r in chunk.resources]
    assert resources_ == [
        ("config", graph_pb2.RESOURCE_SCOPE_WORKER, []),
        ("db", graph_pb2.RESOURCE_SCOPE_TASK, ["config"]),
    ]
    used = [list(spec.resources) for spec in chunk.specs if spec.kind == int(NodeKind.CALL)]
    assert used == [[0, 1], [0], []]
    assert len({r.function_index for r in chunk.resources}) == 2
    assert all(chunk.functions[r.function_index].body for r in chunk.resources)
