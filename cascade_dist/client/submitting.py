"""Submits: from a target to messages on the session's stream, in the thread that called.

A graph that is one small message is handed over and that is all. A larger one is compiled and sent part by
part with few parts in flight, and the caller waits until the scheduler has taken it; so memory stays bounded
and a refusal is raised here. When the connection is lost meanwhile, it is compiled and sent again: an equal
submit joins the run. A run that shall go on without this client is waited for in the same way.
"""

from __future__ import annotations

import os
import string
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from cascade_dist.client import repeats, storing
from cascade_dist.client.handles import Run
from cascade_dist.client.link import Link, LinkLostError, frame_submit
from cascade_dist.client.patience import result_of
from cascade_dist.client.session import Session
from cascade_dist.client.tracker import KEPT_GRAPH_BYTES_MAX, Tracker
from cascade_dist.codec.functions import FunctionCache
from cascade_dist.codec.params import dump_params
from cascade_dist.codec.values import INLINE_BYTES_MAX
from cascade_dist.config import parse_amounts
from cascade_dist.errors import ClusterClosedError, GraphTooLargeError, RunConflictError
from cascade_dist.graph.build import Compilation
from cascade_dist.v1 import client_pb2 as pb
from cascade_dist.wire.convert import duration, to_amounts
from cascade_dist.wire.graphs import Part, Upload, encode_graph

if TYPE_CHECKING:
    from cascade_dist.wire.graphs import Compiled

__all__ = ["ON_FAILURE", "SubmitOptions", "submit"]

PARTS_IN_FLIGHT = 4
SLOT_SECONDS = 1.0
GRACE_SECONDS = 10.0
KNOWN_MAX = 50_000
RUN_ID_CHARS_MAX = 128

ON_FAILURE: Mapping[str, pb.OnFailure] = {
    "cancel": pb.ON_FAILURE_CANCEL,
    "finish": pb.ON_FAILURE_FINISH,
}
_RUN_ID_CHARS = frozenset(string.ascii_letters + string.digits + "._-:")


@dataclass(slots=True)
class SubmitOptions:
    """What a submit says beside its target; as `Cluster.submit`."""

    params: Mapping[str, Any] | None = None
    run_id: str | None = None
    name: str | None = None
    on_failure: str = "cancel"
    strict_params: bool = False
    progress: bool | None = False
    """None: where people see it; looked at when there is some."""
    logs: bool = True
    detach: bool = False
    resume: bool = False
    pools: tuple[tuple[str, int], ...] = ()

    def to_message(self, reconnect_timeout: float) -> pb.RunOptions:
        """The options as they travel."""
        return pb.RunOptions(
            name=self.name or "",
            on_failure=ON_FAILURE[self.on_failure],
            logs=self.logs or self.detach,  # nobody watches a detached run: what it says is for later
            cancel_on_disconnect=not self.detach,
            # The client gives up before the scheduler does.
            disconnect_grace=duration(reconnect_timeout + GRACE_SECONDS),
            params=dump_params(self.params),
            pools=to_amounts(self.pools),
            resume=self.resume,
        )

    def key(self, reconnect_timeout: float) -> Hashable:
        """All that `to_message` depends on."""
        shown = (self.name, self.on_failure, self.logs, self.detach, self.resume)
        return (*shown, reconnect_timeout, self.pools)

    def check(self) -> None:
        """Refuses what cannot be meant, before anything is compiled.

        Raises:
            ValueError: an option has no such value.
        """
        if self.on_failure not in ON_FAILURE:
            raise ValueError(f"on_failure is {self.on_failure!r}; it must be one of {', '.join(ON_FAILURE)}")
        if self.run_id is not None:
            check_run_id(self.run_id)
        elif self.resume:
            raise ValueError("resume=True needs the run_id of the run that is to go on")


def checked_pools(system_resources: Mapping[str, float] | None) -> tuple[tuple[str, int], ...]:
    """Amounts that a run shares among its nodes, in millionths.

    Raises:
        ConfigError: (a `ValueError`) a name is none, or an amount negative or no number.
    """
    return () if system_resources is None else tuple(parse_amounts(system_resources).items())


