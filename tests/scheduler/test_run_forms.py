"""Forms of what begins a run: what they keep in mind is bounded."""

from __future__ import annotations

import pytest

from cascade_dist.codec.cid import cid_of
from cascade_scheduler.store import run_forms
from cascade_scheduler.store.base import RunCreated, StoredFunction
from cascade_scheduler.store.run_forms import (
    SMALL_BYTES,
    WHOLE_BYTES,
    Beginning,
    functions_from,
    functions_to,
    is_whole,
    run_from,
    run_to,
)

RUN = RunCreated(
    *("r", "a name ☃\n", "cancel", True, 1234.5, "ab", 1, b"digest", b"template", (b"1\n",), b"\n2", ()),
    params=b"3\n",
)


def function(size: int, name: str = "f") -> StoredFunction:
    body = b"b" * size
    return StoredFunction(cid_of(body), name, body, b"h")


def test_a_small_beginning_comes_back_whole() -> None:
    told, params, chunks, end = run_from(run_to(RUN))
    assert (params, chunks, end) == (RUN.params, RUN.chunks, RUN.end)
    assert (told["name"], told["submitted"], told["parts"]) == (RUN.name, RUN.submitted, 1)
    nothing = RUN._replace(params=b"", chunks=(b"",), end=b"")
    assert run_from(run_to(nothing))[1:] == (b"", (b"",), b"")


@pytest.mark.parametrize(
    "changes",
    [
        {"chunks": (b"1", b"2")},
        {"chunks": (b"1" * WHOLE_BYTES,)},
        {"params": b"1" * WHOLE_BYTES},
        {"end": b"1" * WHOLE_BYTES},
    ],
)
def test_of_any_other_only_the_head_is_told(changes: dict[str, object]) -> None:
    record = RUN._replace(**changes)  # type: ignore[arg-type]
    assert not is_whole(record)
    begun = run_from(run_to(record))
    assert begun == Beginning(begun.told)
    assert begun.told["name"] == RUN.name


def test_functions_come_back_and_only_small_ones_are_kept_in_mind() -> None:
    run_forms._together.cache_clear()
    few = (function(10, "a ☃"), function(0))
    for _ in range(2):
        together = functions_to(few)
        assert together is not None
        assert functions_from(together) == list(few)
    assert run_forms._together.cache_info().currsize == 1
    assert functions_to((function(SMALL_BYTES),)) is None
    assert functions_to((function(1, "n" * SMALL_BYTES),)) is None
    for size in range(300):
        functions_to((function(size),))
    kept = run_forms._together.cache_info()
    assert kept.currsize == kept.maxsize == 256
