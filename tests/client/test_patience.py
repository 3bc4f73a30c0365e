"""Waiting in pieces: as one wait, but for a signal that the lock has not heard."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future

import pytest

from cascade_dist.client import patience
from cascade_dist.client.patience import result_of, until_done


def _later(seconds: float, act: Callable[[], object]) -> threading.Timer:
    timer = threading.Timer(seconds, act)
    timer.start()
    return timer


def test_a_result_comes_through_several_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PIECE_SECONDS", 0.01)
    future: Future[int] = Future()
    timer = _later(0.1, lambda: future.set_result(3))
    assert result_of(future) == 3
    timer.join()
    assert result_of(future, 0) == 3


def test_a_timeout_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PIECE_SECONDS", 0.01)
    future: Future[int] = Future()
    for timeout in (0, -1, 0.05):
        assert not until_done(future, timeout)
        with pytest.raises(TimeoutError):
            result_of(future, timeout)


@pytest.mark.parametrize("error", [TimeoutError("the task's own"), ValueError("wrong"), KeyboardInterrupt()])
def test_what_it_ended_with_is_raised_and_no_timeout_of_ours(error: BaseException) -> None:
    future: Future[int] = Future()
    future.set_exception(error)
    assert until_done(future, 0.1)
    with pytest.raises(type(error)) as caught:
        result_of(future, 0.1)
    assert caught.value is error


def test_one_that_was_cancelled_is_done() -> None:
    future: Future[int] = Future()
    future.cancel()
    assert until_done(future, None)
    with pytest.raises(CancelledError):
        result_of(future)


def test_no_single_wait_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python looks at signals between waits; one that came just before a wait is heard at its end."""
    waits: list[float | None] = []
    wait = Future.exception

    def note(self: Future[int], timeout: float | None = None) -> BaseException | None:
        waits.append(timeout)
        if len(waits) == 4:
            self.set_result(1)
        return wait(self, timeout)

    monkeypatch.setattr(Future, "exception", note)
    monkeypatch.setattr(patience, "PIECE_SECONDS", 0.02)
    future: Future[int] = Future()
    assert until_done(future, None)
    assert len(waits) == 4
    assert all(timeout is not None and timeout <= 0.02 for timeout in waits)


def test_ctrl_c_ends_a_wait() -> None:
    future: Future[int] = Future()
    timer = _later(0.1, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        result_of(future, 30)
    timer.join()
