"""Template and structural ids."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cascade_dist as cs
from cascade_dist.graph.build import build


@cs.task
def one() -> int:
    return 1


@cs.task
def f(x: Any = None, y: Any = None) -> Any:
    return x


@cs.task(pure=True)
def p(x: Any = None) -> Any:
    return x


def ids(target: Any) -> list[bytes]:
    return [node.structural_id for node in build(target).nodes]


def template(target: Any) -> bytes:
    return build(target).template_id


def test_s6_ordinals_are_those_of_the_walk() -> None:
    first = ids([f(1), f(2), f(1)])
    assert ids([f(1), f(2), f(1)]) == first
    assert ids([f(1)])[0] == first[0]
    assert ids([f(2), f(1), f(1)])[:3] == [first[1], first[0], first[2]]


def test_s14_literals_are_not_in_the_template() -> None:
    assert template(f(1)) == template(f("text")) == template(f([1, {"k": 2.0}]))
    assert template([f(1), "lit"]) == template([f(2), "other"])
    assert template(f(one(), 1)) == template(f(one(), 2))


@pytest.mark.parametrize(
    "target",
    [
        lambda: f(1),
        lambda: p(1),
        lambda: f(one()),
        lambda: f(y=one()),
        lambda: f(one(), one()),
        lambda: f(one()).after(one()),
        lambda: f(one()).run_if(one()),
        lambda: f().after(one()),
        lambda: f().run_if(one()),
        lambda: f().run_if(False),
        lambda: f().with_retry(2),
        lambda: f().with_retry(2, delay=1),
        lambda: f().with_timeout(2),
        lambda: f().with_priority(1),
        lambda: f().with_constraints(gpu=1),
        lambda: cs.task(f.func, mode="compute")(),
        lambda: cs.task(f.func, durable=True)(),
        lambda: cs.task(f.func, name="g")(),
        lambda: [f()],
        lambda: [f(), f()],
        lambda: f.map(x=[1]),
        lambda: f.map(x=[1, 2]),
        lambda: f.map(x=[1]).run_if(one()),
        lambda: f.map(x=one()),
        lambda: f.map(y=one()),
        list,
    ],
)
def test_shape_code_and_policies_are_in_the_template(target: Any) -> None:
    assert template(target()) == template(target())
    ALL.setdefault(template(target()), target)
    assert ALL[template(target())] is target


ALL: dict[bytes, Any] = {}


def test_sharing_is_shape() -> None:
    shared = one()
    assert template([f(shared), f(shared)]) != template([f(one()), f(one())])


def test_a_structural_id_covers_upstream_condition_and_order() -> None:
    upstream, other = f(1), f(2)
    distinct = [
        f(upstream),
        f(other),
        f(0).run_if(upstream),
        f(0).run_if(other),
        f(0).after(upstream),
        f(0).after(other),
        f(0).after(upstream, other),
        f([upstream]),
        f((upstream,)),
        f(y=upstream),
        f(upstream, upstream),
    ]
    assert len({build(target).structural_id for target in distinct}) == len(distinct)
    assert (
        build(f(0).after(other, upstream)).structural_id == build(f(0).after(upstream, other)).structural_id
    )


def test_a_map_is_no_call_with_the_same_arguments() -> None:
    assert build(p.map(x=[1])).structural_id != build(p(x=[1])).structural_id
    xs = one()
    assert build(p.map(x=xs)).structural_id != build(p(x=xs)).structural_id
    assert build(f.map(x=[1], y=cs.unmapped(2))).structural_id != build(f.map(x=[1], y=[2])).structural_id


def test_children_are_told_apart_by_their_index() -> None:
    children = ids(f.map(x=[5, 5, 5]))
    assert len(set(children)) == 4
    assert ids(f.map(x=[5, 5, 5])) == children


literals = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | st.text(max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.lists(inner, max_size=2).map(tuple),
    max_leaves=5,
)


@given(literals, literals)
def test_equal_ids_exactly_for_equal_literals(left: Any, right: Any) -> None:
    def typed(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return (type(value), *map(typed, value))
        return (type(value), repr(value))

    same = typed(left) == typed(right)
    assert (build(f(left)).structural_id == build(f(right)).structural_id) == same
    assert (len(build([p(left), p(right)]).nodes) == 2) == same
    assert template(f(left)) == template(f(right))
