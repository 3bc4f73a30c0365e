"""Params and environment variables, as a graph is compiled."""

from __future__ import annotations

import dataclasses
import warnings
from collections import OrderedDict
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cascade_dist as cs
from cascade_dist.graph.build import Compilation, build
from cascade_dist.graph.scan import substituted


@cs.task
def f(x: Any, y: Any = None) -> Any:
    return x


@cs.task
def other() -> int:
    return 1


def call(target: Any, params: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
    graph = build(target, params)
    node = graph.nodes[graph.target]
    return node.args, dict(node.kwargs)


def test_s16_a_param_is_a_literal_once_it_is_known() -> None:
    assert call(f(cs.Param("count")), {"count": 10}) == ((10,), {})
    assert len(build(f(cs.Param("count")), {"count": 10}).nodes) == 1


def test_s17_default_and_conversion() -> None:
    param = cs.Param("n", default=3, type=int)
    assert call(f(param)) == ((3,), {})
    assert call(f(param), {"n": "9"}) == ((9,), {})
    assert call(f(cs.Param("n", default="3", type=int))) == ((3,), {})
    with pytest.raises(ValueError, match="param 'n' is 'x', which int does not take"):
        build(f(param), {"n": "x"})


def test_s18_all_missing_params_are_named() -> None:
    target = [f(cs.Param("one")), f([cs.Param("two", default=1), {"k": cs.Param("three")}]), other()]
    with pytest.raises(cs.ParamMissingError, match=r"param 'one', param 'three'.*params=\{…\}"):
        build(target)
    with pytest.raises(cs.ParamMissingError, match="for param 'three': "):
        build(target, {"one": 1})


def test_s18_missing_params_are_found_wherever_they_stand() -> None:
    xs = cs.Param("xs")
    for target in (f.map(x=xs, y=[1, 2]), f(1).run_if(xs), [xs, other()], {"k": (xs,)}, f.map(x=[1], y=[xs])):
        with pytest.raises(cs.ParamMissingError, match="'xs'"):
            build(target)


def test_s19_env_is_read_at_submit(monkeypatch: pytest.MonkeyPatch) -> None:
    target = f(cs.Env("A_VARIABLE_OF_TESTS", default="none"), y=[cs.Env("ANOTHER_OF_TESTS", "")])
    monkeypatch.delenv("A_VARIABLE_OF_TESTS", raising=False)
    monkeypatch.delenv("ANOTHER_OF_TESTS", raising=False)
    assert call(target) == (("none",), {"y": [""]})
    monkeypatch.setenv("A_VARIABLE_OF_TESTS", "here")
    assert call(target) == (("here",), {"y": [""]})
    with pytest.raises(cs.ParamMissingError, match="environment variable 'ANOTHER_OF_TESTS'"):
        build(f(cs.Env("ANOTHER_OF_TESTS")))


def test_unknown_params_are_a_warning_or_an_error() -> None:
    target = f(cs.Param("day", default=1), cs.Param("count", default=1))
    with pytest.warns(UserWarning, match="no Param is named 'dya'; the target knows 'count', 'day'") as told:
        build(target, {"dya": 1, "day": 2})
    assert told[0].filename == __file__, "it points at the user's line"
    with pytest.raises(cs.GraphError, match="no Param is named 'dya'"):
        build(target, {"dya": 1}, strict_params=True)
    with pytest.warns(UserWarning, match="the target knows none"):
        build(other(), {"n": 1})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build(target, {"day": 2})


def test_params_that_are_no_mapping_are_refused() -> None:
    with pytest.raises(TypeError, match="give a dict"):
        build(other(), [("a", 1)])  # type: ignore[arg-type]


def test_params_may_be_lists_to_map_over_and_conditions() -> None:
    graph = build(f.map(x=cs.Param("xs"), y=cs.unmapped([cs.Param("k")])), {"xs": (1, 2), "k": 5})
    assert [dict(node.kwargs) for node in graph.nodes[:2]] == [{"x": 1, "y": [5]}, {"x": 2, "y": [5]}]
    with pytest.raises(ValueError, match="x has 2, y has 1"):
        build(f.map(x=cs.Param("xs"), y=[1]), {"xs": [1, 2]})
    with pytest.raises(TypeError, match="a string is not a list"):
        build(f.map(x=cs.Param("xs")), {"xs": "ab"})
    assert len(build(f(1).run_if(cs.Param("go")), {"go": [1]}).nodes) == 1
    assert len(build(f(1).run_if(cs.Param("go")), {"go": ""}).nodes) == 2


class Point(NamedTuple):
    x: Any
    y: Any


@dataclasses.dataclass(frozen=True)
class Config:
    rate: Any
    seen: int = dataclasses.field(default=0, init=False)


class Items(list):  # type: ignore[type-arg]
    tag = "t"


def test_params_are_found_at_any_depth_and_nothing_else_is_copied() -> None:
    lazy, untouched = other(), [1, [2]]
    param = cs.Param("p")
    value = {
        "list": [param, lazy],
        "tuple": (param,),
        "point": Point(param, untouched),
        "config": Config(param),
        "set": {param, 3},
        "frozen": frozenset({param}),
        "ordered": OrderedDict(k=param),
        "items": Items([param]),
        param: "key",
    }
    before = repr(value)
    (got,), _ = call(f(value), {"p": 9})
    assert got == {
        "list": [9, lazy],
        "tuple": (9,),
        "point": Point(9, untouched),
        "config": Config(9),
        "set": {9, 3},
        "frozen": frozenset({9}),
        "ordered": OrderedDict(k=9),
        "items": [9],
        9: "key",
    }
    assert type(got["items"]) is Items
    assert type(got["ordered"]) is OrderedDict
    assert got["point"].y is untouched
    assert repr(value) == before


@given(
    st.recursive(st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
)
def test_what_holds_no_param_is_the_same_object(value: Any) -> None:
    assert substituted(value, lambda _: 1 / 0) is value


def test_the_same_params_have_the_same_digest() -> None:
    def digest(**params: Any) -> bytes:
        compilation = Compilation([cs.Param(name, default=0) for name in "abc"], params)
        list(compilation.nodes())
        return compilation.params_digest

    assert digest(a=1, b=2) == digest(b=2, a=1)
    digests = [
        digest(),
        digest(a=1),
        digest(a=2),
        digest(b=1),
        digest(a=True),
        digest(a=1, b=1),
        digest(a="1"),
    ]
    assert len(set(digests)) == len(digests)


def test_params_change_ids_as_literals_do() -> None:
    target = f(cs.Param("n"))
    assert build(target, {"n": 1}).structural_id == build(f(1)).structural_id
    assert build(target, {"n": 1}).structural_id != build(target, {"n": 2}).structural_id
    assert build(target, {"n": 1}).template_id == build(target, {"n": 2}).template_id
