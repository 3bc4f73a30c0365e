"""Payloads: the bytes of a value.

A payload up to the inline limit is a plain pickle, protocol 5, buffers in band: `pickle.loads` reads it. A
larger one is packed, so that whoever maps its file gets arrays without a copy:

    "CDP1"  u32 number of buffers  u64 size of the pickle
    u64 size of each buffer
    the pickle
    the buffers, each at a multiple of 64 bytes from the start

A list that is mapped over is packed so that one item can be loaded without the others:

    "CDL1"  u32 kind (0 list, 1 view, 2 tuple, 3 other)  u64 number of items
    u64 where each item starts; one more where the last ends (kind 3: where the whole starts, and its end)
    the items, each a plain pickle or, at a multiple of 64 bytes, a packed payload

Kind 3 holds the value itself behind the items, for types that are not made again from their items. Kind 1
is loaded as a view that loads items when asked. Numbers are little endian. A pickle begins with 0x80, so the
first byte tells the forms apart.
"""

from __future__ import annotations

import itertools
import pickle
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast, overload

from cascade_dist.codec.pickling import (
    PROTOCOL,
    Dump,
    buffer_keeper,
    culprit,
    dump,
    load_with_inputs,
    remedy,
    type_name,
)
from cascade_dist.errors import ResultSerializationError, SerializationError
from cascade_dist.language.lazy import LazyResult

__all__ = [
    "INLINE_BYTES_MAX",
    "Inline",
    "ListView",
    "Packed",
    "PackedList",
    "dump_inline_or_packed",
    "dump_items",
    "is_packed",
    "load",
    "load_item",
]

INLINE_BYTES_MAX = 65_536
PIECE_BYTES = 1 << 20
_JOINED_BELOW = 1 << 16
"""Parts below this many bytes are joined before they are written: a copy costs less than a call."""
ALIGNMENT = 64

Inline = bytes
"""A payload that travels in messages: a plain pickle."""

Payload = Any
"""bytes, bytearray, memoryview or mmap."""

Dumper = Callable[[object, bool], Dump]
"""Pickles a value, with large buffers out of band when the second argument says so."""

_VALUE = b"CDP1"
_LIST = b"CDL1"
_HEAD = struct.Struct("<4sIQ")
_U64 = struct.Struct("<Q")
_KIND_LIST, _KIND_VIEW, _KIND_TUPLE, _KIND_OTHER = range(4)
_KINDS: dict[type, int] = {list: _KIND_LIST, tuple: _KIND_TUPLE}
_PADDING = bytes(ALIGNMENT)

_dumps = pickle.dumps
_loads = pickle.loads
_SCALARS = frozenset({type(None), bool, int, float, complex})
_TEXTS = frozenset({str, bytes})
_LARGE_TEXTS = frozenset({str, bytes, bytearray})


class Packed:
    """A payload above the inline limit, not yet written anywhere: views of the value's own buffers.

    The value must not change until it is written.
    """

    __slots__ = ("_parts", "size")

    def __init__(self, parts: list[Any], size: int) -> None:
        self._parts = parts
        self.size = size
        """Bytes as stored."""

    @classmethod
    def of(cls, data: bytes) -> Packed:
        """Bytes that are a payload already."""
        return Packed([data], len(data))

    def buffers(self) -> Iterator[bytes | memoryview]:
        """The payload in order, for writing: large buffers as they are, small ones joined."""
        small: list[Any] = []
        held = 0
        for part in self._parts:
            size = len(part)
            if size < _JOINED_BELOW:
                small.append(part)
                held += size
                if held < PIECE_BYTES:
                    continue
                yield b"".join(small)
            else:
                if held:
                    yield b"".join(small)
                yield part
            small, held = [], 0
        if held:
            yield b"".join(small)

    def pieces(self, limit: int = PIECE_BYTES) -> Iterator[bytes | memoryview]:
        """The payload in order, in pieces of at most `limit` bytes."""
        small: list[Any] = []
        held = 0
        for part in self._parts:
            if held + len(part) <= limit:
                small.append(part)
                held += len(part)
                continue
            if held:
                yield b"".join(small)
            small, held = [], 0
            view = memoryview(part)
            for at in range(0, len(view), limit):
                piece = view[at : at + limit]
                if len(piece) == limit:
                    yield piece
                else:
                    small, held = [piece], len(piece)
        if held:
            yield b"".join(small)

    def to_bytes(self) -> bytes:
        """The payload in one piece, copied."""
        return b"".join(self._parts)


