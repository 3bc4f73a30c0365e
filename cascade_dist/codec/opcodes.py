"""Pickles of simple arguments, put together by hand.

Most arguments are a few upstream values and plain scalars. A pickler that knows of persistent ids costs
several microseconds for them, because it asks Python about every object; their opcodes are few and fixed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pickle import dumps
from typing import Any

__all__ = ["simple_arguments", "simple_list"]

_HEAD = b"\x80\x05"
_TUPLES = (b")", b"\x85", b"\x86", b"\x87")
_TEXT_MAX = 255


def _persistent(ordinal: int) -> bytes:
    if ordinal < 0x100:
        return b"K%cQ" % ordinal
    return b"J" + ordinal.to_bytes(4, "little") + b"Q"


_FIRST = tuple(map(_persistent, range(256)))


def simple_arguments(
    args: tuple[object, ...], kwargs: Mapping[str, object], ordinals: Mapping[int, int]
) -> bytes | None:
    """The pickle of ``(args, kwargs)`` when all of them are plain scalars, lazy values, or lists of these.

    Args:
        args: positional arguments.
        kwargs: keyword arguments.
        ordinals: by the id of a lazy value, the persistent id that stands for it.

    Returns:
        A pickle of protocol 5, or None when some argument is of another kind.
    """
    lists: set[int] = set()
    items = _items(args, ordinals, lists)
    if items is None:
        return None
    count = len(args)
    opening, closing = (b"", _TUPLES[count]) if count < 4 else (b"(", b"t")
    if not kwargs:
        return b"".join((_HEAD, opening, *items, closing, b"}\x86."))
    values = _items(kwargs.values(), ordinals, lists)
    if values is None:
        return None
    pairs = []
    for name, value in zip(kwargs, values, strict=True):
        text = name.encode()
        if len(text) > _TEXT_MAX:
            return None
        pairs.append(b"\x8c%c%b%b" % (len(text), text, value))
    return b"".join((_HEAD, opening, *items, closing, b"}(", *pairs, b"u\x86."))


def simple_list(values: list[object], ordinals: Mapping[int, int]) -> bytes | None:
    """The pickle of a list of plain scalars and lazy values; None when some item is of another kind."""
    items = _items(values, ordinals, None)
    return None if items is None else b"".join((_HEAD, b"](", *items, b"e."))


def _items(
    values: Iterable[object], ordinals: Mapping[int, int], lists: set[int] | None
) -> list[bytes] | None:
    """The opcodes of each value; lists are taken when a set is given that holds those met so far."""
    found = []
    for value in values:
        ordinal = ordinals.get(id(value))
        if ordinal is not None:
            found.append(_FIRST[ordinal] if ordinal < 256 else _persistent(ordinal))
            continue
        code = _scalar(value)
        if code is None:
            if type(value) is not list or lists is None or id(value) in lists:
                return None  # a list that stands in two places has to stay one list
            lists.add(id(value))
            inner = _items(value, ordinals, None)
            if inner is None:
                return None
            code = b"".join((b"](", *inner, b"e"))
        found.append(code)
    return found


def _scalar(value: Any) -> bytes | None:
    kind = type(value)
    if kind is int:
        if 0 <= value < 256:
            return b"K%c" % value
        return dumps(value, 2)[2:-1]  # protocol 2: the opcodes alone, without a frame
    if kind is float:
        return dumps(value, 2)[2:-1]
    if kind is str:
        if len(value) <= _TEXT_MAX:
            text = value.encode("utf-8", "surrogatepass")
            if len(text) <= _TEXT_MAX:
                return b"\x8c%c%b" % (len(text), text)
        return None
    if kind is bool:
        return b"\x88" if value else b"\x89"
    if value is None:
        return b"N"
    if kind is bytes and len(value) <= _TEXT_MAX:
        return b"C%c%b" % (len(value), value)
    return None
