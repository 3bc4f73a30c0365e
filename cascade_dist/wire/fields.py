"""Serialized messages put together from serialized fields: protobuf merges what is said twice."""

from __future__ import annotations

__all__ = ["field", "tag"]


def tag(number: int) -> bytes:
    """The tag of a field of bytes or of a message, with a number below 16."""
    return bytes([number << 3 | 2])


def field(tag: bytes, body: bytes) -> bytes:
    """A field: its tag, its length and its bytes."""
    size = len(body)
    if size < 0x80:
        return tag + bytes((size,)) + body
    head = bytearray(tag)
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head) + body
