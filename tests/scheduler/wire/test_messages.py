"""Values, work, reports and updates: there and back, and within their bounds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_dist.codec.cid import cid_of
from cascade_dist.v1 import client_pb2, graph_pb2, value_pb2, worker_pb2
from cascade_scheduler.core.commands import Assign, EventRecord, RunEnded
from cascade_scheduler.core.events import (
    AttemptCancelled,
    AttemptDone,
    AttemptFailed,
    AttemptLost,
    AttemptReturned,
    Held,
    ResourceReported,
)
from cascade_scheduler.core.graph import JumpTable, NodeKind, ResourceRef, Spec
from cascade_scheduler.core.values import (
    BlobValue,
    CompoundValue,
    DeferredValue,
    ErrorInfo,
    ItemValue,
    ListValue,
    ObjectValue,
    Value,
)
from cascade_scheduler.core.views import Progress, Tree, TreeCompound, TreeList
from cascade_scheduler.eventlog import LogLine
from cascade_scheduler.functions import FunctionBody
from cascade_scheduler.wire.reports import hello_from, reports_from, resources_from
from cascade_scheduler.wire.updates import event_to, fill_finish, fill_results, output_to, tree_to
from cascade_scheduler.wire.values import (
    BadMessage,
    amounts_from,
    amounts_to,
    duration_of,
    fill_value,
    seconds_of,
    timestamp_of,
    value_size,
)
from cascade_scheduler.wire.work import SHARED_BODIES_MAX, WorkEncoder

BLOB = BlobValue(cid_of(b"blob"), 4)
OBJECT = ObjectValue(2**63 + 1, 10, "w", "host:1")
ERROR = ErrorInfo("ValueError", "no", "Traceback …", b"\x80")
LEAVES: st.SearchStrategy[Any] = st.one_of(
    st.binary(max_size=10).map(lambda data: b"\x80" + data),
    st.just(OBJECT),
    st.just(BLOB),
    st.builds(ItemValue, st.sampled_from([OBJECT, BLOB]), st.integers(0, 2**32 - 1)),
    st.builds(DeferredValue, st.text(max_size=5), st.integers(0, 2**32 - 1)),
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(ListValue, st.lists(inner, max_size=3).map(tuple)),
        st.builds(
            CompoundValue, st.sampled_from([b"template", b"", BLOB]), st.lists(inner, max_size=3).map(tuple)
        ),
    ),
    max_leaves=8,
)


def read_value(message: value_pb2.Value) -> Value:
    """What whoever gets a value sees in it; the worker of an object is not on the wire."""
    form = message.WhichOneof("form")
    if form == "inline":
        return message.inline
    if form == "object":
        return read_object(message.object)
    if form == "blob":
        return BlobValue(message.blob.cid, message.blob.size_bytes)
    if form == "item":
        item = message.item
        made: ObjectValue | BlobValue = (
            read_object(item.list)
            if item.HasField("list")
            else BlobValue(item.blob.cid, item.blob.size_bytes)
        )
        return ItemValue(made, item.index)
    if form == "list":
        return ListValue(tuple(map(read_value, message.list.items)))
    if form == "compound":
        compound = message.compound
        blob = compound.template_blob
        template: bytes | BlobValue = (
            BlobValue(blob.cid, blob.size_bytes) if compound.HasField("template_blob") else compound.template
        )
        return CompoundValue(template, tuple(map(read_value, compound.inputs)))
    assert form == "deferred"
    return DeferredValue(message.deferred.run_id, message.deferred.node)


def read_object(message: value_pb2.ObjectRef) -> ObjectValue:
    """An object; its holder's address says which worker it is."""
    (address,) = message.holders
    return ObjectValue(message.attempt, message.size_bytes, "w", address)


@given(VALUES)
def test_values_go_there_and_back(value: Value) -> None:
    message = value_pb2.Value()
    fill_value(message, value)
    assert read_value(value_pb2.Value.FromString(message.SerializeToString())) == value
    assert value_size(value) >= 0


@given(st.integers(0, 10**15))
def test_durations_go_there_and_back(nanos: int) -> None:
    assert seconds_of(duration_of(nanos / 1e9)) == pytest.approx(nanos / 1e9, abs=1e-9)
    assert duration_of(-1.0).seconds == 0
    assert timestamp_of(1e9 + 0.5).nanos == 500_000_000


