"""Routers, sequences, pipelines, stages: what can be said, and what is refused where it is said."""

from __future__ import annotations

import copy
import enum
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import pytest

import cascade_dist as cs
from cascade_dist.language.lazy import UNSET


class Color(enum.Enum):
    RED = 1


@cs.task
def one() -> int:
    return 1


@cs.task
def add(x: int, y: int = 1) -> int:
    return x + y


@cs.task
def double(x: int) -> int:
    return 2 * x


# --- routers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("selector", ["a", 1, None, (1, "x"), Color.RED, cs.Param("p"), cs.Env("E"), one()])
def test_a_router_keeps_what_it_was_given(selector: Any) -> None:
    routes = {
        "a": one(),
        1: 5,
        None: [one()],
        Color.RED: cs.Router("a", {"a": 1}),
        (1, "x"): double.map(x=[1]),
    }
    router = cs.Router(selector, routes)
    assert isinstance(router, cs.LazyResult)
    assert router.selector is selector
    assert router.routes == routes
    routes.clear()
    assert len(router.routes) == 5
    assert {router: 1}[router] == 1


def test_any_mapping_is_routes() -> None:
    assert list(cs.Router("a", MappingProxyType({"a": 1})).routes) == ["a"]


@pytest.mark.parametrize(
    ("make", "error", "word"),
    [
        (lambda: cs.Router(double.map(x=[1]), {"a": 1}), TypeError, "list is never a key"),
        (lambda: cs.Router([1], {"a": 1}), TypeError, "a list, which can never be a key"),
        (lambda: cs.Router({}, {"a": 1}), TypeError, "a dict, which can never be a key"),
        (lambda: cs.Router((1, [2]), {"a": 1}), TypeError, "can never be a key"),
        (lambda: cs.Router((1, one()), {"a": 1}), TypeError, "no value yet"),
        (lambda: cs.Router(one, {"a": 1}), TypeError, "call the task"),
        (lambda: cs.Router(cs.unmapped(1), {"a": 1}), TypeError, "unmapped"),
        (lambda: cs.Router("a", {}), ValueError, "no routes"),
        (lambda: cs.Router("a", [one()]), TypeError, "a list: give a dict"),  # type: ignore[arg-type]
        (lambda: cs.Router("a", one()), TypeError, "give a dict"),  # type: ignore[arg-type]
        (lambda: cs.Router("a", {one(): 1}), TypeError, "a key of a Router's routes .* no value yet"),
        (lambda: cs.Router("a", {cs.Param("k"): 1}), TypeError, "no value yet"),
        (lambda: cs.Router("a", {("x", one()): 1}), TypeError, "no value yet"),
        (lambda: cs.Router("a", {"x": one}), TypeError, "route 'x' of a Router is .* call the task"),
        (lambda: cs.Router("a", {"x": cs.unmapped(1)}), TypeError, "unmapped"),
    ],
)
def test_a_router_that_cannot_be_meant_is_refused(
    make: Callable[[], Any], error: type[Exception], word: str
) -> None:
    with pytest.raises(error, match=word):
        make()


@pytest.mark.parametrize(
    "chain",
    [
        lambda router: router.run_if(True),
        lambda router: router.after(one()),
        lambda router: router.with_retry(2),
        lambda router: router.with_constraints(cpu=1),
        lambda router: router.with_timeout(1),
        lambda router: router.with_priority(1),
        lambda router: router.passthrough(),
    ],
)
def test_nothing_can_be_chained_onto_a_router(chain: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match="chain onto the selector, the routes, or the task"):
        chain(cs.Router("a", {"a": one()}))


@pytest.mark.parametrize("misuse", [bool, iter, len, lambda r: r[0], lambda r: r + 1, lambda r: r.upper])
def test_a_router_has_no_value_yet(misuse: Callable[[Any], Any]) -> None:
    with pytest.raises((TypeError, AttributeError), match="has not run"):
        misuse(cs.Router("a", {"a": one()}))


def test_a_router_does_not_travel_by_itself() -> None:
    with pytest.raises(cs.SerializationError, match="pass it as an argument"):
        copy.copy(cs.Router("a", {"a": one()}))


def test_a_router_is_bounded_as_text() -> None:
    assert repr(cs.Router("a", {"a": 1, "b": 2})).startswith("<Router on 'a' to ['a', 'b'] #")
    assert len(repr(cs.Router("a" * 1000, dict.fromkeys(range(1000))))) < 200


# --- sequences ----------------------------------------------------------------------------------------


def test_s27_a_sequence_chains_after_and_stands_for_the_last() -> None:
    a, b, c = one(), one(), one()
    assert cs.sequence([a, b, c]) is c
    assert b.chain is not None
    assert c.chain is not None
    assert (a.chain, b.chain.after, c.chain.after) == (None, [a], [b])
    assert cs.sequence(iter([a])) is a


