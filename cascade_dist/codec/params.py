"""The params of a run, as they travel to the workers, for targets that tasks return."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any

from cascade_dist.codec.graph_pickler import ByValuePickler
from cascade_dist.codec.pickling import PROTOCOL
from cascade_dist.errors import TaskLoadError
from cascade_dist.graph.params import Withheld

__all__ = ["PARAMS_BYTES_MAX", "dump_params", "load_params"]

PARAMS_BYTES_MAX = 256 << 10
"""Of all params together; the largest of more stay behind."""


def dump_params(params: Mapping[str, Any] | None) -> bytes:
    """The params as bytes; those that cannot travel, or are too large, are replaced by the reason."""
    if not params:
        return b""
    pickled: dict[str, bytes | Withheld] = {}
    for name, value in params.items():
        try:
            pickled[name] = ByValuePickler().run(value).pickled()
        except Exception as error:
            pickled[name] = Withheld(f"cannot be pickled ({error})")
    sizes = {name: len(value) for name, value in pickled.items() if isinstance(value, bytes)}
    excess = sum(sizes.values()) - PARAMS_BYTES_MAX
    for name in sorted(sizes, key=lambda name: sizes[name], reverse=True):
        if excess <= 0:
            break
        excess -= sizes[name]
        pickled[name] = Withheld(
            f"takes {sizes[name]:,} bytes, and the params that workers know take at most {PARAMS_BYTES_MAX:,}"
        )
    return pickle.dumps(pickled, PROTOCOL)


def load_params(data: bytes) -> dict[str, Any]:
    """The params of a run, on a worker.

    Raises:
        TaskLoadError: a value cannot be loaded; names its param.
    """
    loaded: dict[str, Any] = {}
    for name, value in pickle.loads(data).items():
        try:
            loaded[name] = value if isinstance(value, Withheld) else pickle.loads(value)
        except Exception as error:
            raise TaskLoadError(
                f"param {name!r} could not be loaded: {type(error).__name__}: {error}"
            ) from error
    return loaded
