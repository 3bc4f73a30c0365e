"""The forms in which results lie in Redis, beside plain pickles.

A plain pickle of protocol 2 or later begins with 0x80; a record that only refers to a value begins with 0x00,
which no pickle does, and goes on as JSON, so that people can read it.
"""

from __future__ import annotations

import json
from typing import NamedTuple, TypeAlias, Union

from cascade_dist.codec.cid import cid_from_text, cid_to_text

__all__ = ["BlobRecord", "ObjectRecord", "Record", "RecordError", "decode_record", "encode_record"]

REFERENCE = b"\x00"


class RecordError(ValueError):
    """A record in a form that this version does not know."""


class BlobRecord(NamedTuple):
    """The value is a blob. `size` in bytes."""

    cid: bytes
    size: int


class ObjectRecord(NamedTuple):
    """The value is an object on a worker. `size` in bytes."""

    attempt: int
    size: int
    worker: str
    address: str


Record: TypeAlias = Union[bytes, BlobRecord, ObjectRecord]
"""A result: its pickle, or where it is."""


def encode_record(value: Record) -> bytes:
    """The bytes that are sealed and stored."""
    if isinstance(value, bytes):
        if value[:1] == REFERENCE:
            raise RecordError("a pickle begins with 0x00, which is the mark of a reference")
        return value
    if isinstance(value, BlobRecord):
        told: dict[str, object] = {"blob": cid_to_text(value.cid), "size": value.size}
    else:
        told = {
            "object": value.attempt,
            "size": value.size,
            "worker": value.worker,
            "address": value.address,
        }
    return REFERENCE + json.dumps(told).encode()


def decode_record(data: bytes) -> Record:
    """What was stored.

    Raises:
        RecordError: a reference of an unknown form.
    """
    if data[:1] != REFERENCE:
        return data
    try:
        told = json.loads(data[1:])
        if "blob" in told:
            return BlobRecord(cid_from_text(told["blob"]), int(told["size"]))
        return ObjectRecord(int(told["object"]), int(told["size"]), told["worker"], told["address"])
    except (ValueError, KeyError, TypeError) as error:
        raise RecordError(f"a reference of unknown form: {data[1:200]!r} ({error})") from None
