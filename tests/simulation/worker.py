"""A worker of the simulation: no sockets and no processes, but it runs what it is assigned.

What comes from the scheduler is read with the worker's own code, the task is loaded, run, observed and
encoded by the executor's own code, and what is reported is written with the worker's own code. Only what
moves bytes between machines is made anew here: objects and blobs are files in one directory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from cascade_dist import context
from cascade_dist.codec.cid import cid_of
from cascade_dist.codec.exceptions import encode_exception
from cascade_dist.v1 import value_pb2, worker_pb2
from cascade_worker.core.commands import Ending, EndingKind, SendReports
from cascade_worker.executor import frames
from cascade_worker.executor.work import Task, Workbench
from cascade_worker.leases import LeaseBook
from cascade_worker.messages import (
    FunctionStore,
    LostInputs,
    PublishedValue,
    Session,
    fill_open_input,
    reports_message,
    task_frame,
)

__all__ = ["Depot", "Deferred", "Worker"]

Template = bytes | value_pb2.BlobRef | None
Deferred = Callable[[value_pb2.DeferredValue], tuple[Template, Iterable[value_pb2.Value]]]
"""Asks the scheduler for a value by its name: the template of a container, or None, and its parts."""


class Depot:
    """Where the bytes of a simulation lie; kept over simulations, because functions are.

    Args:
        directory: an empty one.
    """

    def __init__(self, directory: Path) -> None:
        self._objects = directory / "objects"
        self._blobs = directory / "blobs"
        functions = directory / "functions"
        for each in (self._objects, self._blobs, functions):
            each.mkdir()
        self.functions = FunctionStore(functions)
        self.bench = Workbench(
            frames.ExecutorConfig("simulated", False, (str(self._objects),), str(functions))
        )
        self.owners: dict[int, str] = {}
        """Address of the worker that has an object, by attempt."""

    def clear(self) -> None:
        """Forgets the objects and blobs of one simulation."""
        self.owners.clear()
        for path in (*self._objects.iterdir(), *self._blobs.iterdir()):
            path.unlink()

    def object_path(self, attempt: int) -> str:
        """Where an object lies, or would."""
        return str(self._objects / f"{attempt:016x}")

    def put_blob(self, data: bytes) -> bytes:
        """Keeps a blob; its CID."""
        cid = cid_of(data)
        (self._blobs / cid.hex()).write_bytes(data)
        return cid

    def has(self, cid: bytes) -> bool:
        """The blob is here."""
        return (self._blobs / cid.hex()).exists()

    def blob(self, cid: bytes) -> bytes:
        """The bytes of a blob."""
        return (self._blobs / cid.hex()).read_bytes()

    def blob_file(self, reference: value_pb2.BlobRef) -> tuple[int, str, int]:
        """A blob as executors take it."""
        path = self._blobs / reference.cid.hex()
        return (frames.FILE, str(path), path.stat().st_size)


class _Lost(Exception):
    """Objects that nobody has."""

    def __init__(self, attempt: int) -> None:
        super().__init__(f"object {attempt:x} is gone")
        self.attempt = attempt


class Worker:
    """One worker.

    Args:
        name: its id; its address too.
        depot: where bytes lie.
        deferred: asks the scheduler for a value.
        inline_bytes_max: larger results are objects.
        cpu: how many sync tasks fit.
        ahead: how many are sent ahead.
        fast: steps of loops that are like the last one are not compiled.
    """

    def __init__(
        self,
        name: str,
        depot: Depot,
        deferred: Deferred,
        *,
        inline_bytes_max: int,
        cpu: int,
        ahead: int,
        fast: bool,
    ) -> None:
        self.name = name
        self.cpu = cpu
        self.fast = fast
        self.ahead = ahead
        self._depot = depot
        self._deferred = deferred
        self._inline_bytes_max = inline_bytes_max
        self._sequence = 1
        self.waiting: dict[int, worker_pb2.Assignment] = {}
        """Assignments that have not been executed, in order."""
        self.followers: dict[int, worker_pb2.Assignment] = {}
        """Those that wait for the value of another one."""
        self.endings: list[tuple[int, Ending]] = []
        """What has not been reported."""
        self.executed: list[tuple[str, int]] = []
        """(task, index in its map or -1) of every call that was made here."""
        self._bodies: dict[int, tuple[bytes, str]] = {}
        """By attempt: what an assignment's body and run are, which outlive the session that told them."""
        self.begin_session()

    def begin_session(self) -> None:
        """A new stream: numbers of runs and bodies begin anew."""
        self._session = Session(self._inline_bytes_max)

    def take(self, message: worker_pb2.ConnectResponse) -> None:
        """Reads what there is to do."""
        work = message.work
        self._session.take_runs(work.runs)
        self._depot.functions.add(work.functions, set())
        for body in work.bodies:
            self._session.take_body(body)
        for assignment in work.assignments:
            number = assignment.body
            run_id = self._session.run_of(number, assignment.run)
            self._bodies[assignment.attempt] = self._session.body_keys[number], run_id
            if assignment.behind:
                self._follow(assignment)
            else:
                self.waiting[assignment.attempt] = assignment
        for attempt in work.release:
            self.lose_object(attempt)
        self._session.forget_bodies(work.forget_bodies)
        self._session.forget_runs(work.ended_runs)

    def _follow(self, assignment: worker_pb2.Assignment) -> None:
        """An assignment waits for the value of another one, which may have ended meanwhile."""
        behind = assignment.behind
        self.followers[assignment.attempt] = assignment
        ended = dict(self.endings).get(behind)
        if ended is not None:
            self._go_on(behind, ended)
        elif behind not in self.waiting and behind not in self.followers:
            del self.followers[assignment.attempt]
            self._end(assignment.attempt, Ending(EndingKind.RETURNED))

    def _end(self, attempt: int, ending: Ending) -> None:
        self.endings.append((attempt, ending))
        self._go_on(attempt, ending)

    def _go_on(self, attempt: int, ending: Ending) -> None:
        """What follows an attempt that has ended goes on with its value, or is forgotten."""
        follower = next((f for f in self.followers.values() if f.behind == attempt), None)
        if follower is None:
            return
        del self.followers[follower.attempt]
        payload: Any = ending.payload
        if ending.kind == EndingKind.DONE and (
            isinstance(payload, PublishedValue) or payload[0] != frames.TAIL
        ):
            fill_open_input(follower, payload, self.name)
            self.waiting[follower.attempt] = follower
        else:
            self._go_on(follower.attempt, Ending(EndingKind.RETURNED))

    def give_back(self, attempt: int) -> None:
        """Reports an assignment that has not started as returned."""
        self._stop(attempt, EndingKind.RETURNED)

    def cancel(self, attempt: int) -> None:
        """Reports an assignment that has not been executed as stopped."""
        self._stop(attempt, EndingKind.CANCELLED)

    def _stop(self, attempt: int, kind: EndingKind) -> None:
        waited = self.waiting.pop(attempt, None) or self.followers.pop(attempt, None)
        if waited is not None:
            self._end(attempt, Ending(kind))

    def drop(self, attempt: int) -> None:
        """The scheduler does not want it."""
        if self.waiting.pop(attempt, None) or self.followers.pop(attempt, None):
            self._go_on(attempt, Ending(EndingKind.RETURNED))
        self.endings = [entry for entry in self.endings if entry[0] != attempt]

    def held(self) -> list[tuple[int, str]]:
        """What it holds, for Hello."""
        waiting = [(attempt, "waiting") for attempt in (*self.waiting, *self.followers)]
        return waiting + [(attempt, "finished") for attempt, _ in self.endings]

    def crash(self, attempt: int, *, innocent: bool) -> None:
        """The executor died under an attempt."""
        del self.waiting[attempt]
        self._end(attempt, Ending(EndingKind.LOST, reason="killed", flag=innocent))

    def lose_object(self, attempt: int) -> None:
        """An object is no more."""
        if self._depot.owners.get(attempt) == self.name:
            del self._depot.owners[attempt]
            os.unlink(self._depot.object_path(attempt))

    def objects(self) -> list[int]:
        """The objects that it has."""
        return [attempt for attempt, owner in self._depot.owners.items() if owner == self.name]

    # --- executing ------------------------------------------------------------------------------------

    def execute(self, attempt: int) -> None:
        """Runs an assignment and keeps what came of it for the next report."""
        assignment = self.waiting.pop(attempt)
        try:
            inputs = [self._input(value) for value in assignment.inputs]
        except _Lost as lost:
            error = encode_exception(lost)
            payload = LostInputs(error, (lost.attempt,))
            self._end(attempt, Ending(EndingKind.INPUT_LOST, payload))
            return
        args: Any = assignment.args
        if assignment.HasField("args_blob"):
            args = self._depot.blob_file(assignment.args_blob)[1:]
        key, run_id = self._bodies[attempt]
        packet = task_frame(assignment, key, args, inputs, run_id=run_id, fast=self.fast)
        frame: Any = self._run(Task(frames.loads(packet)))
        if frame[0] == frames.TAIL:
            for cid, _, path in frame[4]:
                assert self._depot.put_blob(Path(path).read_bytes()) == cid
                os.unlink(path)
        if frame[0] in (frames.DONE, frames.TAIL):
            self._end(attempt, Ending(EndingKind.DONE, self._kept(attempt, frame)))
        else:
            self._end(attempt, Ending(EndingKind.FAILED, frame))

    def _run(self, task: Task) -> Any:
        bench = self._depot.bench
        try:
            body = task.body = bench.body(task.key)
            info = body.info
            self.executed.append((info.name, task.map_index))
            context._of_process[0] = (
                task.run_id,
                task.node_id,
                task.try_,
                info.name,
                task.map_index,
                self.name,
                task.attempt,
                task.place(),
            )
            args, kwargs = bench.arguments(task)
            value = _finished(body.func(*args, **kwargs))
            return bench.done(task, value, 1000)
        except Exception as error:
            return bench.failed(task, error, 1000, False)
        finally:
            context._of_process[0] = None

    def _kept(self, attempt: int, frame: Any) -> Any:
        """The answer, with a large value where others find it."""
        if frame[0] == frames.TAIL or frame[3] is not None:
            return frame
        path = self._depot.object_path(attempt)
        if not frame[10]:
            self._depot.owners[attempt] = self.name
            return frame
        data = Path(path).read_bytes()
        os.unlink(path)
        return PublishedValue(frame, self._depot.put_blob(data), len(data))

    # --- inputs ---------------------------------------------------------------------------------------

    def _input(self, value: value_pb2.Value) -> Any:
        """An input as executors take it."""
        form = value.WhichOneof("form")
        if form == "inline":
            return value.inline
        if form == "object":
            return self._object(value.object)
        if form == "blob":
            return self._depot.blob_file(value.blob)
        if form == "item":
            item = value.item
            whole = self._object(item.list) if item.HasField("list") else self._depot.blob_file(item.blob)
            return (frames.ITEM, *whole[1:], item.index)
        if form == "list":
            return (frames.LIST, [self._input(item) for item in value.list.items])
        if form == "compound":
            compound = value.compound
            template: Any = compound.template
            if compound.HasField("template_blob"):
                template = self._depot.blob_file(compound.template_blob)
            return (frames.COMPOUND, template, [self._input(part) for part in compound.inputs])
        assert form == "deferred", form
        whole_template, parts = self._deferred(value.deferred)
        made = [self._input(part) for part in parts]
        if whole_template is None:
            return (frames.LIST, made)
        if isinstance(whole_template, value_pb2.BlobRef):
            return (frames.COMPOUND, self._depot.blob_file(whole_template), made)
        return (frames.COMPOUND, whole_template, made)

    def _object(self, reference: value_pb2.ObjectRef) -> tuple[int, str, int]:
        if self._depot.owners.get(reference.attempt) not in reference.holders:
            raise _Lost(reference.attempt)
        return (frames.FILE, self._depot.object_path(reference.attempt), reference.size_bytes)

    # --- reporting ------------------------------------------------------------------------------------

    def report(self, count: int, started: tuple[int, ...] = ()) -> worker_pb2.Reports:
        """The next message to the scheduler, with so many endings, as it is read there."""
        endings, self.endings = tuple(self.endings[:count]), self.endings[count:]
        self._sequence += 1
        said = SendReports(self._sequence, 0, started, endings, False)
        message = reports_message(said, [], self.name, self._session, LeaseBook())
        return worker_pb2.ConnectRequest.FromString(message.SerializeToString()).reports


def _finished(made: Any) -> Any:
    """The value of a coroutine that never waits, or the value itself."""
    if not hasattr(made, "send"):
        return made
    try:
        made.send(None)
    except StopIteration as stop:
        return stop.value
    finally:
        made.close()
    raise AssertionError("the coroutines of random programs never wait")
