"""A long-lived agent: a state machine that lives in one run, by jumps.

    python examples/agent_loop.py [--days 2000] [--seed 1]

The agent keeps a warehouse. Each day it *observes* the stock, and what it sees decides where the run goes
on: to *order* what runs low, to *wait* for a delivery, or to *sell*. No state is kept in a process: it
travels from step to step, so the run is as long as you like in constant memory, can be paused (``cascade
pause run:ID``), and goes on when this program has ended (``--detach``).

The ledger is a resource: a file that is open for each step and closed after it, whatever happens.

`plain` plays the same days in a loop of this process: the test compares the two.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from typing import Any, TypedDict

import cascade_dist as cs

LOW, LOT, DELIVERY_DAYS, PRICE, COST = 20, 60, 3, 9, 5


class State(TypedDict):
    """All that the agent knows."""

    day: int
    days: int
    seed: int
    stock: int
    due: int
    """Day on which a delivery comes; 0: none is under way."""
    cash: int
    lost: int
    """Pieces that could not be sold."""
    orders: int


def begin(days: int, seed: int) -> State:
    """The first morning."""
    return State(day=0, days=days, seed=seed, stock=LOT, due=0, cash=500, lost=0, orders=0)


# --- what the agent does, as plain functions ------------------------------------------------------


def choose(state: State) -> str:
    """What to do this day."""
    if state["day"] >= state["days"]:
        return "close"
    if state["stock"] < LOW and not state["due"] and state["cash"] >= LOT * COST:
        return "order"
    return "sell" if state["stock"] else "wait"


def ordered(state: State) -> State:
    """Pays for a lot, which comes some days later."""
    due = state["day"] + DELIVERY_DAYS
    return State({**state, "due": due, "cash": state["cash"] - LOT * COST, "orders": state["orders"] + 1})


def passed(state: State, wanted: int) -> State:
    """A day on which so many pieces were wanted."""
    sold = min(wanted, state["stock"])
    day, stock, due = state["day"] + 1, state["stock"] - sold, state["due"]
    if due and day >= due:
        stock, due = stock + LOT, 0
    return State(
        {
            **state,
            "day": day,
            "stock": stock,
            "due": due,
            "cash": state["cash"] + sold * PRICE,
            "lost": state["lost"] + wanted - sold,
        }
    )


def demand(state: State) -> int:
    """What customers want on a day: by chance, and the same in every process."""
    return random.Random(state["seed"] * 1_000_003 + state["day"]).randrange(0, 14)


# --- the states as tasks --------------------------------------------------------------------------


@cs.resource(name="ledger", scope="task")
def ledger() -> Iterator[list[str]]:
    """Lines about this step; they are printed when it has ended well."""
    lines: list[str] = []
    yield lines
    for line in lines:
        print(line)


@cs.task
def observe(state: State) -> Any:
    """Looks at the stock and says which state comes next."""
    return cs.Jump(choose(state), {"state": state})


@cs.task
def order(state: State, ledger: list[str] = cs.inject("ledger")) -> Any:
    """Orders a lot; the day is not over yet."""
    after = ordered(state)
    if after["orders"] % 50 == 0:
        ledger.append(f"day {after['day']}: lot {after['orders']} ordered, {after['cash']} in cash")
    return cs.Jump("observe", {"state": after})


@cs.task
def sell(state: State) -> Any:
    """Sells what is wanted; the day is over."""
    return cs.Jump("observe", {"state": passed(state, demand(state))})


@cs.task
def wait(state: State) -> Any:
    """Has nothing to sell: customers go away, and the day is over."""
    return cs.Jump("observe", {"state": passed(state, demand(state))})


@cs.task
def close(state: State) -> State:
    """The books are closed."""
    return state


def graph(days: int, seed: int) -> Any:
    """The agent: its states, and where each of them may lead."""
    state = begin(days, seed)
    first = observe(state)
    doing = {"order": order(state), "sell": sell(state), "wait": wait(state), "close": close(state)}
    cs.bind(first, cs.select_jump(doing))
    for name in ("order", "sell", "wait"):
        cs.bind(doing[name], cs.select_jump({"observe": first}))
    return first


def plain(days: int, seed: int) -> State:
    """The same days without a cluster."""
    state = begin(days, seed)
    while (what := choose(state)) != "close":
        state = ordered(state) if what == "order" else passed(state, demand(state))
    return state


def main() -> None:
    """Runs the example."""
    parser = argparse.ArgumentParser(description="An agent that keeps a warehouse, as one run.")
    parser.add_argument("--days", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--detach", action="store_true", help="start it on a cluster, and do not wait for it")
    chosen = parser.parse_args()
    target = graph(chosen.days, chosen.seed)
    if chosen.detach:
        with cs.connect() as cluster:
            run = cluster.submit(target, name="warehouse", detach=True)
            print(f"run {run.id} goes on: cascade show {run.id}, cascade pause run:{run.id}")
        return
    last = cs.run(target, name="warehouse")
    print(
        f"after {last['day']} days: {last['cash']} in cash, {last['stock']} in stock, {last['orders']} lots "
        f"ordered, {last['lost']} sales lost"
    )


if __name__ == "__main__":
    main()
