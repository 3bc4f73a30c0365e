"""Frames: a run that goes on as the target that its task returned, and nodes whose value is a nested graph.

A run has one frame: its present graph, plan and columns. When its target returns a lazy value, what is left
of the frame is dropped and the returned graph takes its place, so a loop takes the memory of one step. A node
that is marked `spawn` and returns a lazy value gets a frame of its own, a `Run` with a parent: the value of
its target becomes the node's. What a nested frame has come to is handed to its parent when the event is over
(`hand_over`), not on the way, so that frames may be nested deeply.
"""

from __future__ import annotations

from cascade_scheduler.core import (
    feasible,
    followers,
    leases,
    lineage,
    nodes,
    observing,
    recovering,
    runs,
    waits,
)
from cascade_scheduler.core.books import TASK_SECONDS_MIN, Books
from cascade_scheduler.core.cached import Cached
from cascade_scheduler.core.commands import (
    CancelAttempt,
    EventRecord,
    FrameGone,
    LoopCounts,
    PlanWanted,
    SaveFrame,
    SaveResult,
    TargetValue,
)
from cascade_scheduler.core.events import (
    AttemptDone,
    AttemptTail,
    NextFrame,
    PlanMade,
    Report,
    RunSubmitted,
)
from cascade_scheduler.core.graph import Graph, NodeKind
from cascade_scheduler.core.run import ACTIVE, DONE, NESTED, Loop, Run
from cascade_scheduler.core.values import PICKLED_NONE, ErrorInfo
from cascade_scheduler.core.worker import Attempt

__all__ = [
    "advance",
    "count_steps",
    "counts",
    "forget",
    "hand_over",
    "in_vain",
    "keeps",
    "on_plan_made",
    "on_tail",
    "over",
    "progress",
    "start_over",
    "stopping",
    "tell_steps",
]

PERIOD_SECONDS = 1.0
"""How often a loop says how far it has come."""
STEPS_TOLD_MAX = 100
"""So many steps of a period have events of their own."""


def on_tail(books: Books, attempt: Attempt, report: AttemptTail) -> None:
    """A task has returned a target; its attempt is off the books."""
    run, node = attempt.run, attempt.node
    books.learn(run.graph.functions[attempt.spec.function].cid, max(report.duration, TASK_SECONDS_MIN))
    if run.status[node] != ACTIVE or run.state != "running":
        if run.status[node] == ACTIVE:
            _finish(books, attempt, report, told=True)
            run.status[node] = DONE
            run.done += 1
        gone(books, report.frame)
        return
    message = None if _is_like(report.frame.graph, run.graph) else _refusal(books, run, report.frame)
    if message is not None:
        _refuse(books, attempt, report, ErrorInfo("AmountError", message))
    elif is_tail(run, node):
        _go_on(books, attempt, report)
    elif attempt.spec.spawn:
        _nest(books, attempt, report)
    else:
        text = (
            f"task {run.task(node)!r} returned a lazy value, and other nodes of the run need its value: only "
            "the target may return one, and it needs no spawn=True for that; mark the task with spawn=True"
        )
        _refuse(books, attempt, report, ErrorInfo("GraphError", text))


def is_tail(run: Run, node: int) -> bool:
    """The node's value is the target's: it is the target, or what the target's routers chose."""
    target = run.graph.target
    picks = run.picks
    while target != node:
        if picks is None or run.graph.spec(target).kind != NodeKind.ROUTER or target not in picks.source:
            return False
        target = picks.source[target]
    return True


def _is_like(new: Graph, old: Graph) -> bool:
    """Both are calls of one spec: what the old one had, when it ran, the new one may have too."""
    return (
        new.specs is old.specs
        and new.functions is old.functions
        and new.size == old.size == 1
        and new.base is None
    )


def _refusal(books: Books, run: Run, frame: NextFrame) -> str | None:
    pools = books.lines.run_pools.get(run.run_id)
    amounts = () if not pools else tuple((pool.name, pool.total) for pool in pools.values())
    plan = frame.plan or run.plan
    return feasible.refusal(books, RunSubmitted(run.run_id, frame.graph, plan, pools=amounts))


def _refuse(books: Books, attempt: Attempt, report: AttemptTail, error: ErrorInfo) -> None:
    _finish(books, attempt, report, told=True, error=f"{error.type}: {error.message}")
    gone(books, report.frame)
    nodes.fail(books, attempt.run, attempt.node, error)


