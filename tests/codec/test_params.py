"""The params of a run, on their way to workers."""

from __future__ import annotations

import threading

import pytest

import cascade_dist as cs
from cascade_dist.codec.params import PARAMS_BYTES_MAX, dump_params, load_params
from cascade_dist.graph.build import build


@cs.task
def double(x: object) -> object:
    return x


def test_params_arrive_as_they_were() -> None:
    assert load_params(dump_params({"day": "2026-11-20", "n": 3})) == {"day": "2026-11-20", "n": 3}
    assert dump_params({}) == b""


def test_the_largest_of_too_many_bytes_stays_behind_and_says_so_when_it_is_wanted() -> None:
    data = dump_params({"small": 1, "large": b"x" * PARAMS_BYTES_MAX})
    assert len(data) < 2_000
    params = load_params(data)
    assert params["small"] == 1
    with pytest.raises(cs.GraphError, match="param 'large' is not known on workers, because it takes 262,"):
        build(double(cs.Param("large")), params)


def test_what_cannot_be_pickled_stays_behind() -> None:
    params = load_params(dump_params({"lock": threading.Lock()}))
    with pytest.raises(cs.GraphError, match=r"param 'lock' .*cannot be pickled.*pass the value on"):
        build(double(cs.Param("lock")), params)
