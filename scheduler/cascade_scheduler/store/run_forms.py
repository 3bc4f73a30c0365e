"""Forms of what begins a run as bytes: lines of JSON, each with what belongs to it behind it."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, NamedTuple

from cascade_dist.codec.cid import cid_from_text, cid_to_text
from cascade_scheduler.store.base import RunCreated, StoredFunction

__all__ = [
    "SMALL_BYTES",
    "Beginning",
    "function_to",
    "functions_from",
    "functions_to",
    "is_whole",
    "run_from",
    "run_to",
]

SMALL_BYTES = 16 << 10
"""Up to so many bytes of a graph in one part, of functions, of a short run's events lie in `meta`: each key
costs time."""
WHOLE_BYTES = 4 << 10
"""Up to so many bytes of params and of a graph in one part lie in one field with what else is told of a run:
each seal costs time. Whoever tells of all runs in short reads them too, so there are not more."""


class Beginning(NamedTuple):
    """What is told of a run; the rest is empty when it lies elsewhere."""

    told: dict[str, Any]
    params: bytes = b""
    chunks: tuple[bytes, ...] = ()
    end: bytes = b""


def is_whole(record: RunCreated) -> bool:
    """Whether `run_to` tells of params and graph too."""
    chunks = record.chunks
    return len(chunks) == 1 and len(chunks[0]) + len(record.end) + len(record.params) <= WHOLE_BYTES


def run_to(record: RunCreated) -> bytes:
    """How a run began, with its params and its graph when they are small; the same bytes for the same run."""
    common = _common(
        record.name,
        record.on_failure,
        record.logs,
        record.target_id,
        record.node_count,
        record.params_digest,
        record.template_id,
        len(record.chunks),
        record.pools,
        record.cancel_on_disconnect,
        record.disconnect_grace,
    )
    told = b'%b, "submitted": %a}' % (common, record.submitted)
    if not is_whole(record):
        return told
    params, end = record.params, record.end
    return b"%b\n%d %d\n%b%b%b" % (told, len(params), len(end), params, end, record.chunks[0])


def run_from(data: bytes) -> Beginning:
    """The reverse.

    Raises:
        ValueError: the bytes are no such form.
    """
    line, _, rest = data.partition(b"\n")
    told = json.loads(line)
    if not rest:
        return Beginning(told)
    line, _, rest = rest.partition(b"\n")
    params, end = map(int, line.split())
    return Beginning(told, rest[:params], (rest[params + end :],), rest[params : params + end])


def function_to(function: StoredFunction) -> tuple[str, bytes]:
    """The field of a function, and the function."""
    field, head = _function_head(function.cid, function.name, function.code_hash, len(function.body))
    return field, head + function.body


def functions_to(functions: tuple[StoredFunction, ...]) -> bytes | None:
    """Functions one behind the other; None when they are not small."""
    size = 0
    for _, name, body, _ in functions:
        size += len(name) + len(body)
    return _together(functions) if size <= SMALL_BYTES else None


def functions_from(data: bytes) -> list[StoredFunction]:
    """Functions that stand one behind the other, or one alone.

    Raises:
        ValueError, KeyError: the bytes are no such form.
    """
    found = []
    while data:
        head, _, data = data.partition(b"\n")
        told = json.loads(head)
        body, data = data[: told["size"]], data[told["size"] :]
        cid, code_hash = cid_from_text(told["cid"]), bytes.fromhex(told["hash"])
        found.append(StoredFunction(cid, told["name"], body, code_hash))
    return found


@lru_cache(maxsize=256)
def _together(functions: tuple[StoredFunction, ...]) -> bytes:
    """Small ones: what this keeps is bounded."""
    return b"".join([function_to(function)[1] for function in functions])


@lru_cache(maxsize=1_024)
def _function_head(cid: bytes, name: str, code_hash: bytes, size: int) -> tuple[str, bytes]:
    """The field of a function, and what stands before its body."""
    text = cid_to_text(cid)
    told = {"name": name, "hash": code_hash.hex(), "cid": text, "size": size}
    return text, json.dumps(told).encode() + b"\n"


@lru_cache(maxsize=1_024)
def _common(
    name: str,
    on_failure: str,
    logs: bool,
    target_id: str,
    node_count: int,
    params_digest: bytes,
    template_id: bytes,
    parts: int,
    pools: tuple[tuple[str, int], ...],
    cancel_on_disconnect: bool,
    disconnect_grace: float,
) -> bytes:
    """What is told of all runs that differ in their id, time and arguments alone, as JSON without its end."""
    told = {
        "name": name,
        "on_failure": on_failure,
        "logs": logs,
        "target": target_id,
        "nodes": node_count,
        "params": params_digest.hex(),
        "template": template_id.hex(),
        "parts": parts,
        "pools": pools,
        "cancel_on_disconnect": cancel_on_disconnect,
        "disconnect_grace": disconnect_grace,
    }
    return json.dumps(told)[:-1].encode()