def _finish(books: Books, attempt: Attempt, report: AttemptTail, *, told: bool, error: str = "") -> None:
    """The events of a task that returned a target; those of hot loops are counted instead."""
    run, node = attempt.run, attempt.node
    if node in run.finished_once or not (told or not run.quiet):
        return
    on = {"worker": attempt.worker.name, "attempt": attempt.try_}
    if not attempt.started:
        books.tell(run, "TaskExecutionStarted", node, **on)
    status = "Failed" if error else "Succeeded"
    shown = {"error": error, "preview": report.preview, "duration": report.duration}
    books.tell(run, "TaskExecutionFinished", node, status=status, **shown, **on)


# --- tail calls --------------------------------------------------------------------------------------


def _go_on(books: Books, attempt: Attempt, report: AttemptTail) -> None:
    run, node = attempt.run, attempt.node
    if report.iterations:
        leases.advance(books, attempt, report.iterations)
    _step(books, run, 1)
    _finish(books, attempt, report, told=False)
    run.status[node] = DONE
    run.done += 1
    loop = run.loop
    assert loop is not None, "the step was counted"
    loop.own += 1
    loop.next = report.frame
    loop.asked = False
    if books.settings.saves and run.parent is None:
        # At once, and not when it is entered: from now on nobody else knows what the task has returned.
        books.out.append(SaveFrame(run.run_id, loop.number + 1, report.frame.stored, counts(run, loop)))
    _halt(books, run)
    advance(books, run)


def _halt(books: Books, run: Run) -> None:
    """Whatever the old frame still does is in vain: lost values that were being made again, say."""
    if run.whole:
        _forget_parts(books, run)
    books.queues.forget(run)
    if run.delays:
        run.delays.clear()
    run.ready = run.waiting_retry = 0
    if run.waits:
        waits.forget(books, run)
    if run.observing:
        observing.stop(books, run)
    for attempt_id in run.nodes_active.values():
        attempt = books.attempts[attempt_id]
        attempt.asked_back = True
        books.out.append(CancelAttempt(attempt.worker.id, attempt_id))
    if run.followers:
        followers.stop(books, run)
    for child in run.nested.values():
        runs.stop(books, child)


def in_vain(books: Books, attempt: Attempt, report: Report) -> None:
    """An attempt has ended in a frame that the run has left: what it made or met is nobody's concern."""
    run, node = attempt.run, attempt.node
    run.status[node] = DONE
    run.done += 1
    if isinstance(report, AttemptTail):
        gone(books, report.frame)
    elif isinstance(report, AttemptDone):
        books.keep(run, node, report.value)  # it goes with all that the frame held
    if attempt.started and node not in run.finished_once:
        on = {"worker": attempt.worker.name, "attempt": attempt.try_}
        books.tell(run, "TaskExecutionFinished", node, status="Cancelled", **on)


def advance(books: Books, run: Run) -> bool:
    """Enters the next frame, once the old one has stopped and its plan is there; False: there is none."""
    loop = run.loop
    if loop is None or loop.next is None:
        return False
    if run.active or run.watching or run.nested:
        return True
    frame = loop.next
    if frame.plan is None:
        if not loop.asked:
            loop.asked = True
            books.out.append(PlanWanted(run.frame_id, loop.number, frame.graph, frame.key))
        return True
    loop.next = None
    _enter(books, run, loop, frame)
    return True


def on_plan_made(books: Books, event: PlanMade) -> None:
    """The plan of a frame is there, or there is none."""
    run = books.runs.get(event.frame_id)
    loop = None if run is None else run.loop
    if run is None or loop is None or loop.next is None or loop.number != event.number:
        return
    if event.plan is None:
        gone(books, loop.next)
        loop.next = None
        runs.abort(books, run, ErrorInfo("AmountError", event.error))
        return
    loop.next = loop.next._replace(plan=event.plan)
    advance(books, run)


def _enter(books: Books, run: Run, loop: Loop, frame: NextFrame) -> None:
    for node in list(run.values):
        books.drop(run, node)
    if run.spares is not None:
        books.forget_spares(run)
    if not loop.number and run.parent is None:
        loop.first_ids, loop.first_children, loop.first_size = (
            run.graph.node_ids,
            run.children,
            run.graph.size,
        )
    loop.total += run.total
    loop.done += run.done
    loop.skipped += run.skipped
    gone(books, loop.frame)
    loop.frame = frame
    loop.number += 1
    assert frame.plan is not None
    loop.same = loop.same + 1 if _is_same_task(run.graph, frame.graph) else 0
    run.lay_out(frame.graph, frame.plan)
    if run.parent is not None and not loop.own:
        _start_nested(books, run)  # its plan was not known before
        return
    nodes.start(books, run)
    runs.settle_if_stuck(books, run)