class PackedList(Packed):
    """A packed list: any item can be loaded by itself."""

    __slots__ = ("count",)

    def __init__(self, parts: list[Any], size: int, count: int) -> None:
        super().__init__(parts, size)
        self.count = count


def dump_inline_or_packed(
    value: object, inline_max: int = INLINE_BYTES_MAX, *, what: str = "the result"
) -> Inline | Packed:
    """The payload of a value: bytes when it is small, else something to write.

    Args:
        value: any value without lazy values in it.
        inline_max: most bytes of an inline payload.
        what: how errors call the value, such as ``the result of 'load'``.

    Raises:
        ResultSerializationError: it cannot be pickled; names type, place and remedy.
    """
    kind = type(value)
    if kind in _SCALARS or (kind in _TEXTS and len(cast("str", value)) <= inline_max >> 2):
        data = _dumps(value, PROTOCOL)
        if len(data) <= inline_max:
            return data
    elif kind is bytes and len(cast("bytes", value)) > inline_max:
        value = _LargeBytes(cast("bytes", value))
    try:
        if _holds_large(value, kind):
            return _finish(value, inline_max, _dump)
        return _quick(value, inline_max) or _finish(value, inline_max, _dump)
    except Exception as error:
        raise _unpicklable(value, what, error) from error


def _quick(value: object, inline_max: int) -> Inline | Packed | None:
    """What `_finish` makes, in fewer steps; None when plain pickle cannot."""
    kept: list[memoryview] = []
    try:
        data = _dumps(value, PROTOCOL, buffer_callback=buffer_keeper(kept))
        if not kept and len(data) <= inline_max:
            return data
        made = Dump([data], kept)
        if made.total > inline_max:
            return pack(made)
        data = _dumps(value, PROTOCOL)
        return data if len(data) <= inline_max else None
    except Exception:
        return None


def _holds_large(value: Any, kind: type) -> bool:
    """Whether a container seems to be of large texts, which pickling in one piece would copy."""
    first: Any
    if kind is list or kind is tuple:
        first = value[0] if value else None
    elif kind is dict:
        first = next(iter(value.values()), None)
    else:
        return False
    return type(first) in _LARGE_TEXTS and len(first) > INLINE_BYTES_MAX


