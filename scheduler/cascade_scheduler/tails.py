"""Targets that tasks return, as the core takes them: decoded, checked, with their plan.

A loop mostly returns one shape again and again; that is told by its bytes and is neither decoded nor planned
a second time. What cannot be a graph fails the task that returned it, and nothing else.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from cascade_dist.codec.cid import cid_to_text
from cascade_dist.v1 import client_pb2, graph_pb2, worker_pb2
from cascade_dist.wire.fields import field, tag
from cascade_scheduler.core.commands import FrameGone, PlanWanted
from cascade_scheduler.core.events import AttemptFailed, AttemptTail, NextFrame, PlanMade
from cascade_scheduler.core.graph import Graph
from cascade_scheduler.core.jumps import Part, UnknownName, dropped_inputs, names_of, part_of
from cascade_scheduler.core.plans import Plan
from cascade_scheduler.core.values import ErrorInfo
from cascade_scheduler.functions import FunctionBody, WrongBytes
from cascade_scheduler.planning import Amounts, make_plan, plan_key, plan_now
from cascade_scheduler.solving import Unsolvable
from cascade_scheduler.store.base import StoredFrame, StoredFunction, StoredJump
from cascade_scheduler.wire.graphs import GraphAssembly
from cascade_scheduler.wire.shapes import KnownShape, Literals, ShapeCache, read_head, without_literals
from cascade_scheduler.wire.values import BadMessage

if TYPE_CHECKING:
    from cascade_scheduler.hub import Hub

__all__ = ["Tails"]

_SECONDS = 1e-9
PARTS_NODES_MAX = 500_000
"""Of the parts of graphs that are kept for jumps."""
JUMP_BYTES = 500
"""What a jump counts as beside its data."""
HEADS_MAX = 256
_HEAD_BYTES_MAX = 8_192
_NODE_ID_BYTES = 16
_NODE_IDS = tag(graph_pb2.GraphChunk.NODE_IDS_FIELD_NUMBER)
_NODE_ARGS = tag(graph_pb2.GraphChunk.NODE_ARGS_FIELD_NUMBER)


class _Head(NamedTuple):
    """What was made of the first of many calls that differ in their node's id and arguments alone."""

    graph: Graph
    """Without these."""
    plan: Plan
    pins: tuple[bytes, ...]
    """CIDs of its functions."""
    stored: StoredFrame | None
    """Without these too."""

    def frame(self, head: bytes, node_id: bytes, args: bytes) -> NextFrame:
        """The frame of one of the calls."""
        stored = self.stored
        if stored is not None:
            stored = stored._replace(chunk=stored.chunk + field(_NODE_IDS, node_id) + field(_NODE_ARGS, args))
        graph = self.graph.with_literals(node_id, [args])
        return NextFrame(graph, self.plan, b"", self.pins, len(head) + len(args), stored)


