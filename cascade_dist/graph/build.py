"""From a target to nodes in topological order, in one walk without recursion.

The walk is depth first and fixed: arguments in their order, dicts by insertion, sets by the creation of the
lazy results in them, then the condition, then the predecessors. A node comes out when all it needs has come
out, so nothing has to be kept but an index and an id for each node.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from marshal import dumps
from typing import Any, Final

from cascade_dist.errors import CycleError
from cascade_dist.graph.code_hash import CodeHasher
from cascade_dist.graph.encoding import DIGEST_SIZE, SCALARS, VERSION
from cascade_dist.graph.frames import (
    NO_KWARGS,
    Frame,
    Gather,
    Literal,
    Opener,
    RouterFrame,
    argument_name,
    root_of,
)
from cascade_dist.graph.identity import Identity, Specs, scalars_content
from cascade_dist.graph.jumps import Jumps
from cascade_dist.graph.model import EdgeKind, Graph, JumpEntry, JumpTable, MapRange, Node, NodeKind, TaskSpec
from cascade_dist.graph.params import Inputs
from cascade_dist.graph.resources import ResourceTable
from cascade_dist.graph.scan import ATOMS, Found, Scanner
from cascade_dist.language.inputs import Param
from cascade_dist.language.lazy import LazyResult, MappedLazyResult, Unmapped
from cascade_dist.language.structural import Recv, Wait

__all__ = ["Compilation", "build", "params_of"]

_NO_EDGES: Final = dumps(((), ()), VERSION)
_OPEN: Final = -1
# Looking a member up on its class takes longer than most of what is done with it.
_CALL: Final = NodeKind.CALL
_DATA: Final = EdgeKind.DATA
_CONDITION: Final = EdgeKind.CONDITION
_SEQUENCE: Final = EdgeKind.SEQUENCE
_TEMPLATE_BUFFER: Final = 1 << 16
_CYCLE_NAMES_MAX: Final = 20


class _Items(LazyResult[Any]):
    """Stands in a map's arguments for an item of a lazy list."""

    __slots__ = ()


