"""What may be given as ``state_backend=``."""

from __future__ import annotations

from typing import Any

from cascade_dist.storage.redis import check_scheme, need_redis

__all__ = ["check_state_uri"]


def check_state_uri(given: Any) -> str:
    """The URI of a state, checked.

    Raises:
        TypeError: it is no text.
        ValueError: it has another scheme than redis, rediss or unix.
        ImportError: redis is not installed.
    """
    if not isinstance(given, str):
        raise TypeError(
            f"state_backend is a {type(given).__qualname__}: give a URI such as 'redis://localhost:6379/0'; "
            "backends as objects or factories are not taken"
        )
    try:
        check_scheme(given)
    except ValueError as error:
        raise ValueError(f"state_backend: {error}") from None
    need_redis()
    return given
