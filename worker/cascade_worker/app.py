"""The worker: its core, and everything that the core's commands set in motion."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
import uuid
from collections import deque
from collections.abc import Callable
from typing import Any

from cascade_dist.errors import CascadeError
from cascade_dist.v1 import worker_pb2
from cascade_dist.wire import local_versions
from cascade_dist.wire.convert import seconds, to_amounts
from cascade_worker.config import WorkerConfig, make_directories
from cascade_worker.core import Core, commands, events
from cascade_worker.executor.frames import BEGUN, RESOURCE
from cascade_worker.executors import Asked, ExecutorPool
from cascade_worker.ipfs import BlobNode
from cascade_worker.leases import LeaseBook, LeaseNews
from cascade_worker.messages import (
    RARE_PARTS,
    FunctionStore,
    LogText,
    PublishedValue,
    Session,
    failed_frame,
    fill_open_input,
    held_attempts,
    lost_inputs,
    reports_message,
    result_of,
    task_frame,
    with_rare_parts,
    without_lease,
)
from cascade_worker.object_service import reachable, start_object_server
from cascade_worker.objects import ObjectStore, keep_house
from cascade_worker.session import SchedulerLink
from cascade_worker.shared_cache import SharedCache
from cascade_worker.spilling import Spiller
from cascade_worker.transfers import Transfers

__all__ = ["Worker"]

log = logging.getLogger("cascade.worker")

_LOG_LINES_MAX = 20_000
_LOG_BYTES_PER_MESSAGE = 256 * 1024


class Worker:
    """One worker. `run` is its life.

    Raises:
        FatalError: a directory cannot be used.
    """

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        self.worker_id = f"{socket.gethostname()[:40]}-{uuid.uuid4().hex[:12]}"
        self.core = Core(config.amounts, config.core_limits)
        self._directories = make_directories(config, self.worker_id)
        self.store = ObjectStore(self._directories, bytes_max=config.object_bytes_max)
        rooms = self._directories[0]
        self._functions = FunctionStore(rooms.room("functions"))
        self._spill_dir = str(rooms.room("frames"))
        self.pool = ExecutorPool(
            self,
            self.worker_id,
            self.store.object_dirs,
            str(rooms.room("functions")),
            self._spill_dir,
            self.store.bytes_max,
        )
        self._spiller = Spiller(self.store, self.pool.set_rooms)
        self._link = SchedulerLink(
            self, config.addresses, config.auth, config.client_credentials, config.death_timeout
        )
        self._node = BlobNode(config.ipfs)
        self._transfers = Transfers(
            self.store,
            config.auth,
            config.client_credentials,
            self._link.channel,
            self._spill_dir,
            self._node,
        )
        self._shared_cache = SharedCache(config.auth, self._link.channel, self.pool.answer)
        self._session = Session(0)
        self._frames: dict[int, bytes] = {}
        """What makes an executor run an attempt, as long as that may still be needed."""
        self._waiting: dict[int, tuple[worker_pb2.Assignment, bytes, str, tuple[bytes, ...]]] = {}
        """Attempts whose inputs are being fetched: assignment, body, run and functions."""
        self._function_fetch = asyncio.Lock()
        self._jobs: dict[int, asyncio.Task[None]] = {}
        """Fetches and publishes under way, by attempt."""
        self._leases = LeaseBook()
        self._copies: list[int] = []
        """Objects that were fetched, of which the scheduler has yet to be told."""
        self._transfers.copied = self._copied
        self._fast_loops = False
        """The scheduler lets loops go the fast way."""
        self._uploads: dict[int, Any] = {}
        """Frames of attempts whose arguments for what comes next are files that wait to be stored."""
        self._recalled: set[int] = set()
        """Attempts whose lease was recalled before they were written to an executor."""
        self._logs: deque[LogText] = deque()
        self._logs_dropped = 0
        self._happened: list[events.Event] = []
        self._turning = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._object_address = ""
        self._exited: asyncio.Event | None = None
        self._announced = False
        self._handlers: dict[type[Any], Callable[[Any], None]] = {
            commands.SendTasks: self._send_tasks,
            commands.FetchInputs: self._fetch_inputs,
            commands.StartExecutor: lambda c: self.pool.start(c.executor, c.asynchronous),
            commands.StopAttempt: lambda c: self.pool.stop(c.executor, c.attempt, c.asynchronous),
            commands.RecallLease: self._recall_lease,
            commands.LookAtLease: self._look_at_lease,
            commands.KillExecutor: lambda c: self.pool.kill(c.executor),
            commands.CloseExecutor: lambda c: self.pool.close_executor(c.executor, c.grace),
            commands.CloseRun: lambda c: self.pool.close_run(c.executor, c.run_id, c.grace),
            commands.Reclaim: self._reclaim,
            commands.Publish: self._publish,
            commands.Forget: self._forget,
            commands.Discard: self._discard,
            commands.EndSession: self._end_session,
            commands.Exit: self._exit,
        }

    # --- life ---------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Works until it is drained or told to end.

        Raises:
            FatalError: it cannot work; the text says why.
        """
        self._exited = asyncio.Event()
        loop = asyncio.get_running_loop()
        self.pool.start_server()  # before gRPC has threads
        server = await start_object_server(
            self.store, self._config.host, self._config.auth, self._config.server_credentials
        )
        self._object_address = f"{reachable(self._config.host, self._config.addresses[0])}:{server.port}"
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._on_signal, signum)
        link = asyncio.create_task(self._link.run())
        exited = asyncio.create_task(self._exited.wait())
        house = [asyncio.create_task(job) for job in (keep_house(self.store), self._spiller.run())]
        try:
            await asyncio.wait((link, exited), return_when=asyncio.FIRST_COMPLETED)
            if link.done():
                await self._put_resources_away()
                link.result()
        finally:
            for task in (link, exited, *house, *self._jobs.values()):
                task.cancel()
            await asyncio.gather(link, exited, *house, return_exceptions=True)
            await server.stop()
            await self._transfers.close()
            await self._shared_cache.close()
            if self._timer is not None:
                self._timer.cancel()
            self.pool.close()
            self.store.close()

    async def _put_resources_away(self) -> None:
        """Lets executors tear down what they hold, when there is no scheduler to work for any more."""
        state = self.core.state
        deadline = time.monotonic() + state.cancel_grace
        if any(executor.holds for executor in state.executors.values()):
            self.feed(events.DrainRequested(0.0))
        while any(executor.holds for executor in state.executors.values()):
            if time.monotonic() > deadline:
                return
            await asyncio.sleep(0.02)

    def _on_signal(self, signum: int) -> None:
        assert self._exited is not None
        if signum == signal.SIGINT or self.core.state.draining:
            log.info("ending at once")
            self._exited.set()
        else:
            log.info("draining: what runs may take up to %g s", self._config.drain_timeout)
            self.feed(events.DrainRequested(self._config.drain_timeout))

    def end(self) -> None:
        """Ends the worker at once."""
        if self._exited is not None:
            self._exited.set()

    def _exit(self, command: commands.Exit) -> None:
        assert self._exited is not None
        log.info("drained")
        self._exited.set()

    def _end_session(self, command: commands.EndSession) -> None:
        log.error("ending the session: %s", command.reason)
        self._link.end_session(command.reason)

    # --- the core -----------------------------------------------------------------------------------

    def feed(self, *happened: events.Event) -> None:
        """Tells the core what happened and does what it says.

        What happens while commands are carried out waits until they all are, so that they stay in order.
        """
        self._happened.extend(happened)
        if self._turning:
            return
        self._turning = True
        handlers = self._handlers
        try:
            while self._happened:
                batch, self._happened = self._happened, []
                for command in self.core.turn(time.monotonic(), batch):
                    try:
                        handlers[type(command)](command)
                    except Exception:  # the others must be carried out all the same
                        log.exception("a command could not be carried out: %r", command)
        finally:
            self._turning = False
        if self.core.has_reports:
            self._link.poke()
        self._set_timer()

    def _set_timer(self) -> None:
        due = self.core.wakeup
        if due is None or (self._timer_at <= due and self._timer is not None):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = due
        delay = max(0.0, due - time.monotonic())
        self._timer = asyncio.get_running_loop().call_later(delay, self._tick)

    def _tick(self) -> None:
        self._timer = None
        due = self.core.wakeup
        if due is not None and due <= time.monotonic():
            self.feed(events.Ticked())
        else:  # what it was set for is over
            self._set_timer()

    @property
    def streaming(self) -> bool:
        """Whether more reports are about to come."""
        return self.core.streaming

    # --- the scheduler ------------------------------------------------------------------------------

    def hello(self) -> worker_pb2.Hello:
        """Who this is and what it holds."""
        limits = self.core.state.limits
        return worker_pb2.Hello(
            worker_id=self.worker_id,
            name=self._config.name,
            versions=local_versions(),
            amounts=to_amounts(self._config.amounts.items()),
            async_credits=limits.async_max,
            sync_credits=self._config.executors_max,
            ahead_credits=self._config.ahead_credits,
            object_address=self._object_address,
            host=socket.gethostname(),
            pid=os.getpid(),
            held=held_attempts(self.core.held()),
            objects=self.store.held(),
            draining=self.core.state.draining,
        )

    def connected(self, welcome: worker_pb2.Welcome, response: worker_pb2.ConnectResponse) -> None:
        """A session has begun."""
        self._session = Session(welcome.inline_bytes_max, self._functions, welcome.seal_key)
        self._fast_loops = welcome.fast_loops
        self._node.told(welcome.ipfs)
        self._leases.tell_again()
        for attempt in welcome.release:
            self.store.release(attempt)
        grace = self._config.cancel_grace
        if grace is None and welcome.HasField("cancel_grace"):
            grace = seconds(welcome.cancel_grace)
        self.feed(
            events.Connected(
                response.sequence,
                tuple(welcome.keep),
                tuple(welcome.drop),
                tuple(welcome.known),
                grace,
                welcome.epoch,
            )
        )
        held = self.core.state.attempts
        for leftover in [attempt for attempt in self._frames if attempt not in held]:
            del self._frames[leftover]
        if not self._announced:
            self._announced = True
            slots = self._config.slots
            with contextlib.suppress(OSError):  # nobody may be listening
                print(
                    f"cascade-worker {self._config.name} connected to {self._link.address} slots={slots}",
                    flush=True,
                )
        else:
            log.info("connected to %s again", self._link.address)

    def disconnected(self) -> None:
        """The session is over; what runs goes on."""
        self.feed(events.Disconnected())

    def received(self, response: worker_pb2.ConnectResponse) -> None:
        """A message of the scheduler."""
        if not response.HasField("work"):
            self.feed(events.MarkMoved(response.sequence, response.acked_through))
            return
        # Only the parts that there are: each look at another one would cost something.
        parts: dict[str, Any] = {field.name: value for field, value in response.work.ListFields()}
        session = self._session
        if "runs" in parts:
            session.take_runs(parts["runs"])
        if "functions" in parts:
            self._functions.add(parts["functions"], session.functions_in_use())
        ended = tuple(parts["ended_runs"]) if "ended_runs" in parts else ()
        work = events.WorkReceived(
            response.sequence,
            response.acked_through,
            tuple([session.take_body(body) for body in parts["bodies"]]) if "bodies" in parts else (),
            tuple([self._assigned(given) for given in parts["assignments"]])
            if "assignments" in parts
            else (),
            ended_runs=ended,
            over=session.run_ids(ended) if ended else (),
        )
        if not RARE_PARTS.isdisjoint(parts):
            work = with_rare_parts(work, parts.get, session)
        self.feed(work)
        if work.forget_bodies:
            session.forget_bodies(work.forget_bodies)
        if "release" in parts:
            for attempt in parts["release"]:
                self.store.release(attempt)
        if ended:
            session.forget_runs(ended)

    def _assigned(self, assignment: worker_pb2.Assignment) -> events.Assigned:
        """Makes the frame of an assignment; when something for it is not here, remembers what."""
        attempt, number, behind = assignment.attempt, assignment.body, assignment.behind
        session = self._session
        amounts = None
        if held := assignment.amounts:
            amounts = tuple((amount.name, amount.micros) for amount in held)
        key = session.body_key(number, amounts)
        if key is None:
            return events.Assigned(attempt, number, assignment.ahead, False)  # the core knows what to do
        functions = session.functions[number]
        run_id = session.run_of(number, assignment.run)
        ready = not behind and self._functions.has(functions) and self._make_frame(assignment, key, run_id)
        if not ready:
            self._waiting[attempt] = (assignment, key, run_id, functions)
        leased = self._fast_loops and assignment.lease
        return events.Assigned(attempt, number, assignment.ahead, ready, amounts, leased, run_id, behind)

    def _task_frame(
        self, assignment: worker_pb2.Assignment, key: bytes, run_id: str, args: Any, inputs: Any
    ) -> bytes:
        fast = self._fast_loops
        leased = fast and assignment.lease
        return task_frame(assignment, key, args, inputs, run_id=run_id, fast=fast, leased=leased)

    def _make_frame(self, assignment: worker_pb2.Assignment, key: bytes, run_id: str) -> bool:
        """Makes the frame, if all inputs are here."""
        inputs: list[Any] | None = None
        args: Any = assignment.args
        if given := assignment.inputs:
            inputs = []
            for value in given:
                made = self._transfers.local(value, assignment.attempt)
                if made is None:
                    return False
                inputs.append(made)
        if assignment.HasField("args_blob"):
            found = self._transfers.local_blob(assignment.args_blob, assignment.attempt)
            if found is None:
                return False
            args = found[1:]
        self._frames[assignment.attempt] = self._task_frame(assignment, key, run_id, args, inputs)
        return True

    def next_message(self, force: bool) -> worker_pb2.ConnectRequest | None:
        """What to say now."""
        told = bool(self._logs) or self._leases.has_news or bool(self._copies)
        if not (force or told or self.core.has_reports):
            return None
        said = self.core.flush(force or told)
        if said is None:
            return None
        copies, self._copies = self._copies, []
        return reports_message(
            said, self._take_logs(), self._object_address, self._session, self._leases, copies
        )

    def _take_logs(self) -> list[LogText]:
        taken: list[LogText] = []
        room = _LOG_BYTES_PER_MESSAGE
        while self._logs and room > 0:
            line = self._logs.popleft()
            room -= len(line.text) + 16
            taken.append(line)
        if self._logs_dropped and not self._logs:
            text = f"[{self._logs_dropped:,} lines dropped: the scheduler did not take them in time]"
            taken.append(LogText(0, 2, text))
            self._logs_dropped = 0
        return taken

    def _copied(self, attempt: int) -> None:
        self._copies.append(attempt)
        self._link.poke()

    # --- inputs and values --------------------------------------------------------------------------

    def _fetch_inputs(self, command: commands.FetchInputs) -> None:
        attempt = command.attempt
        if command.made is not None:
            assignment, key, run_id, functions = self._waiting[attempt]
            fill_open_input(assignment, command.made, self._object_address)
            if self._functions.has(functions) and self._make_frame(assignment, key, run_id):
                del self._waiting[attempt]
                self.feed(events.InputsReady(attempt))
                return
        self._start_job(attempt, self._fetch(attempt))

    def _start_job(self, attempt: int, job: Any) -> None:
        task = asyncio.get_running_loop().create_task(job)
        self._jobs[attempt] = task
        task.add_done_callback(lambda done: self._job_done(attempt, done))

    def _job_done(self, attempt: int, task: asyncio.Task[None]) -> None:
        if self._jobs.get(attempt) is task:
            del self._jobs[attempt]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("attempt %d: %r", attempt, error, exc_info=error)

    async def _fetch(self, attempt: int) -> None:
        """Gets what an attempt needs."""
        assignment, key, run_id, functions = self._waiting[attempt]
        try:
            async with self._function_fetch:  # many attempts may wait for one body
                for cid in functions:
                    if cid not in self._functions:
                        self._functions.put(cid, await self._transfers.function(cid))
            args, inputs = await self._transfers.inputs(assignment)
        except Exception as error:  # whatever it is, the attempt must end
            if not isinstance(error, CascadeError | OSError):
                log.exception("attempt %d: its inputs could not be made ready", attempt)
            self.feed(events.InputsFailed(attempt, lost_inputs(error, key)))
        else:
            self._frames[attempt] = self._task_frame(assignment, key, run_id, args, inputs)
            self._waiting.pop(attempt, None)
            self.feed(events.InputsReady(attempt))

    def _publish(self, command: commands.Publish) -> None:
        self._start_job(command.attempt, self._store_blob(command.attempt, command.payload))

    async def _store_blob(self, attempt: int, frame: Any) -> None:
        if attempt in self._uploads:
            await self._store_arguments(attempt, frame)
            return
        try:
            cid, size = await self._transfers.publish(attempt)
        except Exception as error:  # whatever it is, the attempt must end
            if not isinstance(error, CascadeError | OSError):
                log.exception("attempt %d: its value could not be stored", attempt)
            self.store.discard(attempt)
            self.feed(events.PublishFailed(attempt, failed_frame(attempt, error)))
        else:
            self.feed(events.Published(attempt, PublishedValue(frame, cid, size)))

    async def _store_arguments(self, attempt: int, frame: Any) -> None:
        """Stores the large arguments of a target that a task returned."""
        try:
            for cid, size, path in frame[4]:
                await self._transfers.put_file(path, cid, size)
        except Exception as error:  # whatever it is, the attempt must end
            if not isinstance(error, CascadeError | OSError):
                log.exception("attempt %d: arguments could not be stored", attempt)
            self.feed(events.PublishFailed(attempt, failed_frame(attempt, error)))
        else:
            self.feed(events.Published(attempt, frame))
        finally:
            self._drop_uploads(attempt)

    def _drop_uploads(self, attempt: int) -> None:
        frame = self._uploads.pop(attempt, None)
        for _, _, path in () if frame is None else frame[4]:
            with contextlib.suppress(OSError):
                os.unlink(path)

    def _discard(self, command: commands.Discard) -> None:
        self.store.discard(command.attempt)
        self._drop_uploads(command.attempt)

    def _forget(self, command: commands.Forget) -> None:
        attempts = command.attempts
        self._leases.forget(attempts)
        if self._recalled:
            self._recalled.difference_update(attempts)
        for attempt in attempts:
            self._frames.pop(attempt, None)
            if self._waiting:
                self._waiting.pop(attempt, None)
            if self._jobs and (job := self._jobs.get(attempt)) is not None:
                job.cancel()
        self.store.unpin(attempts)

    # --- executors ----------------------------------------------------------------------------------

    def _send_tasks(self, command: commands.SendTasks) -> None:
        send, made = self.pool.send, self._frames
        for attempt in command.attempts:
            frame = made[attempt]
            if self._recalled and attempt in self._recalled:
                self._recalled.discard(attempt)
                frame = without_lease(frame)
            send(command.executor, attempt, frame)

    def _reclaim(self, command: commands.Reclaim) -> None:
        back = self.pool.reclaim(command.executor)
        self.feed(events.ExecutorReclaimed(command.executor, tuple(back)))

    def executor_started(self, executor: int) -> None:
        """An executor is there."""
        self.feed(events.ExecutorStarted(executor))

    def executor_answered(self, executor: int, frames: list[tuple[Any, ...]]) -> None:
        """Attempts have ended."""
        results = []
        for frame in frames:
            result = result_of(frame)
            results.append(result)
            if not result.ok:
                continue
            if frame[3] is None:
                self.store.add_made(result.attempt, frame[4])
            elif result.publish:
                self._uploads[result.attempt] = frame
        self.feed(events.ExecutorReported(executor, results))

    def executor_told(self, executor: int, frame: tuple[Any, ...]) -> None:
        """Something about resources."""
        kind = frame[0]
        if kind == RESOURCE:
            if frame[7]:
                log.warning("teardown of resource %r in executor %d: %s", frame[4], executor, frame[7])
            self.feed(events.ResourceChanged(executor, *frame[1:]))
        elif kind == BEGUN:
            self.feed(events.AttemptBegun(executor, frame[1]))
        else:
            self.feed(events.RunClosed(executor, frame[1]))

    def executor_asked(self, executor: int, asked: Asked) -> None:
        """An executor wants something of the cluster's cache."""
        self._shared_cache.ask(executor, asked)

    def executor_leased(self, attempt: int, news: tuple[Any, ...]) -> None:
        """A leased loop has come so far."""
        self._leases.note(attempt, LeaseNews(*news))
        self._link.poke()

    def _recall_lease(self, command: commands.RecallLease) -> None:
        if command.executor:
            self.pool.recall(command.executor, command.attempt, command.asynchronous)
        else:
            self._recalled.add(command.attempt)

    def _look_at_lease(self, command: commands.LookAtLease) -> None:
        began = self.pool.step_began(command.executor)
        self.feed(events.LeaseLooked(command.attempt, began))

    def executor_printed(self, attempt: int, stream: int, text: str) -> None:
        """A task printed a line."""
        if len(self._logs) >= _LOG_LINES_MAX:
            self._logs_dropped += 1
            return
        self._logs.append(LogText(attempt, stream, text))
        self._link.poke()

    def executor_died(self, executor: int, reason: str, unread: list[int]) -> None:
        """An executor has ended."""
        log.debug("executor %d: %s", executor, reason)
        self.feed(events.ExecutorDied(executor, reason, tuple(unread)))
