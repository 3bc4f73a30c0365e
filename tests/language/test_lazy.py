"""Lazy results: chaining, and clear words for what they cannot do."""

from __future__ import annotations

import copy
import operator
import pickle
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import cloudpickle
import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cascade_dist as cs
from cascade_dist.language.lazy import UNSET


@cs.task
def one() -> int:
    return 1


@cs.task
def add(a: int, b: int = 0) -> int:
    return a + b


def test_s10_chaining_returns_the_receiver_and_the_last_of_a_kind_wins() -> None:
    lazy, first, second = one(), one(), one()
    assert lazy.with_retry(1) is lazy
    assert lazy.with_timeout(5) is lazy
    assert lazy.with_constraints(cpu=2) is lazy
    assert lazy.with_priority(3) is lazy
    assert lazy.run_if(first) is lazy
    assert lazy.after(first) is lazy
    lazy.with_retry(4, delay=1).with_timeout(None).with_constraints(gpu=1).with_priority(-1).run_if(second)
    chain = lazy.chain
    assert chain is not None
    assert chain.retry == cs.RetryPolicy(4, 1)
    assert chain.timeout is None
    assert chain.amounts == {"gpu": 1_000_000}
    assert chain.priority == -1
    assert chain.condition is second


def test_s10_after_accumulates() -> None:
    a, b, c, lazy = one(), one(), one(), one()
    lazy.after(a, b).after(c).after()
    assert lazy.chain is not None
    assert lazy.chain.after == [a, b, c]


def test_a_call_without_chaining_has_none() -> None:
    assert one().chain is None
    assert one().with_priority(1).chain.timeout is UNSET  # type: ignore[union-attr]


def test_every_lazy_result_is_its_own_key() -> None:
    lazies = [one() for _ in range(100)]
    assert len(set(lazies)) == len({lazy.id for lazy in lazies}) == 100
    assert lazies[0] == lazies[0]
    assert lazies[0] != lazies[1]
    assert [lazy.id for lazy in lazies] == sorted(lazy.id for lazy in lazies)


def test_it_is_small() -> None:
    lazy = one()
    assert not hasattr(lazy, "__dict__")
    assert lazy.kwargs is one().kwargs