class Tails:
    """Reads the tails of reports, and has plans made for those that are large.

    Args:
        hub: where functions, blobs, shapes and plans are.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._parts: OrderedDict[bytes, Part] = OrderedDict()
        self._parts_nodes = 0
        self._heads: dict[bytes, _Head] = {}

    def read(self, report: worker_pb2.Report) -> AttemptTail | AttemptFailed:
        """What the core is told of an attempt that returned a target, or a jump."""
        done = report.done
        seconds = report.duration_ns * _SECONDS
        pinned: list[bytes] = []
        try:
            if done.tail.jump_plus_one:
                frame = self._jump(report.attempt, done.tail, pinned)
            elif done.tail.head:
                frame = self._call(report.attempt, done.tail, pinned)
            else:
                frame = self._frame(report.attempt, done.tail.graph, pinned)
        except UnknownName as error:
            return AttemptFailed(
                report.attempt, ErrorInfo("GraphError", str(error)), "unloadable", False, (), seconds
            )
        except (BadMessage, WrongBytes) as error:
            self._hub.unpin(pinned)
            told = ErrorInfo("GraphError", f"the target that the task returned is not well formed: {error}")
            return AttemptFailed(report.attempt, told, "unloadable", False, (), seconds)
        return AttemptTail(report.attempt, frame, seconds, done.preview, done.iterations)

    def _frame(self, attempt: int, submit: client_pb2.Submit, pinned: list[bytes]) -> NextFrame:
        hub = self._hub
        if not submit.HasField("chunk") or not submit.HasField("end"):
            raise BadMessage("it has no graph, or not all of it")
        functions = [self._function(function, pinned) for function in submit.chunk.functions]
        stored = None
        if hub.keeps_graphs:
            chunk, end = submit.chunk.SerializeToString(), submit.end.SerializeToString()
            stored = StoredFrame(chunk, end, tuple(functions))
        literals = ShapeCache.take_apart(submit) if hub.solver is None else None
        known = None if literals is None else hub.shapes.get(literals)
        if literals is not None and known is not None:
            hub.plans.hits += 1
            size = len(literals.key) + sum(map(len, literals.node_args))
            frame = NextFrame(known.graph_of(literals), known.plan, b"", tuple(pinned), size, stored)
        else:
            if literals is not None:
                ShapeCache.put_back(submit, literals)
            graph, plan, key, size = self._decode(attempt, submit, pinned)
            if literals is not None and plan is not None:
                self._remember(literals, graph, plan, submit.end.template_id)
            frame = NextFrame(graph, plan, key, tuple(pinned), size, stored)
        hub.graph_bytes += size
        return frame

    def _call(self, attempt: int, tail: worker_pb2.Tail, pinned: list[bytes]) -> NextFrame:
        """The frame of a call like an earlier one, by what both have in common."""
        hub, head, node_id = self._hub, tail.head, tail.node_id
        if len(node_id) != _NODE_ID_BYTES:
            raise BadMessage("it names no node")
        known = self._heads.get(head)
        if known is not None and hub.functions.has_all(known.pins):
            hub.pin(known.pins)
            hub.plans.hits += 1
            frame = known.frame(head, node_id, tail.args)
            hub.graph_bytes += frame.size
            return frame
        submit = read_head(head)
        chunk = submit.chunk
        plain = not (chunk.blobs or chunk.jumps or chunk.value_keys or chunk.node_ids or chunk.node_args)
        rest = chunk.SerializeToString() if plain else b""
        chunk.node_ids = node_id
        chunk.node_args.append(tail.args)
        frame = self._frame(attempt, submit, pinned)
        if plain and frame.plan is not None and hub.solver is None and len(head) <= _HEAD_BYTES_MAX:
            if len(self._heads) >= HEADS_MAX:
                self._heads.clear()
            stored = frame.stored._replace(chunk=rest) if isinstance(frame.stored, StoredFrame) else None
            self._heads[head] = _Head(without_literals(frame.graph), frame.plan, frame.pins, stored)
        return frame

    def _function(self, function: graph_pb2.Function, pinned: list[bytes]) -> StoredFunction:
        """Takes a function over; what is left of it in the message names it alone."""
        hub, cid = self._hub, function.cid
        hub.pin((cid,))  # before it is kept, or a full store would let it go at once
        pinned.append(cid)
        body = FunctionBody(cid, function.body, function.name, function.code_hash)
        if function.body:
            hub.functions.put(body)
            function.ClearField("body")
        elif cid not in hub.functions:
            if not hub.blobs.has(cid):
                raise BadMessage(f"the body of function {function.name!r} did not come along")
            hub.functions.put_reference(body)
        kept = hub.functions.get(cid) or body
        return StoredFunction(cid, kept.name, kept.body, kept.code_hash)

    def _decode(
        self, attempt: int, submit: client_pb2.Submit, pinned: list[bytes]
    ) -> tuple[Graph, Plan | None, bytes, int]:
        hub, chunk = self._hub, submit.chunk
        assembly = GraphAssembly(nodes_max=hub.bounds.graph_nodes_max, bytes_max=hub.bounds.graph_bytes_max)
        assembly.add(chunk)
        graph = assembly.finish(submit.end)
        for blob in chunk.blobs:
            if not hub.blobs.has(blob.cid):
                name = cid_to_text(blob.cid)
                raise BadMessage(f"it names blob {name}, which this cluster does not have (any more)")
            hub.pin((blob.cid,))
            pinned.append(blob.cid)
        key = plan_key(hub, assembly.plan_key(submit.end), self._pools(attempt))
        if graph.jumps:
            graph, key = self.first_part(graph, key)
        return graph, plan_now(hub, graph, key), key, assembly.bytes

    # --- jumps -----------------------------------------------------------------------------------

    def first_part(self, graph: Graph, key: bytes) -> tuple[Graph, bytes]:
        """What the target of a graph with jumps needs, and the name of its plan. `key` names the whole."""
        graph.shape = key
        return self._part(graph, graph.target, frozenset(), b"")

    def part_after(self, base: Graph, key: bytes, jump: StoredJump) -> tuple[Graph, bytes]:
        """What a run needs that has gone to a node of a graph, and the name of its plan.

        Raises:
            UnknownName: the jump is not one of this graph.
        """
        base.shape = key
        entry = base.entries[jump.target]
        names = names_of(entry, jump.names, base.name(jump.target))
        return self._part(base, jump.target, dropped_inputs(entry, names), jump.overrides)

    def _part(
        self, base: Graph, target: int, dropped: frozenset[int], overrides: bytes
    ) -> tuple[Graph, bytes]:
        key = base.shape + repr((target, sorted(dropped))).encode()
        part = self._parts.get(key)
        if part is None:
            part = self._parts[key] = part_of(base, target, dropped)
            self._parts_nodes += len(part.order)
            while self._parts_nodes > PARTS_NODES_MAX and len(self._parts) > 1:
                self._parts_nodes -= len(self._parts.popitem(last=False)[1].order)
        else:
            self._parts.move_to_end(key)
        return part.graph(base, overrides), key

    def _jump(self, attempt_id: int, tail: worker_pb2.Tail, pinned: list[bytes]) -> NextFrame:
        """The frame for a jump of an attempt that is on the books; of any other, the core takes nothing."""
        hub = self._hub
        attempt = hub.core.attempts.get(attempt_id)
        table = None if attempt is None else attempt.run.graph.jumps.get(attempt.node)
        base = None if attempt is None else attempt.run.graph.base
        if attempt is None or table is None or base is None:
            raise BadMessage("it is a jump, and there is nowhere to jump to")
        index = tail.jump_plus_one - 1
        target = table.targets[index] if index < len(table.targets) else -1
        if target < 0:
            raise BadMessage(f"it is a jump by key number {index}, which leads nowhere")
        entry = base.entries[target]
        names = names_of(entry, tail.names, base.name(target))
        graph, key = self._part(base, target, dropped_inputs(entry, names), tail.overrides)
        pinned += [function.cid for function in base.functions]
        pinned += {blob.cid for blob in base.blob_args.values()}
        pinned += {blob.cid for blobs in base.blob_inputs.values() for blob in blobs}
        hub.pin(pinned)
        size = len(tail.overrides) + JUMP_BYTES
        hub.graph_bytes += size
        stored = StoredJump(target, tuple(tail.names), tail.overrides) if hub.keeps_graphs else None
        return NextFrame(graph, plan_now(hub, graph, key), key, tuple(pinned), size, stored)

    def _remember(self, literals: Literals, graph: Graph, plan: Plan, template_id: bytes) -> None:
        shape = KnownShape(without_literals(graph), plan, template_id, "", "", False, False, 0.0)
        self._hub.shapes.put(literals.key, shape)

    def _pools(self, attempt: int) -> Amounts:
        """The pools of an attempt's run."""
        known = self._hub.core.attempts.get(attempt)
        record = None if known is None else self._hub.runs.get(known.run.run_id)
        return () if record is None else record.pools

    # --- what the core asks for ------------------------------------------------------------------

    def plan(self, command: PlanWanted) -> None:
        """Has the plan of a large frame made, in slices between turns."""
        self._hub.spawn(self._make(command))

    async def _make(self, command: PlanWanted) -> None:
        run = self._hub.core.runs.get(command.frame_id)
        record = None if run is None else self._hub.runs.get(run.run_id)
        pools = () if record is None else record.pools
        try:
            plan = await make_plan(self._hub, command.graph, command.key, pools)
        except Unsolvable as error:
            self._hub.turn.post(PlanMade(command.frame_id, command.number, None, str(error)))
        else:
            self._hub.turn.post(PlanMade(command.frame_id, command.number, plan))

    def gone(self, command: FrameGone) -> None:
        """A frame is no longer needed."""
        self._hub.unpin(command.pins)
        self._hub.graph_bytes -= command.size
