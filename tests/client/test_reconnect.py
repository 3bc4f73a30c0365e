"""Lost sessions: whoever waits goes on waiting, and hears in the end."""

from __future__ import annotations

import concurrent.futures
import threading
import time

import pytest

import cascade_dist as cs
from cascade_dist.client.records import RunStatus
from tests.client.fake import FakeScheduler


@cs.task
def add(a: int) -> int:
    return a + 1


def _known(scheduler: FakeScheduler, run_id: str) -> None:
    deadline = time.monotonic() + 10
    while run_id not in scheduler.runs and time.monotonic() < deadline:
        time.sleep(0.001)


def test_runs_are_joined_again(scheduler: FakeScheduler, cluster: cs.Cluster) -> None:
    scheduler.hold = True
    mine = cluster.submit(add(1), run_id="mine")
    detached = cluster.submit(add(2), run_id="detached", detach=True)
    _known(scheduler, "detached")
    scheduler.drop_sessions()
    attaches = {attach.run_id: attach for attach in scheduler.wait_heard("attach", 2)}
    assert attaches["mine"].own
    assert not attaches["detached"].own
    scheduler.release("mine")
    scheduler.release("detached")
    assert (mine.result(10), detached.result(10)) == (2, 3)
    assert cluster.run is not None


def test_a_submit_that_was_not_taken_is_sent_again(scheduler: FakeScheduler, cluster: cs.Cluster) -> None:
    cluster.run(add(0))  # the function's body is known to the scheduler now, but not to the next session
    scheduler.deaf = True
    scheduler.drop_sessions()
    deadline = time.monotonic() + 10
    while not scheduler.sessions and time.monotonic() < deadline:
        time.sleep(0.001)
    run = cluster.submit(add(1))
    scheduler.deaf = False
    scheduler.drop_sessions()
    assert run.result(10) == 2


def test_submits_while_the_scheduler_is_away(scheduler: FakeScheduler, cluster: cs.Cluster) -> None:
    assert cluster.run(add(1)) == 2
    scheduler.stop()
    runs = [cluster.submit(add(i)) for i in range(3)]
    assert not any(run.done() for run in runs)
    again = FakeScheduler(port=scheduler.port).start()
    try:
        assert [run.result(10) for run in runs] == [1, 2, 3]
    finally:
        cluster.close()
        again.stop()


def test_a_scheduler_that_forgot(scheduler: FakeScheduler, cluster: cs.Cluster) -> None:
    scheduler.hold = True
    run = cluster.submit(add(1), run_id="gone")
    _known(scheduler, "gone")
    scheduler.stop()
    again = FakeScheduler(port=scheduler.port).start()
    try:
        with pytest.raises(cs.RunLostError, match=r"came back without run 'gone'.*memory.*Submit it again"):
            run.result(10)
        assert run.status is RunStatus.LOST
        assert cluster.run(add(1)) == 2
    finally:
        cluster.close()
        again.stop()


def test_a_scheduler_that_does_not_come_back(scheduler: FakeScheduler) -> None:
    with cs.connect(scheduler.address, reconnect_timeout=0.2) as cluster:
        scheduler.hold = True
        run = cluster.submit(add(1))
        scheduler.wait_heard("submit")
        scheduler.stop()
        with pytest.raises(cs.RunLostError, match=r"did not come back within 0.2 s"):
            run.result(10)
        with pytest.raises(cs.ConnectionFailedError, match="no scheduler listens"):
            cluster.submit(add(1))
        with pytest.raises(cs.ConnectionFailedError, match="no scheduler listens"):
            cluster.status()
        again = FakeScheduler(port=scheduler.port).start()
        try:
            assert cluster.run(add(1)) == 2, "a handle that was given up connects when it is used again"
            assert cluster.status().workers == 1
        finally:
            cluster.close()
            again.stop()


def test_a_token_that_was_changed_ends_the_search(scheduler: FakeScheduler, cluster: cs.Cluster) -> None:
    scheduler.hold = True
    run = cluster.submit(add(1))
    scheduler.wait_heard("submit")
    scheduler.stop()
    again = FakeScheduler(port=scheduler.port, token="new").start()
    try:
        with pytest.raises(cs.RunLostError, match="token"):
            run.result(10)
    finally:
        cluster.close()
        again.stop()


def test_a_cancel_survives_a_lost_session(scheduler: FakeScheduler, cluster: cs.Cluster) -> None:
    scheduler.hold = True
    run = cluster.submit(add(1), run_id="mine")
    _known(scheduler, "mine")
    scheduler.call(lambda: setattr(scheduler, "deaf", True))
    scheduler.drop_sessions()
    run.cancel()
    deadline = time.monotonic() + 10
    while not scheduler.sessions and time.monotonic() < deadline:
        time.sleep(0.001)
    scheduler.deaf = False
    scheduler.drop_sessions()
    with pytest.raises(concurrent.futures.CancelledError):
        run.result(10)


def test_closing_while_the_scheduler_is_away_is_quick(scheduler: FakeScheduler) -> None:
    cluster = cs.connect(scheduler.address)
    scheduler.hold = True
    run = cluster.submit(add(1))
    scheduler.wait_heard("submit")
    scheduler.stop()
    started = time.monotonic()
    cluster.close()
    assert time.monotonic() - started < 4
    assert run.cancelled()


def test_somebody_waits_in_another_thread_while_closing(
    scheduler: FakeScheduler, cluster: cs.Cluster
) -> None:
    scheduler.hold = True
    run = cluster.submit(add(1))
    outcome: list[BaseException] = []

    def wait() -> None:
        try:
            run.result(10)
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    scheduler.wait_heard("submit")
    cluster.close()
    thread.join(10)
    assert isinstance(outcome[0], concurrent.futures.CancelledError)