def new_run_id() -> str:
    """A run id that nobody has."""
    return "r" + os.urandom(8).hex()


def check_run_id(run_id: object) -> str:
    """A run id as users may choose it.

    Raises:
        ValueError: it is empty, too long or has other characters than letters, digits and ``._-:``.
    """
    if isinstance(run_id, str) and 0 < len(run_id) <= RUN_ID_CHARS_MAX and _RUN_ID_CHARS.issuperset(run_id):
        return run_id
    raise ValueError(
        f"{run_id!r} is no run id: use 1 to {RUN_ID_CHARS_MAX} letters, digits, '.', '_', '-' and ':'"
    )


def submit(session: Session, target: Any, options: SubmitOptions) -> Run[Any]:
    """Submits a target and gives its run; see `Cluster.submit`."""
    session.check_process()
    options.check()
    live = session.live(options.run_id) if options.run_id else None
    if live is not None:
        return _join(live, target, options)
    session.check_there()
    if not session.up:
        session.wait_link()
    if not options.params and not options.detach:
        repeated = repeats.repeat(target, options.key(session.reconnect_timeout), session.link)
        if repeated is not None:
            return _send_repeated(session, target, options, repeated)
    sender = _Sender(session, target, options)
    parts = sender.encode(session.link)
    first = next(parts)
    if first.message.HasField("end"):
        frame = frame_submit(first.message)
        if len(frame) <= KEPT_GRAPH_BYTES_MAX:
            sender.is_small()
            if not options.detach:
                sender.remember(first.message)
                return sender.send_whole(frame)
    return sender.send_parts(first.message, parts)


def _begin(session: Session, target: Any, options: SubmitOptions, functions: FunctionCache) -> Tracker:
    """A run and what follows it."""
    run_id = options.run_id or new_run_id()
    run: Run[Any] = Run(session, run_id, options.name or "", owned=not options.detach)
    run._target, run._params = target, options.params
    tracker = Tracker(session, run, logs=options.logs)
    tracker.show_progress = options.progress
    tracker.functions = functions
    return tracker


def _send_repeated(
    session: Session, target: Any, options: SubmitOptions, repeated: repeats.Repeat
) -> Run[Any]:
    """Hands over a submit that repeats an earlier one."""
    tracker = _begin(session, target, options, repeated.functions)
    tracker.small = True
    tracker.identity = repeated.identity
    tracker.message = repeats.frame(tracker.run.id, repeated)
    session.begin(tracker)
    return tracker.run


def _join(live: Tracker, target: Any, options: SubmitOptions) -> Run[Any]:
    """The handle of a run that is under way here under the same id, when it is the same."""
    compilation = Compilation(target, options.params, strict_params=options.strict_params)
    for _ in compilation.nodes():
        pass
    mine = _identity(compilation)
    names = ("the graph", "literals of the graph", "the params")
    differing = [name for name, old, new in zip(names, live.identity, mine, strict=False) if old != new]
    if live.identity and not differing:
        return live.run
    what = differing[0] if differing else "the target (it was attached to)"
    raise RunConflictError(
        f"run {options.run_id!r} is under way with another target or other params: {what} differ; choose "
        "another run_id, or none"
    )


def _identity(compilation: Compilation) -> tuple[bytes, ...]:
    return compilation.template_id, compilation.structural_id, compilation.params_digest


