"""Lazy amounts; waits and recvs."""

from __future__ import annotations

import pytest

from cascade_scheduler.core import commands as c
from cascade_scheduler.core import events as e
from cascade_scheduler.core import flow, views
from cascade_scheduler.core.values import ErrorInfo

from .harness import GraphMaker, Sim


@pytest.fixture
def sim() -> Sim:
    sim = Sim()
    sim.worker("w1", cpu=8)
    return sim


def test_a_lazy_amount_is_observed_and_overlays_the_spec(sim: Sim) -> None:
    make = GraphMaker()
    size, quick = make.call("size"), make.call("quick")
    task = make.call("task", quick, lazy={"memory_gb": size}, amounts=(("cpu", 1_000_000), ("memory_gb", 1)))
    sim.submit(make.graph())
    assert sim.one("size").observe == 8
    run = sim.core.runs["r"]
    sim.done("size", amount=0)
    sim.done("quick")
    assert flow.amounts(run, task) == (("cpu", 1_000_000), ("memory_gb", 0))
    assert flow.amounts(run, size) == (("cpu", 1_000_000),)


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"amount": -500_000}, "is -0.5; it must not be negative"),
        ({"observe_error": ErrorInfo("TypeError", "'x' is no number")}, "is no number"),
    ],
)
def test_an_amount_that_is_none_fails_the_consumer(sim: Sim, facts: dict[str, object], told: str) -> None:
    make = GraphMaker()
    make.call("task", lazy={"cpu": make.call("size")})
    sim.submit(make.graph())
    sim.done("size", **facts)  # type: ignore[arg-type]
    assert sim.ended.failed_task == "task"
    assert sim.ended.error is not None
    assert sim.ended.error.type == "ValueError"
    assert "the amount 'cpu' of 'task' is the value of 'size'" in sim.ended.error.message
    assert told in sim.ended.error.message


def test_s97_a_wait_passes_by_itself(sim: Sim) -> None:
    make = GraphMaker()
    wait, quick = make.wait(10.0), make.call("quick")
    make.call("consumer", wait, quick)
    sim.submit(make.graph())
    assert sim.core.next_wakeup == sim.now + 10.0
    sim.done("quick")
    sim.after(9.9)
    assert not sim.open
    sim.after(0.2)
    assert sim.one("consumer").inputs == (b"\x80\x05N.", b"v")


def test_a_lazy_wait_begins_when_its_delay_is_known(sim: Sim) -> None:
    make = GraphMaker()
    make.wait(lazy=make.call("delay"))
    sim.submit(make.graph())
    sim.after(100.0)
    sim.done("delay", amount=2_500_000)
    assert sim.core.next_wakeup == sim.now + 2.5
    sim.after(2.5)
    assert sim.ended.state == "succeeded"
    assert views.target_tree(sim.core.runs["r"]) == views.TreeCompound(b"\x80\x05N.", ())


def test_s83_a_recv_waits_for_a_message(sim: Sim) -> None:
    make = GraphMaker()
    make.call("consumer", make.wait(topic="a/b"))
    sim.submit(make.graph())
    assert sim.core.next_wakeup is None
    sim.turn(e.MessageArrived("a/c", b"no"))
    assert not sim.open
    sim.turn(e.MessageArrived("a/b", b"yes"))
    assert sim.one("consumer").inputs == (b"yes",), "passed on unread"
    assert sim.of(c.SaveResult)[0].node == 0


def test_s83_a_recv_fails_when_no_message_comes_in_time(sim: Sim) -> None:
    make = GraphMaker()
    make.wait(1.5, topic="a/b")
    sim.submit(make.graph())
    sim.after(1.6)
    error = ErrorInfo("TimeoutError", "'recv' got no message on topic 'a/b' within 1.5 s")
    assert sim.ended.error == error


def test_a_retained_message_waits_for_those_who_come_later(sim: Sim) -> None:
    sim.turn(e.MessageArrived("t", b"old", retained=True))
    sim.turn(e.MessageArrived("t", b"new", retained=True))
    make = GraphMaker()
    make.wait(topic="t")
    sim.submit(make.graph(), "first")
    [end] = sim.of(c.RunEnded)
    assert end.state == "succeeded"
    assert views.target_tree(sim.core.runs["first"]) == views.TreeCompound(b"new", ())
    sim.turn(e.MessageArrived("t", b"", retained=True))
    sim.submit(make.graph(), "second")
    assert sim.core.runs["second"].state == "running"
    sim.turn(e.RunCancelRequested("second"))
    assert not sim.core.listening
    assert not sim.core.retained_bytes


def test_retained_messages_are_bounded(sim: Sim) -> None:
    for number in range(40):
        sim.turn(e.MessageArrived(f"t{number}", bytes(1 << 20), retained=True))
    assert sim.core.retained_bytes <= 16 << 20
    assert list(sim.core.retained)[-1] == "t39"
