"""What this client has heard of one run: its results as they come, and how it ended.

Everything here runs on the background loop.
"""

from __future__ import annotations

import logging
from asyncio import CancelledError
from collections.abc import Iterable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from cascade_dist import errors
from cascade_dist.client import display
from cascade_dist.client.handles import Run
from cascade_dist.client.records import RunStatus, progress_counts
from cascade_dist.codec.exceptions import ErrorRecord, decode_exception
from cascade_dist.codec.functions import FunctionCache
from cascade_dist.codec.values import load
from cascade_dist.v1 import client_pb2 as pb
from cascade_dist.v1 import value_pb2
from cascade_dist.wire.convert import error_record

if TYPE_CHECKING:
    from cascade_dist.client.session import Session

__all__ = ["Tracker", "assemble"]

log = logging.getLogger("cascade.client")

KEPT_GRAPH_BYTES_MAX = 65_536
"""The target of a finished run is kept for `Run.graph` when its encoded graph was at most this large."""

SEQUENCE_SKIPPED = "UpstreamSkipped_Sequence"

_REFUSALS: dict[int, type[errors.CascadeError]] = {
    pb.REFUSAL_CODE_INVALID: errors.RunRefusedError,
    pb.REFUSAL_CODE_CONFLICT: errors.RunConflictError,
    pb.REFUSAL_CODE_NOT_FOUND: errors.RunNotFoundError,
    pb.REFUSAL_CODE_INFEASIBLE: errors.AmountError,
    pb.REFUSAL_CODE_TOO_LARGE: errors.GraphTooLargeError,
    pb.REFUSAL_CODE_DRAINING: errors.RunRefusedError,
}