class _Sender:
    """One submit."""

    def __init__(self, session: Session, target: Any, options: SubmitOptions) -> None:
        self._session = session
        self._target = target
        self._options = options
        self._compilation = Compilation(target, options.params, strict_params=options.strict_params)
        self._functions = FunctionCache()
        self._known: set[bytes] = set()
        self._uploaded = False
        self._tracker = _begin(session, target, options, self._functions)
        self._run = self._tracker.run

    def encode(self, link: Link | None) -> Iterator[Part]:
        """The parts of the submit, each given when the blobs that it names are stored."""
        self._known = set(link.known) if link is not None else set()
        items = encode_graph(
            cast("Compiled", self._compilation),
            run_id=self._run.id,
            options=self._options.to_message(self._session.reconnect_timeout),
            known=self._known,
            inline_max=link.inline_max or INLINE_BYTES_MAX if link is not None else INLINE_BYTES_MAX,
            functions=self._functions,
            on_handle=self._expect,
        )
        for item in items:
            if isinstance(item, Upload):
                self._uploaded = True
                self._session.put_blob(item)
            else:
                self._check_size(link)
                yield item

    def _expect(self, cid: bytes) -> None:
        storing.expect(self._session, (cid,))

    def _check_size(self, link: Link | None) -> None:
        most = link.nodes_max if link is not None else 0
        if most and self._compilation.node_count > most:
            raise GraphTooLargeError(
                f"the graph has more than {most:,} nodes, the most that this scheduler takes "
                "(graph_nodes_max); split the target into several runs, or map over a lazy list"
            )

    def _remember_known(self, link: Link | None) -> None:
        # Written behind the message that holds the bodies, so whoever reads it sends behind it too.
        if link is not None and len(link.known) < KNOWN_MAX:
            link.known |= self._known

    def is_small(self) -> None:
        """Says that what the run holds for `Run.graph` is small."""
        self._tracker.small = not self._uploaded

    def remember(self, message: pb.Submit) -> None:
        """Keeps what later submits may repeat of this one, which is whole."""
        if not self._options.params:
            key = self._options.key(self._session.reconnect_timeout)
            repeats.keep(self._target, key, message, self._functions)

    def send_whole(self, frame: bytes) -> Run[Any]:
        """Hands a submit over that is one message; the session keeps it until the scheduler has it."""
        tracker = self._tracker
        tracker.identity = _identity(self._compilation)
        tracker.message = frame
        self._session.begin(tracker)
        self._remember_known(self._session.link)
        self._run._topics = tuple(self._compilation.topics)
        return self._run

    def send_parts(self, first: pb.Submit, rest: Iterator[Part]) -> Run[Any]:
        """Sends a submit of several parts; returns when the scheduler has taken it."""
        session, tracker = self._session, self._tracker
        session.background.check_outside()
        tracker.reset_taken()
        session.begin(tracker)
        try:
            link: Link | None = session.link
            while True:
                try:
                    self._send_all(link, first, rest)
                    break
                except LinkLostError:
                    link = session.wait_link()
                    tracker.reset_taken()
                    self._compilation = Compilation(
                        self._target, self._options.params, strict_params=self._options.strict_params
                    )
                    rest = self.encode(link)
                    first = next(rest).message
        except BaseException:
            session.abandon(tracker)
            raise
        if self._run.done() and not self._run.cancelled():
            error = self._run.exception(0)
            if error is not None and not tracker.accepted:
                raise error
        return self._run

    def _send_all(self, link: Link | None, first: pb.Submit, rest: Iterator[Part]) -> None:
        slots = threading.BoundedSemaphore(PARTS_IN_FLIGHT)
        self._send(link, first, slots)
        for part in rest:
            if self._run.done():
                return
            self._send(link, part.message, slots)
        self._tracker.identity = _identity(self._compilation)
        self._run._topics = tuple(self._compilation.topics)
        self._remember_known(link)
        taken = self._tracker.taken
        assert taken is not None
        result_of(taken)

    def _send(self, link: Link | None, message: pb.Submit, slots: threading.BoundedSemaphore) -> None:
        frame = frame_submit(message)
        while not slots.acquire(timeout=SLOT_SECONDS):
            if link is None or not link.alive:
                raise LinkLostError
        if link is None or not link.alive:
            raise LinkLostError
        if self._session.closed:
            raise ClusterClosedError("the cluster handle was closed while a graph was being sent")
        self._session.background.post(link.send, frame, _releaser(slots))


def _releaser(slots: threading.BoundedSemaphore) -> Callable[[], None]:
    def release() -> None:
        slots.release()

    return release