def counts(run: Run, loop: Loop) -> LoopCounts:
    """How far the loop of a run has come, this frame among it."""
    return LoopCounts(
        loop.total + run.total, loop.done + run.done, loop.skipped + run.skipped, loop.steps, loop.own
    )


def _is_same_task(old: Graph, new: Graph) -> bool:
    """Both are one call, of the same task."""
    if _is_like(new, old):
        return old.spec(0).kind == NodeKind.CALL
    return old.size == new.size == 1 and (
        old.functions[old.spec(0).function].cid == new.functions[new.spec(0).function].cid
        if old.spec(0).kind == new.spec(0).kind == NodeKind.CALL
        else False
    )


def gone(books: Books, frame: NextFrame | None) -> None:
    """Nobody needs a frame any more."""
    if frame is not None and (frame.pins or frame.size):
        books.out.append(FrameGone(frame.pins, frame.size))


# --- steps and events ---------------------------------------------------------------------------------


def count_steps(books: Books, run: Run, steps: int) -> None:
    """Counts steps that a lease took: each was a node, with its end."""
    _step(books, run, steps)
    loop = run.loop
    assert loop is not None
    loop.own += steps
    loop.total += steps
    loop.done += steps


def _step(books: Books, run: Run, steps: int) -> None:
    """Counts steps of a loop; beyond so many a period they have no events of their own."""
    root = run.root
    loop = root.loop = root.loop or Loop()
    loop.steps += steps
    books.loop_steps += steps
    if books.now - loop.period_began >= PERIOD_SECONDS:
        if loop.period_began:
            tell_steps(books, root)
        root.quiet = loop.period_steps > STEPS_TOLD_MAX  # a hot loop has told enough
        loop.period_began = books.now
        loop.period_steps = 0
    loop.period_steps += steps
    if loop.period_steps > STEPS_TOLD_MAX:
        root.quiet = True


def tell_steps(books: Books, run: Run) -> None:
    """Says how far a run's loop has come, if that was not said."""
    loop = run.loop
    if loop is not None and run.parent is None and loop.steps != loop.told:
        loop.told = loop.steps
        books.out.append(EventRecord(run.run_id, "LoopProgress", books.now, iterations=loop.steps))


def progress(run: Run) -> tuple[int, int, int]:
    """Nodes that run code in all, done and skipped, those of earlier frames too."""
    loop = run.loop
    if loop is None:
        return run.total, run.done, run.skipped
    return loop.total + run.total, loop.done + run.done, loop.skipped + run.skipped


# --- nested frames ------------------------------------------------------------------------------------


def _nest(books: Books, attempt: Attempt, report: AttemptTail) -> None:
    """The node waits, holding nothing but its inputs, until the returned graph has a value."""
    run, node = attempt.run, attempt.node
    root = run.root
    size = report.frame.graph.size
    most = books.settings.graph_nodes_max
    if root.nested_nodes + size > most:
        text = (
            f"task {run.task(node)!r} returned a graph of {size:,} nodes, and the nested graphs of a run "
            f"have at most {most:,} nodes together (graph_nodes_max): return a target without spawn=True, "
            "with which the run goes on, or nest less deeply"
        )
        _refuse(books, attempt, report, ErrorInfo("GraphTooLargeError", text))
        return
    _finish(books, attempt, report, told=False)
    run.finished_once.add(node)
    run.status[node] = NESTED
    number = books.next_sequence()
    child = Run(
        run.run_id, run.name, report.frame.graph, report.frame.plan or run.plan, run.on_failure, run.logs,
        run.submitted, number,
    )  # fmt: skip
    child.frame_id = f"{run.run_id}/{number}"
    child.parent, child.parent_node, child.parent_attempt, child.outermost = run, node, attempt.id, root
    step = 0 if run.loop is None else run.loop.own
    child.within = f"{run.within}{step}:{run.key(node)}/"
    child.vtime = run.vtime
    run.nested[node] = child
    root.nested_nodes += size
    books.runs[child.frame_id] = child
    loop = child.loop = Loop()
    loop.nested_nodes = size
    if report.frame.plan is None:
        loop.next = report.frame
        child.total = 0
        advance(books, child)
        return
    loop.frame = report.frame
    _start_nested(books, child)


