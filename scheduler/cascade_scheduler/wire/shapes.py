"""Small submits of a shape that was seen before: told by their bytes, and not looked at again.

A notebook or a service submits one small graph again and again, with other literals and another run id. What
is left of the message without these is compared as bytes; when it is known, so is everything that was made of
it: specs, columns, plan, options. A short run is mostly overhead, and this takes out a good part of it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from google.protobuf.message import DecodeError

from cascade_dist.v1 import client_pb2, graph_pb2
from cascade_dist.wire.fields import field, tag
from cascade_scheduler.core.graph import Graph
from cascade_scheduler.core.plans import Plan
from cascade_scheduler.wire.values import BadMessage

__all__ = [
    "KnownShape",
    "Literals",
    "ShapeCache",
    "messages_without_literals",
    "read_head",
    "without_literals",
]

NODES_MAX = 64
KEY_BYTES_MAX = 8_192
SHAPES_MAX = 1_000
NODE_ID_BYTES = 16


_NODE_IDS = tag(graph_pb2.GraphChunk.NODE_IDS_FIELD_NUMBER)
_NODE_ARGS = tag(graph_pb2.GraphChunk.NODE_ARGS_FIELD_NUMBER)
_PARAMS_DIGEST = tag(graph_pb2.GraphEnd.PARAMS_DIGEST_FIELD_NUMBER)


class Literals(NamedTuple):
    """What differs between submits of one shape."""

    key: bytes
    node_ids: bytes
    node_args: list[bytes]
    params_digest: bytes


class KnownShape(NamedTuple):
    """What was made of a submit, but for its literals."""

    graph: Graph
    plan: Plan
    template_id: bytes
    name: str
    on_failure: str
    logs: bool
    cancel_on_disconnect: bool
    disconnect_grace: float
    params: bytes = b""
    pools: tuple[tuple[str, int], ...] = ()
    pins: tuple[bytes, ...] = ()
    """CIDs of its functions."""
    chunk: bytes = b""
    """Of the graph, for a store: serialized, but for the literals."""
    end: bytes = b""

    def messages_of(self, literals: Literals) -> tuple[bytes, bytes]:
        """The graph's chunk and end with these literals, as a store keeps them."""
        arguments = [field(_NODE_ARGS, one) for one in literals.node_args]
        chunk = b"".join((self.chunk, field(_NODE_IDS, literals.node_ids), *arguments))
        return chunk, self.end + field(_PARAMS_DIGEST, literals.params_digest)

    def graph_of(self, literals: Literals) -> Graph:
        """The graph with these literals."""
        return self.graph.with_literals(literals.node_ids, literals.node_args)


def read_head(head: bytes) -> client_pb2.Submit:
    """What calls have in common that differ in their run, their node's id and its arguments alone.

    Raises:
        BadMessage: it cannot be read.
    """
    try:
        submit = client_pb2.Submit.FromString(head)
    except DecodeError:
        raise BadMessage("what it has in common with earlier ones cannot be read") from None
    if submit.head:
        raise BadMessage("what it has in common with earlier ones is not whole")
    return submit


def messages_without_literals(chunk: bytes, end: graph_pb2.GraphEnd) -> tuple[bytes, bytes]:
    """A graph's only chunk and its end, serialized, for `KnownShape.messages_of`."""
    message, last = graph_pb2.GraphChunk.FromString(chunk), graph_pb2.GraphEnd()
    message.ClearField("node_ids")
    message.ClearField("node_args")
    last.CopyFrom(end)
    last.ClearField("params_digest")
    return message.SerializeToString(), last.SerializeToString()


def without_literals(graph: Graph) -> Graph:
    """A graph's columns alone."""
    return graph.with_literals(b"", [])


class ShapeCache:
    """Shapes by what is left of their submit; the least recently used go first."""

    def __init__(self) -> None:
        self._shapes: OrderedDict[bytes, KnownShape] = OrderedDict()
        self._heads: dict[bytes, tuple[bytes, bytes]] = {}
        """By what calls like an earlier one have in common: the shape's key, and the digest of the params."""

    def __len__(self) -> int:
        return len(self._shapes)

    @staticmethod
    def take_apart(submit: client_pb2.Submit) -> Literals | None:
        """Takes the literals out of a submit; None, and nothing taken, when it is none of the small ones."""
        chunk = submit.chunk
        if chunk.blobs or chunk.jumps or chunk.value_keys or submit.functions:
            return None
        if len(chunk.node_args) > NODES_MAX:
            return None
        run_id, node_ids, params = submit.run_id, chunk.node_ids, submit.end.params_digest
        node_args = list(chunk.node_args)
        chunk.ClearField("node_args")
        chunk.ClearField("node_ids")
        submit.ClearField("run_id")
        submit.end.ClearField("params_digest")
        literals = Literals(submit.SerializeToString(), node_ids, node_args, params)
        submit.run_id = run_id
        submit.end.params_digest = params
        return literals

    @staticmethod
    def put_back(submit: client_pb2.Submit, literals: Literals) -> None:
        """Undoes `take_apart`."""
        submit.chunk.node_args.extend(literals.node_args)
        submit.chunk.node_ids = literals.node_ids

    def of_head(self, submit: client_pb2.Submit) -> Literals | None:
        """The literals of a call like an earlier one; None when it has to be put together and looked at."""
        known = self._heads.get(submit.head)
        if known is None:
            return None
        key, params = known
        return Literals(key, submit.node_id, [submit.args], params)

    def learn_head(self, head: bytes, whole: client_pb2.Submit) -> None:
        """Keeps what a call, put together, is told by, if its shape is known."""
        literals = self.take_apart(whole)
        if literals is None:
            return
        self.put_back(whole, literals)
        if literals.key in self._shapes and len(head) <= KEY_BYTES_MAX and not whole.options.resume:
            if len(self._heads) >= SHAPES_MAX:
                self._heads.clear()
            self._heads[head] = literals.key, literals.params_digest

    def get(self, literals: Literals) -> KnownShape | None:
        """The shape, if it is known and these literals fit it."""
        known = self._shapes.get(literals.key)
        if known is None:
            return None
        nodes = known.graph.size
        if len(literals.node_args) != nodes or len(literals.node_ids) != NODE_ID_BYTES * nodes:
            return None  # the way of graphs that are not known says what is wrong
        self._shapes.move_to_end(literals.key)
        return known

    def put(self, key: bytes, shape: KnownShape) -> None:
        """Keeps a shape."""
        if len(key) > KEY_BYTES_MAX:
            return
        self._shapes[key] = shape
        if len(self._shapes) > SHAPES_MAX:
            self._shapes.popitem(last=False)