@pytest.mark.parametrize(
    ("chained", "error", "word"),
    [
        (lambda lazy: lazy.run_if(1), TypeError, "run_if"),
        (lambda lazy: lazy.run_if(None), TypeError, "run_if"),
        (lambda lazy: lazy.run_if(one), TypeError, "call the task"),
        (lambda lazy: lazy.after(one), TypeError, "after"),
        (lambda lazy: lazy.after([one()]), TypeError, r"after\(\*many\)"),
        (lambda lazy: lazy.with_retry(0), ValueError, "max_attempts is 0"),
        (lambda lazy: lazy.with_retry(-3), ValueError, "max_attempts is -3"),
        (lambda lazy: lazy.with_retry(2.5), TypeError, "max_attempts"),
        (lambda lazy: lazy.with_retry(True), TypeError, "max_attempts"),
        (lambda lazy: lazy.with_retry(delay=-1), ValueError, "delay"),
        (lambda lazy: lazy.with_retry(delay=float("inf")), ValueError, "delay"),
        (lambda lazy: lazy.with_retry(delay="1s"), TypeError, "delay"),
        (lambda lazy: lazy.with_retry(backoff=-1), ValueError, "backoff"),
        (lambda lazy: lazy.with_retry(jitter=1.5), ValueError, "jitter"),
        (lambda lazy: lazy.with_retry(max_delay=-1), ValueError, "max_delay"),
        (lambda lazy: lazy.with_retry(on="ValueError"), TypeError, "on has 'ValueError'"),
        (lambda lazy: lazy.with_retry(on=(ValueError, KeyboardInterrupt)), TypeError, "KeyboardInterrupt"),
        (lambda lazy: lazy.with_retry(on=()), ValueError, "on is empty"),
        (lambda lazy: lazy.with_timeout(0), ValueError, "timeout"),
        (lambda lazy: lazy.with_timeout(float("nan")), ValueError, "timeout"),
        (lambda lazy: lazy.with_timeout(one()), TypeError, "timeout"),
        (lambda lazy: lazy.with_priority(1.5), TypeError, "priority"),
        (lambda lazy: lazy.with_priority(True), TypeError, "priority"),
        (lambda lazy: lazy.with_priority(2**31), ValueError, "priority"),
        (lambda lazy: lazy.with_constraints(gpu=-1), ValueError, "'gpu' is -1"),
        (lambda lazy: lazy.with_constraints(gpu=float("nan")), ValueError, "'gpu' is nan"),
        (lambda lazy: lazy.with_constraints(gpu=float("inf")), ValueError, "'gpu' is inf"),
        (lambda lazy: lazy.with_constraints(gpu=True), ValueError, "'gpu' is True"),
        (lambda lazy: lazy.with_constraints(gpu="1"), ValueError, "'gpu' is '1'"),
        (lambda lazy: lazy.with_constraints(gpu=1e-9), ValueError, "millionths"),
        (lambda lazy: lazy.with_constraints(gpu=1e300), ValueError, "1e.300, the most is 9,000,000,000,000:"),
        (lambda lazy: lazy.with_constraints(gpu=10**400), ValueError, "the most is 9,000,000,000,000:"),
        (lambda lazy: lazy.with_timeout(1e15), ValueError, r"the most is 315,360,000 s \(ten years\):"),
        (lambda lazy: lazy.with_retry(delay=1e12), ValueError, r"the most is 315,360,000 s \(ten years\):"),
        (lambda lazy: lazy.with_retry(max_delay=1e12), ValueError, "the most is 315,360,000 s"),
        (lambda lazy: lazy.with_retry(backoff=1e12), ValueError, "the most is 1,000,000,000:"),
    ],
)
def test_what_makes_no_sense_is_refused_where_it_is_said(
    chained: Callable[[Any], Any], error: type[Exception], word: str
) -> None:
    with pytest.raises(error, match=word):
        chained(one())


@given(st.one_of(st.integers(0, 10**9), st.floats(1e-6, 1e9), st.fractions(Fraction(1, 1000), 1000)))
def test_amounts_are_counted_in_millionths(amount: Any) -> None:
    chain = one().with_constraints(gpu=amount).chain
    assert chain is not None
    assert chain.amounts is not None
    assert abs(chain.amounts["gpu"] - amount * 1_000_000) <= 1


# --- misuse -----------------------------------------------------------------------------------------


async def awaits(lazy: Any) -> Any:
    return await lazy


MISUSES: list[Callable[[Any], Any]] = [
    bool,
    len,
    list,
    int,
    float,
    abs,
    lambda lazy: lazy[0],
    lambda lazy: 3 in lazy,
    lambda lazy: lazy + 1,
    lambda lazy: 1 + lazy,
    lambda lazy: lazy - 1,
    lambda lazy: lazy * 2,
    lambda lazy: lazy / 2,
    lambda lazy: lazy < 2,
    lambda lazy: lazy <= 2,
    lambda lazy: lazy & lazy,
    operator.neg,
    lambda lazy: awaits(lazy).send(None),
    lambda lazy: [*lazy],
    lambda lazy: not lazy,
    lambda lazy: lazy and 1,
]


@pytest.mark.parametrize("misuse", MISUSES)
def test_using_a_value_that_is_not_there_says_so(misuse: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match=r"'one' was called but has not run.*cs\.run"):
        misuse(one())


def test_a_condition_gets_a_hint() -> None:
    with pytest.raises(TypeError, match=r"\.run_if"):
        bool(one())
    with pytest.raises(TypeError, match=r"task\.map"):
        iter(one())


