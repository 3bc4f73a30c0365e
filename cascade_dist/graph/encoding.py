"""Canonical encoding of values: equal bytes exactly for values of equal types and contents.

Never by ``repr``, never by pickle: those differ from process to process. Plain scalars, and lists and tuples
of them, are encoded by `marshal` in its version 2, which has no references and no interning, so that it
depends on the value alone; what else there is gets a tag of its own, above all that marshal uses.
"""

from __future__ import annotations

import copyreg
import enum
import functools
import types
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from hashlib import blake2b
from marshal import dumps
from typing import Any, Final

from cascade_dist.graph.installed import installed_name
from cascade_dist.language.inputs import Env, Param
from cascade_dist.language.lazy import LazyResult
from cascade_dist.language.resources import Inject, Resource, Slot, find
from cascade_dist.language.stored import Stored
from cascade_dist.language.task import Task

__all__ = ["SCALARS", "Encoder", "Unencodable", "digest_of"]

DIGEST_SIZE: Final = 16
INLINE_MAX: Final = 4096
"""Buffers above this many bytes count by their digest, so that no copy is made."""

SCALARS: Final = frozenset({int, float, str, bytes, bool, complex, types.NoneType, types.EllipsisType})
"""Exact types that marshal encodes by value alone."""

VERSION: Final = 2

# Classes of these modules reduce to plain values that say all there is.
REDUCED_MODULES: Final = frozenset(
    "_collections array collections datetime decimal fractions ipaddress logging pathlib types typing uuid "
    "zoneinfo".split()
)

_TAG: Final = {
    name: bytes([0x80 + number])
    for number, name in enumerate(
        "list tuple dict set frozenset dataclass enum object array buffer bytes bytearray reference "
        "unknown range slice partial method builtin pattern input missing inject stored".split()
    )
}

Writer = Callable[["Encoder", Any, bytearray], None]


class Unencodable(TypeError):
    """A value that has no canonical encoding."""


def digest_of(*pieces: bytes | bytearray) -> bytes:
    """16 bytes over some bytes that are canonical already."""
    hasher = blake2b(digest_size=DIGEST_SIZE)
    for piece in pieces:
        hasher.update(piece)
    return hasher.digest()


class Encoder:
    """Writes values. What code and lazy results stand for is up to those who inherit from it."""

    def __init__(self) -> None:
        self.references: list[Any] = []
        """What was referred to, in order, by encoders that do not write references out."""
        self._writers: dict[type, Writer] = dict(_WRITERS)

    def reference(self, value: Any, out: bytearray) -> None:
        """Appends what stands for code: a function, class, task or module."""
        raise Unencodable(_name_of(type(value)))

    def lazy(self, value: LazyResult[Any], out: bytearray) -> None:
        """Appends what stands for a lazy result."""
        raise Unencodable("a lazy result")

    def unknown(self, value: Any, out: bytearray) -> None:
        """Appends what stands for a value without an encoding: its type. Or raises `Unencodable`."""
        out += _TAG["unknown"]
        out += dumps(_name_of(type(value)), VERSION)

    def write(self, value: Any, out: bytearray) -> None:
        """Appends a value's encoding.

        Raises:
            Unencodable: it has none.
            RecursionError: it is nested too deeply, or holds itself.
        """
        kind = type(value)
        if kind in SCALARS:
            if kind is bytes and len(value) > INLINE_MAX:
                _write_buffer("bytes", memoryview(value), out)
            else:
                out += dumps(value, VERSION)
            return
        writer = self._writers.get(kind)
        if writer is None:
            writer = self._writers[kind] = _writer_for(kind)
        writer(self, value, out)

    def piece(self, value: Any) -> tuple[bytes, list[Any]]:
        """A value's encoding by itself, and what it refers to."""
        kept, self.references = self.references, []
        try:
            out = bytearray()
            self.write(value, out)
            return bytes(out), self.references
        finally:
            self.references = kept


def _name_of(code: Any) -> str:
    return f"{getattr(code, '__module__', '')}.{getattr(code, '__qualname__', '')}"


def _sized(out: bytearray, tag: str, size: int) -> None:
    out += _TAG[tag]
    out += size.to_bytes(8, "little")


def _write_sequence(tag: str) -> Writer:
    def write(encoder: Encoder, value: Any, out: bytearray) -> None:
        if SCALARS.issuperset(map(type, value)):
            out += dumps(value, VERSION)
            return
        _sized(out, tag, len(value))
        for item in value:
            encoder.write(item, out)

    return write