def test_amounts_are_sorted_and_checked() -> None:
    assert amounts_from(amounts_to([("gpu", 2), ("cpu", 1)])) == (("cpu", 1), ("gpu", 2))
    with pytest.raises(BadMessage, match="'cpu' is named twice"):
        amounts_from(amounts_to([("cpu", 1), ("cpu", 2)]))


# --- work ------------------------------------------------------------------------------------------

FUNCTION = FunctionBody(cid_of(b"body"), b"body", "mod.f", b"h")
SPEC = Spec(NodeKind.CALL, "f", amounts=(("cpu", 1_000_000),))


def assign(attempt: int, **changes: Any) -> Assign:
    """An order to start an attempt."""
    order = Assign(
        "w", attempt, "r", 0, SPEC, FUNCTION.cid, 1, b"args", None, (), False, 0, False, "aa", -1
    )  # fmt: skip
    return order._replace(**changes)


def encoder(*functions: FunctionBody, logs: bool = False) -> WorkEncoder:
    """One that knows some functions."""
    known = {function.cid: function for function in (FUNCTION, *functions)}
    return WorkEncoder(known.get, lambda run_id: logs)


def works_of(coder: WorkEncoder, *assigns: Any, **orders: Any) -> list[worker_pb2.Work]:
    """The orders as messages."""
    return [message.work for message in coder.encode(*assigns, **orders)]


def test_nothing_to_do_is_no_message() -> None:
    assert list(works_of(encoder())) == []
    assert list(works_of(encoder(), ended=["never named"])) == []


def test_a_promise_comes_with_what_is_to_be_given_back() -> None:
    (work,) = works_of(encoder(), [assign(1)], retract=[2], promise=7)
    assert (list(work.retract), work.promise) == ([2], 7)
    (work,) = works_of(encoder(), promise=8)
    assert work.promise == 8


@pytest.mark.parametrize(
    ("amounts", "told"),
    [
        (None, []),
        ((), [("cpu", 0)]),
        ((("cpu", 5), ("gpu", 2**40)), [("cpu", 5), ("gpu", 2**40)]),
    ],
)
def test_amounts_that_the_spec_does_not_say(amounts: Any, told: list[tuple[str, int]]) -> None:
    (work,) = works_of(encoder(), [assign(1, amounts=amounts)])
    assert [(amount.name, amount.micros) for amount in work.assignments[0].amounts] == told


def test_an_assignment_says_everything() -> None:
    order = assign(
        2**63 + 5, try_=3, args=b"", args_blob=BLOB, inputs=(b"\x80x", OBJECT), ahead=True, observe=3,
        publish=True, map_index=0,
    )  # fmt: skip
    (work,) = works_of(encoder(logs=True), [order], retract=[1], cancel=[2], release=[3])
    (message,) = work.assignments
    assert (message.attempt, getattr(message, "try"), message.args) == (2**63 + 5, 3, b"")
    assert (message.args_blob.cid, message.args_blob.size_bytes) == BLOB
    assert [read_value(value) for value in message.inputs] == [b"\x80x", OBJECT]
    assert (message.ahead, message.observe, message.publish, message.node_id) == (True, 3, True, "aa")
    assert message.map_index_plus_one == 1
    assert (list(work.retract), list(work.cancel), list(work.release)) == ([1], [2], [3])
    (body,) = work.bodies
    assert (body.body, body.spec.name, body.function, body.run) == (message.body, "f", FUNCTION.cid, 0)
    assert body.spec.amounts[0] == graph_pb2.Amount(name="cpu", micros=1_000_000)
    assert message.run == 1
    assert [(run.run, run.run_id, run.logs) for run in work.runs] == [(1, "r", True)]
    assert [(f.cid, f.body, f.name, f.code_hash) for f in work.functions] == [FUNCTION]


def test_what_loops_need_goes_with_the_assignment() -> None:
    table = JumpTable(b"keys", (4, -1, 0, -1))
    orders = [assign(1, tail=True, lease=True), assign(2, overrides=b"laid over", jump=table), assign(3)]
    (work,) = works_of(encoder(), orders, recall=[9])
    assert list(work.recall) == [9]
    leased, jumps, other = work.assignments
    assert (leased.tail, leased.lease) == (True, True)
    assert (jumps.overrides, jumps.jump_keys, list(jumps.jump_exits)) == (b"laid over", b"keys", [1, 3])
    assert [other.tail, other.lease, other.overrides, other.jump_keys] == [False, False, b"", b""]


