"""A parameter sweep with early stopping, scored by an API that takes only so many calls a second.

    python examples/parameter_sweep.py [--rate 50/s] [--target 0.98]

Successive halving (K. Jamieson and A. Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter
Optimization", AISTATS 2016): all settings get a small budget, the better half a budget twice as large, and so
on. A round is a map; the run goes on as the next round by a tail call, until one setting is left or one is
good enough. The scores come from a service that must not be called too often: a rate limit on ``task:score*``
holds for all rounds, and can be changed while the sweep goes on: ``cascade constraint set 'task:score*'
--rate 10/s``.

`plain` does the same sweep in this process: the test compares the two.
"""

from __future__ import annotations

import argparse
import math
import random
from itertools import product
from typing import Any, TypedDict

import cascade_dist as cs

SAMPLES, FEATURES = 200, 6


class Setting(TypedDict):
    """What is tried."""

    rate: float
    decay: float
    momentum: float


class Trial(TypedDict):
    """A setting with its score after so many epochs."""

    setting: Setting
    epochs: int
    score: float


class Outcome(TypedDict):
    """What the sweep found."""

    best: Trial
    rounds: int
    trials: int
    stopped_early: bool


def settings() -> list[Setting]:
    """All settings of the sweep."""
    grid = product([0.001, 0.01, 0.1, 1.0], [0.0, 0.001], [0.0, 0.9])
    return [Setting(rate=rate, decay=decay, momentum=momentum) for rate, decay, momentum in grid]


# --- a small model, as plain functions ------------------------------------------------------------


def _data(seed: int) -> list[tuple[list[float], int]]:
    dice = random.Random(seed)
    slope = [dice.gauss(0, 1) for _ in range(FEATURES)]
    points = [[dice.gauss(0, 1) for _ in range(FEATURES)] for _ in range(SAMPLES)]
    return [(point, int(sum(s * x for s, x in zip(slope, point, strict=True)) > 0)) for point in points]


def fitted(setting: Setting, epochs: int) -> list[float]:
    """Weights of a logistic regression, by stochastic gradient descent."""
    weights, speed = [0.0] * FEATURES, [0.0] * FEATURES
    for epoch in range(epochs):
        rate = setting["rate"] / (1 + setting["decay"] * epoch * SAMPLES)
        for point, label in _data(0):
            z = sum(w * x for w, x in zip(weights, point, strict=True))
            error = 1 / (1 + math.exp(-max(-30.0, min(30.0, z)))) - label
            for i, x in enumerate(point):
                speed[i] = setting["momentum"] * speed[i] - rate * error * x
                weights[i] += speed[i]
    return weights


def accuracy(weights: list[float]) -> float:
    """The share of the data that the weights tell right."""
    data = _data(0)
    right = sum((sum(w * x for w, x in zip(weights, p, strict=True)) > 0) == bool(y) for p, y in data)
    return right / len(data)


def better_half(trials: list[Trial]) -> list[Trial]:
    """The trials that go on, the best first."""
    ranked = sorted(trials, key=lambda trial: (-trial["score"], str(trial["setting"])))
    return ranked[: max(1, len(ranked) // 2)]


# --- the tasks ------------------------------------------------------------------------------------


@cs.task(mode="compute")
def train(setting: Setting, epochs: int) -> list[float]:
    """The costly part."""
    return fitted(setting, epochs)


@cs.task(retry=cs.RetryPolicy(3, delay=0.1, backoff=2, on=(ConnectionError,)))
async def score(weights: list[float]) -> float:
    """Asks the service; it holds no slot meanwhile. Here the service is a function."""
    return accuracy(weights)


@cs.task
def choose(
    candidates: list[Setting], scores: list[float], epochs: int, rounds: int, trials: int, target: float
) -> Any:
    """Ends the sweep, or goes on with the better half as its next round."""
    done = [
        Trial(setting=setting, epochs=epochs, score=found)
        for setting, found in zip(candidates, scores, strict=True)
    ]
    kept = better_half(done)
    trials += len(done)
    if len(done) == 1 or kept[0]["score"] >= target:
        return Outcome(best=kept[0], rounds=rounds, trials=trials, stopped_early=len(done) > 1)
    return sweep([trial["setting"] for trial in kept], 2 * epochs, rounds + 1, trials, target)


def sweep(
    candidates: list[Setting], epochs: int = 1, rounds: int = 1, trials: int = 0, target: float = 0.98
) -> Any:
    """One round, as a target."""
    weights = train.map(setting=candidates, epochs=cs.unmapped(epochs))
    return choose(candidates, score.map(weights=weights), epochs, rounds, trials, target)


def plain(target: float = 0.98) -> Outcome:
    """The same sweep without a cluster."""
    candidates, epochs, rounds, trials = settings(), 1, 1, 0
    while True:
        done = [
            Trial(setting=setting, epochs=epochs, score=accuracy(fitted(setting, epochs)))
            for setting in candidates
        ]
        kept = better_half(done)
        trials += len(done)
        if len(done) == 1 or kept[0]["score"] >= target:
            return Outcome(best=kept[0], rounds=rounds, trials=trials, stopped_early=len(done) > 1)
        candidates = [trial["setting"] for trial in kept]
        epochs, rounds = 2 * epochs, rounds + 1


def main() -> None:
    """Runs the example."""
    parser = argparse.ArgumentParser(description="A sweep with early stopping and a rate-limited service.")
    parser.add_argument("--rate", default="50/s", help="how often the service may be called")
    parser.add_argument("--target", type=float, default=0.98, help="a score that is good enough")
    chosen = parser.parse_args()
    with cs.connect() as cluster:
        cluster.set_rate_limit("task:score*", chosen.rate)
        found: Outcome = cluster.run(sweep(settings(), target=chosen.target), name="sweep")
        cluster.clear_constraints(scope="task:score*")
    best = found["best"]
    why = "one was good enough" if found["stopped_early"] else "one was left"
    print(f"{found['trials']} trials in {found['rounds']} rounds; {why}")
    print(f"{best['score']:.3f} after {best['epochs']} epochs with {best['setting']}")


if __name__ == "__main__":
    main()
