"""Targets that tasks return, compiled in the executor."""

from __future__ import annotations

import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest

import cascade_dist as cs
from cascade_dist.codec.functions import FunctionCache
from cascade_dist.errors import CascadeError, GraphError, GraphTooLargeError, SerializationError
from cascade_dist.v1 import client_pb2, worker_pb2
from cascade_worker.executor import tails
from cascade_worker.executor.frames import BodyInfo
from cascade_worker.executor.tails import Compiler, jump_index, jump_tail, refusal


@cs.task
def loop(n: int, data: Any = None) -> Any:
    return loop(n + 1)


@cs.task
def other(n: Any = 0) -> Any:
    return n


FUNCTION = FunctionCache().encode(loop)
INFO = BodyInfo("loop", "r", FUNCTION.cid, None, 0, 64 * 1024)


@pytest.fixture
def compiler(tmp_path: Path) -> Compiler:
    (tmp_path / FUNCTION.cid.hex()).write_bytes(FUNCTION.body)
    made = Compiler(str(tmp_path))
    made.run_id = "r"
    return made


def compile_(compiler: Compiler, target: Any) -> client_pb2.Submit:
    compiled = compiler.compile(INFO, loop.func, target)
    assert not compiled.uploads
    return worker_pb2.Tail.FromString(compiled.tail).graph


def test_a_target_is_one_message_with_the_functions_that_are_not_known(compiler: Compiler) -> None:
    graph = compile_(compiler, loop(other(3)))
    assert [spec.name for spec in graph.chunk.specs] == ["other", "loop"]
    bodies = {function.cid: function.body for function in graph.chunk.functions}
    assert bodies.pop(FUNCTION.cid) == b"", "the scheduler has the task's own"
    assert all(bodies.values())
    assert len(bodies) == 1
    assert graph.HasField("end")


def test_a_function_that_was_loaded_goes_under_its_own_cid(compiler: Compiler) -> None:
    graph = compile_(compiler, loop(1))
    [function] = graph.chunk.functions
    assert (function.cid, function.body) == (FUNCTION.cid, b"")


def test_what_cannot_be_compiled_names_the_task(compiler: Compiler) -> None:
    with pytest.raises(CascadeError) as caught:
        compiler.compile(INFO, loop.func, other(sys._getframe()))
    assert any("that task 'loop' returned" in note for note in caught.value.__notes__)


def test_too_many_nodes_are_refused_with_the_size_and_the_bound(compiler: Compiler) -> None:
    with pytest.raises(
        GraphTooLargeError, match=r"'loop' returned a target of .* nodes and .* MiB.*1\.0 MiB"
    ):
        compiler.compile(INFO, loop.func, other([other(n) for n in range(40_000)]))


def test_large_arguments_are_blobs(compiler: Compiler) -> None:
    compiled = compiler.compile(INFO, loop.func, loop(1, b"x" * 200_000))
    [(cid, packed)] = compiled.uploads
    graph = worker_pb2.Tail.FromString(compiled.tail).graph
    assert packed.size > 200_000
    assert cid in str(graph.chunk).encode() or graph.chunk.blobs


def test_growing_arguments_are_warned_of_and_stopped(
    compiler: Compiler, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tails, "ARGUMENTS_BYTES_MAX", 4 << 20)
    for mebibytes in (0.5, 1.5, 1.6, 3.2):
        compiler.compile(INFO, loop.func, loop(1, bytes(int(mebibytes * (1 << 20)))))
    said = capfd.readouterr().err.splitlines()
    assert [line.split(" of arguments")[0] for line in said] == [
        "task 'loop' returned a target with 1.5 MiB",
        "task 'loop' returned a target with 3.2 MiB",
    ]
    with pytest.raises(GraphTooLargeError, match=r"5\.0 MiB of arguments, and the most is"):
        compiler.compile(INFO, loop.func, loop(1, bytes(5 << 20)))