def _write_dict(encoder: Encoder, value: Any, out: bytearray) -> None:
    # By insertion: the order can be seen by the code that gets it.
    _sized(out, "dict", len(value))
    for key, item in value.items():
        encoder.write(key, out)
        encoder.write(item, out)


def _write_set(tag: str) -> Writer:
    def write(encoder: Encoder, value: Any, out: bytearray) -> None:
        _sized(out, tag, len(value))
        pieces = [encoder.piece(item) for item in value]
        for piece, references in sorted(pieces, key=lambda entry: (entry[0], [*map(_name_of, entry[1])])):
            out += piece
            encoder.references += references

    return write


def _write_buffer(tag: str, view: memoryview, out: bytearray) -> None:
    _sized(out, tag, view.nbytes)
    out += view if view.nbytes <= INLINE_MAX else blake2b(view, digest_size=DIGEST_SIZE).digest()


def _write_bytearray(encoder: Encoder, value: Any, out: bytearray) -> None:
    _write_buffer("bytearray", memoryview(value), out)


def _write_dataclass(encoder: Encoder, value: Any, out: bytearray) -> None:
    names = [field.name for field in fields(value)]
    _sized(out, "dataclass", len(names))
    encoder.reference(type(value), out)
    for name in names:
        out += dumps(name, VERSION)
        encoder.write(getattr(value, name, _ABSENT), out)


def _write_enum(encoder: Encoder, value: Any, out: bytearray) -> None:
    out += _TAG["enum"]
    encoder.reference(type(value), out)
    out += dumps(value.name, VERSION)  # a flag without a name of its own has None or its parts
    encoder.write(value.value, out)


def _write_array(encoder: Encoder, value: Any, out: bytearray) -> None:
    """An array or scalar of numpy, which need not be imported here: by dtype, shape and buffer."""
    if value.dtype.hasobject:
        out += _TAG["array"]
        out += dumps((type(value).__name__, "object", tuple(map(int, value.shape))), VERSION)
        encoder.write(value.tolist(), out)
        return
    out += _TAG["array"]
    out += dumps(
        (type(value).__name__, value.dtype.str, str(value.dtype), tuple(map(int, value.shape))), VERSION
    )
    if value.shape and value.nbytes and value.flags.c_contiguous:
        _write_buffer("buffer", memoryview(value.reshape(-1).view("u1")), out)
    else:
        _write_buffer("buffer", memoryview(value.tobytes()), out)


def _write_dtype(encoder: Encoder, value: Any, out: bytearray) -> None:
    out += _TAG["array"]
    out += dumps((value.str, str(value)), VERSION)


def _write_reference(encoder: Encoder, value: Any, out: bytearray) -> None:
    out += _TAG["reference"]
    encoder.reference(value, out)


def _write_lazy(encoder: Encoder, value: Any, out: bytearray) -> None:
    encoder.lazy(value, out)


def _write_partial(encoder: Encoder, value: Any, out: bytearray) -> None:
    out += _TAG["partial"]
    encoder.write(value.func, out)
    encoder.write(value.args, out)
    encoder.write(value.keywords, out)


def _write_method(encoder: Encoder, value: Any, out: bytearray) -> None:
    out += _TAG["method"]
    encoder.write(value.__func__, out)
    encoder.write(value.__self__, out)


def _write_builtin(encoder: Encoder, value: Any, out: bytearray) -> None:
    out += _TAG["builtin"]
    out += dumps((value.__module__, value.__qualname__), VERSION)
    if value.__self__ is not None and not isinstance(value.__self__, types.ModuleType):
        encoder.write(value.__self__, out)


def _write_descriptor(encoder: Encoder, value: Any, out: bytearray) -> None:
    """A method of a class that is written in C: by name, and by its object where it is bound."""
    out += _TAG["builtin"]
    out += dumps((_name_of(value.__objclass__), value.__name__), VERSION)
    if isinstance(value, types.MethodWrapperType):
        encoder.write(value.__self__, out)


def _write_range(encoder: Encoder, value: Any, out: bytearray) -> None:
    out += _TAG["range"]
    out += dumps((value.start, value.stop, value.step), VERSION)


def _write_slice(encoder: Encoder, value: Any, out: bytearray) -> None:
    out += _TAG["slice"]
    encoder.write((value.start, value.stop, value.step), out)


def _write_pattern(encoder: Encoder, value: Any, out: bytearray) -> None:
    out += _TAG["pattern"]
    out += dumps((value.pattern, value.flags), VERSION)


