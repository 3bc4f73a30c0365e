"""The handle of a cluster."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import weakref
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from cascade_dist.client import background as background_loop
from cascade_dist.client import constraints, messages
from cascade_dist.client.constraints import Constraint
from cascade_dist.client.events import Event
from cascade_dist.client.handles import Run
from cascade_dist.client.keeping import Keeper
from cascade_dist.client.link import Endpoint
from cascade_dist.client.records import (
    ClusterStatus,
    NodeExplanation,
    RunDetails,
    RunInfo,
    RunStatus,
    WorkerInfo,
    decode_explanation,
    decode_run_details,
    decode_run_info,
    decode_status,
    decode_worker,
    html_table,
    status_of,
)
from cascade_dist.client.session import Session
from cascade_dist.client.storing import Objects
from cascade_dist.client.submitting import SubmitOptions, check_run_id, checked_pools, new_run_id, submit
from cascade_dist.client.telling import Telling
from cascade_dist.client.tracker import Tracker
from cascade_dist.client.upkeep import Upkeep
from cascade_dist.language.resources import Resource, register
from cascade_dist.v1 import client_pb2 as pb

if TYPE_CHECKING:
    from cascade_dist.client.bus import MessageBus
    from cascade_dist.client.local import LocalCluster
    from cascade_dist.connectors.base import Connector
    from cascade_dist.state.source import StateFactory

__all__ = ["Cluster"]

CONSTRAINT_SECONDS = 60.0
"""A limit is answered when the last worker has promised; one that does not answer is lost after a while."""


_open: weakref.WeakSet[Cluster] = weakref.WeakSet()


class Cluster(Objects, Upkeep):
    """A cluster, as a client sees it; made by `connect`. A context manager that closes itself.

    All methods may be called from any thread. A handle does not survive a fork.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        connect_timeout: float,
        reconnect_timeout: float,
        logs: bool = True,
        progress: bool | None = None,
        system_resources: Mapping[str, float] | None = None,
        local: LocalCluster | None = None,
    ) -> None:
        self._logs = logs
        self._pools = checked_pools(system_resources)
        self._progress = progress
        self._local = local
        self._tellings: weakref.WeakSet[Telling] = weakref.WeakSet()
        """Who hears of runs; those of runs that have ended are heard out before the handle closes."""
        self._keeper: Keeper | None = None
        """Feeds state backends of the user's own."""
        self._pid = os.getpid()
        loop = background_loop.acquire()
        self._session = Session(
            endpoint, loop, connect_timeout=connect_timeout, reconnect_timeout=reconnect_timeout
        )
        self._finalizer = weakref.finalize(self, _on_collected, self._session, local, self._pid)
        self._finalizer.atexit = False  # _close_all does it, in the main thread
        try:
            self._session.connect()
        except BaseException:
            self._end()
            raise
        _open.add(self)

    # --- running --------------------------------------------------------------------------------------

    def submit(
        self,
        target: Any,
        *,
        params: Mapping[str, Any] | None = None,
        run_id: str | None = None,
        resume: bool = False,
        name: str | None = None,
        on_failure: str = "cancel",
        strict_params: bool = False,
        system_resources: Mapping[str, float] | None = None,
        progress: bool | None = None,
        logs: bool | None = None,
        detach: bool = False,
        bus: MessageBus | None = None,
        log_level: str | None = None,
        log_format: str = "human",
        connector: Connector | None = None,
    ) -> Run[Any]:
        """Starts a run; returns as soon as the graph is on its way (a large one: when it is taken).

        Args:
            target: a lazy result, a map, or a list, tuple or dict with lazy results in it.
            params: values of the target's `Param`\\ s, by name.
            run_id: chosen by the caller; submitting the same target again under it joins the run.
            resume: goes on with the run of this `run_id` that was lost, failed or was cancelled: what the
                scheduler's store has results of is not executed again. Of a loop only the first frame is
                resumed: one that had gone on begins anew. A run that is not known, or whose scheduler keeps
                its state in memory, begins anew as well.
            name: for people.
            on_failure: ``"cancel"`` stops everything when a task fails, ``"finish"`` finishes first what does
                not need it.
            strict_params: unknown params are an error, not a warning.
            system_resources: amounts that this run's nodes share, by name, whatever workers have; None: as
                `connect` was told. What they need of these names is taken from here.
            progress: show a bar on stderr; None: when it is a terminal.
            logs: print what tasks print; None: as `connect` was told. Without it the lines are not kept for
                later either, unless the run is detached.
            detach: the run goes on when this client ends; `submit` returns when the scheduler has taken it.
            bus: its subscribers hear of every event of the run.
            log_level: writes events of this level and above to stderr: ``"DEBUG"`` … ``"ERROR"``.
            log_format: how: ``"human"``, or ``"json"`` (one object a line).
            connector: publishes the run's telemetry, and takes constraints and messages for it.

        Raises:
            GraphError: there is no graph to be made of the target.
            ValueError: an option makes no sense.
            SerializationError: an argument or a function cannot be pickled.
            RunRefusedError: the scheduler did not take it (small graphs: raised by `Run.result`).
            RunConflictError: the run id is that of a run of another target or params (as above).
            ConnectionFailedError: the scheduler is lost.
            ClusterClosedError: the handle is closed, or the processes of a private cluster have ended.
        """
        options = SubmitOptions(
            params=params,
            run_id=run_id,
            resume=resume,
            name=name,
            on_failure=on_failure,
            strict_params=strict_params,
            pools=self._pools if system_resources is None else checked_pools(system_resources),
            progress=self._progress if progress is None else progress,
            logs=self._logs if logs is None else logs,
            detach=detach,
        )
        try:
            self._expect_state(options)
            run = self._submit(target, options, bus, log_level, log_format, connector)
        except BaseException:
            if self._keeper is not None:
                self._keeper.forget(str(options.run_id))
            raise
        if not run.done():
            run._keeper = self
        if self._keeper is not None:
            self._keeper.follow(run)
        return run

    def _submit(
        self,
        target: Any,
        options: SubmitOptions,
        bus: MessageBus | None,
        log_level: str | None,
        log_format: str,
        connector: Connector | None,
    ) -> Run[Any]:
        if bus is None and log_level is None and log_format == "human" and connector is None:
            run = submit(self._session, target, options)
        else:
            options.run_id = options.run_id or new_run_id()
            telling = Telling(
                self,
                options.run_id,
                bus=bus,
                log_level=log_level,
                log_format=log_format,
                connector=connector,
            )
            try:
                run = submit(self._session, target, options)
            except BaseException:
                telling.abandon()
                raise
            run._telling = telling
            self._tellings.add(telling)
            try:
                telling.begin(run, run._topics)
            except BaseException:
                run.cancel()  # nobody gets a handle of it
                telling.abandon()
                raise
        return run

    def _keep_state(self, factory: StateFactory | None = None) -> None:
        """Results and skips go to backends of this process; `factory` makes them where none is given."""
        self._keeper = Keeper(self._session, factory)

    def _expect_state(self, options: SubmitOptions) -> None:
        if self._keeper is None:
            return
        if options.resume:
            raise ValueError(
                "resume=True goes on with what a Redis has of a run, and this cluster's state is kept by a "
                "backend of this process: give state_backend='redis://…'"
            )
        options.run_id = options.run_id or new_run_id()
        self._keeper.expect(options.run_id)

    def run(
        self,
        target: Any,
        *,
        params: Mapping[str, Any] | None = None,
        run_id: str | None = None,
        resume: bool = False,
        name: str | None = None,
        on_failure: str = "cancel",
        strict_params: bool = False,
        system_resources: Mapping[str, float] | None = None,
        progress: bool | None = None,
        logs: bool | None = None,
        timeout: float | None = None,
        bus: MessageBus | None = None,
        log_level: str | None = None,
        log_format: str = "human",
        connector: Connector | None = None,
    ) -> Any:
        """Submits a target and waits for its value; arguments and errors as `submit` and `Run.result`.

        A run that takes longer than `timeout` seconds, or is interrupted by Ctrl-C, is cancelled.
        """
        run = self.submit(
            target,
            params=params,
            run_id=run_id,
            resume=resume,
            name=name,
            on_failure=on_failure,
            strict_params=strict_params,
            system_resources=system_resources,
            progress=progress,
            logs=logs,
            bus=bus,
            log_level=log_level,
            log_format=log_format,
            connector=connector,
        )
        try:
            return run.result(timeout)
        except TimeoutError:
            if not run.cancel():
                return run.result()  # it has ended: with this very error, or after all
            raise TimeoutError(
                f"run {run.id!r} has not ended within {timeout:g} s and is cancelled"
            ) from None
        except KeyboardInterrupt:
            if run.cancel():
                say(f"interrupted; cancelled run {run.id}")
            raise
        finally:
            if run._telling is not None:
                run._telling.finish()

    def attach(self, run_id: str, *, logs: bool | None = None, progress: bool | None = None) -> Run[Any]:
        """The handle of a run that the scheduler knows, whoever submitted it.

        The run goes on when this client ends; its target cannot be had from `Run.graph`.

        Raises:
            RunNotFoundError: the scheduler knows no such run.
        """
        session = self._session
        session.check_process()
        live = session.live(check_run_id(run_id))
        if live is not None:
            return live.run
        run: Run[Any] = Run(session, run_id, "", owned=False)
        tracker = Tracker(session, run, logs=self._logs if logs is None else logs)
        tracker.show_progress = self._progress if progress is None else progress
        run._keeper = self
        session.attach(tracker)
        if run.done() and not tracker.accepted:
            run.result()  # raises what was refused
        return run

    def resume_run(self, run_id: str) -> Run[Any]:
        """Has a run that failed or was cancelled go on from its stored results, in the graph that is stored.

        What has a result is not executed again; everything else is, with all its tries. The program that
        submitted the run is not needed. The run goes on when this client ends.

        Raises:
            RunNotFoundError: the scheduler has no such run stored.
            RunRefusedError: it stores nothing, or the run has not ended, has succeeded, or cannot go on.
        """
        self._session.ask("ResumeRun", pb.ResumeRunRequest(run_id=check_run_id(run_id)))
        return self.attach(run_id)

    def register(self, resource: Resource) -> Resource:
        """Makes a resource known by its name to all graphs of this process, as ``@cs.resource`` does itself.

        Raises:
            TypeError: it is no resource.
        """
        return register(resource)

    # --- asking -----------------------------------------------------------------------------------------

    def status(self) -> ClusterStatus:
        """The cluster in numbers."""
        return decode_status(self._session.ask("GetStatus", pb.GetStatusRequest()))

    def workers(self) -> list[WorkerInfo]:
        """The workers that are connected, or were a moment ago."""
        answer = self._session.ask("ListWorkers", pb.ListWorkersRequest())
        return [decode_worker(worker) for worker in answer.workers]

    def runs(self, limit: int = 100) -> list[RunInfo]:
        """The runs that the scheduler knows, newest first."""
        answer = self._session.ask("ListRuns", pb.ListRunsRequest(limit=limit))
        return [decode_run_info(run) for run in answer.runs]

    def describe(self, run_id: str, *, nodes: int = 0, finished: bool = False) -> RunDetails:
        """One run, and at most `nodes` of its nodes that are not finished.

        Args:
            run_id: the run.
            nodes: how many nodes, at most 10,000.
            finished: lists the nodes of its graph in order instead, finished ones too.

        Raises:
            RunNotFoundError: the scheduler knows no such run.
        """
        request = pb.GetRunRequest(run_id=check_run_id(run_id), nodes_max=nodes, all_nodes=finished)
        return decode_run_details(self._session.ask("GetRun", request))

    def explain(self, run_id: str, node: int | str) -> list[NodeExplanation]:
        """Why a node of a run waits, ran where it did, was skipped, or hit or missed a cache.

        Args:
            run_id: the run.
            node: its index, its task's name, or the beginning of its structural id; what is meant may be
                several nodes, of which the first 100 are explained.

        Raises:
            RunNotFoundError: the scheduler knows no such run, or it has no such node.
        """
        request = pb.ExplainNodeRequest(run_id=check_run_id(run_id), node=str(node))
        return list(map(decode_explanation, self._session.ask("ExplainNode", request).nodes))

    def events(self, run_id: str, after: int = 0, *, follow: bool = True) -> Iterator[Event]:
        """What happens to a run that the scheduler knows; as `Run.events`.

        Raises:
            RunNotFoundError: the scheduler knows no such run.
        """
        self._session.check_process()
        return self._session.events(check_run_id(run_id), after, follow)

    def cancel(self, run_id: str) -> RunStatus:
        """Stops a run's work; returns when the scheduler has taken note, with where the run stands.

        Raises:
            RunNotFoundError: the scheduler knows no such run.
        """
        answer = self._session.ask("CancelRun", pb.CancelRunRequest(run_id=check_run_id(run_id)))
        return status_of(answer.state)

    def send(self, topic: str, value: Any = None, *, retain: bool = False) -> int:
        """Gives a message to the nodes that wait for it (`cs.recv`), in any run; returns how many got it.

        Args:
            topic: what they listen to.
            value: anything that can be pickled; small.
            retain: keeps it for those who listen later; with None as its value, what was kept is cleared.

        Raises:
            SerializationError: the value cannot be pickled.
            ValueError: it is too large, or the topic empty.
        """
        request = messages.request(topic, value, retain=retain)
        answer: pb.SendMessageResponse = self._session.ask("SendMessage", request)
        return answer.receivers

    # --- limits -----------------------------------------------------------------------------------------

    def pause(
        self, scope: str = "global", *, ttl: float | str | None = None, id: str | None = None
    ) -> Constraint:
        """Lets nothing more start; what runs goes on. Returns when every worker keeps to it.

        Args:
            scope: ``"global"``, ``"task:<name or glob>"`` or ``"run:<id>"``.
            ttl: seconds, or a text such as ``"5m"``, after which it ends by itself.
            id: instead of the one that is made of type and scope; the last one set of an id holds.

        Raises:
            ValueError: scope or time make no sense.
        """
        return self._set_constraint(constraints.pause(scope, ttl, id))

    def resume(self, scope: str = "global") -> bool:
        """Takes away the pause of a scope and nothing else; returns whether there was one."""
        return bool(self.clear_constraints(scope, "pause"))

    def set_concurrency(
        self, scope: str, limit: int, *, ttl: float | str | None = None, id: str | None = None
    ) -> Constraint:
        """Lets at most `limit` nodes of a scope run at a time; further arguments as `pause`."""
        return self._set_constraint(constraints.concurrency(scope, limit, ttl, id))

    def set_rate_limit(
        self,
        scope: str,
        rate: float | str,
        *,
        capacity: float | None = None,
        ttl: float | str | None = None,
        id: str | None = None,
    ) -> Constraint:
        """Lets at most so many nodes of a scope start in a time; further arguments as `pause`.

        Args:
            scope: as `pause`.
            rate: ``"5/s"``, ``"10/m"``, ``"300/h"`` or a number per second.
            capacity: how many may start at once after a quiet time; 1.
            ttl: as `pause`.
            id: as `pause`.
        """
        return self._set_constraint(constraints.rate_limit(scope, rate, capacity, ttl, id))

    def constraints(self) -> list[Constraint]:
        """The limits that hold, by scope and type."""
        answer = self._session.ask("ListConstraints", pb.ListConstraintsRequest())
        return [constraints.decode_constraint(message) for message in answer.constraints]

    def clear_constraints(
        self, scope: str | None = None, type: str | None = None, id: str | None = None
    ) -> list[Constraint]:
        """Takes away the limits that fit all that is given, or all of them; returns those."""
        answer = self._session.ask("ClearConstraints", constraints.clearing(scope, type, id))
        return [constraints.decode_constraint(message) for message in answer.removed]

    def _set_constraint(self, request: pb.SetConstraintRequest) -> Constraint:
        answer = self._session.ask("SetConstraint", request, timeout=CONSTRAINT_SECONDS)
        return constraints.decode_constraint(answer.constraint)

    # --- the end ----------------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """Where the scheduler is."""
        return self._session.address

    @property
    def closed(self) -> bool:
        """Whether the handle can no longer be used."""
        return self._session.closed

    @property
    def usable(self) -> bool:
        """Whether the handle is open and its scheduler there, or being looked for.

        Of a private cluster all processes must be there.
        """
        if self.closed or self._pid != os.getpid() or not self._session.up:
            return False
        return self._local is None or self._local.failure() is None

    def close(self) -> None:
        """Cancels what this handle started and is not detached, and ends it; a private cluster ends too."""
        self._close("closed")

    def _close(self, why: str) -> None:
        if self._session.closed or self._pid != os.getpid():
            return
        # Of runs that are being cancelled people know already.
        live = [
            run for run in self._session.live_runs() if run._owned and run._status is not RunStatus.CANCELLING
        ]
        if live:
            ids = ", ".join(run.id for run in live[:3]) + (", …" if len(live) > 3 else "")
            say(f"{why}; cancelled {len(live)} unfinished run{'s'[: len(live) > 1]} ({ids})")
        for telling in list(self._tellings):
            telling.finish()
        self._end()

    def _end(self) -> None:
        if self._finalizer.detach() is not None:
            _close_parts(self._session, self._local)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close("interrupted" if kind is not None and issubclass(kind, KeyboardInterrupt) else "closed")

    def __repr__(self) -> str:
        kind = "private cluster" if self._local is not None else "cluster"
        state = "closed" if self.closed else f"{len(self._session.live_runs())} runs under way"
        return f"<{kind} at {self.address}, {state}>"

    def _repr_html_(self) -> str:
        return html_table(
            [
                ("address", self.address),
                ("kind", "private" if self._local is not None else "shared"),
                ("state", "closed" if self.closed else "open"),
                ("runs under way", len(self._session.live_runs())),
            ]
        )

    def __reduce__(self) -> Any:
        raise TypeError("a cluster handle cannot be pickled; call cs.connect(address) where it is needed")


def say(text: str) -> None:
    """One line for people, on stderr."""
    try:
        print(f"cascade: {text}", file=sys.stderr, flush=True)
    except (OSError, ValueError, AttributeError):
        pass  # nobody reads any more


def _close_parts(session: Session, local: LocalCluster | None) -> None:
    session.close()
    if session.keeper is not None:
        session.keeper.stop()
    background_loop.release(session.background)
    if local is not None:
        local.stop()


def _on_collected(session: Session, local: LocalCluster | None, pid: int) -> None:
    """Closes what a handle held that nobody closed.

    The collector runs in any thread, also in the one that would have to do the work, and wherever that thread
    just stands; so another does it.
    """
    if pid != os.getpid():
        return
    try:
        threading.Thread(target=_close_parts, args=(session, local), name="cascade-closer").start()
    except RuntimeError:
        pass  # the interpreter ends, and with it the life line of a private cluster


@atexit.register
def _close_all() -> None:
    for cluster in list(_open):
        cluster._close("exiting")
