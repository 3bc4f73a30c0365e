"""From trees to values."""

from __future__ import annotations

import io
import pickle
from typing import Any

import pytest

from cascade_dist.client.tracker import assemble
from cascade_dist.v1 import client_pb2 as pb

VALUES = {0: "a", 1: "b", 7: ["c"]}


class Input:
    def __init__(self, ordinal: int) -> None:
        self.ordinal = ordinal


def template(value: Any) -> bytes:
    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> int | None:
            return obj.ordinal if isinstance(obj, Input) else None

    file = io.BytesIO()
    Pickler(file, 5).dump(value)
    return file.getvalue()


def node(index: int) -> pb.TargetTree:
    return pb.TargetTree(node=index)


def many(*items: pb.TargetTree, nodes: tuple[int, ...] = ()) -> pb.TargetTree:
    return pb.TargetTree(list=pb.TargetList(items=items, nodes=nodes))


def compound(value: Any, *items: pb.TargetTree, nodes: tuple[int, ...] = ()) -> pb.TargetTree:
    return pb.TargetTree(compound=pb.TargetCompound(template=template(value), inputs=items, nodes=nodes))


@pytest.mark.parametrize(
    ("tree", "value"),
    [
        (node(0), "a"),
        (many(), []),
        (many(nodes=(0, 1, 0)), ["a", "b", "a"]),
        (many(node(1), many(nodes=(0,)), many()), ["b", ["a"], []]),
        (compound({"k": (Input(0), 5)}, nodes=(1,)), {"k": ("b", 5)}),
        (compound([Input(1), Input(0)], many(nodes=(0,)), node(7)), [["c"], ["a"]]),
        (compound((), nodes=()), ()),
        (many(compound({Input(0)}, nodes=(1,)), node(7)), [{"b"}, ["c"]]),
    ],
)
def test_trees(tree: pb.TargetTree, value: Any) -> None:
    assert assemble(tree, VALUES, {}) == value


def test_one_node_in_two_places_is_one_object() -> None:
    first, second = assemble(many(node(7), compound([Input(0)], nodes=(7,))), VALUES, {})
    assert first is second[0]


def test_a_node_without_a_value() -> None:
    with pytest.raises(KeyError):
        assemble(many(node(99)), VALUES, {})
    with pytest.raises(KeyError):
        assemble(pb.TargetTree(), VALUES, {})
