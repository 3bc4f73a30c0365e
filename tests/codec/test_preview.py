"""Previews are short, cheap and never raise."""

from __future__ import annotations

import datetime
import decimal
import enum
import fractions
import pathlib
import uuid
from collections import OrderedDict, deque, namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_dist.codec.preview import PREVIEW_CHARS, preview


class Color(enum.Enum):
    """An enum."""

    RED = 1


@dataclass
class Point:
    """A dataclass."""

    x: Any
    y: Any = 0


Named = namedtuple("Named", "a b")


class Hostile:
    """Raises wherever it is asked for something."""

    def __repr__(self) -> str:
        raise AssertionError("its __repr__ was called")

    __str__ = __repr__

    def __len__(self) -> int:
        raise AssertionError("its __len__ was called")

    def __iter__(self) -> Any:
        raise AssertionError("it was walked")

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        (True, "True"),
        (-12, "-12"),
        (2**64, "18446744073709551616"),
        (1 << 10_000, "<int of 10,001 bits>"),
        (1.5, "1.5"),
        ("it's", '"it\'s"'),
        (b"ab", "b'ab'"),
        ([], "[]"),
        ((1,), "(1,)"),
        ((), "()"),
        (set(), "set()"),
        ({1}, "{1}"),
        (frozenset({1}), "frozenset({1})"),
        ({}, "{}"),
        ({"a": [1, None]}, "{'a': [1, None]}"),
        ([[[[[1]]]]], "[[[[…]]]]"),
        (list(range(10)), "[0, 1, 2, 3, 4, 5, … (10 items)]"),
        (deque([1, 2]), "deque([1, 2])"),
        (b"z" * 1000, f"{b'z' * 32!r}… (1,000 bytes)"),
        (Color.RED, "Color.RED"),
        (Point(1, [2]), "Point(x=1, y=[2])"),
        (ValueError("bad", 3), "ValueError('bad', 3)"),
        (KeyError, "<class KeyError>"),
        (preview, "<function preview>"),
        (datetime.date(2026, 1, 2), "datetime.date(2026, 1, 2)"),
        (decimal.Decimal("1.50"), "Decimal('1.50')"),
        (fractions.Fraction(1, 3), "Fraction(1, 3)"),
        (pathlib.PurePosixPath("a/b"), "PurePosixPath('a/b')"),
        (pathlib.Path("a/b"), f"{type(pathlib.Path()).__name__}('a/b')"),
        (uuid.UUID(int=0), "UUID('00000000-0000-0000-0000-000000000000')"),
        (np.zeros((3, 4)), "<ndarray shape=(3, 4) dtype=float64>"),
        (np.float64(2.5), "2.5"),
        (np.arange(3), "<ndarray shape=(3,) dtype=int64>"),
    ],
)
def test_previews(value: object, text: str) -> None:
    assert preview(value) == text


def test_objects_are_named_and_left_alone() -> None:
    for value in (Hostile(), [Hostile()], {"k": Hostile()}, Point(Hostile())):
        assert "Hostile object" in preview(value)
    for value in (Named(1, 2), OrderedDict(a=1), object()):
        assert preview(value).endswith(f"{type(value).__name__} object>")


def test_a_class_that_lies_about_itself() -> None:
    class Meta(type):
        def __getattribute__(cls, name: str) -> Any:
            raise RuntimeError(name)

    class Odd(metaclass=Meta):
        pass

    for value in (Odd(), Odd, [Odd]):
        assert len(preview(value)) <= PREVIEW_CHARS


def test_values_that_hold_themselves() -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert preview(loop) == "[[[[…]]]]"


def test_a_large_value_costs_what_a_small_one_does() -> None:
    class Counting(dict[Any, Any]):
        pass

    values: list[Any] = [
        "x" * 10**7,
        list(range(10**6)),
        dict.fromkeys(range(10**6)),
        set(range(10**5)),
        Counting(),
    ]
    for value in values:
        assert len(preview(value)) <= PREVIEW_CHARS


@given(
    st.recursive(st.none() | st.text() | st.integers() | st.binary(), lambda x: st.lists(x) | st.tuples(x, x))
)
def test_always_short(value: object) -> None:
    assert 0 < len(preview(value)) <= PREVIEW_CHARS
