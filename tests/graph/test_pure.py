"""Pure tasks: equal calls are one node, and what equal means."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import numpy
import pytest

import cascade_dist as cs
from cascade_dist.graph.build import build

from .cast import Pair, a, f, p


class Point(NamedTuple):
    x: Any
    y: Any


def count(*lazies: Any) -> int:
    return sum(node.name == "p" for node in build(list(lazies)).nodes)


def test_pure_calls_merge_by_what_they_mean() -> None:
    shared = a()
    assert count(p(1), p(x=1)) == 1
    assert count(p(1, 2), p(1, y=2), p(y=2, x=1)) == 1
    assert count(p([1, {"k": (2,)}]), p([1, {"k": (2,)}])) == 1
    assert count(p(shared), p(shared)) == 1
    assert count(p(p(1)), p(p(1))) == 2
    assert count(p(1).run_if(shared), p(1).run_if(shared)) == 1
    assert count(p(1).after(shared, a()), p(1).after(shared)) == 2
    assert count(p(1).after(shared).after(shared), p(1).after(shared)) == 1
    assert count(p(1).with_retry(3), p(1).with_retry(3)) == 1
    assert count(p(Pair(1, 2)), p(Pair(1, 2))) == 1


def test_pure_calls_that_differ_in_anything_do_not_merge() -> None:
    shared, other = a(), a()
    assert count(p(1), p(2)) == 2
    assert count(p(1), p(True), p(1.0), p("1")) == 4
    assert count(p(0.0), p(-0.0)) == 2
    assert count(p([1]), p((1,))) == 2
    assert count(p({"a": 1, "b": 2}), p({"b": 2, "a": 1})) == 2
    assert count(p(shared), p(other)) == 2
    assert count(p(1), p(1).run_if(shared), p(1).run_if(other)) == 3
    assert count(p(1), p(1).after(shared), p(1).after(other), p(1).after(shared, other)) == 4
    assert count(p(1), p(1).with_retry(2), p(1).with_retry(2, delay=1), p(1).with_timeout(1)) == 4
    assert count(p(1), p(1).with_constraints(gpu=1), p(1).with_priority(1)) == 3
    assert count(p(1).with_retry(2, on=ValueError), p(1).with_retry(2, on=KeyError)) == 2
    assert count(p(Pair(1, 2)), p(Point(1, 2)), p((1, 2)), p([1, 2])) == 4


def test_pure_tasks_of_other_code_do_not_merge() -> None:
    one, two = cs.task(lambda x: x + 1, pure=True, name="p"), cs.task(lambda x: x + 2, pure=True, name="p")
    assert count(one(1), two(1)) == 2
    again = cs.task(lambda x: x + 1, pure=True, name="p")
    assert count(one(1), again(1)) == 1


def test_arrays_count_by_content() -> None:
    zeros, ones = numpy.zeros(5000), numpy.zeros(5000)
    ones[2500] = 1
    assert count(p(zeros), p(ones)) == 2
    assert count(p(zeros), p(zeros.copy())) == 1
    assert count(p(zeros), p(zeros.astype("f4")), p(zeros.reshape(50, 100))) == 3


def test_a_pure_argument_without_content_is_refused_by_name() -> None:
    with pytest.raises(
        cs.GraphError, match=r"argument 'y' of the pure task 'p' is or holds a _thread.lock.*pure off"
    ):
        build(p(1, [threading.Lock()]))
    with pytest.raises(cs.GraphError, match="argument 'x' of the pure task"):
        build(p.map(x=[object.__new__(type("G", (), {"__reduce__": lambda self: (str, ())}))]))


def test_an_impure_argument_without_content_counts_by_its_type() -> None:
    lock, other = threading.Lock(), threading.Lock()
    assert build(f(lock)).structural_id == build(f(other)).structural_id
    assert build(f(lock)).structural_id != build(f(object())).structural_id
    holds_itself: list[Any] = [1]

    class Tree:
        def __init__(self) -> None:
            self.parent = self

    assert build(f(Tree())).structural_id
    holds_itself.append(holds_itself)
    with pytest.raises(
        cs.GraphError, match="arguments of 'f' are nested too deeply, or a container holds itself"
    ):
        build(f(holds_itself))
