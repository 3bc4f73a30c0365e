"""Limits and pools as the client says them: what is read, what is refused at the call, what is shown."""

from __future__ import annotations

from typing import Any

import pytest

from cascade_dist.client import constraints
from cascade_dist.client.constraints import Constraint, parse_rate, show_rate
from cascade_dist.client.submitting import SubmitOptions, checked_pools
from cascade_dist.errors import ConfigError
from cascade_dist.v1 import client_pb2 as pb


@pytest.mark.parametrize(
    ("text", "per_second"),
    [
        ("5/s", 5.0),
        (" 10 / m ", 10 / 60),
        ("300/h", 300 / 3600),
        ("0.5/S", 0.5),
        ("2/min", 2 / 60),
        ("7", 7.0),
        (7, 7.0),
        (0.25, 0.25),
    ],
)
def test_rates(text: Any, per_second: float) -> None:
    assert parse_rate(text) == per_second


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s",
        "/s",
        "5/",
        "5/x",
        "5/s/s",
        "-5/s",
        "0/m",
        "five/s",
        "1e9/s",
        0,
        -1,
        True,
        None,
        [],
        float("inf"),
    ],
)
def test_what_is_no_rate(text: Any) -> None:
    with pytest.raises(ValueError, match="is no rate: write how many may start like '5/s'"):
        parse_rate(text)


@pytest.mark.parametrize("text", ["5/s", "10/m", "300/h", "1/s", "1/m", "1/h", "7/m", "59/m", "1000000/s"])
def test_rates_are_shown_as_they_were_written(text: str) -> None:
    shown = show_rate(parse_rate(text))
    assert parse_rate(shown) == pytest.approx(parse_rate(text))
    assert shown == {"300/h": "5/m"}.get(text, text)


def test_a_rate_that_is_no_whole_number_of_anything() -> None:
    assert show_rate(0.123456) == "0.123456/s"


def test_requests() -> None:
    pause = constraints.pause("global", "90s", None)
    assert (pause.constraint.type, pause.constraint.scope, pause.constraint.id) == (
        pb.CONSTRAINT_TYPE_PAUSE,
        "global",
        "",
    )
    assert pause.ttl.seconds == 90
    rate = constraints.rate_limit("task:f*", "10/m", None, None, "mine")
    assert (rate.constraint.rate, rate.constraint.capacity, rate.constraint.id) == (10 / 60, 1.0, "mine")
    assert not rate.HasField("ttl")
    assert constraints.concurrency("run:r", 3, 0.5, None).constraint.limit == 3
    assert constraints.clearing().all
    some = constraints.clearing("task:f", "pause", "x")
    assert (some.all, some.scope, some.type, some.id) == (False, "task:f", pb.CONSTRAINT_TYPE_PAUSE, "x")


@pytest.mark.parametrize(
    "call",
    [
        lambda: constraints.pause("everywhere", None, None),
        lambda: constraints.pause("task:", None, None),
        lambda: constraints.pause("global", 0, None),
        lambda: constraints.pause("global", "soon", None),
        lambda: constraints.pause("global", 1e20, None),
        lambda: constraints.pause("global", 3e11, None),
        lambda: constraints.pause("global", None, ""),
        lambda: constraints.concurrency("global", 0, None, None),
        lambda: constraints.concurrency("global", 2**31, None, None),
        lambda: constraints.concurrency("global", None, None, None),
        lambda: constraints.rate_limit("global", "5/s", 0.5, None, None),
        lambda: constraints.rate_limit("global", "5/s", "2", None, None),
        lambda: constraints.rate_limit("global", None, None, None, None),
        lambda: constraints.clearing("nowhere"),
        lambda: constraints.clearing(type="brake"),
        lambda: constraints.clearing(id=""),
    ],
)
def test_what_makes_no_sense_is_an_error_at_the_call(call: Any) -> None:
    with pytest.raises(ConfigError):
        call()


def test_a_constraint_as_a_record() -> None:
    message = pb.Constraint(
        id="rate_limit:task:f", scope="task:f", type=pb.CONSTRAINT_TYPE_RATE_LIMIT, rate=5, capacity=2
    )
    message.expires_at.seconds = 1
    found = constraints.decode_constraint(message)
    assert str(found) == "task:f: at most 5/s, 2 at once"
    assert found.to_dict() == {
        "id": "rate_limit:task:f",
        "scope": "task:f",
        "type": "rate_limit",
        "limit": None,
        "rate": 5.0,
        "capacity": 2.0,
        "expires_at": "1970-01-01T00:00:01+00:00",
    }
    assert str(Constraint("i", "global", "pause")) == "global: pause"
    assert str(Constraint("i", "global", "concurrency", 3)) == "global: at most 3 at a time"


def test_pools_are_checked_and_go_with_the_options() -> None:
    pools = checked_pools({"slots": 1, "memory_gb": 0.5})
    assert pools == (("slots", 1_000_000), ("memory_gb", 500_000))
    message = SubmitOptions(pools=pools).to_message(1.0)
    assert [(amount.name, amount.micros) for amount in message.pools] == list(pools)
    assert checked_pools(None) == ()
    for wrong in ({"slots": -1}, {"slots": "many"}, {"a b": 1}, {"slots": True}, {"slots": float("nan")}):
        with pytest.raises(ValueError, match=r"slots|a b"):
            checked_pools(wrong)


def test_a_submit_with_other_pools_repeats_nothing() -> None:
    keys = {SubmitOptions(pools=checked_pools(pools)).key(1.0) for pools in (None, {"a": 1}, {"a": 2})}
    assert len(keys) == 3
