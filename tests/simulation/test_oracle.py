"""Random programs come to what the evaluator says, in this process: compiler, wire, core and executor code.

A failure prints the smallest program that was found, and the seed of the simulation: `simulate(program, seed,
chaos=…)` repeats it.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from tests.simulation.checking import SEEDS, check, oracle
from tests.simulation.programs import Program, programs

pytestmark = [pytest.mark.filterwarnings("ignore:no Param is named"), pytest.mark.timeout(600)]


@given(program=programs(), seed=SEEDS)
@settings(oracle, max_examples=400)
def test_programs_come_to_what_they_mean(program: Program, seed: int) -> None:
    check(program, seed, chaos=False)


@given(program=programs(), seed=SEEDS)
@settings(oracle, max_examples=500)
def test_programs_come_to_what_they_mean_whatever_is_lost(program: Program, seed: int) -> None:
    check(program, seed, chaos=True)
