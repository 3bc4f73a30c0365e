"""A short text of a value for people, at a price that does not depend on the value's size."""

from __future__ import annotations

import datetime
import decimal
import enum
import fractions
import pathlib
import types
import uuid
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any

__all__ = ["PREVIEW_CHARS", "preview"]

PREVIEW_CHARS = 100
_ITEMS = 6
_DEPTH = 3
_INT_BITS = 320  # about 96 decimal digits

# Types whose repr is short and runs no code of the user.
_SHORT: frozenset[type] = frozenset(
    {bool, float, complex, range, types.NoneType, types.EllipsisType, types.NotImplementedType}
    | {datetime.date, datetime.datetime, datetime.time, datetime.timedelta, datetime.timezone, uuid.UUID}
)


def preview(value: object) -> str:
    """At most 100 characters that tell what a value is.

    Never calls a user's ``__repr__``, never walks more than a few items, never raises.
    """
    kind = type(value)
    if value is None or kind is bool:
        return str(value)
    if kind is int and -(2**64) < value < 2**64:  # type: ignore[operator]
        return str(value)
    try:
        return _cut(_text(value, _DEPTH))
    except Exception:
        return _cut(_instance_name(kind))


def _cut(text: str) -> str:
    if len(text) > PREVIEW_CHARS:
        text = text[: PREVIEW_CHARS - 1] + "…"
    return text


def _text(value: Any, depth: int) -> str:
    kind = type(value)
    if kind in _SHORT:
        return repr(value)
    writer = _WRITERS.get(kind)
    if writer is not None:
        return writer(value, depth)
    return _other(value, kind, depth)


def _int(value: int, depth: int) -> str:
    bits = value.bit_length()
    return str(value) if bits <= _INT_BITS else f"<int of {bits:,} bits>"


def _str(value: str, depth: int) -> str:
    if len(value) <= PREVIEW_CHARS:
        return repr(value)
    return repr(value[:PREVIEW_CHARS])[:-1] + "…"


def _bytes(value: bytes | bytearray, depth: int) -> str:
    if len(value) <= 40:
        return repr(value)
    return f"{bytes(value[:32])!r}… ({len(value):,} bytes)"


def _items(opening: str, closing: str) -> Callable[[Any, int], str]:
    def write(value: Any, depth: int) -> str:
        if not value:
            return opening + closing
        if depth <= 0:
            return f"{opening}…{closing}"
        parts = [_text(item, depth - 1) for item in islice(value, _ITEMS)]
        if len(value) > _ITEMS:
            parts.append(f"… ({len(value):,} items)")
        elif len(value) == 1 and opening == "(":
            return f"({parts[0]},)"
        return opening + ", ".join(parts) + closing

    return write


def _set(value: set[Any] | frozenset[Any], depth: int) -> str:
    if not value:
        return f"{type(value).__name__}()"
    text = _items("{", "}")(value, depth)
    return text if type(value) is set else f"frozenset({text})"


def _dict(value: dict[Any, Any], depth: int) -> str:
    if not value:
        return "{}"
    if depth <= 0:
        return "{…}"
    parts = [f"{_text(k, depth - 1)}: {_text(v, depth - 1)}" for k, v in islice(value.items(), _ITEMS)]
    if len(value) > _ITEMS:
        parts.append(f"… ({len(value):,} items)")
    return "{" + ", ".join(parts) + "}"


def _class(value: type, depth: int) -> str:
    return f"<class {type.__getattribute__(value, '__qualname__')}>"


def _function(value: Any, depth: int) -> str:
    return f"<function {value.__qualname__}>"


def _decimal(value: decimal.Decimal, depth: int) -> str:
    return repr(value) if len(value.as_tuple().digits) <= PREVIEW_CHARS else "<Decimal of many digits>"


_WRITERS: dict[type, Callable[[Any, int], str]] = {
    int: _int,
    str: _str,
    bytes: _bytes,
    bytearray: _bytes,
    list: _items("[", "]"),
    tuple: _items("(", ")"),
    deque: _items("deque([", "])"),
    set: _set,
    frozenset: _set,
    dict: _dict,
    type: _class,
    types.FunctionType: _function,
    types.BuiltinFunctionType: _function,
    decimal.Decimal: _decimal,
    fractions.Fraction: lambda value, depth: (
        f"Fraction({_int(value.numerator, 0)}, {_int(value.denominator, 0)})"
    ),
    pathlib.PosixPath: lambda value, depth: _str(str(value), depth),
    pathlib.WindowsPath: lambda value, depth: _str(str(value), depth),
}


def _other(value: Any, kind: type, depth: int) -> str:
    if isinstance(value, BaseException):
        return f"{kind.__qualname__}({', '.join(_text(arg, depth - 1) for arg in value.args[:3])})"
    if isinstance(value, enum.Enum):
        return f"{kind.__qualname__}.{value._name_}"
    shape, dtype = _array_facts(value, kind)
    if shape is not None:
        return f"<{kind.__qualname__} shape={shape}{f' dtype={dtype}' if dtype else ''}>"
    fields = kind.__dict__.get("__dataclass_fields__")
    state = getattr(value, "__dict__", None) if fields else None
    if fields and type(state) is dict and depth > 0:
        parts = [
            f"{name}={_text(state[name], depth - 1)}" for name in islice(fields, _ITEMS) if name in state
        ]
        return f"{kind.__qualname__}({', '.join(parts)})"
    return _instance_name(kind)


def _array_facts(value: Any, kind: type) -> tuple[str | None, str]:
    """Shape and dtype of an array or frame of a well-known library; None for anything else."""
    if kind.__module__.partition(".")[0] not in (
        "numpy",
        "pandas",
        "polars",
        "torch",
        "jax",
        "cupy",
        "xarray",
        "scipy",
    ):
        return None, ""
    shape = getattr(value, "shape", None)
    if shape == () and hasattr(value, "item"):
        return None, ""
    dtype = getattr(value, "dtype", "")
    return (None, "") if shape is None else (str(tuple(shape)), str(dtype)[:30])


def _instance_name(kind: type) -> str:
    module = kind.__module__
    name = kind.__qualname__ if module in ("builtins", "__main__") else f"{module}.{kind.__qualname__}"
    return f"<{name} object>"
