"""Param and Env by themselves."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

import cascade_dist as cs
from cascade_dist.language.inputs import REQUIRED


def test_a_param_knows_whether_it_is_required() -> None:
    assert cs.Param("n").required
    assert not cs.Param("n", default=None).required
    assert cs.Env("X").required
    assert not cs.Env("X", "").required


@pytest.mark.parametrize(
    ("param", "value", "expected"),
    [
        (cs.Param("n"), 10, 10),
        (cs.Param("n"), "10", "10"),
        (cs.Param("n", type=int), "9", 9),
        (cs.Param("n", type=int), 9, 9),
        (cs.Param("n", type=float), 3, 3.0),
        (cs.Param("n", type=str), 3, "3"),
        (cs.Param("n", type=bool), "false", False),
        (cs.Param("n", type=bool), "Yes", True),
        (cs.Param("n", type=bool), 0, False),
        (cs.Param("n", type=list), (1, 2), [1, 2]),
        (cs.Param("n", type=lambda text: text.split(",")), "a,b", ["a", "b"]),
        (cs.Param("n", default=None, type=int), None, None),
    ],
)
def test_values_are_converted(param: cs.Param, value: Any, expected: Any) -> None:
    converted = param.convert(value)
    assert converted == expected
    assert type(converted) is type(expected)


@pytest.mark.parametrize(
    ("param", "value"), [(cs.Param("n", type=int), "nine"), (cs.Param("n", type=bool), "maybe")]
)
def test_a_value_of_the_wrong_kind_names_the_param(param: cs.Param, value: str) -> None:
    with pytest.raises(ValueError, match=f"param 'n' is '{value}'"):
        param.convert(value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: cs.Param(""),
        lambda: cs.Param(3),  # type: ignore[arg-type]
        lambda: cs.Param("n", type=3),  # type: ignore[arg-type]
        lambda: cs.Env("A=B"),
        lambda: cs.Env(""),
    ],
)
def test_bad_definitions_are_refused(make: Any) -> None:
    with pytest.raises(TypeError):
        make()


def test_neither_can_decide_anything_before_a_run() -> None:
    for value in (cs.Param("n"), cs.Env("X")):
        with pytest.raises(TypeError, match="no value before"):
            bool(value)


def test_the_mark_of_a_required_input_is_one_object() -> None:
    assert pickle.loads(pickle.dumps(REQUIRED)) is REQUIRED
    assert copy.deepcopy(cs.Param("n")).required
    assert repr(cs.Param("n")) == "Param('n')"
    assert repr(cs.Env("X")) == "Env('X')"
    assert repr(REQUIRED) == "REQUIRED"