# --- calls like an earlier one -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((5,), {}), (("text",), {}), (([1, {"a": (2, None)}],), {}), ((1,), {"data": [b"x"]})],
)
def test_a_repeated_call_is_what_compiling_it_gives(
    compiler: Compiler, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    first = loop(*[None for _ in args], **dict.fromkeys(kwargs))
    assert compiler.repeated(INFO, loop.func, first) is None, "there was none before"
    compile_(compiler, first)
    call = loop(*args, **kwargs)
    step = compiler.repeated(INFO, loop.func, call)
    assert step is not None
    tail = worker_pb2.Tail.FromString(compiler.tail_of(step))
    told = client_pb2.Submit.FromString(tail.head)
    told.chunk.node_ids = tail.node_id
    told.chunk.node_args.append(tail.args)
    slow = compile_(compiler, call)
    assert told.SerializeToString(deterministic=True) == slow.SerializeToString(deterministic=True)


def test_what_is_not_like_it_is_compiled(compiler: Compiler) -> None:
    compile_(compiler, loop(1))
    for call in (
        other(1),
        loop(other(1)),
        loop([other(1)]),
        loop(1).with_retry(3),
        loop(1).run_if(other(1)),
        loop(1).after(other(1)),
        loop(1).with_constraints(cpu=2),
        loop(1, 2),
        loop(cs.Param("n", 1)),
        loop(b"x" * 100_000),
        cs.bind(loop(1), cs.select_jump({"end": None})),
    ):
        assert compiler.repeated(INFO, loop.func, call) is None, call


@cs.task(pure=True, cache="cluster")
def cached(n: int) -> Any:
    return cached(n + 1)


def test_calls_with_value_keys_are_compiled_each_time(compiler: Compiler, tmp_path: Path) -> None:
    info = _info_of(cached, tmp_path)
    compiler.compile(info, cached.func, cached(1))
    assert compiler.repeated(info, cached.func, cached(2), fast=True) is None


def helped(n: int) -> int:
    return n + 1


@cs.task
def with_helper(n: int) -> Any:
    return with_helper(helped(n))


class Seen(list[int]):
    """Code that may change and stay the same object."""


SEEN = Seen()


@cs.task
def with_state(n: int) -> Any:
    SEEN.append(n)
    return with_state(n + 1)


def _info_of(task: cs.Task[Any], directory: Path) -> BodyInfo:
    function = FunctionCache().encode(task)
    (directory / function.cid.hex()).write_bytes(function.body)
    return BodyInfo(task.name, "r", function.cid, None, 0, 64 * 1024)


def test_a_helper_that_is_redefined_between_two_steps_is_noticed(
    compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = _info_of(with_helper, tmp_path)

    def step() -> bytes:
        tail = compiler.compile(info, with_helper.func, with_helper(5)).tail
        return bytes(worker_pb2.Tail.FromString(tail).graph.chunk.node_ids)

    before = step()
    repeated = compiler.repeated(info, with_helper.func, with_helper(5))
    assert repeated is not None
    assert repeated.node_id == before
    monkeypatch.setattr(sys.modules[__name__], "helped", lambda n: n + 2)
    assert compiler.repeated(info, with_helper.func, with_helper(5), fast=True) is None
    after = step()
    assert after != before
    repeated = compiler.repeated(info, with_helper.func, with_helper(5))
    assert repeated is not None, "what it is now was learned"
    assert repeated.node_id == after


def test_code_that_may_change_unseen_is_repeated_in_a_lease_alone(compiler: Compiler, tmp_path: Path) -> None:
    info = _info_of(with_state, tmp_path)
    compiler.compile(info, with_state.func, with_state(5))
    assert compiler.repeated(info, with_state.func, with_state(6)) is None
    assert compiler.repeated(info, with_state.func, with_state(6), fast=True) is not None


def test_policies_tell_calls_apart(compiler: Compiler) -> None:
    compile_(compiler, loop(1).with_timeout(3))
    assert compiler.repeated(INFO, loop.func, loop(2)) is None
    assert compiler.repeated(INFO, loop.func, loop(2).with_timeout(4)) is None
    assert compiler.repeated(INFO, loop.func, loop(2).with_timeout(3)) is not None


def test_caches_are_bounded(compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tails, "_SHAPES_MAX", 4)
    for timeout in range(1, 20):
        compile_(compiler, loop(1).with_timeout(timeout))
        assert len(compiler._shapes) <= 4
    assert isinstance(compiler._known, OrderedDict)


# --- jumps -----------------------------------------------------------------------------------------------


def tail_of(jump: cs.Jump) -> worker_pb2.Tail:
    return worker_pb2.Tail.FromString(jump_tail("go", jump, 2))


def test_a_jump_names_what_it_replaces() -> None:
    tail = tail_of(cs.Jump("on", {"x": 1, "y": 2}))
    assert (tail.jump_plus_one, sorted(tail.names)) == (3, ["x", "y"])
    assert tail.overrides
    tail = tail_of(cs.Jump("on"))
    assert (tail.jump_plus_one, list(tail.names), tail.overrides) == (3, [], b"")
    assert tail_of(cs.Jump("on", {})).overrides == b""
    assert len(tail_of(cs.Jump("on", 7)).names) == 1


def test_a_key_that_there_is_not_is_named_with_those_that_there_are() -> None:
    assert jump_index("go", cs.Jump("b"), {"a": 0, "b": 1}, "'a', 'b'") == 1
    for key in ("c", ["unhashable"]):
        with pytest.raises(GraphError, match=r"'go' jumped to key .*; it has 'a', 'b'"):
            jump_index("go", cs.Jump(key), {"a": 0, "b": 1}, "'a', 'b'")


def test_data_that_cannot_be_laid_over_arguments_is_named() -> None:
    with pytest.raises(GraphError, match="keys are no names of parameters"):
        jump_tail("go", cs.Jump("on", {1: 2}), 0)
    with pytest.raises(GraphTooLargeError, match=r"0\.6 MiB|600\.\d KiB"):
        jump_tail("go", cs.Jump("on", bytes(600 * 1024)), 0)
    with pytest.raises(SerializationError, match="'go': the data of its jump cannot be pickled"):
        jump_tail("go", cs.Jump("on", {"x": sys._getframe()}), 0)


def test_a_refusal_says_what_to_do() -> None:
    assert "spawn=True" in str(refusal("go", other(1)))
    assert "cs.bind" in str(refusal("go", cs.Jump("on")))
