"""The canonical encoding: equal bytes exactly for equal types and contents."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import ipaddress
import math
import operator
import pathlib
import re
import struct
import threading
import types
import uuid
import zoneinfo
from typing import Any, NamedTuple

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_dist.graph.code_hash import CodeHasher
from cascade_dist.graph.encoding import INLINE_MAX, Unencodable, digest_of
from cascade_dist.graph.identity import ArgumentEncoder


def encoder(strict: bool = True) -> ArgumentEncoder:
    made = ArgumentEncoder(CodeHasher(), bytearray(), {})
    made.strict = strict
    return made


def encoded(value: Any, strict: bool = True) -> bytes:
    return encoder(strict).piece(value)[0]


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class Access(enum.IntFlag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass
class Config:
    name: str
    rate: float = 0.1
    more: Any = None


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    name: str


class Point(NamedTuple):
    x: int
    y: int


class Plain:
    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


class Slotted:
    __slots__ = ("a", "b")

    def __init__(self, a: int) -> None:
        self.a = a


class Text(str):
    __slots__ = ()


class Items(list):  # type: ignore[type-arg]
    pass


# --- meaning ----------------------------------------------------------------------------------------

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-2, 2),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
    st.complex_numbers(allow_nan=False),
)
hashables = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3)
)
values = st.recursive(
    st.one_of(scalars, hashables, st.builds(Point, st.integers(), st.integers()), st.builds(Text, st.text())),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(scalars, inner, max_size=3),
        st.sets(scalars, max_size=3),
        st.builds(Config, st.text(), st.floats(allow_nan=False), inner),
        st.binary().map(bytearray),
        st.builds(Plain, a=inner),
    ),
    max_leaves=12,
)


def meaning(value: Any) -> Any:
    """A value with its types, for comparison by ``==``: what the encoding has to tell apart."""
    kind = type(value)
    if kind is float:
        return (kind, struct.pack("<d", value))
    if kind is complex:
        return (kind, struct.pack("<dd", value.real, value.imag))
    if kind in (list, tuple, Point):
        return (kind, tuple(map(meaning, value)))
    if kind in (set, frozenset):
        return (kind, frozenset(map(meaning, value)))
    if kind is dict:
        return (kind, tuple((meaning(key), meaning(item)) for key, item in value.items()))
    if kind is bytearray:
        return (kind, bytes(value))
    if kind in (Config, Plain):
        return (kind, tuple((name, meaning(item)) for name, item in vars(value).items()))
    return (kind, value)


@settings(max_examples=100)
@given(values, values)
def test_equal_bytes_exactly_for_equal_meaning(left: Any, right: Any) -> None:
    assert (encoded(left) == encoded(right)) == (meaning(left) == meaning(right))


@settings(max_examples=60)
@given(values)
def test_one_value_has_one_encoding(value: Any) -> None:
    assert encoded(value) == encoded(value) == encoded(value, strict=False)


@settings(max_examples=60)
@given(st.lists(st.lists(values, max_size=3), min_size=2, max_size=2))
def test_sequences_of_values_do_not_run_into_each_other(pair: list[list[Any]]) -> None:
    left, right = (b"".join(map(encoded, each)) for each in pair)
    assert (left == right) == (meaning(pair[0]) == meaning(pair[1]))


@given(st.sets(st.one_of(st.text(), st.integers()), min_size=2))
def test_the_order_of_a_set_does_not_count(items: set[Any]) -> None:
    other: set[Any] = set()
    for item in sorted(items, key=repr, reverse=True):
        other.add(item)
    assert encoded(items) == encoded(other)


DIFFERENT: list[Any] = [
    0,
    False,
    0.0,
    -0.0,
    0j,
    None,
    ...,
    "",
    b"",
    bytearray(),
    [],
    (),
    {},
    set(),
    frozenset(),
    range(0),
    range(0, 0, 2),
    slice(0),
    slice(None),
    1,
    True,
    1.0,
    "1",
    b"1",
    [1],
    (1,),
    {1},
    {1: 1},
    2**31,
    2**63,
    2**64,
    10**5000,
    -(10**5000),
    math.inf,
    -math.inf,
    math.nan,
    "é",
    "e\u0301",
    "\ud800",
    b"x" * INLINE_MAX,
    b"x" * (INLINE_MAX + 1),
    b"x" * (INLINE_MAX + 2),
    bytearray(b"x" * (INLINE_MAX + 1)),
    Color.RED,
    Color.BLUE,
    Access.READ,
    Access.READ | Access.WRITE,
    Config("a"),
    Config("b"),
    Config("a", 0.2),
    Frozen("a"),
    Point(1, 2),
    (1, 2),
    Plain(a=1),
    Plain(a=2),
    Plain(b=1),
    Slotted(1),
    Slotted(2),
    Text("1"),
    Items([1]),
    collections.OrderedDict(a=1),
    collections.OrderedDict(a=1, b=2),
    collections.defaultdict(list, a=1),
    collections.defaultdict(dict, a=1),
    collections.Counter("a"),
    collections.deque([1]),
    collections.deque([1], maxlen=3),
    {"a": 1, "b": 2},
    {"b": 2, "a": 1},
    datetime.date(2026, 1, 2),
    datetime.datetime(2026, 1, 2),  # noqa: DTZ001
    datetime.datetime(2026, 1, 2, fold=1),  # noqa: DTZ001
    datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
    datetime.datetime(2026, 1, 2, tzinfo=zoneinfo.ZoneInfo("UTC")),
    datetime.time(1),
    datetime.timedelta(1),
    datetime.timedelta(2),
    decimal.Decimal("1.0"),
    decimal.Decimal("1.00"),
    fractions.Fraction(1, 3),
    uuid.UUID(int=1),
    uuid.UUID(int=2),
    pathlib.PurePosixPath("a"),
    pathlib.PurePosixPath("b"),
    pathlib.PureWindowsPath("a"),
    ipaddress.ip_address("127.0.0.1"),
    ipaddress.ip_network("10.0.0.0/8"),
    re.compile("a"),
    re.compile("a", re.IGNORECASE),
    re.compile(b"a"),
    types.MappingProxyType({"x": 1}),
    int,
    str,
    list[int],
    list[str],
    int | str,
    len,
    math.sin,
    operator.itemgetter,
    [].append,
    [1].append,
    math,
    __import__("json"),
    Plain,
    Slotted,
    Plain(a=1).__init__,
    lambda: 1,
    lambda: 2,
]


def test_values_that_differ_have_different_encodings() -> None:
    by_encoding: dict[bytes, Any] = {}
    for value in DIFFERENT:
        known = by_encoding.setdefault(encoded(value), value)
        assert known is value, f"{known!r} and {value!r}"


@pytest.mark.parametrize("value", [threading.Lock(), iter([1]), threading.local(), (n for n in [1])])
def test_what_has_no_content_is_refused_or_counts_by_type(value: Any) -> None:
    with pytest.raises(Unencodable):
        encoded([value])
    assert encoded([value], strict=False) != encoded([object()], strict=False)


def test_an_object_that_raises_when_asked_has_no_content() -> None:
    class Moody:
        def __getstate__(self) -> Any:
            raise RuntimeError("not now")

    with pytest.raises(Unencodable, match="Moody"):
        encoded(Moody())


def test_arrays_of_numpy() -> None:
    base = numpy.arange(6, dtype="i4")
    different = [
        base,
        base.astype("i8"),
        base.astype(">i4"),
        base.reshape(2, 3),
        base.reshape(3, 2),
        base[::2],
        base[:0],
        base.reshape(0, 0) if base.size == 0 else numpy.zeros((0, 2), "i4"),
        numpy.array(3),
        numpy.int64(3),
        numpy.int32(3),
        numpy.float64(3),
        numpy.bool_(True),
        numpy.str_("a"),
        numpy.datetime64("2026-01-01"),
        numpy.array(["2026-01-01"], "M8[D]"),
        numpy.array(["2026-01-01"], "M8[s]"),
        numpy.array(["a", "b"]),
        numpy.array(["a", None], dtype=object),
        numpy.array([[1, "a"]], dtype=object),
        numpy.zeros(2, dtype=[("a", "i4"), ("b", "f8")]),
        numpy.zeros(2, dtype=[("a", "i4"), ("c", "f8")]),
        numpy.zeros(10_000),
        numpy.ones(10_000),
        numpy.zeros((100, 100)),
        numpy.dtype("f4"),
        numpy.dtype("f8"),
        numpy.float32,
    ]
    assert len({encoded(value) for value in different}) == len(different)
    square = numpy.arange(10_000.0).reshape(100, 100)
    assert encoded(square.T) == encoded(numpy.ascontiguousarray(square.T))
    assert encoded(square.T) != encoded(square)
    assert encoded(base[::2]) == encoded(base[::2].copy())
    with pytest.raises(Unencodable, match="MaskedArray"):
        encoded(numpy.ma.masked_array([1, 2], mask=[0, 1]))


def test_cached_parts_of_a_dataclass_do_not_count() -> None:
    config = Config("a")
    before = encoded(config)
    config.__dict__["computed"] = 5
    assert encoded(config) == before


def test_a_digest_is_over_the_pieces_end_to_end() -> None:
    assert digest_of(b"ab", bytearray(b"c")) == digest_of(b"abc")
    assert len(digest_of()) == 16