class Compilation:
    """One compilation of a target.

    Args:
        target: a lazy result, a map, or a list, tuple or dict with lazy results at any depth.
        params: values of the `Param`\\ s in it, by name.
        strict_params: whether an unknown name in `params` is an error; otherwise it is a warning.
        require_params: whether required params have to be given; otherwise None stands for them.
        warn_unknown: whether unknown names in `params` are warned of.

    Attributes:
        target_index: node index of the target, once `nodes` is exhausted.
        node_count: nodes so far.
        edge_count: edges so far.

    Raises:
        GraphError: the target is no target.
    """

    def __init__(
        self,
        target: Any,
        params: Mapping[str, Any] | None = None,
        *,
        strict_params: bool = False,
        require_params: bool = True,
        warn_unknown: bool = True,
    ) -> None:
        self._root = root_of(target)
        self._inputs = Inputs(params or {}, strict=strict_params, require=require_params, warn=warn_unknown)
        self._scanner = Scanner()
        self._opener = Opener(self._inputs, self._scanner)
        self._index: dict[LazyResult[Any], int] = {}
        self._hasher = CodeHasher()
        self._identity = Identity(self._hasher, self._index)
        self._specs = Specs(self._hasher)
        self._resources = ResourceTable(self._hasher)
        self._pure: dict[bytes, int] = {}
        self._template = blake2b(digest_size=DIGEST_SIZE)
        self._template_buffer = bytearray()
        self._started = False
        self._jumps = Jumps()
        self.topics: dict[str, None] = {}
        """What nodes listen to, once `nodes` is exhausted."""
        self.target_index = -1
        self.node_count = 0
        self.edge_count = 0

    @property
    def template_id(self) -> bytes:
        """16 bytes over code, policies and shape, without literals; valid once `nodes` is exhausted."""
        whole = self._template.copy()
        whole.update(self._template_buffer)
        jumps = bytearray()
        self._jumps.write(self._index, self._identity.encoder, jumps)
        whole.update(jumps)
        whole.update(self.target_index.to_bytes(8, "little", signed=True))
        return whole.digest()

    @property
    def jump_tables(self) -> list[JumpTable]:
        """Where jumps lead; valid once `nodes` is exhausted."""
        return self._jumps.tables(self._index)

    @property
    def jump_entries(self) -> list[JumpEntry]:
        """The nodes that are jumped to; valid once `nodes` is exhausted."""
        return self._jumps.entries(self._index, self._opener, self._scanner)

    @property
    def structural_id(self) -> bytes:
        """The target's id; valid once `nodes` is exhausted."""
        return self._identity.of(self.target_index)

    @property
    def params_digest(self) -> bytes:
        """16 bytes over the given params, to compare a submit with an earlier one."""
        return self._inputs.digest(self._identity.encoder)

    @property
    def params(self) -> list[Param]:
        """The params that were met, each name once; all of them once `nodes` is exhausted."""
        return self._inputs.known

    def nodes(self) -> Iterator[Node]:
        """The nodes, each after all that it needs. Can be walked once.

        Raises:
            CycleError: nodes need each other; names them.
            GraphError: arguments that cannot be compiled; names them.
            ParamMissingError: required inputs without a value, once all nodes have come; names all of them.
        """
        if self._started:
            raise RuntimeError("a compilation is walked once: make another")
        self._started = True
        index = self._index
        yield from self._walk(self._root)
        self.target_index = index[self._root]
        for jumped in self._jumps.unwalked(index):
            yield from self._walk(jumped)
        self._inputs.finish()

    def _walk(self, root: LazyResult[Any]) -> Iterator[Node]:
        """The nodes of one lazy result and of all that it needs, as far as they have not come yet."""
        index = self._index
        stack = [self._opener.open(root)]
        index[root] = _OPEN
        while stack:
            frame = stack[-1]
            for need in frame.needs:
                seen = index.get(need)
                if seen is None:
                    ready = self._ready(need)
                    if ready is not None:
                        yield ready
                        continue
                    opened = self._opener.open(need)
                    index[need] = _OPEN
                    stack.append(opened)
                    break
                elif seen == _OPEN:
                    raise _cycle([entry.lazy for entry in stack], need)
            else:
                stack.pop()
                if type(frame.lazy) is LazyResult:
                    node = self._close_call(frame)
                    if node is not None:
                        yield node
                else:
                    yield from self._close(frame)

    # --- the nodes of a lazy result ---------------------------------------------------------------

    def _ready(self, lazy: LazyResult[Any]) -> Node | None:
        """The node of an impure call whose positional arguments are scalars and known nodes; else None.

        The short way, without a frame, for most nodes of wide graphs.
        """
        args, index = lazy.args, self._index
        if lazy.chain is not None or lazy.kwargs or type(lazy) is not LazyResult or lazy.task.injections:
            return None
        found: Found | None = None
        if args and not SCALARS.issuperset(map(type, args)):
            found = {}
            for position, value in enumerate(args):
                if type(value) is LazyResult:
                    if index.get(value, _OPEN) == _OPEN:
                        return None
                    found.setdefault(value, argument_name(position))
                elif type(value) not in SCALARS:
                    return None
        spec = self._specs.of(lazy.task, None)
        if spec.pure:
            return None
        if found:
            content = self._identity.content(spec, args, NO_KWARGS, -1, ())
        else:
            content = scalars_content(spec, args)
        number = index[lazy] = self.node_count
        node = Node(number, spec, spec.name, args, NO_KWARGS)
        if found:
            self._connect(node, found)
        return self._finish(node, self._identity.occurrence(content))

    def _close(self, frame: Frame) -> Iterator[Node]:
        lazy = frame.lazy
        if isinstance(lazy, MappedLazyResult):
            if any(isinstance(column, LazyResult) for column in frame.columns.values()):
                return self._close_lazy_map(lazy, frame)
            return self._close_map(lazy, frame)
        if isinstance(frame, RouterFrame):
            return self._close_router(frame)
        if isinstance(lazy, Literal):
            return self._close_literal(lazy, frame)
        if isinstance(lazy, Wait | Recv):
            return self._close_timer(lazy, frame)
        assert isinstance(lazy, Gather)
        return self._close_gather(lazy, frame)

    def _close_call(self, frame: Frame) -> Node | None:
        lazy, index, extra = frame.lazy, self._index, frame.extra
        if lazy.chain is not None and lazy.chain.selector is not None:
            self._jumps.met(lazy)
        spec = self._specs.of(lazy.task, lazy.chain, _CALL, extra.counted)
        if extra.injected or lazy.task.injections:
            spec = self._resources.spec(spec, lazy.task, frame.args, frame.kwargs, extra.injected)
        condition = -1 if frame.condition is None else index[frame.condition]
        after = list(dict.fromkeys([index[need] for need in frame.after])) if frame.after else ()
        args, kwargs = frame.args, frame.kwargs
        if spec.pure and kwargs:
            bound = lazy.task.bind(args, kwargs)  # f(1) and f(x=1) are one call
            args, kwargs = (bound.args, bound.kwargs) if bound is not None else (args, kwargs)
        content = self._identity.content(spec, args, kwargs, condition, after, extra.content)
        if spec.pure:
            known = self._pure.get(content)
            if known is not None:
                index[lazy] = known
                return None
            self._pure[content] = self.node_count
            identity = content
        else:
            identity = self._identity.occurrence(content)
        number = index[lazy] = self.node_count
        node = Node(number, spec, spec.name, frame.args, frame.kwargs)
        if extra.args is not None:
            node.args, node.kwargs = extra.args, extra.kwargs
        if frame.found or condition >= 0 or after or extra.amounts:
            self._connect(node, frame.found, condition, after, extra.amounts)
        return self._finish(node, identity)

    def _connect(
        self,
        node: Node,
        found: Mapping[LazyResult[Any], str],
        condition: int = -1,
        after: Sequence[int] = (),
        amounts: Mapping[str, LazyResult[Any]] = NO_KWARGS,
    ) -> None:
        """Gives a node its edges: data first, then condition, then order, then amounts."""
        index = self._index
        node.inputs = tuple(found)
        if condition < 0 and not after and not amounts:
            node.sources = tuple([index[need] for need in found])
            node.kinds = (_DATA,) * len(found)
            node.edge_args = tuple(found.values())
            return
        sources = [index[need] for need in found]
        kinds = [_DATA] * len(sources)
        args = list(found.values())
        if condition >= 0:
            sources.append(condition)
            kinds.append(_CONDITION)
            args.append("")
        for source in after:
            sources.append(source)
            kinds.append(_SEQUENCE)
            args.append("")
        for name, amount in amounts.items():
            sources.append(index[amount])
            kinds.append(EdgeKind.AMOUNT)
            args.append(name)
        node.sources = tuple(sources)
        node.kinds = tuple(kinds)
        node.edge_args = tuple(args)

    def _finish(self, node: Node, identity: bytes) -> Node:
        """Counts a node in, with its id and its part of the template."""
        node.structural_id = identity
        self._identity.ids += identity
        self.node_count += 1
        buffer = self._template_buffer
        buffer += node.spec.digest
        sources = node.sources
        if sources:
            self.edge_count += len(sources)
            buffer += dumps((sources, node.edge_args), VERSION)
            buffer += bytes(node.kinds)
        else:
            buffer += _NO_EDGES
        if len(buffer) > _TEMPLATE_BUFFER:
            self._template.update(buffer)
            buffer.clear()
        return node

    # --- structural nodes -------------------------------------------------------------------------

    def _close_gather(self, lazy: Gather, frame: Frame) -> Iterator[Node]:
        spec = self._specs.structural(NodeKind.GATHER, "gather")
        identity = self._structural(lazy, spec, frame.args)
        if identity:
            node = Node(self._index[lazy], spec, lazy.role, (), NO_KWARGS, value=frame.args[0])
            self._connect(node, frame.found)
            yield self._finish(node, identity)

    def _close_literal(self, lazy: Literal, frame: Frame) -> Iterator[Node]:
        spec = self._specs.structural(NodeKind.LITERAL, "literal")
        identity = self._structural(lazy, spec, (lazy.value,))
        if identity:
            node = Node(self._index[lazy], spec, lazy.role, (), NO_KWARGS, value=lazy.value)
            yield self._finish(node, identity)

    def _close_timer(self, lazy: Wait | Recv, frame: Frame) -> Iterator[Node]:
        """A wait or a recv: never equal to another, as impure calls are not."""
        if isinstance(lazy, Recv):
            kind, timer = NodeKind.RECV, (lazy.timeout, lazy.topic)
            self.topics[lazy.topic] = None
        else:
            delay = frame.extra.content["delay"]
            kind, timer = NodeKind.WAIT, (None if isinstance(delay, LazyResult) else delay, "")
        spec = self._specs.structural(kind, lazy.task.name)
        parts = (timer, tuple(frame.extra.amounts.values()), frame.condition, tuple(frame.after))
        content, _ = self._identity.structural(spec, parts)
        number = self._index[lazy] = self.node_count
        node = Node(number, spec, spec.name, (), NO_KWARGS, timer=timer)
        condition = -1 if frame.condition is None else self._index[frame.condition]
        after = list(dict.fromkeys([self._index[need] for need in frame.after]))
        self._connect(node, {}, condition, after, frame.extra.amounts)
        yield self._finish(node, self._identity.occurrence(content))

    def _close_router(self, frame: RouterFrame) -> Iterator[Node]:
        spec = self._specs.structural(NodeKind.ROUTER, "router")
        needs = (frame.selector, *frame.routes)
        identity = self._structural(frame.lazy, spec, (frame.keys, needs))
        if not identity:
            return
        keys, _ = self._identity.structural(spec, (frame.keys,))
        self._template_buffer += keys
        node = Node(self._index[frame.lazy], spec, spec.name, (), NO_KWARGS, value=frame.keys)
        node.sources = tuple([self._index[need] for need in needs])
        node.kinds = (EdgeKind.SELECTOR,) + (EdgeKind.ROUTE,) * len(frame.routes)
        node.edge_args = ("selector",) + ("",) * len(frame.routes)
        self._finish(node, identity)
        # Not before it has gone into the template: what repr gives may differ from process to process.
        node.edge_args = ("selector", *map(reprlib.repr, frame.keys))
        yield node

    def _structural(self, lazy: LazyResult[Any], spec: TaskSpec, parts: tuple[Any, ...]) -> bytes:
        """Gives a structural lazy result its index, and gives its id; empty when an equal one has come."""
        content, exact = self._identity.structural(spec, parts)
        known = self._pure.get(content) if exact else None
        self._index[lazy] = self.node_count if known is None else known
        if known is not None:
            return b""
        if not exact:
            return self._identity.occurrence(content)
        self._pure[content] = self.node_count
        return content

    # --- maps -------------------------------------------------------------------------------------

    def _map_spec(self, lazy: MappedLazyResult[Any], frame: Frame, kind: NodeKind) -> TaskSpec:
        spec = self._specs.of(lazy.task, lazy.chain, kind, frame.extra.counted)
        if frame.extra.injected or lazy.task.injections:
            spec = self._resources.spec(spec, lazy.task, (), frame.columns, frame.extra.injected)
        return spec

    def _map_content(self, spec: TaskSpec, frame: Frame) -> tuple[bytes, int, Sequence[int]]:
        """What a map is, and the indices of its condition and predecessors."""
        index = self._index
        condition = -1 if frame.condition is None else index[frame.condition]
        after = list(dict.fromkeys([index[need] for need in frame.after]))
        plain = {
            name: (column.value,) if isinstance(column, Unmapped) else column
            for name, column in frame.columns.items()
        }
        content = self._identity.content(spec, (), plain, condition, after, frame.extra.content)
        return self._identity.mapped(content), condition, after

    def _close_map(self, lazy: MappedLazyResult[Any], frame: Frame) -> Iterator[Node]:
        """A map over known lists: a gate if it has a condition or predecessors, the children, their list."""
        spec = self._map_spec(lazy, frame, NodeKind.CALL)
        content, condition, after = self._map_content(spec, frame)
        if spec.pure and content in self._pure:
            self._index[lazy] = self._pure[content]
            return
        identity = content if spec.pure else self._identity.occurrence(content)
        gate = -1
        if condition >= 0 or after:
            gate = self.node_count
            gate_spec = self._specs.structural(NodeKind.GATE, f"{lazy.task.name}.gate")
            node = Node(gate, gate_spec, gate_spec.name, (), NO_KWARGS)
            self._connect(node, {}, condition, after)
            yield self._finish(node, self._identity.gate(identity))
        first = self.node_count
        yield from self._children(frame, spec, identity, gate)
        count = self.node_count - first
        collect_spec = self._specs.structural(NodeKind.COLLECT, f"{lazy.task.name}.map")
        number = self._index[lazy] = self.node_count
        if spec.pure:
            self._pure[content] = number
        gates = () if gate < 0 else (gate,)
        collect = Node(
            number,
            collect_spec,
            collect_spec.name,
            (),
            NO_KWARGS,
            sources=(*range(first, first + count), *gates),
            kinds=(EdgeKind.DATA,) * count + (EdgeKind.GATE,) * len(gates),
            edge_args=("",) * (count + len(gates)),
        )
        yield self._finish(collect, identity)

    def _children(self, frame: Frame, spec: TaskSpec, identity: bytes, gate: int) -> Iterator[Node]:
        columns, amounts = frame.columns, frame.extra.amounts
        lists = {name: column for name, column in columns.items() if isinstance(column, list)}
        shared = {name: column.value for name, column in columns.items() if isinstance(column, Unmapped)}
        shared_found: Found = {}
        for name, value in shared.items():
            self._scanner.scan(value, name, shared_found)
        plain = not shared_found and all(ATOMS.issuperset(map(type, column)) for column in lists.values())
        names = list(columns)
        length = len(next(iter(lists.values())))
        for position in range(length):
            kwargs = {name: lists[name][position] if name in lists else shared[name] for name in names}
            node = Node(
                self.node_count, spec, f"{spec.name}[{position}]", (), kwargs, shared=shared or NO_KWARGS
            )
            if position == 0:
                node.map_count = length
            if not plain:
                found: Found = {}
                for name in names:
                    if type(kwargs[name]) not in ATOMS:
                        self._scanner.scan(kwargs[name], name, found)
                self._connect(node, found)
            if gate >= 0:
                node.sources += (gate,)
                node.kinds += (EdgeKind.GATE,)
                node.edge_args += ("",)
            if amounts:
                node.sources += tuple([self._index[amount] for amount in amounts.values()])
                node.kinds += (EdgeKind.AMOUNT,) * len(amounts)
                node.edge_args += tuple(amounts)
            yield self._finish(node, self._identity.child(identity, position))

    def _close_lazy_map(self, lazy: MappedLazyResult[Any], frame: Frame) -> Iterator[Node]:
        """A map of which at least one list is lazy: one node, which becomes children at run time."""
        spec = self._map_spec(lazy, frame, NodeKind.MAP)
        content, condition, after = self._map_content(spec, frame)
        if spec.pure and content in self._pure:
            self._index[lazy] = self._pure[content]
            return
        identity = content if spec.pure else self._identity.occurrence(content)
        kwargs: dict[str, Any] = {}
        items: dict[LazyResult[Any], _Items] = {}
        found: Found = {}
        lists = set()
        length = -1
        for name, column in frame.columns.items():
            if isinstance(column, LazyResult):
                kwargs[name] = items.setdefault(column, _Items(column.task))
                continue
            if isinstance(column, list):
                lists.add(name)
                length = len(column)
            kwargs[name] = column.value if isinstance(column, Unmapped) else column
            self._scanner.scan(kwargs[name], name, found)
        number = self.node_count
        node = Node(number, spec, spec.name, (), kwargs, columns=frozenset(lists), map_count=length)
        self._connect(node, found, condition, after, frame.extra.amounts)
        named: dict[Any, str] = {}
        for name, column in frame.columns.items():
            if isinstance(column, LazyResult):
                named.setdefault(column, name)
        node.sources = (*(self._index[column] for column in items), *node.sources)
        node.kinds = (EdgeKind.ITEMS,) * len(items) + node.kinds
        node.edge_args = (*(named[column] for column in items), *node.edge_args)
        node.inputs = (*items.values(), *node.inputs)
        self._index[lazy] = number
        if spec.pure:
            self._pure[content] = number
        yield self._finish(node, identity)


