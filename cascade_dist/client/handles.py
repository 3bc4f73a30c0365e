"""The handle of a run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from cascade_dist.client.events import Event
from cascade_dist.client.patience import until_done
from cascade_dist.client.records import (
    NodeExplanation,
    NodeInfo,
    Progress,
    RunStatus,
    decode_explanation,
    decode_run_details,
    html_table,
)
from cascade_dist.errors import ClusterClosedError, GraphError
from cascade_dist.v1 import client_pb2 as pb

if TYPE_CHECKING:
    from cascade_dist.client.session import Session
    from cascade_dist.client.telling import Telling
    from cascade_dist.graph.model import Graph

__all__ = ["Run"]

T = TypeVar("T")

NODES_MAX = 10_000
"""So many nodes are listed at most."""


class Run(Future[T]):
    """One execution of one target: a `concurrent.futures.Future` of its value.

    ``concurrent.futures.wait`` and ``as_completed`` work on it, ``asyncio.wrap_future`` too. It raises what
    the task raised, with the remote traceback as its cause; ``CancelledError`` when the run was cancelled.
    """

    # What most runs begin with, and many end with, stands here once: a submit is short.
    _status = RunStatus.PENDING
    _counts: tuple[int, ...] = ()
    """Of its nodes, as `Progress` has them; most runs are never asked for theirs."""
    _target: Any = None
    _params: Any = None
    _topics: tuple[str, ...] = ()
    """What the nodes of its graph listen to."""
    _telling: Telling | None = None
    _keeper: object = None
    """Keeps the cluster handle alive while somebody waits for the run."""

    def __init__(self, session: Session, run_id: str, name: str, *, owned: bool) -> None:
        super().__init__()
        self._session = session
        self._id = run_id
        self._name = name
        self._owned = owned

    @property
    def id(self) -> str:
        """The run's id: `Cluster.attach` takes it, in this process or another."""
        return self._id

    @property
    def name(self) -> str:
        """The run's name for people; may be empty."""
        return self._name

    @property
    def status(self) -> RunStatus:
        """Where the run stands, as far as this client has heard."""
        return self._status

    @property
    def progress(self) -> Progress:
        """The run's nodes, counted; renewed a few times a second."""
        return Progress(*self._counts)

    def running(self) -> bool:
        """Whether the run is under way."""
        return self._status in (RunStatus.RUNNING, RunStatus.CANCELLING) and not self.done()

    def result(self, timeout: float | None = None) -> T:
        """The value of the run's target.

        Args:
            timeout: seconds to wait at most; the run goes on when they are over.

        Raises:
            TimeoutError: it took longer.
            CancelledError: the run was cancelled.
            DependencyMissingError: the target was skipped.
            RunLostError: the scheduler was lost and with it the run.
            Exception: what the task raised.
        """
        if not self.done():
            self._check_may_wait()
            if not until_done(self, timeout):
                raise self._late(timeout)
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What `result` raises, or None; same arguments and errors."""
        if not self.done():
            self._check_may_wait()
            if not until_done(self, timeout):
                raise self._late(timeout)
        return super().exception(0)

    def _late(self, timeout: float | None) -> TimeoutError:
        return TimeoutError(
            f"run {self._id!r} has not ended within {timeout:g} s and goes on: wait for it again, or stop it "
            "with cancel()"
        )

    def cancel(self) -> bool:
        """Stops the run's work on the cluster; returns at once.

        The run counts as cancelled when the cluster says that all has stopped, or after a bound. Its work may
        end first: then it has its value after all.

        Returns:
            False when the run has already ended in another way.
        """
        if self.done():
            return self.cancelled()
        self._session.check_process()
        self._session.cancel(self)
        return True

    def events(self, after: int = 0, *, follow: bool = True) -> Iterator[Event]:
        """What happens to the run, in order, from its beginning.

        Args:
            after: leaves out events up to this id.
            follow: waits for more until the run has finished; else gives what there is.
        """
        self._session.check_process()
        return self._session.events(self._id, after, follow)

    def graph(self) -> Graph:
        """The compiled graph of the run's target; asks nobody.

        Raises:
            GraphError: this client did not submit the run, or has let go of a large target when it finished.
        """
        from cascade_dist.graph.build import build

        if self._target is None:
            raise GraphError(
                f"run {self._id!r} has no target here: it was submitted elsewhere, or was large and has "
                "finished. Build the graph from the target: cascade_dist.graph.build.build(target)"
            )
        return build(self._target, self._params)

    def node_states(self, limit: int = NODES_MAX) -> list[NodeInfo]:
        """Where the nodes of the run's graph stand, in its order; asks the scheduler.

        Args:
            limit: how many nodes at most; the scheduler gives no more than 10,000.

        Raises:
            RunNotFoundError: the scheduler has forgotten the run.
            ConnectionFailedError: it does not answer.
        """
        request = pb.GetRunRequest(run_id=self._id, nodes_max=limit, all_nodes=True)
        return list(decode_run_details(self._session.ask("GetRun", request)).nodes)

    def explain(self, node: int | str) -> list[NodeExplanation]:
        """Why a node waits, ran where it did, was skipped, or hit or missed a cache; asks the scheduler.

        Args:
            node: its index, its task's name, or the beginning of its structural id.

        Raises:
            RunNotFoundError: the scheduler has forgotten the run, or it has no such node.
            ConnectionFailedError: it does not answer.
        """
        request = pb.ExplainNodeRequest(run_id=self._id, node=str(node))
        return list(map(decode_explanation, self._session.ask("ExplainNode", request).nodes))

    def _check_may_wait(self) -> None:
        # A handle that is being closed ends its runs, so waiting for one is over soon.
        session = self._session
        if session.pid != os.getpid():
            check_process(session.pid, f"the handle of run {self._id!r}")
        if session.background.inside:
            raise RuntimeError(
                f"run {self._id!r} has not ended, and waiting for it on the thread that brings its result (a "
                "callback of a run) would never end: wait on another thread"
            )

    # --- called on the background loop --------------------------------------------------------------

    def _settle(self, status: RunStatus, value: Any = None, error: BaseException | None = None) -> None:
        """Ends the future, once."""
        if self.done():
            return
        self._status = status
        if error is not None:
            self.set_exception(error)
        elif status is RunStatus.CANCELLED:
            super().cancel()
            self.set_running_or_notify_cancel()
        else:
            self.set_result(value)
        self._keeper = None

    # --- for people -----------------------------------------------------------------------------------

    def _facts(self) -> list[tuple[str, Any]]:
        facts: list[tuple[str, Any]] = [("run", self._id)]
        if self._name:
            facts.append(("name", self._name))
        facts += [("status", self._status), ("progress", self.progress)]
        if self.done() and not self.cancelled():
            error = super().exception(0)
            if error is not None:
                facts.append(("error", f"{type(error).__name__}: {error}"))
        return facts

    def __repr__(self) -> str:
        named = f" {self._name!r}" if self._name else ""
        return f"<Run {self._id}{named} {self._status}, {self.progress}>"

    def _repr_html_(self) -> str:
        return html_table((name, str(value)[:500]) for name, value in self._facts())

    def __reduce__(self) -> Any:
        raise TypeError(
            f"a handle of a run cannot be pickled; pass the id {self._id!r} and call cluster.attach(run_id) "
            "there"
        )


def check_process(pid: int, what: str) -> None:
    """Refuses to go on in a forked child, which has the object but not its thread and connection.

    Raises:
        ClusterClosedError: this process is not the one that made the object.
    """
    if pid != os.getpid():
        raise ClusterClosedError(
            f"{what} was made in process {pid}, and this is a forked child ({os.getpid()}): connections do "
            "not survive a fork. Start such processes with multiprocessing's 'spawn' or 'forkserver', and "
            "call cs.connect(…) there"
        )