def test_a_router_can_be_first_in_a_sequence() -> None:
    router, last = cs.Router("a", {"a": one()}), one()
    assert cs.sequence([router, last]) is last


@pytest.mark.parametrize(
    ("steps", "error", "word"),
    [
        ([], ValueError, "no steps"),
        ([one(), 3], TypeError, "step 1 of cs.sequence is 3, a int"),
        ([one], TypeError, r"call it, one\(…\)"),
        (one(), TypeError, "give a list"),
        ("ab", TypeError, "give a list"),
        (3, TypeError, "give a list"),
        ([one(), cs.Router("a", {"a": 1})], TypeError, "step 1 .* a Router runs nothing that could wait"),
    ],
)
def test_a_sequence_that_cannot_be_meant_is_refused(steps: Any, error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=word):
        cs.sequence(steps)


# --- pipelines and stages -----------------------------------------------------------------------------


def test_s22_a_pipeline_calls_each_step_with_the_value_before() -> None:
    last = cs.pipeline(10, [add, double])
    (inner,) = last.args
    assert (last.task, inner.task, inner.args) == (double, add, (10,))
    assert inner.chain.passed == 10
    assert last.chain is not None
    assert last.chain.passed is inner


def test_a_stage_is_marked_whatever_way_the_value_comes_in() -> None:
    first = one()
    for step in (
        lambda x: add(1, x),
        lambda x: add(1, y=x),
        lambda x: add([x]),  # type: ignore[list-item]
        lambda x: one(),
    ):
        made = cs.pipeline(first, [step])
        assert made.chain is not None
        assert made.chain.passed is first


def test_steps_that_are_maps_or_routers_are_no_stages() -> None:
    assert cs.pipeline([1, 2], [lambda xs: double.map(x=xs)]).chain is None
    assert cs.pipeline(1, [lambda x: cs.Router("a", {"a": double(x)})]).chain is None
    value = one()
    assert cs.pipeline(value, [lambda x: x]) is value
    assert value.chain is None


@pytest.mark.parametrize(
    ("steps", "error", "word"),
    [
        ([], ValueError, "no steps"),
        (
            [double, add(1)],
            TypeError,
            r"step 1 .* called already: give the task itself, add, or lambda x: add",
        ),
        ([3], TypeError, "step 0 .* cannot be called"),
        ([double, lambda x: 3], TypeError, "step 1 .* gave 3, a int: .*@cs.task"),
        (double(1), TypeError, "give a list of tasks"),
        (double, TypeError, "give a list of tasks"),
    ],
)
def test_s22_a_pipeline_that_cannot_be_meant_is_refused(
    steps: Any, error: type[Exception], word: str
) -> None:
    with pytest.raises(error, match=word):
        cs.pipeline(1, steps)


def test_no_step_is_called_when_one_is_wrong() -> None:
    called: list[Any] = []
    with pytest.raises(TypeError, match="step 1"):
        cs.pipeline(1, [lambda x: called.append(x) or one(), 3])  # type: ignore[list-item]
    assert called == []


def test_passthrough_marks_the_first_argument() -> None:
    call = add(5, y=2)
    assert call.passthrough() is call
    assert call.chain is not None
    assert call.chain.passed == 5
    assert one().run_if(True).chain.passed is UNSET  # type: ignore[union-attr]


def test_what_has_nothing_to_pass_on_cannot_pass_through() -> None:
    with pytest.raises(TypeError, match="'one' was called without a positional argument"):
        one().passthrough()
    with pytest.raises(TypeError, match="without a positional argument"):
        add(x=1).passthrough()
    with pytest.raises(TypeError, match="a map of 'double' makes a new list"):
        double.map(x=[1]).passthrough()


# --- lazy amounts -------------------------------------------------------------------------------------


def test_amounts_may_be_lazy() -> None:
    cpus, gpus = one(), cs.Param("gpus", default=1)
    chain = add(1).with_constraints(cpu=cpus, gpu=gpus, disk=0.5).chain
    assert chain is not None
    assert chain.amounts == {"disk": 500_000}
    assert chain.lazy_amounts == {"cpu": cpus, "gpu": gpus}


def test_the_last_amounts_win_as_a_whole() -> None:
    chain = add(1).with_constraints(cpu=one()).with_constraints(gpu=1).chain
    assert chain is not None
    assert (chain.amounts, chain.lazy_amounts) == ({"gpu": 1_000_000}, {})


def test_a_lazy_amount_needs_a_name() -> None:
    with pytest.raises(ValueError, match="named ''"):
        add(1).with_constraints(**{"": one()})
