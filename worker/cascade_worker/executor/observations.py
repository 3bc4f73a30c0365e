"""Observations: what the scheduler may know of a value without the value. Made where the value is made.

One that raises is reported as that, and fails the consumers that asked for it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from decimal import Decimal
from math import isfinite
from numbers import Real
from typing import Any, NamedTuple

from cascade_dist.codec.exceptions import encode_exception
from cascade_dist.codec.preview import preview, qualified_name
from cascade_dist.codec.values import Packed, dump_items, load
from cascade_dist.errors import ResultSerializationError
from cascade_dist.language.task import ITEMS_MAX

__all__ = [
    "OBSERVE_AMOUNT",
    "OBSERVE_DIGEST",
    "OBSERVE_ROUTE",
    "OBSERVE_SPLIT",
    "OBSERVE_TRUTH",
    "Keys",
    "Seen",
    "observe",
]

OBSERVE_TRUTH = 1
OBSERVE_SPLIT = 2
OBSERVE_ROUTE = 4
OBSERVE_AMOUNT = 8
OBSERVE_DIGEST = 16

MICROS = 1_000_000
_MICROS_MAX = 1 << 62
_KEYS_TOLD = 20
_KEYS_KEPT = 256


class Seen(NamedTuple):
    """What was observed of a value; what was not asked for, or raised, is missing."""

    truth: bool | None = None
    length: int | None = None
    items: list[bytes] | None = None
    error: tuple[Any, ...] | None = None
    """The first exception, as an error record."""
    packed: Packed | None = None
    """The value, split, when its items are large together."""
    more: dict[str, Any] | None = None
    """What few tasks have, by the name of the report's field."""


class _Router(NamedTuple):
    """A router's keys, for looking up."""

    numbers: Mapping[Any, int]
    told: str
    """The keys as people read them, bounded."""


class Keys:
    """Key tuples of routers, unpickled once."""

    def __init__(self) -> None:
        self._routers: OrderedDict[bytes, _Router] = OrderedDict()

    def of(self, pickled: bytes) -> _Router:
        """The keys of a router; the first of equal ones wins."""
        found = self._routers.get(pickled)
        if found is None:
            keys = load(pickled)
            numbers: dict[Any, int] = {}
            for number, key in enumerate(keys):
                numbers.setdefault(key, number)
            told = ", ".join(_line(key) for key in keys[:_KEYS_TOLD])
            if len(keys) > _KEYS_TOLD:
                told += f" and {len(keys) - _KEYS_TOLD:,} more"
            found = self._routers[pickled] = _Router(numbers, told)
            if len(self._routers) > _KEYS_KEPT:
                self._routers.popitem(last=False)
        return found


def observe(
    bits: int, value: Any, *, keys: Keys, route_keys: Sequence[bytes], name: str, what: str, inline_max: int
) -> Seen:
    """Makes observations of a value.

    Args:
        bits: which.
        route_keys: pickled key tuples of routers that the value may select a route of.
        name: the task whose value it is; empty when nobody knows.
        what: how errors of pickling call the value.
        inline_max: most bytes of a list's items together that go inline.

    Raises:
        ResultSerializationError: an item of a list cannot be pickled.
    """
    truth, length, items, packed = None, None, None, None
    more: dict[str, Any] = {}
    errors: list[Exception] = []
    if bits & OBSERVE_TRUTH:
        try:
            truth = bool(value)
        except Exception as error:
            errors.append(error)
    if bits & OBSERVE_SPLIT:
        try:
            length, items, packed = _split(value, inline_max, what)
        except ResultSerializationError:
            raise
        except Exception as error:
            errors.append(error)
    if bits & OBSERVE_ROUTE:
        try:
            more["routes_plus_one"], more["route_text"] = _routes(value, keys, route_keys, name)
        except Exception as error:
            errors.append(error)
    if bits & OBSERVE_AMOUNT:
        try:
            more["amount_micros"] = _micros(value)
        except Exception as error:
            errors.append(error)
    if bits & OBSERVE_DIGEST:
        more["digest"] = _digest(value)
    first = tuple(encode_exception(errors[0])) if errors else None
    return Seen(truth, length, items, first, packed, more or None)


def _split(value: Any, inline_max: int, what: str) -> tuple[int, list[bytes] | None, Packed | None]:
    """Length, and the items when they are small, else the packed list.

    Raises:
        TypeError: it is no list to map over; the same things are refused where the client maps over them.
        ValueError: it is longer than any list that is mapped over; its items would fill the memory first.
    """
    if isinstance(value, str | bytes | bytearray):
        raise TypeError(f"a {type(value).__name__} is not a list to map over")
    if isinstance(value, set | frozenset):
        raise TypeError(f"a {type(value).__name__} has no order to map in")
    length = len(value)
    if length > ITEMS_MAX:
        raise ValueError(f"it has {length:,} items, and the most is {ITEMS_MAX:,}: map over batches")
    split = dump_items(value, inline_max, what=what)
    return (length, None, split) if isinstance(split, Packed) else (length, split, None)


def _routes(value: Any, keys: Keys, route_keys: Sequence[bytes], name: str) -> tuple[list[int], str]:
    """Per router the index of its key plus 1, or 0 and a line that says so."""
    try:
        hash(value)
    except TypeError as error:
        whose = f"the value of {name!r}" if name else _line(value)
        raise TypeError(f"{whose} cannot be a router's key: {error}") from None
    routes, lines = [], []
    for pickled in route_keys:
        router = keys.of(pickled)
        found = router.numbers.get(value)
        if found is None:
            routes.append(0)
            of = f", the value of {name!r}" if name else ""
            lines.append(f"no route for {_line(value)}{of}: the keys are {router.told}")
        else:
            routes.append(found + 1)
    return routes, "\n".join(lines)


def _line(value: Any) -> str:
    return preview(value).replace("\n", "\\n")


def _micros(value: Any) -> int:
    """A number in millionths.

    Raises:
        TypeError: it is no number.
        ValueError: it is not finite, or too large to count.
    """
    if type(value) is int:
        micros = value * MICROS
    elif isinstance(value, bool) or not isinstance(value, (Real, Decimal)):
        raise TypeError(f"{preview(value)} is no number but a {qualified_name(type(value))}")
    elif not isfinite(value):
        raise ValueError(f"{preview(value)} is not finite")
    elif isinstance(value, Decimal):
        micros = round(value * MICROS)
    else:
        micros = round(float(value) * MICROS)
    if abs(micros) > _MICROS_MAX:
        raise ValueError(f"{preview(value)} is too large to count in millionths")
    return micros


def _digest(value: Any) -> bytes:
    """16 bytes over the content; empty when it has no canonical form."""
    from cascade_dist.caching.keys import content_digest
    from cascade_dist.graph.encoding import Unencodable

    try:
        return content_digest(value)
    except Unencodable:
        return b""
