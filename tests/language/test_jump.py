"""Jumps and selectors, before they are compiled."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

import cascade_dist as cs
from cascade_dist.errors import GraphError


@cs.task
def go(n: int = 0) -> Any:
    return n


@cs.task
def other(n: int = 0) -> Any:
    return n


def test_a_jump_travels_and_shows_what_it_is() -> None:
    jump = cs.Jump("on", {"n": 1})
    copy = pickle.loads(pickle.dumps(jump))
    assert (copy.key, copy.data) == ("on", {"n": 1})
    assert repr(jump) == "Jump('on', {'n': 1})"
    assert len(repr(cs.Jump("on", list(range(10_000))))) < 200
    assert cs.Jump("end").data is None


def test_bind_marks_the_call_and_gives_it_back() -> None:
    call = go(1)
    selector = cs.select_jump({"again": call, "end": None})
    assert cs.bind(call, selector) is call
    assert cs.bind(call, selector) is call, "the same selector twice changes nothing"
    assert selector.routes == {"again": call, "end": None}


def test_a_selector_does_not_change_with_the_dict_that_it_was_made_of() -> None:
    routes: dict[str, Any] = {"end": None}
    selector = cs.select_jump(routes)
    routes["more"] = go(1)
    assert list(selector.routes) == ["end"]


def test_a_call_has_one_selector() -> None:
    call = cs.bind(go(1), cs.select_jump({"end": None}))
    with pytest.raises(GraphError, match="is bound to a selector already: a call has one"):
        cs.bind(call, cs.select_jump({"end": None}))


@pytest.mark.parametrize(
    ("routes", "error", "says"),
    [
        ([1], TypeError, "select_jump got .1.: give a dict"),
        (None, TypeError, "select_jump got None: give a dict"),
        ({}, ValueError, "no routes: give a dict with at least one"),
        ({"a": go}, TypeError, "route 'a' of select_jump is .*: call the task"),
        ({"a": 7}, TypeError, "route 'a' of select_jump is 7, a int"),
        ({"a": go.map(n=[1])}, TypeError, "a map, whose arguments are lists: jump to a task that returns"),
        ({go(1): None}, TypeError, "a key of select_jump .* has no value yet"),
    ],
)
def test_odd_routes_are_named(routes: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        cs.select_jump(routes)


@pytest.mark.parametrize(
    ("source", "selector", "says"),
    [
        (go, {}, "bind got .*: give the call of a task"),
        (go.map(n=[1]), {}, "bind got .*, a MappedLazyResult"),
        (7, {}, "bind got 7, a int"),
        (go(1), {"end": None}, "for its selector: make one with cs.select_jump"),
        (go(1), None, "bind got None for its selector"),
    ],
)
def test_odd_bindings_are_named(source: Any, selector: Any, says: str) -> None:
    made = cs.select_jump({"end": None}) if selector == {} else selector
    with pytest.raises(TypeError, match=says):
        cs.bind(source, made)
