"""Random programs for as long as one likes: `make soak`, or SOAK_SECONDS=3600 make soak.

Each round has a seed of its own, which is printed with the program when something differs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from random import SystemRandom

import pytest
from hypothesis import Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

import cascade_dist as cs
from tests.simulation.checking import SEEDS, check, oracle
from tests.simulation.oncluster import run_all
from tests.simulation.programs import Program, programs

SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(SECONDS + 900),
    pytest.mark.filterwarnings("ignore:no Param is named"),
]


def rounds(seconds: float, play: Callable[[int], None]) -> None:
    """Plays rounds with fresh seeds until the time is up."""
    dice = SystemRandom()
    ends = time.monotonic() + seconds
    count = 0
    while time.monotonic() < ends:
        seed = dice.randrange(2**32)
        try:
            play(seed)
        except BaseException as error:
            error.add_note(f"round {count} of the soak, seed {seed}")
            raise
        count += 1
    print(f"{count} rounds without a difference")


def test_soak_in_process() -> None:
    def play(seed: int) -> None:
        @seeded(seed)
        @settings(oracle, max_examples=200, database=None)
        @given(program=programs(), place=SEEDS, chaos=st.booleans())
        def one_round(program: Program, place: int, chaos: bool) -> None:
            check(program, place, chaos=chaos)

        one_round()

    rounds(SECONDS / 2, play)


def play_on(cluster: cs.Cluster, seed: int) -> None:
    drawn: list[Program] = []

    @seeded(seed)
    @settings(oracle, max_examples=40, database=None, phases=[Phase.generate])
    @given(program=programs(resources=True))
    def draw(program: Program) -> None:
        drawn.append(program)

    draw()
    wrong = run_all(cluster, drawn)
    assert not wrong, "\n".join(f"{'; '.join(found)}\n{program!r}" for program, found in wrong)


def test_soak_on_a_private_cluster() -> None:
    with cs.connect(None, workers=2, slots=2) as cluster:
        rounds(SECONDS / 4, lambda seed: play_on(cluster, seed))


def test_soak_on_a_cluster_with_redis(cluster_address: str) -> None:
    with cs.connect(cluster_address) as cluster:
        rounds(SECONDS / 4, lambda seed: play_on(cluster, seed))