def _write_input(encoder: Encoder, value: Any, out: bytearray) -> None:
    out += _TAG["input"]
    out += dumps((type(value).__name__, value.name), VERSION)


def _write_slot(encoder: Encoder, value: Any, out: bytearray) -> None:
    out += _TAG["inject"]
    out += dumps(value.name, VERSION)


def _write_inject(encoder: Encoder, value: Any, out: bytearray) -> None:
    """A marker, as the default of a parameter: with the code that it stands for."""
    _write_slot(encoder, value, out)
    definition = find(value)
    encoder.write(None if definition is None else definition, out)


def _write_reduced(encoder: Encoder, value: Any, out: bytearray) -> None:
    """An object by what pickle would be told of it: class, arguments, state, items."""
    try:
        special = copyreg.dispatch_table.get(type(value))
        reduced = value.__reduce_ex__(4) if special is None else special(value)
    except Exception:
        encoder.unknown(value, out)
        return
    if isinstance(reduced, str):
        out += _TAG["builtin"]
        out += dumps((type(value).__module__, reduced), VERSION)
        return
    padded: list[Any] = [*reduced, None, None, None]
    maker, args, state, items, pairs = padded[:5]
    out += _TAG["object"]
    if maker in (copyreg.__newobj__, copyreg.__newobj_ex__) or isinstance(maker, type):  # type: ignore[attr-defined]
        encoder.reference(type(value), out)
    else:
        encoder.write(maker, out)
    for part in (args[1:] if args and args[0] is type(value) else args, state):
        encoder.write(part, out)
    encoder.write(None if items is None else list(items), out)
    encoder.write(None if pairs is None else dict(pairs), out)


def _write_stored(encoder: Encoder, value: Any, out: bytearray) -> None:
    """A stored object is its content id; how it came about plays no part."""
    out += _TAG["stored"]
    out += dumps(value.cid, VERSION)


def _write_missing(encoder: Encoder, value: Any, out: bytearray) -> None:
    out += _TAG["missing"]


def _write_other(encoder: Encoder, value: Any, out: bytearray) -> None:
    """Functions of compiled libraries count by name; anything else has no encoding."""
    if installed_name(value) is not None:
        out += _TAG["reference"]
        encoder.reference(value, out)
    else:
        encoder.unknown(value, out)


_ABSENT = type("_Absent", (), {})()

_WRITERS: dict[type, Writer] = {
    list: _write_sequence("list"),
    tuple: _write_sequence("tuple"),
    dict: _write_dict,
    types.MappingProxyType: _write_dict,
    set: _write_set("set"),
    frozenset: _write_set("frozenset"),
    bytearray: _write_bytearray,
    range: _write_range,
    slice: _write_slice,
    functools.partial: _write_partial,
    types.FunctionType: _write_reference,
    types.MethodType: _write_method,
    types.BuiltinFunctionType: _write_builtin,
    types.MethodDescriptorType: _write_descriptor,
    types.ClassMethodDescriptorType: _write_descriptor,
    types.WrapperDescriptorType: _write_descriptor,
    types.MethodWrapperType: _write_descriptor,
    types.ModuleType: _write_reference,
    functools._lru_cache_wrapper: _write_reference,
    Task: _write_reference,
    type: _write_reference,
    Param: _write_input,
    Env: _write_input,
    Resource: _write_reference,
    Inject: _write_inject,
    Slot: _write_slot,
    Stored: _write_stored,
    type(_ABSENT): _write_missing,
}


def _writer_for(kind: type) -> Writer:
    """How values of a type are written, for types without a writer of their own."""
    if issubclass(kind, LazyResult):
        return _write_lazy
    if issubclass(kind, type):
        return _write_reference
    if issubclass(kind, types.BuiltinFunctionType):
        return _write_builtin
    if issubclass(kind, enum.Enum):
        return _write_enum
    if is_dataclass(kind):
        return _write_dataclass
    numpy = {base.__name__ for base in kind.__mro__ if base.__module__ == "numpy"}
    if "generic" in numpy or (kind.__module__ == "numpy" and kind.__name__ == "ndarray"):
        return _write_array  # not for subclasses of arrays: a masked one holds more than its buffer
    if "dtype" in numpy:
        return _write_dtype
    if kind.__module__ == "re" and kind.__name__ == "Pattern":
        return _write_pattern
    plain = kind.__reduce_ex__ is object.__reduce_ex__ and kind.__reduce__ is object.__reduce__
    if plain or kind in copyreg.dispatch_table or kind.__module__.partition(".")[0] in REDUCED_MODULES:
        return _write_reduced
    return _write_other