class Tracker:
    """One run as one session sees it."""

    # What every run begins with stands here once: a submit is short.
    message: bytes | None = None
    """The whole submit, to be sent again on a new connection until the scheduler has taken it."""
    functions: FunctionCache | None = None
    """What the submit encoded, until the scheduler has taken it."""
    taken: Future[None] | None = None
    """Of a submit in many parts: set when the scheduler has taken it."""
    accepted = False
    begun = False
    show_progress: bool | None = False
    identity: tuple[bytes, ...] = ()
    small = False
    cancelling = False
    line_seen = 0
    """Event id of the last line that was shown."""
    _fetching = 0
    _finish: pb.RunFinish | None = None
    _error: BaseException | None = None

    def __init__(self, session: Session, run: Run[Any], *, logs: bool) -> None:
        self.run = run
        self.logs = logs
        self._session = session
        self._values: dict[int, Any] = {}
        self._blobs: dict[bytes, Any] = {}
        self._fetched: set[int] = set()

    # --- what the scheduler says ------------------------------------------------------------------

    def on_accepted(self, message: pb.Accepted) -> None:
        """The scheduler has the graph, or had it already."""
        self.accepted = True
        self.message = self.functions = None
        if self.run._status is RunStatus.PENDING:
            self.run._status = RunStatus.RUNNING
        self.settle_taken()

    def reset_taken(self) -> Future[None]:
        """A new future for `taken`. Any thread."""
        self.taken = Future()
        return self.taken

    def settle_taken(self, error: BaseException | None = None) -> None:
        """Wakes who waits until the scheduler has taken the run."""
        if self.taken is None or self.taken.done():
            return
        if error is None:
            self.taken.set_result(None)
        else:
            self.taken.set_exception(error)

    def on_refused(self, message: pb.Refused) -> None:
        """The scheduler does not have the run and will not."""
        if self.accepted and message.code == pb.REFUSAL_CODE_NOT_FOUND:
            self.lose(
                f"the scheduler at {self._session.address} came back without run {self.run.id!r}: with its "
                "state in memory a restart forgets everything. Submit it again; with `cascade-scheduler "
                f"--state redis://…`, submit(…, run_id={self.run.id!r}, resume=True) goes on where it was"
            )
            return
        kind = _REFUSALS.get(message.code, errors.RunRefusedError)
        self._end(RunStatus.FAILED, error=kind(message.message))

    def on_update(self, update: pb.RunUpdate) -> None:
        """Results, counts, lines, the end: what there is of each."""
        if update.results:
            self._take(update.results)
        if update.output and self.logs:
            display.output(update.output)
            self.line_seen = max(self.line_seen, update.output[-1].event_id)
        ends = update.HasField("finish")
        if update.HasField("progress") and not (ends and update.finish.HasField("progress")):
            self.run._counts = progress_counts(update.progress)
            if display.wanted(self.show_progress):
                display.update(self.run)
        if ends:
            self._on_finish(update.finish)

    def lose(self, reason: str) -> None:
        """Nothing more will be heard of the run."""
        self._end(RunStatus.LOST, error=errors.RunLostError(reason))

    def fail(self, error: BaseException) -> None:
        """The run has failed on this side."""
        self._end(RunStatus.FAILED, error=error)

    # --- values -------------------------------------------------------------------------------------

    def _take(self, results: Iterable[pb.NodeResult]) -> None:
        values = self._values
        for result in results:
            value = result.value
            data = value.inline
            if data:
                try:
                    values[result.node] = load(data)
                except BaseException as error:
                    self._error = self._error or self._unloadable(error)
            elif value.WhichOneof("form") == "blob":
                # After a lost connection results come again.
                if result.node not in values and result.node not in self._fetched:
                    self._fetched.add(result.node)
                    self._fetch(value.blob, result.node)
            else:
                self._error = errors.RunLostError(
                    f"the scheduler sent a value of run {self.run.id!r} in a form that clients do not know "
                    f"({value.WhichOneof('form')}): it is of another version"
                )

    def _unloadable(self, error: BaseException) -> errors.SerializationError:
        made = errors.SerializationError(
            f"the result of run {self.run.id!r} came, but cannot be loaded here: {type(error).__name__}: "
            f"{error}. The client needs the modules of the classes that its results are made of"
        )
        made.__cause__ = error
        return made

    def _fetch(self, blob: value_pb2.BlobRef, node: int | None) -> None:
        self._fetching += 1
        self._session.spawn(self._fetch_blob(blob, node))

    async def _fetch_blob(self, blob: value_pb2.BlobRef, node: int | None) -> None:
        try:
            payload = await self._session.fetch_blob(blob)
            if node is None:
                self._blobs[blob.cid] = payload
            else:
                self._values[node] = await self._session.in_thread(load, payload)
        except CancelledError:
            raise
        except errors.CascadeError as error:
            self._error = self._error or error
        except BaseException as error:
            self._error = self._error or self._unloadable(error)
        finally:
            self._fetching -= 1
        if self._finish is not None and not self._fetching:
            self._finish_now(self._finish)

    # --- the end --------------------------------------------------------------------------------------

    def _on_finish(self, finish: pb.RunFinish) -> None:
        if finish.HasField("progress"):
            self.run._counts = progress_counts(finish.progress)
        if finish.state == pb.RUN_STATE_SUCCEEDED:
            for blob in _template_blobs(finish.tree):
                if blob.cid not in self._blobs:
                    self._fetch(blob, None)
            if self._fetching:
                self._finish = finish
                return
        self._finish_now(finish)

    def _finish_now(self, finish: pb.RunFinish) -> None:
        if finish.state == pb.RUN_STATE_CANCELLED:
            self._end(RunStatus.CANCELLED)
        elif finish.skip_reason:
            self._end_without_value(finish)
        elif finish.state == pb.RUN_STATE_FAILED:
            self._end(RunStatus.FAILED, error=_task_error(finish, self.run.id))
        elif self._error is not None:
            self._end(RunStatus.SUCCEEDED, error=self._error)
        else:
            try:
                value = assemble(finish.tree, self._values, self._blobs)
            except KeyError as error:
                missing = errors.ResultMissingError(f"run {self.run.id!r} did not produce a result ({error})")
                self._end(RunStatus.SUCCEEDED, error=missing)
            except BaseException as error:
                self._end(RunStatus.SUCCEEDED, error=self._unloadable(error))
            else:
                self._end(RunStatus.SUCCEEDED, value)

    def _end_without_value(self, finish: pb.RunFinish) -> None:
        if finish.skip_reason == SEQUENCE_SKIPPED and finish.state == pb.RUN_STATE_SUCCEEDED:
            self._end(RunStatus.SUCCEEDED, None)
            return
        label = self.run.name or self.run.id
        source = finish.skipped_dependency or f"node {finish.skipped_node}"
        missing = errors.DependencyMissingError(label, "target", source, finish.skip_reason)
        self._end(RunStatus.FAILED, error=missing)

    def _end(self, status: RunStatus, value: Any = None, error: BaseException | None = None) -> None:
        verdict = error is not None and isinstance(error, errors.AmountError | errors.TaskLostError)
        if verdict and (why := self._session.gone()):
            # The scheduler finds no worker for the task; that none is left is what people should know.
            lost = errors.RunLostError(f"run {self.run.id!r} is lost: {why}")
            lost.__cause__ = error
            status, error = RunStatus.LOST, lost
        self._session.forget(self)
        self._values = {}
        self._blobs = {}
        self.message = self.functions = None
        run = self.run
        if not self.small:
            run._target = run._params = None
        if self.show_progress is not False:
            display.finish(run)
        try:
            run._settle(status, value, error)
        finally:
            self.settle_taken()

    def stop(self) -> None:
        """Ends the run here as cancelled, without waiting for the cluster."""
        self._end(RunStatus.CANCELLED)

    def cancel_is_over(self) -> None:
        """The bound of a cancel: the caller is freed, whatever the cluster does."""
        if not self.run.done():
            log.warning(
                "run %s was cancelled, but the cluster has not confirmed that its work stopped", self.run.id
            )
            self._end(RunStatus.CANCELLED)