def _cycle(path: list[LazyResult[Any]], again: LazyResult[Any]) -> CycleError:
    members = [*path[path.index(again) :], again]
    names = [repr(member.task.name) for member in members]
    if len(names) > _CYCLE_NAMES_MAX:
        left_out = len(names) - _CYCLE_NAMES_MAX
        names[_CYCLE_NAMES_MAX // 2 : -_CYCLE_NAMES_MAX // 2] = [f"({left_out} more)"]
    return CycleError(
        f"these nodes need each other: {' → '.join(names)} (each needs the next); "
        "take out one of the arguments, conditions (run_if) or predecessors (after) between them"
    )


def build(
    target: Any,
    params: Mapping[str, Any] | None = None,
    *,
    strict_params: bool = False,
    require_params: bool = True,
) -> Graph:
    """The whole graph of a target in memory, for tools; see `Compilation` for arguments and errors."""
    compilation = Compilation(target, params, strict_params=strict_params, require_params=require_params)
    nodes = list(compilation.nodes())
    maps = [
        MapRange(node.index, node.map_count)
        for node in nodes
        if node.map_count >= 0 and node.spec.kind is NodeKind.CALL
    ]
    return Graph(nodes, compilation.target_index, compilation.template_id, maps)


def params_of(target: Any) -> list[Param]:
    """The params of a target, each name once, in the order of the walk.

    Raises:
        GraphError: it is no target, or its arguments cannot be compiled.
    """
    compilation = Compilation(target, require_params=False)
    for _ in compilation.nodes():
        pass
    return compilation.params
