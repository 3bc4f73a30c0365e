"""Submits: graphs that come in parts, from several runs interleaved, until each is whole."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from cascade_dist.codec.cid import cid_to_text
from cascade_dist.v1 import client_pb2, graph_pb2
from cascade_scheduler import recalling, recovery, resuming
from cascade_scheduler.blobs.base import find_all
from cascade_scheduler.core.cached import Recovered
from cascade_scheduler.core.commands import RunRefused
from cascade_scheduler.core.events import RunCancelRequested, RunSubmitted
from cascade_scheduler.core.graph import Graph
from cascade_scheduler.core.plans import Plan
from cascade_scheduler.core.values import BlobValue
from cascade_scheduler.functions import FunctionBody, WrongBytes
from cascade_scheduler.hub import Hub
from cascade_scheduler.planning import make_plan, plan_key, plan_now
from cascade_scheduler.runs import RunRecord, SubmitFacts
from cascade_scheduler.services.accepting import accept, refused
from cascade_scheduler.services.client_session import ClientSession
from cascade_scheduler.services.following import Refusal, follow, forget_ended
from cascade_scheduler.solving import Unsolvable
from cascade_scheduler.store.base import RunCreated, StoredFunction, StoreUnavailable
from cascade_scheduler.wire.graphs import GraphAssembly, GraphTooLarge
from cascade_scheduler.wire.shapes import (
    KnownShape,
    Literals,
    ShapeCache,
    messages_without_literals,
    read_head,
    without_literals,
)
from cascade_scheduler.wire.values import BadMessage, amounts_from, seconds_of

__all__ = ["Submits", "is_run_id"]

RUN_ID_CHARS_MAX = 200
RUN_BYTES = 8_192
"""What a run takes beside its graph."""
PARAMS_BYTES_MAX = 512 << 10
"""Of the params that workers are to know; clients leave the largest out well before."""
SUBMITS_AT_ONCE_MAX = 1_000
"""Graphs that one session may be sending at a time."""

_ON_FAILURE = {
    client_pb2.ON_FAILURE_UNSPECIFIED: "cancel",
    client_pb2.ON_FAILURE_CANCEL: "cancel",
    client_pb2.ON_FAILURE_FINISH: "finish",
}


class _Incoming:
    """One graph on its way in."""

    def __init__(self, run_id: str, options: client_pb2.RunOptions, assembly: GraphAssembly) -> None:
        self.run_id = run_id
        self.options = options
        self.assembly = assembly
        self.chunks: list[bytes] = []
        self.missing: dict[bytes, graph_pb2.Function] = {}
        """Functions that were named and are not here."""
        self.pinned: list[bytes] = []
        """Functions and blobs that must not go while the graph is on its way."""
        self.end: graph_pb2.GraphEnd | None = None
        self.single = False
        """All of it came in one message."""
        self.shape: bytes | None = None
        """What a small submit is told by."""


class _Whole(NamedTuple):
    """A graph that is whole and sound."""

    incoming: _Incoming
    end: graph_pb2.GraphEnd
    graph: Graph
    facts: SubmitFacts
    pools: tuple[tuple[str, int], ...]


class Submits:
    """The graphs that one session is sending."""

    def __init__(self, hub: Hub, session: ClientSession) -> None:
        self._hub = hub
        self._session = session
        self._incoming: dict[str, _Incoming] = {}
        self._refused: OrderedDict[str, None] = OrderedDict()
        """Runs whose remaining parts are thrown away."""

    def take(self, submit: client_pb2.Submit) -> None:
        """Takes a part of a submit; answers on the session."""
        run_id = submit.run_id
        if submit.head:
            self._take_repeated(run_id, submit)
            return
        if submit.HasField("options"):
            self._refused.pop(run_id, None)
        elif run_id in self._refused:
            return
        with self._refusing(run_id):
            shape = None
            if submit.HasField("end") and self._hub.remembers_shapes and run_id not in self._incoming:
                literals = ShapeCache.take_apart(submit)
                if literals is not None:
                    if self._take_known(run_id, submit, literals):
                        return
                    ShapeCache.put_back(submit, literals)
                    shape = literals.key
            self._take(run_id, submit, shape)

    def _take_repeated(self, run_id: str, submit: client_pb2.Submit) -> None:
        """A call like an earlier one, told by what both have in common; unknown, it is put together."""
        hub = self._hub
        looks = hub.remembers_shapes and run_id not in self._incoming
        literals = hub.shapes.of_head(submit) if looks else None
        if literals is not None and self._take_known(run_id, submit, literals):
            self._refused.pop(run_id, None)
            return
        with self._refusing(run_id):
            whole = read_head(submit.head)
            whole.run_id = run_id
            whole.chunk.node_ids = submit.node_id
            whole.chunk.node_args.append(submit.args)
            if looks:
                hub.shapes.learn_head(submit.head, whole)
            self.take(whole)

    @contextmanager
    def _refusing(self, run_id: str) -> Iterator[None]:
        """What is wrong with a submit refuses it."""
        try:
            yield
        except Refusal as refusal:
            self.refuse(run_id, refusal.code, str(refusal))
        except GraphTooLarge as error:
            self.refuse(run_id, "too_large", str(error))
        except (BadMessage, WrongBytes) as error:
            self.refuse(run_id, "invalid", f"the graph of run {run_id!r} is not well formed: {error}")

    def refuse(self, run_id: str, code: str, message: str) -> None:
        """Says no, and forgets what came."""
        incoming = self._incoming.pop(run_id, None)
        if incoming is not None:
            self._drop(incoming)
        self._refused[run_id] = None
        if len(self._refused) > SUBMITS_AT_ONCE_MAX:
            self._refused.popitem(last=False)
        self._session.say(refused(run_id, code, message))

    def close(self) -> None:
        """The session is over: what is not whole is forgotten."""
        for incoming in self._incoming.values():
            self._drop(incoming)
        self._incoming.clear()

    def _drop(self, incoming: _Incoming) -> None:
        self._hub.graph_bytes -= incoming.assembly.bytes
        self._hub.unpin(incoming.pinned)

    def _take_known(self, run_id: str, submit: client_pb2.Submit, literals: Literals) -> bool:
        """A small graph of a known shape goes its way at once; False when it has to be looked at."""
        hub = self._hub
        known = hub.shapes.get(literals)
        if hub.graph_bytes > hub.bounds.graphs_bytes_max:
            return False
        if known is None or hub.draining or run_id in hub.runs or not is_run_id(run_id):
            return False
        if hub.keeps_graphs and (submit.options.resume or run_id in hub.past):
            return False
        if not hub.functions.has_all(known.pins):
            return False
        hub.pin(known.pins)
        hub.plans.hits += 1
        graph = known.graph_of(literals)
        facts = SubmitFacts(
            target_id=graph.node_id(graph.target).hex(),
            template_id=known.template_id,
            params_digest=literals.params_digest,
            node_count=graph.size,
            on_failure=known.on_failure,
        )
        record = RunRecord(run_id, known.name, facts, logs=known.logs, submitted=hub.now())
        record.params = known.params
        record.pinned = known.pins
        record.graph_bytes = RUN_BYTES + len(literals.key) + sum(map(len, literals.node_args))
        hub.graph_bytes += record.graph_bytes
        record.cancel_on_disconnect = known.cancel_on_disconnect
        record.disconnect_grace = known.disconnect_grace
        self._own(record, soon=False)
        record.pools = known.pools
        event = RunSubmitted(run_id, graph, known.plan, known.name, known.on_failure, known.logs, known.pools)

        def created() -> tuple[RunCreated, ...]:
            if record.refused is not None:
                return ()  # by the core; its functions may be gone already
            chunk, end = known.messages_of(literals)
            return (self._created_of(record, graph, (chunk,), end, resumed=False),)

        hub.turn.post(event, then=partial(accept, record), later=created if hub.keeps_graphs else None)
        return True

    def _take(self, run_id: str, submit: client_pb2.Submit, shape: bytes | None) -> None:
        incoming = self._incoming.get(run_id)
        if incoming is None:
            incoming = self._begin(run_id, submit)
            incoming.single = submit.HasField("end")
            incoming.shape = shape
        if submit.functions:
            self._add_functions(incoming, submit.functions)
        if submit.HasField("chunk"):
            self._add_chunk(incoming, submit.chunk)
        if submit.HasField("end"):
            incoming.end = submit.end
        if incoming.end is None or incoming.missing:
            return
        if run_id in self._hub.past and run_id not in self._hub.runs:
            self._hub.spawn(self._recall(incoming, incoming.end))
        else:
            self._complete(incoming, incoming.end)

    async def _recall(self, incoming: _Incoming, end: graph_pb2.GraphEnd) -> None:
        """A run of this id ended before this scheduler began; who submits it again may join it."""
        hub, run_id = self._hub, incoming.run_id
        with self._refusing(run_id):
            try:
                await recalling.find(hub, run_id)
            except StoreUnavailable as error:
                raise Refusal(
                    "invalid", f"how run {run_id!r} ended cannot be told while the store is away: {error}"
                ) from None
            hub.past.pop(run_id, None)
            if self._incoming.get(run_id) is incoming:
                self._complete(incoming, end)

    def _begin(self, run_id: str, submit: client_pb2.Submit) -> _Incoming:
        hub = self._hub
        if hub.draining and run_id not in hub.runs:
            raise Refusal("draining", "the scheduler is going away and takes no new runs; submit to another")
        if not is_run_id(run_id):
            raise Refusal(
                "invalid",
                f"a run id has 1 to {RUN_ID_CHARS_MAX} printable characters; this is {run_id[:80]!r}",
            )
        if not submit.HasField("options"):
            raise Refusal("invalid", f"the first part of run {run_id!r} has no options")
        if len(submit.options.params) > PARAMS_BYTES_MAX:
            raise Refusal(
                "too_large", f"the params of run {run_id!r} take more than {PARAMS_BYTES_MAX:,} bytes"
            )
        if submit.options.on_failure not in _ON_FAILURE:
            raise Refusal("invalid", f"run {run_id!r} has an unknown on_failure")
        if len(self._incoming) >= SUBMITS_AT_ONCE_MAX:
            raise Refusal(
                "too_large", f"this client is sending {SUBMITS_AT_ONCE_MAX} graphs at once; let some end"
            )
        assembly = GraphAssembly(nodes_max=hub.bounds.graph_nodes_max, bytes_max=hub.bounds.graph_bytes_max)
        incoming = self._incoming[run_id] = _Incoming(run_id, submit.options, assembly)
        return incoming

    def _add_functions(self, incoming: _Incoming, functions: Iterable[graph_pb2.Function]) -> None:
        """Bodies that were asked for."""
        for function in functions:
            self._hub.functions.put(_body(function))
            incoming.missing.pop(function.cid, None)

    def _add_chunk(self, incoming: _Incoming, chunk: graph_pb2.GraphChunk) -> None:
        hub = self._hub
        assembly = incoming.assembly
        missing: list[bytes] = []
        for function in chunk.functions:
            hub.pin((function.cid,))  # before it is kept, or a full store would let it go at once
            incoming.pinned.append(function.cid)
            if not self._have(function):
                missing.append(function.cid)
                incoming.missing[function.cid] = function
            if hub.keeps_graphs:
                function.ClearField("body")  # bodies are stored beside the chunks, once
        before = assembly.bytes
        try:
            assembly.add(chunk)
        finally:
            hub.graph_bytes += assembly.bytes - before
        if hub.graph_bytes > hub.bounds.graphs_bytes_max:
            raise Refusal(
                "too_large",
                f"the graphs of all runs take more than {hub.bounds.graphs_bytes_max:,} bytes in sum, the "
                f"most that this scheduler holds; submit again when runs have ended",
            )
        if hub.keeps_graphs:
            incoming.chunks.append(chunk.SerializeToString())
        for blob in chunk.blobs:
            if not hub.blobs.has(blob.cid):
                raise Refusal(
                    "invalid",
                    f"the graph names blob {cid_to_text(blob.cid)}, which this cluster does not have (any "
                    "more): put the object again",
                )
            hub.pin((blob.cid,))
            incoming.pinned.append(blob.cid)
        if missing:
            needed = client_pb2.FunctionsNeeded(run_id=incoming.run_id, cids=missing)
            self._session.say(client_pb2.OpenResponse(functions_needed=needed))

    def _have(self, function: graph_pb2.Function) -> bool:
        """Whether the body is here, came along, or is a blob."""
        functions = self._hub.functions
        if function.body:
            functions.put(_body(function))
            return True
        if function.cid in functions:
            return True
        if self._hub.blobs.has(function.cid):
            functions.put_reference(_body(function))
            return True
        return False

    # --- whole graphs ----------------------------------------------------------------------------

    def _complete(self, incoming: _Incoming, end: graph_pb2.GraphEnd) -> None:
        hub, run_id = self._hub, incoming.run_id
        graph = incoming.assembly.finish(end)
        options = incoming.options
        facts = SubmitFacts(
            target_id=graph.node_id(graph.target).hex(),
            template_id=end.template_id,
            params_digest=end.params_digest,
            node_count=len(graph),
            on_failure=_ON_FAILURE[options.on_failure],
        )
        pools = amounts_from(options.pools)
        whole = _Whole(incoming, end, graph, facts, pools)
        if self._join(whole):
            return
        if hub.draining:
            raise Refusal("draining", "the scheduler is going away and takes no new runs; submit to another")
        forget_ended(self._hub, run_id)
        key = plan_key(hub, incoming.assembly.plan_key(end), pools)
        if graph.jumps:
            graph, key = hub.tails.first_part(graph, key)
            whole = whole._replace(graph=graph)
        plan = plan_now(hub, graph, key)
        del self._incoming[run_id]
        record = self._record(whole)
        if plan is not None:
            self._remember_shape(whole, record, plan)
            self._submit(whole, record, plan)
        else:
            # Of the hub, not of the session: a client that is lost meanwhile may come back for its run.
            hub.spawn(self._solve(whole, record, key))

    def _remember_shape(self, whole: _Whole, record: RunRecord, plan: Plan) -> None:
        functions = [self._hub.functions.get(function.cid) for function in whole.graph.functions]
        if whole.incoming.shape is None or not all(function and function.body for function in functions):
            return  # a function that is a blob has to be looked for every time
        chunk = end = b""
        if self._hub.keeps_graphs:
            chunk, end = messages_without_literals(whole.incoming.chunks[0], whole.end)
        shape = KnownShape(
            without_literals(whole.graph),
            plan,
            whole.facts.template_id,
            record.name,
            whole.facts.on_failure,
            record.logs,
            record.cancel_on_disconnect,
            record.disconnect_grace,
            record.params,
            record.pools,
            tuple([function.cid for function in whole.graph.functions]),
            chunk,
            end,
        )
        self._hub.shapes.put(whole.incoming.shape, shape)

    def _join(self, whole: _Whole) -> bool:
        """Joins a run that is known, if it is the same."""
        run_id = whole.incoming.run_id
        record = self._hub.runs.get(run_id)
        if record is None:
            return False
        differences = record.facts.differences(whole.facts)
        if differences:
            raise Refusal(
                "conflict",
                f"run {run_id!r} is known with something else: {', '.join(differences)} differ; "
                f"choose another run id, or attach to the run that is known",
            )
        if whole.incoming.options.resume and _may_go_on(record):
            return False
        self._drop(self._incoming.pop(run_id))
        follow(self._hub, self._session, record, logs=whole.incoming.options.logs, joined=True)
        return True

    def _record(self, whole: _Whole) -> RunRecord:
        """The shell's books of the new run, made before the core knows of it."""
        hub, incoming = self._hub, whole.incoming
        options = incoming.options
        record = RunRecord(incoming.run_id, options.name, whole.facts, logs=options.logs, submitted=hub.now())
        record.params = options.params
        record.pools = whole.pools
        record.resume = options.resume
        record.pinned = tuple(incoming.pinned)
        record.graph_bytes = RUN_BYTES + incoming.assembly.bytes
        hub.graph_bytes += RUN_BYTES
        if options.cancel_on_disconnect:
            record.cancel_on_disconnect = True
            record.disconnect_grace = seconds_of(options.disconnect_grace)
        self._own(record, soon=not incoming.single)
        return record

    def _own(self, record: RunRecord, *, soon: bool) -> None:
        """The run is known from now on, and this session's."""
        record.owner = self._session
        self._session.owned.add(record)
        self._hub.runs.add(record)
        follow(self._hub, self._session, record, logs=record.logs, joined=False, soon=soon)

    async def _solve(self, whole: _Whole, record: RunRecord, key: bytes) -> None:
        """Makes the plan of a large graph in slices, so that turns go on between them."""
        try:
            plan = await make_plan(self._hub, whole.graph, key, whole.pools)
        except Unsolvable as error:
            refusal = self._hub.run_refused(RunRefused(record.run_id, "infeasible", str(error)))
            self._hub.turn.post(None, then=partial(accept, record), records=refusal)
            return
        self._submit(whole, record, plan)

    def _submit(self, whole: _Whole, record: RunRecord, plan: Plan) -> None:
        if record.resume:
            self._hub.spawn(self._find_stored(whole, record, plan))
        elif whole.graph.value_keys:
            self._hub.spawn(self._find_cached(whole, record, plan))
        else:
            self._begin_run(whole, record, plan)

    async def _find_stored(self, whole: _Whole, record: RunRecord, plan: Plan) -> None:
        """Looks for what an earlier life of the run has left, before it begins."""
        hub, run_id = self._hub, record.run_id
        try:
            stored = await resuming.load(hub.writer, run_id)
        except StoreUnavailable as error:
            text = f"run {run_id!r} cannot be resumed, because the store is away: {error}; submit it again"
            self._refuse_stored(record, "invalid", text)
            return
        if stored is None:
            await self._find_cached(whole, record, plan)
            return
        differing = resuming.differences(stored.created, whole.facts)
        if differing:
            text = (
                f"run {run_id!r} is stored with something else: {', '.join(differing)} differ; "
                f"choose another run id, or submit without resume to begin anew"
            )
            self._refuse_stored(record, "conflict", text)
            return
        if stored.frame:  # it had gone on as another graph, and goes on in that
            try:
                await recovery.resume(hub, stored, record)
            except recovery.CannotGoOn as error:
                self._refuse_stored(record, "invalid", f"run {run_id!r} cannot be resumed: {error}")
            return
        await find_all(hub.blobs, resuming.stored_blobs(stored))
        recovered = await resuming.recovered_from(stored, whole.graph, hub.blobs.has)
        if recovered is not None:
            self._pin(record, resuming.blobs_of(recovered))
        await self._find_cached(whole, record, plan, recovered)

    def _refuse_stored(self, record: RunRecord, code: str, message: str) -> None:
        """The run is not resumed; what is stored of it stays."""
        self._hub.runs.refuse(RunRefused(record.run_id, code, message))
        self._hub.turn.post(None, then=partial(accept, record))

    def _pin(self, record: RunRecord, cids: Iterable[bytes]) -> None:
        cids = tuple(cids)
        self._hub.pin(cids)
        record.pinned = (*record.pinned, *cids)

    async def _find_cached(
        self, whole: _Whole, record: RunRecord, plan: Plan, recovered: Recovered | None = None
    ) -> None:
        """Looks the keys that are known up in the cluster's cache, before the run begins."""
        hits: Mapping[int, bytes | BlobValue] | None = None
        if whole.graph.value_keys:
            hits = await self._hub.cluster_cache.find(whole.graph)
            self._pin(record, (value.cid for value in hits.values() if isinstance(value, BlobValue)))
        self._begin_run(whole, record, plan, hits, recovered)

    def _begin_run(
        self,
        whole: _Whole,
        record: RunRecord,
        plan: Plan,
        hits: Mapping[int, bytes | BlobValue] | None = None,
        recovered: Recovered | None = None,
    ) -> None:
        hub, incoming = self._hub, whole.incoming
        options = incoming.options
        event = RunSubmitted(
            record.run_id,
            whole.graph,
            plan,
            options.name,
            record.facts.on_failure,
            options.logs,
            record.pools,
            hits,
            recovered,
        )
        created = (self._created(whole, record, resumed=recovered is not None),) if hub.keeps_graphs else ()
        hub.turn.post(event, then=partial(accept, record), records=created)
        if record.cancel_requested:  # while its plan was being made
            hub.turn.post(RunCancelRequested(record.run_id))

    def _created(self, whole: _Whole, record: RunRecord, *, resumed: bool) -> RunCreated:
        chunks, end = tuple(whole.incoming.chunks), whole.end.SerializeToString()
        return self._created_of(record, whole.graph, chunks, end, resumed=resumed)

    def _created_of(
        self, record: RunRecord, graph: Graph, chunks: tuple[bytes, ...], end: bytes, *, resumed: bool
    ) -> RunCreated:
        facts, functions = record.facts, []
        for reference in graph.functions:
            found = self._hub.functions.get(reference.cid)
            assert found is not None, "functions of a graph are pinned from its first chunk on"
            functions.append(StoredFunction(found.cid, found.name, found.body, found.code_hash))
        return RunCreated(
            record.run_id,
            record.name,
            facts.on_failure,
            record.logs,
            record.submitted,
            facts.target_id,
            facts.node_count,
            facts.params_digest,
            facts.template_id,
            chunks,
            end,
            tuple(functions),
            record.pools,
            resumed,
            record.params,
            record.cancel_on_disconnect,
            record.disconnect_grace,
        )


def _may_go_on(record: RunRecord) -> bool:
    """It has ended, and not well, and its clients know."""
    return record.ended is not None and record.ended[0].state != "succeeded"


def is_run_id(text: str) -> bool:
    """Whether runs may be called so."""
    return 0 < len(text) <= RUN_ID_CHARS_MAX and text.isprintable()


def _body(function: graph_pb2.Function) -> FunctionBody:
    return FunctionBody(function.cid, function.body, function.name, function.code_hash)