_BUILT_IN = {"TypeError": TypeError, "TimeoutError": TimeoutError, "ValueError": ValueError}
"""Verdicts of the scheduler about values, such as lists of unequal lengths."""


def _task_error(finish: pb.RunFinish, run_id: str) -> BaseException:
    record = error_record(finish.error)
    own = getattr(errors, record.type, None) if record.type in errors.__all__ else _BUILT_IN.get(record.type)
    if not record.pickled and own is not None and own is not errors.RemoteTaskError:
        # The scheduler's own verdict, such as a task lost too often: it has no exception object to send.
        try:
            error: BaseException = own(record.message)
        except TypeError:
            error = decode_exception(record)
        else:
            if record.traceback:
                error.__cause__ = errors.RemoteTraceback(record.traceback)
    else:
        error = decode_exception(record)
    if not isinstance(error, Exception):
        error = _wrapped(error, record)
    if finish.failed_task:
        error.add_note(f"raised by task {finish.failed_task!r} in run {run_id}")
    return error


def _wrapped(error: BaseException, record: ErrorRecord) -> errors.RemoteTaskError:
    """Stands for what would end or interrupt this process, such as SystemExit: it was meant for the task."""
    made = errors.RemoteTaskError(f"{record.type}: {record.message}" if record.message else record.type)
    for note in getattr(error, "__notes__", ()):
        made.add_note(note)
    if record.traceback:
        made.__cause__ = errors.RemoteTraceback(record.traceback)
    return made


def _template_blobs(tree: pb.TargetTree) -> list[value_pb2.BlobRef]:
    shape = tree.WhichOneof("shape")
    if shape == "compound":
        own = [tree.compound.template_blob] if tree.compound.HasField("template_blob") else []
        return own + [blob for item in tree.compound.inputs for blob in _template_blobs(item)]
    if shape == "list":
        return [blob for item in tree.list.items for blob in _template_blobs(item)]
    return []


def assemble(tree: pb.TargetTree, values: dict[int, Any], blobs: dict[bytes, Any]) -> Any:
    """The value that a tree stands for.

    The depth of the recursion is that of the message, which protobuf bounds at 100.

    Args:
        tree: the shape.
        values: by node.
        blobs: payloads of templates that are above the inline limit, by CID.

    Raises:
        KeyError: a node that it names has no value.
    """
    shape = tree.WhichOneof("shape")
    if shape == "node":
        return values[tree.node]
    if shape == "list":
        if tree.list.nodes:
            return [values[node] for node in tree.list.nodes]
        return [assemble(item, values, blobs) for item in tree.list.items]
    if shape == "compound":
        compound = tree.compound
        inputs: list[Any] = [values[node] for node in compound.nodes]
        inputs += [assemble(item, values, blobs) for item in compound.inputs]
        if compound.HasField("template_blob"):
            return load(blobs[compound.template_blob.cid], inputs)
        return load(compound.template, inputs)
    raise KeyError("the scheduler named no value")