def test_an_attribute_of_the_value_is_not_there() -> None:
    with pytest.raises(AttributeError, match=r"attribute 'shape' of a lazy result.*has not run"):
        _ = one().shape  # type: ignore[attr-defined]
    assert not hasattr(one(), "_repr_png_")
    assert not hasattr(one(), "__array__")


@pytest.mark.parametrize("send", [pickle.dumps, cloudpickle.dumps, copy.deepcopy, copy.copy])
def test_a_lazy_result_travels_only_as_an_argument(send: Callable[[Any], Any]) -> None:
    with pytest.raises(cs.SerializationError, match="'one' would have to travel"):
        send(one())


def test_a_lazy_result_in_a_closure_cannot_travel() -> None:
    lazy = one()
    with pytest.raises(cs.SerializationError, match="pass it as an argument"):
        cloudpickle.dumps(lambda: lazy)


def test_people_see_the_task() -> None:
    lazy = cs.task(lambda: 1, name="<b>")()
    assert repr(lazy) == f"<LazyResult '<b>' #{lazy.id}>"
    assert "&lt;b&gt;" in lazy._repr_html_()
    assert repr(add) == "<Task 'add'>"


# --- map --------------------------------------------------------------------------------------------


def columns(lazy: Any) -> Any:
    return lazy.columns


def test_s55_literal_iterables_are_zipped() -> None:
    mapped = add.map(a=(n for n in (1, 2, 3)), b=range(3))
    assert isinstance(mapped, cs.LazyResult)
    assert columns(mapped) == {"a": [1, 2, 3], "b": [0, 1, 2]}


def test_s55_arrays_are_lists() -> None:
    mapped = add.map(a=numpy.arange(3), b=numpy.zeros((3, 2)))
    assert columns(mapped)["a"] == [0, 1, 2]
    assert len(columns(mapped)["b"]) == 3
    with pytest.raises(TypeError, match="unmapped"):
        add.map(a=numpy.array(5))


def test_s55_empty_lists_are_fine() -> None:
    assert columns(add.map(a=[])) == {"a": []}


def test_s55_unequal_lengths_are_named() -> None:
    with pytest.raises(ValueError, match="a has 2, b has 3"):
        add.map(a=[1, 2], b=[1, 2, 3])
    with pytest.raises(ValueError, match="a has 0, b has 1"):
        add.map(a=[], b=[1])


def test_lazy_lists_and_shared_values_stay_as_they_are() -> None:
    xs = one()
    mapped = add.map(a=xs, b=cs.unmapped([1, 2]))
    assert columns(mapped)["a"] is xs
    assert columns(mapped)["b"].value == [1, 2]
    assert "unmapped([1, 2])" in repr(columns(mapped)["b"])


@pytest.mark.parametrize(
    ("given", "error", "word"),
    [
        ({"a": "abc"}, TypeError, "a string is not a list to map over"),
        ({"a": b"abc"}, TypeError, "a bytes is not a list"),
        ({"a": 5}, TypeError, r"add\.map\(a=…\): 5, a int, is not a list.*cs\.unmapped"),
        ({"a": {1, 2}}, TypeError, "a set has no order"),
        ({"a": cs.unmapped(1)}, ValueError, "nothing to map over"),
        ({}, TypeError, "missing a required argument: 'a'"),
        ({"b": [1]}, TypeError, "missing a required argument: 'a'"),
        ({"a": [1], "c": [2]}, TypeError, "'c'"),
    ],
)
def test_what_cannot_be_mapped_is_refused(given: Any, error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=word):
        add.map(**given)


def test_a_map_takes_keywords_alone() -> None:
    with pytest.raises(TypeError):
        add.map([1, 2])  # type: ignore[call-arg]


def test_an_endless_list_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cascade_dist.language.task.ITEMS_MAX", 1000)
    with pytest.raises(ValueError, match="more than 1,000 items"):
        add.map(a=iter(int, 1))


def test_a_map_chains_like_a_call() -> None:
    mapped = add.map(a=[1])
    assert mapped.with_retry(2).with_timeout(1).run_if(True).after(one()) is mapped
