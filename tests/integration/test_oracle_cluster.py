"""Random programs come to what the evaluator says on clusters of real processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

import cascade_dist as cs
from tests.simulation.oncluster import run_all
from tests.simulation.programs import Program, programs

pytestmark = pytest.mark.integration

COUNT = 100


def draw(number: int) -> list[Program]:
    """Programs, the same ones each time for a number."""
    drawn: list[Program] = []

    @seed(number)
    @settings(
        max_examples=COUNT,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(program=programs(resources=True))
    def one(program: Program) -> None:
        drawn.append(program)

    one()
    return drawn


def check(cluster: cs.Cluster, number: int) -> None:
    wrong = run_all(cluster, draw(number))
    assert not wrong, "\n".join(f"{'; '.join(found)}\n{program!r}" for program, found in wrong)


@pytest.fixture(scope="module")
def lonely_cluster() -> Iterator[cs.Cluster]:
    """One worker with one slot."""
    with cs.connect(None, workers=1, slots=1) as cluster:
        yield cluster


def test_programs_come_to_what_they_mean(cluster: cs.Cluster) -> None:
    check(cluster, 1)


def test_programs_come_to_what_they_mean_on_one_worker(lonely_cluster: cs.Cluster) -> None:
    check(lonely_cluster, 2)
