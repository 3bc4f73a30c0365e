"""The executor of sync tasks: one at a time, in the main thread, so that a signal can stop it."""

from __future__ import annotations

import os
import signal
import socket
import time
from types import FrameType
from typing import Any

from cascade_dist import context
from cascade_dist.errors import TaskCancelled
from cascade_dist.language.resources import within
from cascade_worker.executor.caching import SyncPolicies
from cascade_worker.executor.frames import (
    BEGUN,
    BROKEN,
    CLOSE_RUN,
    CLOSED,
    EXIT,
    LEASED,
    PACKET_BYTES_MAX,
    SPILLED,
    STOP_SIGNAL,
    TASK,
    loads,
)
from cascade_worker.executor.generators import LoopOnDemand, complete
from cascade_worker.executor.leases import RECALL_WORD, STEP_WORD, STOP_WORD, Lease, NextStep
from cascade_worker.executor.output import LineWriter, Speaker
from cascade_worker.executor.resources import Keeper, Step
from cascade_worker.executor.work import Body, Frame, Task, Unloadable, Workbench

__all__ = ["SyncExecutor", "read_spilled"]


class SyncExecutor:
    """Reads task frames one by one and answers each."""

    def __init__(
        self,
        tasks: socket.socket,
        speaker: Speaker,
        bench: Workbench,
        stop_word: memoryview,
        worker_id: str,
    ) -> None:
        self._tasks = tasks
        self._speaker = speaker
        self._bench = bench
        self._stop_word = stop_word
        """One unsigned 64-bit number, shared with the worker: the attempt that is to stop."""
        self._worker_id = worker_id
        self._armed = 0
        """The attempt that a stop signal may interrupt; 0: none, the executor's own code runs."""
        self._stopped = False
        self.current = 0
        """The attempt that runs, for lines that are printed."""
        self._loop = LoopOnDemand()
        self._keeper = Keeper(speaker.say, self._speak_for, self._loop)
        self._step: Step | None = None
        """What the attempt that runs has of resources."""
        self._forked = False
        self._policies = SyncPolicies()
        self.writers: tuple[LineWriter, ...] = ()

    def run(self) -> None:
        """Serves until the worker closes its end."""
        signal.signal(STOP_SIGNAL, self._on_stop)
        os.register_at_fork(after_in_child=self._on_fork)
        buffer = bytearray(PACKET_BYTES_MAX + 1024)
        view = memoryview(buffer)
        receive, say = self._tasks.recv_into, self._speaker.say
        while True:
            size = receive(buffer)
            if not size:
                return
            frame: Any = loads(view[:size])
            if frame[0] == SPILLED:
                frame = read_spilled(frame[2])
            if frame[0] == TASK:
                task = Task(frame)
                answer = self._answer(task)
                if self._forked:  # user code called os.fork and returned in the child as well
                    os._exit(0)
                for writer in self.writers:
                    writer.ended(frame[1])
                say(answer)
                task.maps.clear()
            elif frame[0] == BROKEN:
                say(frame[2])
            elif frame[0] == CLOSE_RUN:
                complete(self._keeper.close_run(frame[1], frame[2]))
                say((CLOSED, frame[1]))
            elif frame[0] == EXIT:
                complete(self._keeper.close_all(frame[1]))
                return

    def _answer(self, task: Task) -> Frame:
        """Runs a task, and what its leased loop goes on with."""
        if not task.flags & LEASED:
            answer = self._run_step(task)
            assert not isinstance(answer, NextStep)
            return answer
        attempt, page = task.attempt, self._stop_word
        page[STEP_WORD] = 0
        lease = task.lease = Lease(
            attempt, lambda: page[RECALL_WORD] == attempt, self._speaker.say, self._stop_word
        )
        while True:
            answer = self._run_step(task)
            if self._forked:  # a child of user code, which has nothing to say
                os._exit(0)
            if not isinstance(answer, NextStep):
                return lease.ending(answer)
            for writer in self.writers:
                writer.ended(attempt)
            task.go_on(answer)
            lease.step(answer)

    def _run_step(self, task: Task) -> Frame | NextStep:
        """Runs one step. Nothing that user code or a stop signal raises gets out of here.

        A stop signal raises at most once per attempt, wherever the main thread is while `_armed` is set; that
        can be in a handler below, so there is a second one around it.
        """
        self._stopped = False
        started = time.perf_counter_ns()
        raised: BaseException | None = None
        try:
            try:
                answer = self._attempt(task, started)
                self._armed = 0
            except BaseException as error:
                self._armed = 0
                raised = error
                answer = self._bench.failed(task, error, time.perf_counter_ns() - started, self._stopped)
        except BaseException as error:
            self._armed = 0
            raised = error
            answer = self._bench.failed(task, error, time.perf_counter_ns() - started, self._stopped)
        if self._step is not None:
            self._end_step(self._step, raised)
        self.current = 0
        context._of_process[0] = None
        return answer

    def _attempt(self, task: Task, started: int) -> Frame | NextStep:
        attempt = task.attempt
        self._armed = attempt
        if self._stop_word[STOP_WORD] == attempt:  # it came before the signal could have done anything
            self._armed = 0
            self._stopped = True
            raise TaskCancelled("stopped before it started")
        self.current = attempt
        bench = self._bench
        body = task.body = bench.body(task.key)
        info = body.info
        context._of_process[0] = (
            task.run_id,
            task.node_id,
            task.try_,
            info.name,
            task.map_index,
            self._worker_id,
            attempt,
            task.place(),
        )
        bench.tell_environment(task)
        if info.compute_threads:
            bench.use_threads(info.compute_threads)
        step = self._step = bench.step(task)
        if step is not None:
            return self._attempt_with_resources(task, body, step)
        args, kwargs = bench.arguments(task)
        if info.cache_policy:
            value = self._begin(body, task, args, kwargs)
        else:
            value = body.func(*args, **kwargs)
        if self._stopped:  # it swallowed the exception and returned in time
            raise TaskCancelled("it was told to stop, and returned")
        return bench.done(task, value, time.perf_counter_ns() - started - task.aside_ns)

    def _attempt_with_resources(self, task: Task, body: Body, step: Step) -> Frame | NextStep:
        """The rest of an attempt. What is set up is torn down when its answer is there, or its failure."""
        bench = self._bench
        with within(step.resources):
            complete(self._keeper.begin_step(step))
            args, kwargs = bench.arguments(task, step)
            started = time.perf_counter_ns()
            value = self._begin(body, task, args, kwargs)
            if self._stopped:
                raise TaskCancelled("it was told to stop, and returned")
            return bench.done(task, value, time.perf_counter_ns() - started - task.aside_ns)

    def _end_step(self, step: Step, raised: BaseException | None) -> None:
        """Tears down what was set up for a step. Not to be called while a stop may interrupt."""
        self._step = None
        error = raised.error if isinstance(raised, Unloadable) else raised
        complete(self._keeper.end_step(step, error))

    def _begin(self, body: Body, task: Task, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the caching policy has; else what the function returns, which the policy is told."""
        policy = self._bench.policies.of(body.info, body.func) if body.info.cache_policy else None
        if policy is None:
            self._speaker.say((BEGUN, task.attempt))
            return body.func(*args, **kwargs)
        began = time.perf_counter_ns()
        inputs = policy.inputs(args, kwargs)
        hit = self._policies.run(policy.check(inputs))
        task.aside_ns = time.perf_counter_ns() - began
        if hit is not None:
            return hit.value
        self._speaker.say((BEGUN, task.attempt))
        value = body.func(*args, **kwargs)
        if not self._stopped:
            returned = time.perf_counter_ns()
            self._policies.run(policy.save(inputs, value))
            task.aside_ns += time.perf_counter_ns() - returned
        return value

    def _speak_for(self, attempt: int) -> None:
        self.current = attempt

    def _on_stop(self, signum: int, frame: FrameType | None) -> None:
        armed = self._armed
        if not armed or self._stop_word[STOP_WORD] != armed:
            return
        self._armed = 0
        self._stopped = True
        error = TaskCancelled("the task is being stopped")
        if self._loop.defer(error):
            return
        if self._speaker.sending:
            self._speaker.deferred = error
        else:
            raise error

    def _on_fork(self) -> None:
        self._forked = True
        self._armed = 0


def read_spilled(path: str) -> Any:
    """A frame that was too large for a packet."""
    with open(path, "rb") as file:
        frame = loads(file.read())
    os.unlink(path)
    return frame
