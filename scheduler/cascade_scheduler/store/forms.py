"""Forms of records as bytes, for stores that keep bytes: JSON, with what is binary as base64."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Any

from cascade_scheduler.core.cached import Facts
from cascade_scheduler.core.values import BlobValue, ErrorInfo
from cascade_scheduler.store.base import Place, StoredAnswer, StoredFailure

__all__ = [
    "answer_from",
    "answer_to",
    "facts_from",
    "facts_to",
    "failure_from",
    "failure_to",
    "place_from",
    "place_to",
]


def place_to(node: int, index: int) -> str:
    """A place as text: 7, or 7[2] of a map's child."""
    return str(node) if index < 0 else f"{node}[{index}]"


def place_from(text: bytes) -> Place:
    """The place that a text names.

    Raises:
        ValueError: it names none.
    """
    node, bracket, index = text.partition(b"[")
    return int(node), int(index.rstrip(b"]")) if bracket else -1


def facts_to(facts: Facts) -> bytes:
    """What was observed of a value."""
    told: dict[str, Any] = facts._asdict()
    told["digest"] = _text(facts.digest)
    told["error"] = None if facts.error is None else _error_to(facts.error)
    told["items"] = None if facts.items is None else [_text(item) for item in facts.items]
    told["split"] = None if facts.split is None else [_text(facts.split.cid), facts.split.size]
    return json.dumps(told).encode()


def facts_from(data: bytes) -> Facts:
    """The reverse.

    Raises:
        ValueError, KeyError: the bytes are no such form.
    """
    told = json.loads(data)
    told["digest"] = b64decode(told["digest"])
    told["routes"] = tuple((router, found) for router, found in told["routes"])
    told["error"] = None if told["error"] is None else _error_from(told["error"])
    told["items"] = None if told["items"] is None else tuple(map(b64decode, told["items"]))
    split = told["split"]
    told["split"] = None if split is None else BlobValue(b64decode(split[0]), split[1])
    return Facts(**told)


def failure_to(error: ErrorInfo, task: str) -> bytes:
    """Why a node has failed."""
    return json.dumps({"error": _error_to(error), "task": task}).encode()


def failure_from(data: bytes) -> StoredFailure:
    """The reverse.

    Raises:
        ValueError, KeyError: the bytes are no such form.
    """
    told = json.loads(data)
    return StoredFailure(_error_from(told["error"]), told["task"])


def answer_to(finish: bytes, keys: Sequence[tuple[int, str]]) -> bytes:
    """How a run ended."""
    # As JSON has it: keys are made of digits, brackets, colons and slashes.
    head = ", ".join([f'[{node}, "{key}"]' for node, key in keys])
    return f"{len(head) + 2}\n[{head}]".encode() + finish


def answer_from(data: bytes) -> StoredAnswer:
    """The reverse.

    Raises:
        ValueError: the bytes are no such form.
    """
    size, _, rest = data.partition(b"\n")
    keys = json.loads(rest[: int(size)])
    return StoredAnswer(rest[int(size) :], tuple((node, key) for node, key in keys))


def _error_to(error: ErrorInfo) -> list[str]:
    return [error.type, error.message, error.traceback, _text(error.pickled)]


def _error_from(told: list[str]) -> ErrorInfo:
    return ErrorInfo(told[0], told[1], told[2], b64decode(told[3]))


def _text(data: bytes) -> str:
    return b64encode(data).decode()
