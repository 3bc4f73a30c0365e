"""Cache keys of inputs by content: the same in every process, whatever the hash seed."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from cascade_dist.graph.code_hash import CodeHasher
from cascade_dist.graph.content import ContentEncoder
from cascade_dist.graph.encoding import DIGEST_SIZE, Unencodable

__all__ = ["content_digest", "content_key"]


def content_digest(value: Any) -> bytes:
    """16 bytes over a value's type and content.

    Raises:
        Unencodable: it is or holds something whose content has no canonical form.
    """
    out = bytearray()
    try:
        ContentEncoder(CodeHasher()).write(value, out)
    except RecursionError:
        raise Unencodable("something that holds itself or is nested too deeply") from None
    return blake2b(out, digest_size=DIGEST_SIZE).digest()


def content_key(task_id: str, inputs: Mapping[str, Any]) -> str:
    """A key over a task and its inputs, as text.

    Raises:
        Unencodable: an input has no canonical form; names the parameter.
    """
    whole = blake2b(task_id.encode(), digest_size=DIGEST_SIZE)
    for name in sorted(inputs):
        try:
            digest = content_digest(inputs[name])
        except Unencodable as error:
            raise Unencodable(
                f"argument {name!r} is or holds {error}: pass plain values, arrays or dataclasses, or give "
                "ResultCache a key="
            ) from None
        encoded = name.encode()
        whole.update(len(encoded).to_bytes(8, "little") + encoded + digest)
    return f"{task_id.partition('@')[0]}:{whole.hexdigest()}"