def test_what_is_shared_goes_once() -> None:
    other = Spec(NodeKind.CALL, "g")
    coder = encoder()
    (work,) = works_of(coder, [assign(1), assign(2), assign(3, spec=other), assign(4, run_id="s")])
    assert (len(work.functions), len(work.bodies), len(work.runs)) == (1, 2, 2)
    assert [(a.body, a.run) for a in work.assignments] == [(1, 1), (1, 1), (2, 1), (1, 2)]
    (work,) = works_of(coder, [assign(5)])
    assert (len(work.functions), len(work.bodies), len(work.runs)) == (0, 0, 0)


def test_one_spec_of_two_functions_is_two_bodies() -> None:
    other = FunctionBody(cid_of(b"other"), b"other", "mod.g", b"")
    (work,) = works_of(encoder(other), [assign(1), assign(2, function=other.cid), assign(3)])
    functions = {body.body: body.function for body in work.bodies}
    assert [functions[a.body] for a in work.assignments] == [FUNCTION.cid, other.cid, FUNCTION.cid]


def test_runs_that_ended_are_forgotten_on_both_sides() -> None:
    coder = encoder()
    list(works_of(coder, [assign(1)]))
    (work,) = works_of(coder, ended=["r", "unknown"])
    assert list(work.ended_runs) == [1]
    assert len(coder) == 0
    (work,) = works_of(coder, [assign(2)])
    assert [(run.run, run.run_id) for run in work.runs] == [(2, "r")]
    assert [(a.body, a.run) for a in work.assignments] == [(1, 2)]
    assert not work.bodies, "it is of any run"
    assert not work.functions


@pytest.mark.parametrize("what", ["resources", "cache_policy", "params"])
def test_bodies_with_something_of_a_run_are_forgotten_with_it(what: str) -> None:
    resource = ResourceRef("config", 2, FUNCTION.cid)
    specs = {
        "resources": SPEC._replace(resources=(resource,)),
        "cache_policy": SPEC._replace(cache_policy=b"p"),
    }
    spec = specs.get(what, SPEC._replace(name="g"))
    params = b"p" if what == "params" else b""
    coder = WorkEncoder({FUNCTION.cid: FUNCTION}.get, lambda run_id: False, lambda run_id: params)
    for number in (1, 2):
        (work,) = works_of(coder, [assign(number, spec=spec)])
        assert [(body.body, body.run) for body in work.bodies] == [(number, number)]
        assert [(a.body, a.run) for a in work.assignments] == [(number, 0)]
        works_of(coder, ended=["r"])


def test_of_many_bodies_of_any_run_the_oldest_are_forgotten() -> None:
    coder = encoder()
    specs = [SPEC._replace(name=f"f{number}") for number in range(SHARED_BODIES_MAX + 1)]
    for number, spec in enumerate(specs[:-1]):
        works_of(coder, [assign(number + 1, spec=spec)])
    (work,) = works_of(coder, [assign(9_000, spec=specs[0]), assign(9_001, spec=specs[-1])])
    assert [a.body for a in work.assignments] == [1, len(specs)]
    assert list(work.forget_bodies) == [1]
    (work,) = works_of(coder, [assign(9_002, spec=specs[0])])
    assert [body.body for body in work.bodies] == [len(specs) + 1]


def test_messages_are_split_at_one_mebibyte() -> None:
    orders = [assign(n, args=b"x" * 50_000, inputs=(b"\x80" * 14_000,)) for n in range(50)]
    works = list(works_of(encoder(), orders, cancel=[7]))
    assert [a.attempt for work in works for a in work.assignments] == list(range(50))
    assert max(work.ByteSize() for work in works) < (1 << 20) + 4096
    assert len(works) == 4
    assert list(works[-1].cancel) == [7]
    large = FunctionBody(cid_of(b"y" * 600_000), b"y" * 600_000, "mod.g", b"")
    works = list(works_of(encoder(large), [*orders[:10], assign(99, function=large.cid)]))
    assert [len(work.assignments) for work in works] == [10, 1]


def test_logs_can_be_asked_for_later() -> None:
    wanted = False
    coder = WorkEncoder({FUNCTION.cid: FUNCTION}.get, lambda run_id: wanted)
    assert coder.logs_changed("r") is None
    list(works_of(coder, [assign(1)]))
    assert coder.logs_changed("r") is None
    wanted = True
    message = coder.logs_changed("r")
    assert message is not None
    work = message.work
    assert [(run.run, run.run_id, run.logs) for run in work.runs] == [(1, "r", True)]


