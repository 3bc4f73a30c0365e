"""A sync executor: real processes, no scheduler, no worker."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import io
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cascade_dist.codec.values import dump_inline_or_packed, dump_items, load, load_item
from cascade_dist.context import AttemptInfo, current_attempt
from cascade_dist.errors import ResultSerializationError, TaskCancelled, TaskLoadError
from cascade_worker.executor import frames
from tests.worker.children import Children

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Reference(pickle.Pickler):
    """Takes slices for inputs."""

    def persistent_id(self, obj: Any) -> Any:
        """Where an input stands."""
        return obj.stop if isinstance(obj, slice) else None


def refer(value: Any) -> bytes:
    file = io.BytesIO()
    Reference(file, 5).dump(value)
    return file.getvalue()


# --- values -----------------------------------------------------------------------------------------


async def test_a_task_runs(children: Children, shared: int) -> None:
    answer = await children.run(shared, lambda a, b=1: a + b, 2)
    assert answer.value == 3
    assert answer.frame[9] == "3"
    assert 0 < answer.frame[2] < 1e9


async def test_nothing_of_grpc_is_in_an_executor(children: Children, shared: int) -> None:
    def look() -> list[str]:
        return sorted({"grpc", "google", "redis", "aiohttp", "cascade_worker.app"} & set(sys.modules))

    assert (await children.run(shared, look)).value == []


async def test_inputs_take_every_form(children: Children, shared: int, tmp_path: Path) -> None:
    def pack(value: Any, name: str) -> tuple[str, int]:
        packed = dump_inline_or_packed(value, 0)
        assert not isinstance(packed, bytes)
        (tmp_path / name).write_bytes(b"".join(packed.pieces()))
        return str(tmp_path / name), packed.size

    array = np.arange(10_000)
    split = dump_items(["a", "b", array], 0)
    assert not isinstance(split, list)
    (tmp_path / "list").write_bytes(b"".join(split.pieces()))
    inline = pickle.dumps(1, 5)
    parts = tmp_path / "parts"
    parts.write_bytes(frames.dumps([inline, inline]) + frames.dumps([inline]))

    template = tmp_path / "template"
    template.write_bytes(refer((slice(0), 2)))
    inputs = [
        inline,
        (frames.FILE, *pack(array, "array")),
        (frames.ITEM, str(tmp_path / "list"), split.size, 1),
        (frames.LIST, [inline, (frames.LIST, [inline])]),
        (frames.COMPOUND, refer({"k": slice(1), "j": slice(0)}), [inline, (frames.LIST, [])]),
        (frames.PARTS, str(parts), None),
        (frames.COMPOUND, (frames.FILE, str(template), 0), [inline]),
    ]
    payload = refer(([slice(number) for number in range(7)], {}))

    def look(a: Any, b: Any, *others: Any) -> Any:
        return a, int(b.sum()), b.flags.writeable, *others

    answer = await children.run(shared, look, payload=payload, inputs=inputs)
    total = int(array.sum())
    assert answer.value == (1, total, False, "b", [1, [1]], {"k": [], "j": 1}, [1, 1, 1], (1, 2))
    assert not parts.exists(), "whoever reads it removes it"


async def test_an_executor_that_has_answered_lets_go_of_its_inputs(
    children: Children, shared: int, tmp_path: Path
) -> None:
    packed = dump_inline_or_packed(np.ones(50_000), 0)
    assert not isinstance(packed, bytes)
    path = tmp_path / "input"
    path.write_bytes(packed.to_bytes())

    def locked(array: Any) -> bool:
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    inputs = [(frames.FILE, str(path), packed.size)]
    answer = await children.run(shared, locked, payload=refer(([slice(0)], {})), inputs=inputs)
    assert answer.value is True, "while it runs nobody writes into it"
    with path.open("rb") as file:
        async with asyncio.timeout(10):
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    await asyncio.sleep(0.001)


async def test_a_large_result_is_an_object_that_maps(children: Children, shared: int) -> None:
    answer = await children.run(shared, lambda: np.ones(100_000), publish=True)
    (path,) = children.objects.glob(f"{answer.frame[1]:016x}")
    assert path.stat().st_size == answer.size > 800_000
    assert load(path.read_bytes()).sum() == 100_000
    assert answer.frame[10], "it is to be published"
    small = await children.run(shared, lambda: 1, publish=True)
    assert not small.frame[10], "an inline value needs no blob"


async def test_the_inline_limit_may_come_with_the_task(children: Children, shared: int) -> None:
    assert (await children.run(shared, lambda: b"x" * 5000)).size == 0
    assert (await children.run(shared, lambda: b"x" * 5000, inline_bytes_max=1000)).size > 5000


async def test_truth_and_split_are_observed(children: Children, shared: int) -> None:
    assert (await children.run(shared, lambda: 0, observe=1)).frame[5] is False
    assert (await children.run(shared, lambda: [0], observe=1)).frame[5] is True
    assert (await children.run(shared, lambda: [0])).frame[5] is None
    split = await children.run(shared, lambda: ["a", 2], observe=2)
    assert split.frame[6] == 2
    assert [pickle.loads(item) for item in split.frame[7]] == ["a", 2]
    assert split.value == ["a", 2]
    large = await children.run(shared, lambda: [b"x" * 50_000] * 3, observe=3)
    assert (large.frame[5], large.frame[6], large.frame[7]) == (True, 3, None)
    stored = (children.objects / f"{large.frame[1]:016x}").read_bytes()
    assert load_item(stored, 2) == b"x" * 50_000


async def test_an_observation_that_raises_is_told_beside_the_value(children: Children, shared: int) -> None:
    answer = await children.run(shared, lambda: np.arange(3), observe=1)
    assert answer.frame[8][0] == "ValueError"
    assert answer.value.tolist() == [0, 1, 2]
    answer = await children.run(shared, lambda: 5, observe=2)
    assert answer.frame[8][0] == "TypeError"


async def test_a_frame_larger_than_a_packet_goes_through_a_file(children: Children, shared: int) -> None:
    answer = await children.run(shared, len, b"x" * 60_000 + b"y" * 60_000)
    assert answer.value == 120_000
    assert list((children.root / "frames").iterdir()) == []


async def test_arguments_in_a_file(children: Children, shared: int, tmp_path: Path) -> None:
    packed = dump_inline_or_packed(((np.ones(50_000),), {}), 0)
    assert not isinstance(packed, bytes)
    path = tmp_path / "args"
    path.write_bytes(b"".join(packed.pieces()))
    answer = await children.run(shared, lambda a: float(a.sum()), payload=(str(path), packed.size))  # type: ignore[arg-type]
    assert answer.value == 50_000.0


async def test_a_full_disk_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cascade_worker.executor import segments, work

    def full(fd: int, size: int, begin: int = 0) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(segments, "reserve", full)
    bench = work.Workbench(frames.ExecutorConfig("w", False, (str(tmp_path),), str(tmp_path)))
    packed = dump_inline_or_packed(b"x" * 100_000, 0)
    assert not isinstance(packed, bytes)
    with pytest.raises(work.Unloadable) as caught:
        bench._write("7", packed, "the result of 'f'")
    text = str(caught.value.error)
    assert "the result of 'f' has 100," in text
    assert "no room" in text
    assert "--object-dir" in text
    assert os.listdir(tmp_path) == [], "nothing half written stays"


# --- errors -----------------------------------------------------------------------------------------


async def test_what_a_task_raises_comes_with_its_traceback(children: Children, shared: int) -> None:
    def fail() -> None:
        raise ValueError("no such thing")

    answer = await children.run(shared, fail)
    assert isinstance(answer.error, ValueError)
    assert answer.record.message == "no such thing"
    assert "in fail" in answer.record.traceback
    assert (answer.stopped, answer.unloadable, answer.retryable) == (False, False, False)


async def test_retryable_is_what_the_policy_names(children: Children, shared: int) -> None:
    def fail() -> None:
        raise KeyError("k")

    assert (await children.run(shared, fail, retry_on=b"")).retryable
    assert (await children.run(shared, fail, retry_on=pickle.dumps((LookupError,)))).retryable
    assert not (await children.run(shared, fail, retry_on=pickle.dumps((OSError,)))).retryable
    assert not (await children.run(shared, sys.exit, 3, retry_on=b"")).retryable


async def test_sys_exit_is_a_failure_of_the_task(children: Children, shared: int) -> None:
    answer = await children.run(shared, sys.exit, "enough")
    assert isinstance(answer.error, SystemExit)
    assert (await children.run(shared, lambda: 1)).value == 1, "the executor lives"


@pytest.mark.parametrize("kind", [GeneratorExit, KeyboardInterrupt, TaskCancelled, BaseException])
async def test_every_kind_of_exception_is_a_failure(children: Children, shared: int, kind: type) -> None:
    def fail() -> None:
        raise kind("x")

    answer = await children.run(shared, fail)
    assert answer.record.type.endswith(kind.__name__)


async def test_a_function_that_cannot_be_loaded(children: Children, shared: int) -> None:
    answer = await children.run(shared, len, body=b"cno_such_module\nf\n.", name="lost")
    assert answer.unloadable
    assert isinstance(answer.error, TaskLoadError)
    assert "no_such_module" in str(answer.error)


async def test_arguments_that_cannot_be_loaded(children: Children, shared: int) -> None:
    answer = await children.run(shared, len, payload=b"\x80\x05cno_such_module\nf\n.")
    assert answer.unloadable
    assert isinstance(answer.error, TaskLoadError)


@pytest.mark.parametrize(
    ("func", "text"),
    [
        (lambda: threading.Lock(), "the result of 'f'"),
        (lambda: (number for number in range(3)), "generator"),
        (lambda: [1, {"k": threading.Lock()}], "[1]['k']"),
    ],
)
async def test_a_result_that_cannot_be_pickled(children: Children, shared: int, func: Any, text: str) -> None:
    answer = await children.run(shared, func)
    assert answer.unloadable
    assert isinstance(answer.error, ResultSerializationError)
    assert text in str(answer.error)


async def test_a_coroutine_function_that_does_not_look_like_one(children: Children, shared: int) -> None:
    async def work() -> None: ...

    answer = await children.run(shared, lambda: work())
    assert "async def" in str(answer.error)


async def test_an_exception_that_cannot_be_described(children: Children, shared: int) -> None:
    def fail() -> None:
        class Stubborn(Exception):
            def __str__(self) -> str:
                raise RuntimeError("no")

            def __reduce__(self) -> Any:
                raise RuntimeError("no")

        raise Stubborn

    answer = await children.run(shared, fail)
    assert "Stubborn" in answer.record.type


# --- lines ------------------------------------------------------------------------------------------


async def test_lines_come_before_the_answer_and_know_their_attempt(children: Children, shared: int) -> None:
    def talk() -> None:
        print("one")
        print("two", file=sys.stderr)
        print("no end", end="")
        sys.stdout.buffer.write(b"bytes\n")

    attempt = children.send(shared, talk)
    await children.answer(attempt)
    assert [(s, t) for a, s, t in children.lines if a == attempt] == [
        (1, "one"),
        (2, "two"),
        (1, "no endbytes"),
    ]
    mine = [kind for kind, of in children.order if of == attempt]
    assert mine == ["line"] * 3 + ["answer"]


async def test_what_is_written_to_the_descriptor_is_heard(children: Children, shared: int) -> None:
    def talk() -> None:
        os.write(1, b"raw\n")
        subprocess.run(["echo", "from a child"], check=True)

    attempt = children.send(shared, talk)
    await children.answer(attempt)
    assert children.lines_of(attempt) == ["raw", "from a child"]


async def test_a_long_line_is_cut_and_an_unfinished_one_is_told(children: Children, shared: int) -> None:
    def talk() -> None:
        print("x" * 100_000)
        sys.stdout.write("the end")

    attempt = children.send(shared, talk)
    await children.answer(attempt)
    first, last = children.lines_of(attempt)
    assert first.endswith("… [cut]")
    assert len(first) < 9000
    assert last == "the end"


async def test_a_flood_of_lines_is_bounded(children: Children) -> None:
    executor = await children.executor()

    def talk() -> None:
        for number in range(30_000):
            print(number)

    attempt = children.send(executor, talk)
    await children.answer(attempt)
    lines = children.lines_of(attempt)
    assert len(lines) < 15_000
    assert lines[-1].endswith("a second]"), "the last line says how many are missing"


async def test_stdin_is_empty(children: Children, shared: int) -> None:
    assert (await children.run(shared, lambda: (sys.stdin.read(), sys.stdin.isatty()))).value == ("", False)


# --- what a task sees -------------------------------------------------------------------------------


async def test_the_attempt_is_known_to_user_code(children: Children, shared: int) -> None:
    def look() -> Any:
        seen: list[Any] = []
        thread = threading.Thread(target=lambda: seen.append(current_attempt()))
        thread.start()
        thread.join()
        names = ("CASCADE_RUN_ID", "CASCADE_NODE_ID", "CASCADE_ATTEMPT", "CASCADE_WORKER_ID")
        return current_attempt(), seen[0], [os.environ[name] for name in names]

    attempt = children.send(shared, look, run_id="run-7", try_=2, map_index=4, name="look")
    info, in_thread, environment = (await children.answer(attempt)).value
    key = f"run-7/node-{attempt}[4]"
    assert (
        info
        == in_thread
        == AttemptInfo("run-7", f"node-{attempt}", 2, "look[4]", "worker-1", 4, attempt, key)
    )
    assert environment == ["run-7", f"node-{attempt}", "2", "worker-1"]
    assert current_attempt() is None


async def test_numeric_libraries_get_one_thread_unless_told(children: Children, shared: int) -> None:
    def look() -> list[str]:
        return [os.environ[f"{name}_NUM_THREADS"] for name in ("OMP", "MKL", "OPENBLAS")]

    assert (await children.run(shared, look)).value == ["1", "1", "1"]
    executor = await children.executor()
    assert (await children.run(executor, look, threads=3)).value == ["3", "3", "3"]


async def test_a_child_that_user_code_forks_cannot_disturb(children: Children, shared: int) -> None:
    def fork() -> int:
        pid = os.fork()
        if pid == 0:
            print("in the child")
            sys.stdout.flush()
            return -1  # runs into the executor's own code
        os.waitpid(pid, 0)
        return 1

    attempt = children.send(shared, fork)
    assert (await children.answer(attempt)).value == 1
    assert children.lines_of(attempt) == ["in the child"]
    assert (await children.run(shared, lambda: 2)).value == 2