def _start_nested(books: Books, child: Run) -> None:
    """A nested graph begins, with what an earlier life of the run has left of it."""
    recovered = recovering.of_nested(child)
    if recovered is not None:
        child.cached = child.cached or Cached()
    nodes.start(books, child, None, recovered)
    runs.settle_if_stuck(books, child)


def keeps(books: Books, child: Run) -> bool:
    """Results of a nested frame are stored: not those of loops in it, nor for clients' own backends."""
    settings, loop = books.settings, child.loop
    return settings.saves and not settings.publishes and loop is not None and not loop.own


def stopping(run: Run) -> list[Run]:
    """The nested frames of a run at any depth, the inner ones first."""
    found: list[Run] = []
    todo = list(run.nested.values())
    while todo:
        child = todo.pop()
        found.append(child)
        todo.extend(child.nested.values())
    found.reverse()
    return found


def over(books: Books, child: Run) -> None:
    """A nested frame has ended; its parent is told when the event is over."""
    books.frames_over.append(child)


def hand_over(books: Books) -> None:
    """Gives what nested frames came to to their parents, which may end by that, and so on outwards."""
    while books.frames_over:
        child = books.frames_over.pop()
        parent = child.parent
        assert parent is not None
        if parent.nested.get(child.parent_node) is not child:
            _discard(books, child)
            continue
        del parent.nested[child.parent_node]
        _take(books, parent, child)
        if not advance(books, parent):
            runs.settle_if_stuck(books, parent)


def _take(books: Books, parent: Run, child: Run) -> None:
    node = child.parent_node
    if parent.state != "running" or parent.status[node] != NESTED or parent.halting:
        parent.status[node] = DONE
        parent.done += 1
        _discard(books, child)
        return
    if child.state != "succeeded":
        error = child.error or runs.missing_error(child)
        _discard(books, child)
        if parent.error is None:
            parent.missing = child.missing
        nodes.fail(books, parent, node, error, child.failed_task)
        return
    if child.incomplete:
        _discard(books, child)
        lineage.ready_again(books, parent, node)
        return
    target = child.resolve(child.graph.target)
    if child.missing is not None:
        child.values[target] = PICKLED_NONE  # skipped in its sequence: what a run of that target comes to
    value = child.values.get(target)
    if value is None or parent.observe(node):
        # A list or container of several values, or one about which facts are wanted: an attempt makes it one.
        parent.whole[node] = child
        lineage.ready_again(books, parent, node)
        return
    del child.values[target]
    _discard(books, child)
    books.keep(parent, node, value)
    parent.status[node] = DONE
    parent.done += 1
    if books.settings.saves and parent.parent is None:
        key = parent.key(node)
        books.out.append(SaveResult(parent.run_id, node, key, child.parent_attempt, value))
    if parent.parent is None and parent.is_leaf(node):
        books.out.append(TargetValue(parent.run_id, node, value))
    nodes.inputs_used(books, parent, node)
    if not nodes.is_needed(parent, node):
        nodes.drop_value(books, parent, node)
    nodes.settle(books, parent, node)


def start_over(books: Books, run: Run, node: int) -> bool:
    """What a nested graph made is lost before it was put together: the node runs again. False: it is none."""
    child = run.whole.pop(node, None)
    if child is None:
        return False
    _discard(books, child)
    return True


def _forget_parts(books: Books, run: Run) -> None:
    for child in run.whole.values():
        _discard(books, child)
    run.whole.clear()


def forget(books: Books, run: Run) -> None:
    """The run, or the frame, has ended: what it held for frames goes."""
    _forget_parts(books, run)
    loop = run.loop
    if loop is not None:
        gone(books, loop.frame)
        gone(books, loop.next)
        loop.frame = loop.next = None


def _discard(books: Books, child: Run) -> None:
    """A nested frame is forgotten."""
    if books.runs.pop(child.frame_id, None) is None:
        return
    for node in list(child.values):
        books.drop(child, node)
    books.forget_spares(child)
    forget(books, child)
    loop = child.loop
    if loop is not None:
        child.root.nested_nodes -= loop.nested_nodes
        loop.nested_nodes = 0