def test_resources_go_with_the_body() -> None:
    refs = (ResourceRef("config", 2, cid_of(b"config")), ResourceRef("db", 1, cid_of(b"db"), ("config",)))
    bodies = [FunctionBody(ref.function, ref.name.encode(), ref.name, b"") for ref in refs]
    coder = encoder(*bodies)
    spec = SPEC._replace(resources=refs)
    (work,) = works_of(coder, [assign(1, spec=spec), assign(2, spec=spec), assign(3)])
    assert [f.cid for f in work.functions] == [FUNCTION.cid, *(ref.function for ref in refs)]
    first, second = work.bodies
    found = [(r.name, r.scope, r.function, tuple(r.requires)) for r in first.resources]
    assert found == [tuple(ref) for ref in refs]
    assert not second.resources
    (work,) = works_of(coder, [assign(4, spec=spec, function=b"", observe_only=True)])
    assert not work.bodies[0].resources, "no user code runs"


def test_runs_are_closed_by_number_even_in_a_new_session() -> None:
    coder = encoder()
    (work,) = works_of(coder, close=["r"])
    assert [(run.run, run.run_id) for run in work.runs] == [(1, "r")]
    assert list(work.close_runs) == [1]
    assert (coder.run_id(1), coder.run_id(2)) == ("r", "")
    (work,) = works_of(coder, close=["r"], ended=["r"])
    assert not work.runs
    assert coder.run_id(1) == ""


def test_a_function_that_is_gone_is_a_bug_with_a_name() -> None:
    with pytest.raises(LookupError, match="function of task 'f'"):
        list(works_of(encoder(), [assign(1, function=b"gone")]))


def refusing(*functions: FunctionBody) -> tuple[WorkEncoder, list[tuple[int, str]]]:
    """An encoder, and the attempts that it refuses, with the reasons."""
    refused: list[tuple[int, str]] = []
    known = {function.cid: function for function in (FUNCTION, *functions)}

    def refuse(command: Assign, error: Exception) -> None:
        refused.append((command.attempt, f"{type(error).__name__}: {error}"))

    return WorkEncoder(known.get, lambda run_id: False, refuse=refuse), refused


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"function": b"gone"}, "LookupError: a function of task 'f' is not in the function store"),
        ({"inputs": (b"a", "no value")}, "TypeError: str is no value"),
        ({"amounts": (("cpu", 2**70),)}, "ValueError: "),
    ],
)
def test_an_assignment_that_cannot_be_said_is_refused_and_the_others_are_said(
    wrong: dict[str, Any], why: str
) -> None:
    coder, refused = refusing()
    works = works_of(coder, [assign(1), assign(2, run_id="s", **wrong), assign(3), assign(4)], cancel=[9])
    assert [a.attempt for work in works for a in work.assignments] == [1, 3, 4]
    assert list(works[-1].cancel) == [9]
    ((attempt, told),) = refused
    assert attempt == 2
    assert told.startswith(why)
    (work,) = works_of(coder, [assign(5, run_id="s")])
    runs = {run.run: run.run_id for part in (*works, work) for run in part.runs}
    assert [(runs[a.run], a.body) for a in work.assignments] == [("s", 1)]
    assert [f.cid for part in (*works, work) for f in part.functions] == [FUNCTION.cid]


def test_a_refused_assignment_alone_is_no_message() -> None:
    coder, refused = refusing()
    assert works_of(coder, [assign(1, function=b"gone")]) == []
    assert works_of(coder, [assign(2, inputs=(OBJECT,) * 700_000)]) == []
    assert [attempt for attempt, _ in refused] == [1, 2]
    assert "task 'f' has 700,000 inputs" in refused[1][1]
    (work,) = works_of(coder, [assign(3)])
    assert (len(work.functions), len(work.bodies), len(work.runs)) == (1, 1, 1), "nothing was taken as said"


def test_large_specs_count_where_messages_are_split() -> None:
    specs = [SPEC._replace(name=f"f{n}", cache_policy=b"p" * 600_000) for n in range(30)]
    works = works_of(encoder(), [assign(n, spec=spec) for n, spec in enumerate(specs)])
    assert [len(work.assignments) for work in works] == [1] * 30


# --- reports ---------------------------------------------------------------------------------------


