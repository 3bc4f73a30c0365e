"""What can be said about how a task runs, and the checks that each of these gets where it is said."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

__all__ = [
    "MICROS",
    "MODES",
    "PRIORITY_MAX",
    "RetryPolicy",
    "checked_amounts",
    "checked_cache",
    "checked_number",
    "checked_priority",
    "checked_retry",
    "checked_timeout",
    "is_text",
]

MICROS = 1_000_000
"""Amounts are counted in millionths of a unit, so that 0.1 is exact."""

MODES = ("blocking", "compute")

PRIORITY_MAX = 2**31 - 1
AMOUNT_MAX = 9e12
"""So that its millionths fit a signed 64-bit number."""
ATTEMPTS_MAX = 2**31 - 1
SECONDS_MAX = 10.0 * 365 * 24 * 3600
"""Ten years: longer is meant as "no limit", which is said by leaving it out."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When a failed attempt is tried again.

    Attributes:
        max_attempts: executions in all, at least 1.
        delay: seconds before the second attempt.
        backoff: factor on the delay per further attempt.
        jitter: share of the delay that is random, 0 to 1.
        max_delay: bound of one delay in seconds; None for none.
        on: exception classes that are retried.
    """

    max_attempts: int = 3
    delay: float = 0.0
    backoff: float = 1.0
    jitter: float = 0.0
    max_delay: float | None = None
    on: tuple[type[BaseException], ...] = (Exception,)


def is_text(value: object) -> bool:
    """Whether a name is a str; callers may pass anything, whatever the annotations say."""
    return isinstance(value, str)


def is_count(value: object) -> bool:
    """Whether something is an int, and no bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def _plain(bound: float) -> str:
    text = f"{bound:,.15g}"
    return f"{text} s (ten years)" if bound == SECONDS_MAX else text


def checked_number(what: str, value: object, low: float, high: float, remedy: str) -> float:
    """A finite number between two bounds.

    Raises:
        TypeError: it is not a number.
        ValueError: it is not finite or out of bounds; one that is too large is told the bound.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{what} is {value!r}, a {type(value).__name__}: {remedy}")
    try:
        number = float(value)
    except OverflowError:  # an int of hundreds of digits, which nobody wants to read
        raise ValueError(f"{what} is too large, the most is {_plain(high)}: {remedy}") from None
    if math.isfinite(number) and number > high:
        raise ValueError(f"{what} is {value!r}, the most is {_plain(high)}: {remedy}")
    if not math.isfinite(number) or number < low:
        raise ValueError(f"{what} is {value!r}: {remedy}")
    return number


def checked_retry(policy: object) -> RetryPolicy:
    """A retry policy whose every field makes sense; an int stands for that many attempts.

    Raises:
        TypeError: a field has the wrong type.
        ValueError: a field has a value that means nothing.
    """
    if isinstance(policy, int) and not isinstance(policy, bool):
        policy = RetryPolicy(policy)
    if not isinstance(policy, RetryPolicy):
        raise TypeError(f"retry is {policy!r}: give a cs.RetryPolicy or the number of attempts in all")
    attempts = policy.max_attempts
    if isinstance(attempts, bool) or not isinstance(attempts, int):
        raise TypeError(f"max_attempts is {attempts!r}: give how many executions there may be in all, an int")
    if not 1 <= attempts <= ATTEMPTS_MAX:
        raise ValueError(
            f"max_attempts is {attempts}: it counts executions in all, from 1 (no retry) to {ATTEMPTS_MAX}"
        )
    delay = checked_number("delay", policy.delay, 0, SECONDS_MAX, "give seconds, 0 or more")
    backoff = checked_number(
        "backoff", policy.backoff, 0, 1e9, "give a factor, such as 2 to double each delay"
    )
    jitter = checked_number(
        "jitter", policy.jitter, 0, 1, "give the share of the delay that is random, from 0 to 1"
    )
    longest = policy.max_delay
    if longest is not None:
        longest = checked_number("max_delay", longest, 0, SECONDS_MAX, "give seconds, 0 or more, or None")
    return RetryPolicy(attempts, delay, backoff, jitter, longest, _checked_classes(policy.on))


def _checked_classes(on: object) -> tuple[type[BaseException], ...]:
    classes = on if isinstance(on, tuple | list) else (on,)
    for entry in classes:
        if not isinstance(entry, type) or not issubclass(entry, Exception):
            raise TypeError(f"on has {entry!r} in it: only subclasses of Exception can be retried")
    if not classes:
        raise ValueError("on is empty, so nothing would be retried: name exception classes, or leave it out")
    return tuple(classes)


def checked_timeout(seconds: object) -> float | None:
    """The bound of one attempt in seconds, more than 0; None for none.

    Raises:
        TypeError: it is no number.
        ValueError: it is not more than 0, or not finite.
    """
    if seconds is None:
        return None
    remedy = "give seconds, more than 0, or None for no limit"
    number = checked_number("timeout", seconds, 0, SECONDS_MAX, remedy)
    if number == 0:
        raise ValueError(f"timeout is {seconds!r}: {remedy}")
    return number


def checked_cache(policy: object) -> object:
    """A caching policy: something with the methods `check` and `save`.

    Raises:
        TypeError: it is none; says what to give instead.
    """
    if isinstance(policy, type):
        raise TypeError(f"with_cache got {policy!r}, a class: make one, with_cache({policy.__name__}(…))")
    if all(callable(getattr(policy, name, None)) for name in ("check", "save")):
        return policy
    if all(callable(getattr(policy, name, None)) for name in ("get", "set")):
        raise TypeError(f"with_cache got {policy!r}, a backend: give with_cache(cs.ResultCache(backend))")
    raise TypeError(
        f"with_cache got {policy!r}, a {type(policy).__name__} without check and save: give a "
        "caching policy, such as cs.ResultCache(backend) or cs.FileExistenceCache(path)"
    )


def checked_priority(priority: object) -> int:
    """A priority: higher goes first, 0 is the default.

    Raises:
        TypeError: it is no int.
        ValueError: it is out of bounds.
    """
    if isinstance(priority, bool) or not isinstance(priority, int):
        raise TypeError(f"priority is {priority!r}: give an int; higher goes first, 0 is the default")
    if not -PRIORITY_MAX <= priority <= PRIORITY_MAX:
        raise ValueError(f"priority is {priority}: it is between -{PRIORITY_MAX} and {PRIORITY_MAX}")
    return priority


def checked_amounts(amounts: Mapping[str, Any]) -> dict[str, int]:
    """Amounts by name in millionths of a unit.

    Raises:
        TypeError: the amounts are no mapping.
        ValueError: an amount is no number, negative, not finite, or too small or large to count.
    """
    given: object = amounts
    if not isinstance(given, Mapping):
        raise TypeError(
            f"the amounts are {given!r}, a {type(given).__name__}: give a dict, such as {{'gpu': 1}}"
        )
    counted = {}
    for name, amount in amounts.items():
        if not name or not is_text(name):
            raise ValueError(f"an amount is named {name!r}: a name is a str, such as 'cpu' or 'memory_gb'")
        remedy = f"give a number, 0 or more, such as {name}=1"
        try:
            number = checked_number(f"amount {name!r}", amount, 0, AMOUNT_MAX, remedy)
        except TypeError as error:
            raise ValueError(str(error)) from None
        micros = round(number * MICROS)
        if number and not micros:
            raise ValueError(f"amount {name!r} is {amount!r}: amounts are counted in millionths")
        counted[name] = micros
    return counted
