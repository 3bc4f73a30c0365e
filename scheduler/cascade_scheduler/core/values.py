"""Values as the core sees them: bytes that it passes on, or names of values that are elsewhere."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias, Union

__all__ = [
    "BlobValue",
    "CompoundValue",
    "PICKLED_NONE",
    "DeferredValue",
    "ErrorInfo",
    "ItemValue",
    "ListValue",
    "ObjectValue",
    "OpenValue",
    "Value",
]


class ObjectValue(NamedTuple):
    """A result that stays on a worker, named by the attempt that made it."""

    attempt: int
    size: int
    worker: str
    address: str


class BlobValue(NamedTuple):
    """Immutable bytes in the blob store."""

    cid: bytes
    size: int


class ItemValue(NamedTuple):
    """One item of a list that was split where it was made."""

    list: ObjectValue | BlobValue
    position: int


class ListValue(NamedTuple):
    """The value of a map: its children's values."""

    items: tuple[Value, ...]


class CompoundValue(NamedTuple):
    """The value of a gather: a pickle whose persistent ids stand for the inputs."""

    template: bytes | BlobValue
    inputs: tuple[Value, ...]


class DeferredValue(NamedTuple):
    """A list or container too large for an assignment; the worker asks for it."""

    run_id: str
    node: int


class OpenValue(NamedTuple):
    """What an attempt on the same worker has yet to make."""

    attempt: int


Value: TypeAlias = Union[
    bytes, ObjectValue, BlobValue, ItemValue, ListValue, CompoundValue, DeferredValue, OpenValue
]
"""An inline value is its plain pickle."""


class ErrorInfo(NamedTuple):
    """What a task raised, or what happened to it."""

    type: str
    message: str
    traceback: str = ""
    pickled: bytes = b""


PICKLED_NONE = b"\x80\x05N."
