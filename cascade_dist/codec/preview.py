"""A short text of a value for people, at a price that does not depend on the value's size."""

from __future__ import annotations

import datetime
import decimal
import enum
import fractions
import types
import uuid
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any

__all__ = ["PREVIEW_CHARS", "preview", "qualified_name"]

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
        return _cut(_object(kind))


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
    return f"<class {_name(value)}>"


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
}


def _other(value: Any, kind: type, depth: int) -> str:
    if issubclass(kind, BaseException):
        return f"{_name(kind)}({', '.join(_text(arg, depth - 1) for arg in value.args[:3])})"
    if issubclass(kind, enum.Enum):
        return f"{_name(kind)}.{value._name_}"
    if issubclass(kind, type):
        return f"<class {_name(value)}>"
    library = _of_class(kind, "__module__").partition(".")[0]
    if library == "pathlib":
        return f"{_name(kind)}({_str(str(value), depth)})"
    if library in _ARRAY_LIBRARIES:
        return _array(value, kind, library, depth)
    fields = _of_class(kind, "__dict__").get("__dataclass_fields__")
    if fields and depth > 0:
        state = object.__getattribute__(value, "__dict__")
        parts = [
            f"{name}={_text(state[name], depth - 1)}" for name in islice(fields, _ITEMS) if name in state
        ]
        return f"{_name(kind)}({', '.join(parts)})"
    return _object(kind)


_ARRAY_LIBRARIES = frozenset({"numpy", "pandas", "polars", "torch", "jax", "cupy", "xarray", "scipy"})


def _array(value: Any, kind: type, library: str, depth: int) -> str:
    """Shape and dtype, for these say more than some of the numbers."""
    shape = getattr(value, "shape", None)
    if shape is None:
        return _object(kind)
    if library == "numpy" and shape == ():
        return _text(value.item(), depth - 1)
    dtype = getattr(value, "dtype", None)
    told = "" if dtype is None else f" dtype={_dtype(dtype, library)}"
    return f"<{_name(kind)} shape={tuple(shape)}{told}>"


_dtypes: dict[str, str] = {}
"""Names of the types that NumPy has built in, which are few, by their letter: it takes long to say one."""


def _dtype(dtype: Any, library: str) -> str:
    if library != "numpy" or dtype.isbuiltin != 1:
        return str(dtype)[:30]
    letter: str = dtype.char
    name = _dtypes.get(letter)
    if name is None:
        name = _dtypes[letter] = str(dtype)[:30]
    return name


def _object(kind: type) -> str:
    return f"<{qualified_name(kind)} object>"


def _of_class(kind: type, attribute: str) -> Any:
    """An attribute of a class, past whatever its metaclass does."""
    return type.__getattribute__(kind, attribute)


def _name(kind: type) -> str:
    return str(_of_class(kind, "__qualname__"))


def qualified_name(kind: type) -> str:
    """A class's name as users read it: with its module, unless that is a matter of course."""
    module = _of_class(kind, "__module__")
    return _name(kind) if module in ("builtins", "__main__") else f"{module}.{_name(kind)}"
