"""Nodes that wait: in the language, in graphs, on the wire."""

from __future__ import annotations

from typing import Any

import pytest

import cascade_dist as cs
from cascade_dist.graph.build import Compilation, build
from cascade_dist.graph.model import EdgeKind, NodeKind
from cascade_dist.v1 import client_pb2
from cascade_dist.wire.graphs import Part, encode_graph


@cs.task
def delay() -> float:
    return 0.5


@cs.task
def use(value: Any) -> Any:
    return value


def sent(target: Any, **params: Any) -> client_pb2.Submit:
    compilation: Any = Compilation(target, params)
    (part,) = encode_graph(compilation, run_id="r")
    assert isinstance(part, Part)
    return part.message


def test_a_wait_is_a_node_with_its_delay() -> None:
    graph = build(use(1).after(cs.wait(2.5)))
    wait = next(node for node in graph.nodes if node.spec.kind is NodeKind.WAIT)
    assert wait.timer == (2.5, "")
    assert wait.sources == ()


def test_a_lazy_delay_is_an_amount_without_a_name() -> None:
    graph = build(cs.wait(delay()))
    wait = graph.nodes[graph.target]
    assert wait.timer == (None, "")
    assert wait.kinds == (EdgeKind.AMOUNT,)
    message = sent(cs.wait(delay()))
    assert list(message.chunk.amount_names) == [""]
    assert not message.chunk.timers[0].HasField("delay")


def test_a_delay_may_be_a_param() -> None:
    message = sent(cs.wait(cs.Param("pause", type=float)), pause="1.5")
    assert message.chunk.timers[0].delay.ToTimedelta().total_seconds() == 1.5


def test_a_recv_names_its_topic() -> None:
    message = sent(use(cs.recv("news", timeout=3)))
    (timer,) = message.chunk.timers
    assert timer.topic == "news"
    assert timer.delay.seconds == 3
    compilation = Compilation([cs.recv("news"), cs.recv("weather")])
    assert len(list(compilation.nodes())) == 3
    assert list(compilation.topics) == ["news", "weather"]


def test_two_recvs_of_one_topic_are_two_nodes() -> None:
    graph = build([cs.recv("news"), cs.recv("news")])
    assert len({node.structural_id for node in graph.nodes}) == 3


def test_conditions_and_order_hold_for_waits() -> None:
    graph = build(cs.wait(1).after(delay()).run_if(use(True)))
    assert set(graph.nodes[graph.target].kinds) == {EdgeKind.CONDITION, EdgeKind.SEQUENCE}


@pytest.mark.parametrize("call", ["with_retry", "with_timeout", "with_constraints", "passthrough"])
def test_what_is_about_code_cannot_be_chained_onto_a_wait(call: str) -> None:
    for lazy in (cs.wait(1), cs.recv("t")):
        with pytest.raises(TypeError, match="only run_if and after"):
            getattr(lazy, call)()


@pytest.mark.parametrize(
    ("wrong", "error"), [(-1, ValueError), (float("inf"), ValueError), ("soon", TypeError), (None, TypeError)]
)
def test_a_delay_is_seconds(wrong: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="give seconds"):
        cs.wait(wrong)


def test_a_task_is_no_delay() -> None:
    wrong: Any = delay
    with pytest.raises(TypeError, match="call it"):
        cs.wait(wrong)


@pytest.mark.parametrize(("wrong", "error"), [("", ValueError), ("a/#", ValueError), (3, TypeError)])
def test_a_topic_is_a_plain_text(wrong: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="topic"):
        cs.recv(wrong)
