"""State backends of the user's own: objects and factories, where the scheduler is started for them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import cascade_dist as cs
from cascade_dist.client import api, keeping
from cascade_dist.client.local import CLIENT_STATE
from cascade_dist.graph.build import build

pytestmark = pytest.mark.integration


@cs.task
def double(x: int) -> int:
    return 2 * x


@cs.task
def false() -> bool:
    return False


@cs.task
def large(size: int) -> bytes:
    return b"x" * size


@cs.task
def items(count: int) -> list[bytes]:
    return [b"y" * 1_000] * count


@cs.task
def length(value: bytes) -> int:
    return len(value)


@cs.task
def countdown(steps: int) -> Any:
    return 0 if steps == 0 else countdown(steps - 1)


@cs.task
def wait_for(path: str) -> None:
    import os
    import time

    while not os.path.exists(path):
        time.sleep(0.01)


class Noted(cs.InMemoryStateBackend):
    """Keeps what it was told, and in which loop and thread."""

    def __init__(self, run_id: str) -> None:
        super().__init__(run_id)
        self.calls: list[tuple[str, Any]] = []
        self.loops: set[asyncio.AbstractEventLoop] = set()
        self.threads: set[int] = set()

    def _note(self, call: str, what: Any) -> None:
        self.calls.append((call, what))
        self.loops.add(asyncio.get_running_loop())
        self.threads.add(threading.get_ident())

    async def put_result(self, node_id: str, result: Any) -> None:
        self._note("put_result", result)
        await super().put_result(node_id, result)

    async def mark_skipped(self, node_id: str, reason: str) -> None:
        self._note("mark_skipped", reason)
        await super().mark_skipped(node_id, reason)

    async def clear(self) -> None:
        self._note("clear", None)
        await super().clear()


@pytest.fixture(scope="module", autouse=True)
def one_cluster() -> Iterator[None]:
    """The private cluster that all of these share ends with this module."""
    yield
    found = api._by_state.pop(CLIENT_STATE, None)
    if found is not None:
        found.close()


def id_of(target: Any) -> str:
    return build(target).structural_id.hex()


def kept(backend: Any, *targets: Any) -> list[Any]:
    async def read() -> list[Any]:
        return [await backend.get_result(id_of(target)) for target in targets]

    return asyncio.run(read())


def test_a_backend_that_is_an_object_is_given_every_value() -> None:
    state = Noted("r")
    first = double(4)
    last = double(first)
    assert cs.run(last, state_backend=state) == 16
    assert kept(state, first, last) == [8, 16]
    assert threading.get_ident() not in state.threads, "nothing of this program is held up"


def test_a_factory_is_called_with_each_run_id() -> None:
    made: dict[str, Noted] = {}

    def factory(run_id: str) -> Noted:
        made[run_id] = Noted(run_id)
        return made[run_id]

    assert cs.run(double(1), state_backend=factory, run_id="first-run") == 2
    assert cs.run(double(2), state_backend=factory) == 4
    assert next(iter(made)) == "first-run"
    assert [[what for _, what in state.calls] for state in made.values()] == [[2], [4]]


def test_a_class_is_a_factory_and_none_means_memory() -> None:
    assert cs.run(double(3), state_backend=cs.InMemoryStateBackend) == 6
    assert cs.run(double(4), state_backend=lambda run_id: None) == 8


def test_skips_are_told_with_their_reason() -> None:
    state = Noted("r")
    target = double(1).run_if(false())
    with pytest.raises(cs.DependencyMissingError):
        cs.run(target, state_backend=state)
    assert asyncio.run(state.get_skip_reason(id_of(target))) == "ConditionFalse"
    assert kept(state, false()) == [False]


def test_large_values_come_whole_wherever_they_lie() -> None:
    state = Noted("r")
    big = large(300_000)
    many = items(200)
    target = [length(big), length.map(value=many)]
    assert cs.run(target, state_backend=state) == [300_000, [1_000] * 200]
    assert kept(state, big, many) == [b"x" * 300_000, [b"y" * 1_000] * 200]


def test_a_loop_clears_what_it_has_left() -> None:
    state = Noted("r")
    assert cs.run(countdown(200), state_backend=state) == 0
    assert len(state._results) == 1
    assert ("clear", None) in state.calls


def test_a_backend_is_called_in_the_loop_of_who_awaits_the_run() -> None:
    async def main() -> Noted:
        state = Noted("r")
        assert await cs.aio.run(double(5), state_backend=state) == 10
        assert state.loops == {asyncio.get_running_loop()}

        async def factory(run_id: str) -> Noted:
            return state

        assert await cs.aio.run(double(6), state_backend=factory) == 12
        return state

    assert [what for _, what in asyncio.run(main()).calls] == [10, 12]


class Failing(cs.InMemoryStateBackend):
    async def put_result(self, node_id: str, result: Any) -> None:
        raise OSError("the disk is full")


def test_a_backend_that_raises_fails_its_run_and_is_named() -> None:
    with pytest.raises(
        cs.StateBackendError, match=r"Failing\.put_result for node '[0-9a-f]+': OSError: the disk"
    ) as e:
        cs.run(double(7), state_backend=Failing)
    assert isinstance(e.value.__cause__, OSError)
    assert cs.run(double(7), state_backend=Noted) == 14, "others go on"


def test_a_run_whose_backend_failed_is_stopped(tmp_path: Any) -> None:
    target = [double(8), wait_for(str(tmp_path / "never"))]
    with pytest.raises(cs.StateBackendError):
        cs.run(target, state_backend=Failing, run_id="stopped-run", timeout=30)
    there = api._by_state[CLIENT_STATE]
    events = list(there.events("stopped-run"))  # it follows until the end
    assert events[-1].status == "Cancelled"  # type: ignore[attr-defined]


def test_a_backend_that_hangs_fails_its_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hanging(cs.InMemoryStateBackend):
        async def put_result(self, node_id: str, result: Any) -> None:
            await asyncio.Event().wait()

    monkeypatch.setattr(keeping, "CALL_SECONDS", 0.2)
    with pytest.raises(cs.StateBackendError, match=r"Hanging\.put_result .*longer than 0\.2 s"):
        cs.run(double(9), state_backend=Hanging)


def test_a_backend_that_cancels_itself_fails_its_run_and_no_other() -> None:
    class Cancelling(cs.InMemoryStateBackend):
        async def put_result(self, node_id: str, result: Any) -> None:
            raise asyncio.CancelledError

    with pytest.raises(cs.StateBackendError, match=r"Cancelling\.put_result .*CancelledError"):
        cs.run([double(9), double(10)], state_backend=Cancelling, timeout=60)
    assert cs.run(double(9), state_backend=Noted, timeout=60) == 18, "others go on"


def test_a_backend_that_blocks_its_loop_fails_its_run(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    class Blocking(cs.InMemoryStateBackend):
        async def put_result(self, node_id: str, result: Any) -> None:
            released.wait(60)

    monkeypatch.setattr(keeping, "CALL_SECONDS", 1.0)  # the call has begun by then
    monkeypatch.setattr(keeping, "MARGIN_SECONDS", 1.0)
    try:
        with pytest.raises(cs.StateBackendError, match=r"Blocking\.put_result .*blocked its event loop"):
            cs.run(double(9), state_backend=Blocking, timeout=60)
    finally:
        released.set()


def test_a_loop_that_ends_fails_its_run_and_no_other() -> None:
    class Slow(cs.InMemoryStateBackend):
        async def put_result(self, node_id: str, result: Any) -> None:
            await asyncio.Event().wait()

    handles: list[Any] = []

    async def main() -> None:
        chosen, factory = api.choose_cluster(None, Slow)
        assert factory is not None
        api.expect_state(chosen, factory, "left-run", asyncio.get_running_loop())
        handles.append(chosen.submit(double(11), run_id="left-run"))
        await asyncio.sleep(0)
        keeper = chosen._keeper
        assert keeper is not None
        while not keeper._runs["left-run"].calls:  # noqa: ASYNC110 - the backend is the one that would tell
            await asyncio.sleep(0.01)

    asyncio.run(main())  # its end cancels what still runs in the loop
    with pytest.raises(cs.StateBackendError, match="'left-run' cannot be kept: the event loop"):
        handles[0].result(60)
    assert cs.run(double(12), state_backend=Noted, timeout=60) == 24


def test_a_method_that_is_not_async_is_named() -> None:
    class Plain(cs.InMemoryStateBackend):
        def put_result(self, node_id: str, result: Any) -> None:  # type: ignore[override]
            pass

    with pytest.raises(cs.StateBackendError, match=r"Plain\.put_result .*async def"):
        cs.run(double(10), state_backend=Plain)  # type: ignore[arg-type]


def test_what_is_no_backend_is_refused_before_anything_runs() -> None:
    with pytest.raises(TypeError, match="state_backend is a int, which has no put_result"):
        cs.run(double(1), state_backend=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="factory of state_backend= returned a dict for run 'r-1'"):
        cs.run(double(1), state_backend=lambda run_id: {}, run_id="r-1")  # type: ignore[arg-type]

    def broken(run_id: str) -> cs.StateBackend:
        raise LookupError("no table for it")

    with pytest.raises(LookupError, match="no table"):
        cs.run(double(1), state_backend=broken)


def test_nothing_is_resumed_from_an_object() -> None:
    with pytest.raises(ValueError, match="state_backend='redis://…'"):
        cs.run(double(1), state_backend=Noted, run_id="r-2", resume=True)


def test_a_handle_has_one_factory_for_all_its_runs() -> None:
    made: list[Noted] = []

    def factory(run_id: str) -> Noted:
        made.append(Noted(run_id))
        return made[-1]

    with cs.connect(None, workers=1, state_backend=factory) as cluster:
        assert cluster.status().state == CLIENT_STATE
        runs = [cluster.submit(double(x), run_id=f"own-{x}") for x in range(5)]
        assert [run.result(60) for run in runs] == [0, 2, 4, 6, 8]
    assert [(state.run_id, state.calls) for state in made] == [
        (f"own-{x}", [("put_result", 2 * x)]) for x in range(5)
    ]


def test_a_cluster_that_runs_refuses_objects_and_factories(
    private_cluster: cs.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "cascade-scheduler --state"
    for given in (Noted("r"), Noted):
        with pytest.raises(TypeError, match=f"cluster= is given: .*{words}"):
            cs.run(double(1), cluster=private_cluster, state_backend=given)
        with pytest.raises(TypeError, match=f"names one that runs: .*{words}"):
            cs.connect("localhost:1", state_backend=given)
    monkeypatch.setenv("CASCADE_ADDRESS", "localhost:1")
    with pytest.raises(TypeError, match=f"CASCADE_ADDRESS names one that runs: .*{words}"):
        cs.run(double(1), state_backend=Noted)