def reported(**report: Any) -> Any:
    """What the core sees of one report."""
    message = worker_pb2.Report(attempt=5, duration_ns=1_500_000_000, **report)
    (event,) = reports_from("w", [worker_pb2.Report.FromString(message.SerializeToString())])
    return event


def test_done() -> None:
    value = value_pb2.Value(inline=b"\x80x")
    assert reported(done=worker_pb2.Done(value=value, preview="x")) == AttemptDone(5, b"\x80x", 1.5, "x")
    observed = worker_pb2.Done(value=value, truth=False, length=0)
    assert reported(done=observed) == AttemptDone(5, b"\x80x", 1.5, "", False, 0)
    listed = worker_pb2.Done(value=value, length=2, items=[b"a", b"b"])
    assert reported(done=listed) == AttemptDone(5, b"\x80x", 1.5, "", None, 2, (b"a", b"b"))
    made = value_pb2.ObjectRef(attempt=5, size_bytes=10, holders=["h:1"])
    held = worker_pb2.Done(value=value_pb2.Value(object=made))
    assert reported(done=held) == AttemptDone(5, ObjectValue(5, 10, "w", "h:1"), 1.5)
    blob = worker_pb2.Done(value=value_pb2.Value(blob=value_pb2.BlobRef(cid=BLOB.cid, size_bytes=4)))
    assert reported(done=blob) == AttemptDone(5, BLOB, 1.5)
    error = value_pb2.TaskError(type="TypeError", message="no len")
    odd = worker_pb2.Done(value=value, observe_error=error)
    assert reported(done=odd).observe_error == ErrorInfo("TypeError", "no len")


def test_other_outcomes() -> None:
    error = value_pb2.TaskError(type="ValueError", message="no", traceback="Traceback …", pickled=b"\x80")
    for kind, word in [(1, "raised"), (2, "timeout"), (3, "unloadable"), (4, "input_lost")]:
        failed = worker_pb2.Failed(error=error, kind=kind, retryable=True, lost_inputs=[7, 8])  # type: ignore[arg-type]
        assert reported(failed=failed) == AttemptFailed(5, ERROR, word, True, (7, 8), 1.5)
    lost = worker_pb2.Lost(reason="killed by signal 9", innocent=True)
    assert reported(lost=lost) == AttemptLost(5, "killed by signal 9", True)
    assert reported(returned=worker_pb2.Returned()) == AttemptReturned(5)
    assert reported(cancelled=worker_pb2.Cancelled(killed=True)) == AttemptCancelled(5, True)


def test_resources() -> None:
    message = worker_pb2.ResourceReport(
        run=1, name="db", released=True, reason="killed", attempt=5, duration_ns=2_000_000_000
    )
    found = resources_from([message, worker_pb2.ResourceReport(run=2)], {1: "r"}.get)  # type: ignore[arg-type]
    assert found[0] == ResourceReported("r", "db", True, "killed", 5, 2.0)
    assert found[1] == ResourceReported(None, "")  # type: ignore[arg-type]
    event = event_to(1, EventRecord("r", "ResourceReleased", 1.0, reason="killed", resource="db"), "")
    assert (event.resource, event.reason, event.HasField("duration")) == ("db", "killed", True)


def test_hello() -> None:
    hello = worker_pb2.Hello(
        worker_id="w", amounts=amounts_to([("gpu", 2), ("cpu", 1)]), async_credits=5, ahead_credits=6,
        sync_credits=7, object_address="h:1", host="h", pid=9, objects=[3], draining=True,
        held=[worker_pb2.HeldAttempt(attempt=1, state=worker_pb2.HELD_STATE_WAITING)],
    )  # fmt: skip
    event = hello_from(hello)
    assert (event.worker, event.name, event.amounts) == ("w", "w", (("cpu", 1), ("gpu", 2)))
    assert (event.async_credits, event.ahead_credits, event.sync_credits) == (5, 6, 7)
    assert (event.address, event.host, event.pid, event.objects) == ("h:1", "h", 9, (3,))
    assert (event.held, event.draining) == ((Held(1, "waiting"),), True)
    with pytest.raises(BadMessage, match="no worker_id"):
        hello_from(worker_pb2.Hello())
    with pytest.raises(BadMessage, match="attempt 1 in the unknown state 0"):
        hello_from(worker_pb2.Hello(worker_id="w", held=[worker_pb2.HeldAttempt(attempt=1)]))


# --- updates ---------------------------------------------------------------------------------------


