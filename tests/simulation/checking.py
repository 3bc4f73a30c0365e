"""Checks one program in this process, and makes it small when something differs."""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from tests.simulation.evaluator import evaluate
from tests.simulation.inprocess import simulate
from tests.simulation.outcome import differences
from tests.simulation.programs import Program, build
from tests.simulation.shrinking import shrunk

__all__ = ["SEEDS", "check", "oracle"]

SEEDS = st.integers(0, 2**16)
SEEDS_TRIED = 12
"""A smaller program is tried with so many seeds: what fails may depend on the order of things."""

oracle = settings(
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # `shrunk` shrinks by meaning, in seconds
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def found_with(program: Program, seed: int, *, chaos: bool) -> str:
    """What differs; empty: nothing."""
    try:
        verdict = evaluate(build(program), program.params)
        return "; ".join(differences(program, verdict, simulate(program, seed, chaos=chaos)))
    except Exception as error:  # a bug in the core shows as any exception
        return f"{type(error).__name__}: {error}"


def check(program: Program, seed: int, *, chaos: bool) -> None:
    """Fails with the smallest program for which something differs, if it does for this one."""
    found = found_with(program, seed, chaos=chaos)
    if not found:
        return
    seeds = [seed, *range(SEEDS_TRIED)]

    def failing(smaller: Program) -> list[int]:
        return [s for s in seeds if alike(found_with(smaller, s, chaos=chaos), found)]

    smallest = shrunk(program, lambda smaller: bool(failing(smaller)))
    [at, *_] = failing(smallest) or [seed]
    pytest.fail(f"{found_with(smallest, at, chaos=chaos) or found}\n{smallest!r}\nseed={at}, chaos={chaos}")


def alike(one: str, other: str) -> bool:
    """Two differences are of one kind: they say the same of other calls."""
    first, second = (re.sub(r"\w*\d+\S*|'\w*'", "", text)[:40] for text in (one, other))
    return bool(one) and first == second
