"""Pieces of objects on the wire: FetchObjectResponse, written and read by hand.

Protobuf would copy the data twice on each side; these messages are the same bytes, with one copy in all.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from xxhash import xxh3_64_intdigest

__all__ = [
    "FIND_LANES",
    "METHOD",
    "BadPieceError",
    "Piece",
    "checksum_of",
    "decode_piece",
    "encode_piece",
    "write_all",
]

METHOD = "/cascade_dist.v1.ObjectService/FetchObject"
FIND_LANES = "/cascade_dist.v1.ObjectService/FindLanes"

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_SIZE, _DATA, _CHECKSUM = 1, 2, 4


class BadPieceError(ValueError):
    """A message that is no piece, or whose data is not what was sent."""


class Piece(NamedTuple):
    """Some of an object's bytes."""

    size: int
    """Of the whole object; 0 in all but the first piece of a stream."""
    data: Any
    checksum: int

    def check(self) -> None:
        """Raises BadPieceError when the data is not what was sent."""
        found = checksum_of(self.data)
        if found != self.checksum:
            raise BadPieceError(
                f"a piece of {len(self.data):,} bytes has the checksum {found:016x}, not {self.checksum:016x}"
            )


def checksum_of(data: Any) -> int:
    """64 bits that tell bytes that were changed on their way; they are no seal."""
    return xxh3_64_intdigest(data)


def write_all(fd: int, data: Any, at: int) -> int:
    """Writes a piece into a file at a place; returns where it ends."""
    while len(data):
        written = os.pwrite(fd, data, at)
        at += written
        data = data[written:]
    return at


def encode_piece(piece: Piece) -> bytes:
    """The message of a piece."""
    head = bytearray()
    if piece.size:
        head.append(_SIZE << 3 | _VARINT)
        _add_varint(head, piece.size)
    if len(piece.data):
        head.append(_DATA << 3 | _BYTES)
        _add_varint(head, len(piece.data))
    tail = bytes([_CHECKSUM << 3 | _FIXED64]) + piece.checksum.to_bytes(8, "little")
    return b"".join((head, piece.data, tail))


def _add_varint(out: bytearray, number: int) -> None:
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)


def decode_piece(message: bytes) -> Piece:
    """The reverse; the data is a view of the message.

    Raises:
        BadPieceError: it was cut short, or is another message.
    """
    view = memoryview(message)
    size, data, checksum = 0, view[:0], 0
    at, end = 0, len(view)
    while at < end:
        tag, at = _varint(view, at)
        field, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            number, at = _varint(view, at)
            size = number if field == _SIZE else size
            continue
        length = 4 if kind == _FIXED32 else 8
        if kind == _BYTES:
            length, at = _varint(view, at)
        elif kind not in (_FIXED32, _FIXED64):
            raise BadPieceError(f"a piece has a field of the unknown kind {kind}")
        part = view[at : at + length]
        at += length
        if field == _DATA and kind == _BYTES:
            data = part
        elif field == _CHECKSUM and kind == _FIXED64:
            checksum = int.from_bytes(part, "little")
    if at != end:
        raise BadPieceError("a piece was cut short")
    return Piece(size, data, checksum)


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        if at >= len(view) or shift > 63:
            raise BadPieceError("a piece was cut short")
        byte = view[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7