def test_results_are_split_at_one_mebibyte() -> None:
    results: list[tuple[int, Value]] = [(node, b"\x80" * 60_000) for node in range(40)]
    results[3] = (3, BLOB)
    updates, first = [], 0
    while first < len(results):
        updates.append(client_pb2.RunUpdate())
        first = fill_results(updates[-1], results, first, len(results))
    told = [(result.node, read_value(result.value)) for update in updates for result in update.results]
    assert told == results
    assert max(update.ByteSize() for update in updates) < (1 << 20) + 4096
    huge: list[tuple[int, Value]] = [(0, b"\x80" * (2 << 20)), (1, b"\x80")]
    assert fill_results(client_pb2.RunUpdate(), huge, 0, 2) == 1
    assert fill_results(client_pb2.RunUpdate(), [], 0, 0) == 0


TREES: st.SearchStrategy[Tree] = st.recursive(
    st.integers(0, 2**32 - 1),
    lambda inner: st.one_of(
        st.builds(TreeList, st.lists(inner, max_size=3).map(tuple)),
        st.builds(TreeCompound, st.sampled_from([b"t", BLOB]), st.lists(inner, max_size=3).map(tuple)),
    ),
    max_leaves=10,
)


def read_tree(message: client_pb2.TargetTree) -> Tree:
    """What a client sees."""
    shape = message.WhichOneof("shape")
    if shape == "node":
        return message.node
    branch: Any = message.list if shape == "list" else message.compound
    children = branch.items if shape == "list" else branch.inputs
    trees = tuple(map(read_tree, children)) or tuple(branch.nodes)
    if shape == "list":
        return TreeList(trees)
    blob = branch.template_blob
    template = BlobValue(blob.cid, blob.size_bytes) if branch.HasField("template_blob") else branch.template
    return TreeCompound(template, trees)


@given(TREES)
def test_trees_go_there_and_back(tree: Tree) -> None:
    message = client_pb2.TargetTree()
    tree_to(message, tree)
    assert read_tree(client_pb2.TargetTree.FromString(message.SerializeToString())) == tree


def test_a_tree_that_is_too_deep_is_refused_here() -> None:
    tree: Tree = 1
    for _ in range(200):
        tree = TreeList((tree, 1))
    with pytest.raises(ValueError, match="nests containers"):
        tree_to(client_pb2.TargetTree(), tree)


def test_a_finish_says_everything() -> None:
    ended = RunEnded("r", "failed", ERROR, "f", "ConditionFalse", 3, "g", 1.5)
    finish = client_pb2.RunFinish()
    fill_finish(finish, ended, 7, Progress(6, 5, 4, 3, 2, 1))
    assert finish.state == client_pb2.RUN_STATE_FAILED
    assert (finish.error.type, finish.error.pickled, finish.failed_task) == ("ValueError", b"\x80", "f")
    assert (finish.skip_reason, finish.skipped_node, finish.skipped_dependency) == ("ConditionFalse", 3, "g")
    assert (finish.tree.node, finish.duration.nanos) == (7, 500_000_000)
    progress = finish.progress
    counts = (progress.total, progress.done, progress.running, progress.skipped, progress.failed)
    assert (*counts, progress.retried) == (6, 5, 4, 3, 2, 1)


def test_events() -> None:
    record = EventRecord("r", "TaskRetrying", 10.5, 3, "f", "", "why", "V: no", "…", "w", 0.0, 1, 3, 0.5)
    event = event_to(9, record, "aa")
    assert (event.event_id, event.timestamp.seconds, event.kind, event.task) == (9, 10, "TaskRetrying", "f")
    assert (event.node_id, event.reason, event.error, event.worker) == ("aa", "why", "V: no", "w")
    assert (event.attempt, event.max_attempts, event.delay.nanos) == (1, 3, 500_000_000)
    assert not event.HasField("duration")
    assert event_to(1, EventRecord("r", "RunFinished", 1.0, status="Succeeded"), "").HasField("duration")
    line = LogLine("r", 10.5, 3, "f", "w", 2, "hello")
    event = event_to(4, line, "aa")
    assert (event.kind, event.text, event.stream) == ("LogLine", "hello", value_pb2.LOG_STREAM_STDERR)
    output = output_to(7, line._replace(stream=1))
    assert output.event_id == 7
    assert (output.task, output.text, output.worker) == ("f", "hello", "w")
    assert output.stream == value_pb2.LOG_STREAM_STDOUT