class _LargeBytes:
    """Pickles as the bytes that it wraps, with the bytes themselves out of band."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> Any:
        return bytes, (pickle.PickleBuffer(self.data),)


def _dump(value: object, out_of_band: bool) -> Dump:
    return dump(value, out_of_band=out_of_band)


def _finish(value: object, inline_max: int, dumper: Dumper) -> Inline | Packed:
    made = dumper(value, True)
    if not made.buffers:
        if made.size <= inline_max:
            return made.pickled()
    elif made.total <= inline_max:
        plain = dumper(value, False)
        if plain.size <= inline_max:
            return plain.pickled()
    return pack(made)


def pack(made: Dump) -> Packed:
    """Lays a dump out as a packed payload."""
    sizes = [view.nbytes for view in made.buffers]
    head = _HEAD.pack(_VALUE, len(sizes), made.size) + struct.pack(f"<{len(sizes)}Q", *sizes)
    parts: list[Any] = [head, *map(_flat, made.pieces)]
    at = len(head) + made.size
    for view in made.buffers:
        gap = -at % ALIGNMENT
        if gap:
            parts.append(_PADDING[:gap])
        parts.append(view)
        at += gap + view.nbytes
    return Packed(parts, at)


def _flat(piece: Any) -> Any:
    return piece if type(piece) is bytes else memoryview(piece).cast("B")


def _unpicklable(value: object, what: str, error: Exception) -> ResultSerializationError:
    if isinstance(error, ResultSerializationError):
        return error
    path, part, found = culprit(value, lambda part: dump(part, out_of_band=True))
    reason = found or error
    if isinstance(reason, SerializationError):  # only lazy results raise it
        if isinstance(part, LazyResult):
            held = f"at {path}, the lazy result of {part.task.name!r}"
        else:
            held = (
                f"in the {type_name(part)} at {path}, a lazy result" if path else "somewhere, a lazy result"
            )
        return ResultSerializationError(
            f"{what} is a {type_name(value)} that holds, {held}, which nothing would run: return a lazy "
            "result by itself to go on as that; for several, return a call of a task that takes them as its "
            "arguments"
        )
    where = f"; at {path} there is a {type_name(part)}" if path else ""
    return ResultSerializationError(
        f"{what} is a {type_name(value)} and cannot be pickled ({reason}){where}: {remedy(part, reason)}"
    )


def is_packed(payload: Payload) -> bool:
    """Whether a payload is packed, as a value or as a list."""
    return bytes(payload[:4]) in (_VALUE, _LIST)


def load(payload: Payload, inputs: Sequence[object] = ()) -> Any:
    """The value of a payload.

    Args:
        payload: bytes, or memory that lives as long as the value: arrays of packed ones are read-only views.
        inputs: what persistent ids stand for.

    Raises:
        SerializationError: the payload is cut short or none of ours.
        Exception: whatever unpickling raises, such as ModuleNotFoundError.
    """
    if len(payload) and payload[0] == 0x80:
        return load_with_inputs(payload, inputs) if inputs else _loads(payload)
    view = memoryview(payload).toreadonly()
    magic, number, size = _head(view)
    if magic == _LIST:
        return _load_list(view, number, size)
    first = _HEAD.size + 8 * number
    sizes = struct.unpack_from(f"<{number}Q", view, _HEAD.size)
    at = first + size
    buffers = []
    for length in sizes:
        at += -at % ALIGNMENT
        buffers.append(view[at : at + length])
        at += length
    if at > len(view):
        raise SerializationError(f"a payload was cut short: {len(view):,} of {at:,} bytes are there")
    pickled = view[first : first + size]
    if inputs:
        return load_with_inputs(pickled, inputs, buffers)
    return _loads(pickled, buffers=buffers)


def _head(view: memoryview) -> tuple[bytes, int, int]:
    if len(view) < _HEAD.size:
        raise SerializationError(
            f"a payload of {len(view)} bytes is no payload: it was cut short, or written by another program"
        )
    magic, number, size = _HEAD.unpack_from(view)
    if magic not in (_VALUE, _LIST):
        raise SerializationError(
            f"a payload begins with {magic!r}: it was written by another program, or another version"
        )
    words = number if magic == _VALUE else size + 1 + (number == _KIND_OTHER)
    if _HEAD.size + 8 * words > len(view):
        raise SerializationError(
            f"a payload was cut short: {len(view):,} bytes are there, its table alone has {8 * words:,}"
        )
    return magic, number, size


# --- lists ----------------------------------------------------------------------------------------


def dump_items(
    value: Any, inline_max: int = INLINE_BYTES_MAX, *, what: str = "the result"
) -> list[bytes] | PackedList:
    """The payloads of a value's items: plain pickles when all together are small, else a packed list.

    Args:
        value: anything with a length that can be iterated over.
        inline_max: most bytes of all items together.
        what: how errors call the value.

    Raises:
        TypeError: it has no length or no items.
        ResultSerializationError: an item cannot be pickled; names item, type and remedy.
    """
    count = len(value)
    payloads: list[Inline | Packed] = []
    total = 0
    small = True
    for index, item in enumerate(itertools.islice(value, count + 1)):
        try:
            payload = dump_inline_or_packed(item, inline_max, what=what)
        except ResultSerializationError:
            raise _unpicklable_item(item, index, what) from None
        total += len(payload) if type(payload) is bytes else cast("Packed", payload).size
        small = small and type(payload) is bytes
        payloads.append(payload)
    if len(payloads) != count:
        given = "more" if len(payloads) > count else len(payloads)
        raise TypeError(f"{what} is a {type_name(value)} that says it has {count} items, but gave {given}")
    if small and total <= inline_max:
        return cast("list[bytes]", payloads)
    kind = _KINDS.get(type(value), _KIND_OTHER)
    if kind == _KIND_OTHER:
        payloads.append(dump_inline_or_packed(value, inline_max, what=what))
    return _pack_list(payloads, kind, count)


def pack_column(items: Iterable[object], dumper: Dumper) -> PackedList:
    """A packed list that `load` gives as a `ListView`: who wants one item does not load the others."""
    payloads = [_finish(item, INLINE_BYTES_MAX, dumper) for item in items]
    return _pack_list(payloads, _KIND_VIEW, len(payloads))


def _unpicklable_item(item: object, index: int, what: str) -> ResultSerializationError:
    try:
        dump(item, out_of_band=True)
    except Exception as error:
        return _unpicklable(item, f"item {index} of {what}", error)
    return ResultSerializationError(f"item {index} of {what} cannot be pickled")


def _pack_list(payloads: list[Inline | Packed], kind: int, count: int) -> PackedList:
    starts: list[int] = []
    parts: list[Any] = []
    at = _HEAD.size + 8 * (len(payloads) + 1)
    for payload in payloads:
        if isinstance(payload, bytes):
            starts.append(at)
            parts.append(payload)
            at += len(payload)
            continue
        gap = -at % ALIGNMENT
        if gap:
            parts.append(_PADDING[:gap])
            at += gap
        starts.append(at)
        parts.extend(payload._parts)
        at += payload.size
    starts.append(at)
    head = _HEAD.pack(_LIST, kind, count) + struct.pack(f"<{len(starts)}Q", *starts)
    return PackedList([head, *parts], at, count)


def load_item(payload: Payload, index: int) -> Any:
    """One item of a packed list.

    Raises:
        IndexError: there is no such item.
        SerializationError: it is no packed list, or was cut short.
    """
    view = memoryview(payload).toreadonly()
    magic, _, count = _head(view)
    if magic != _LIST:
        raise SerializationError("a payload is no packed list, so it has no items of its own")
    if not 0 <= index < count:
        raise IndexError(f"item {index} of a packed list of {count}")
    start, end = struct.unpack_from("<2Q", view, _HEAD.size + 8 * index)
    if end > len(view) or start >= end:
        raise SerializationError(
            f"a packed list was cut short: item {index} ends at byte {end:,} of {len(view):,}"
        )
    return load(view[start:end])


def _load_list(view: memoryview, kind: int, count: int) -> Any:
    if kind == _KIND_VIEW:
        return ListView(view, count)
    if kind == _KIND_OTHER:
        start, end = struct.unpack_from("<2Q", view, _HEAD.size + 8 * count)
        if end > len(view):
            raise SerializationError(f"a packed list was cut short: {len(view):,} of {end:,} bytes are there")
        return load(view[start:end])
    starts = struct.unpack_from(f"<{count + 1}Q", view, _HEAD.size)
    if starts[-1] > len(view):
        raise SerializationError(
            f"a packed list was cut short: {len(view):,} of {starts[-1]:,} bytes are there"
        )
    items = [load(view[starts[i] : starts[i + 1]]) for i in range(count)]
    return tuple(items) if kind == _KIND_TUPLE else items


class ListView(Sequence[Any]):
    """The items of a packed list, each loaded when it is asked for."""

    __slots__ = ("_count", "_view")

    def __init__(self, view: memoryview, count: int) -> None:
        self._view = view
        self._count = count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._count))]
        return load_item(self._view, index + self._count if index < 0 else index)
