"""Value keys: equal exactly when code and content are, known exactly when nothing upstream can interfere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cascade_dist as cs
from cascade_dist.graph.build import Compilation
from cascade_dist.graph.keys import key_of_parts
from cascade_dist.graph.value_keys import ValueKey, ValueKeys


def keys_of(target: Any, params: dict[str, Any] | None = None) -> dict[str, ValueKey]:
    """The keys that the scheduler is told of, by the names of nodes (with a number where one comes again)."""
    found: dict[str, ValueKey] = {}
    names: dict[int, str] = {}
    keys = ValueKeys()
    for node in Compilation(target, params).nodes():
        names[node.index] = node.name
        for key in keys.add(node):
            name = names[key.node]
            found[name if name not in found else f"{name}#{key.node}"] = key
    return found


def key_of(target: Any, params: dict[str, Any] | None = None) -> bytes:
    """The key of the target, which is known."""
    compilation = Compilation(target, params)
    keys = ValueKeys()
    told = {key.node: key for node in compilation.nodes() for key in keys.add(node)}
    key = told[compilation.target_index]
    assert key.known
    return key_of_parts((part.name, part.digest) for part in key.parts)


def names_of(key: ValueKey) -> list[tuple[str, int]]:
    """The parts of a key, with the inputs that they come from."""
    return [(part.name, part.input) for part in key.parts]


@cs.task(pure=True, cache="cluster")
def f(x: Any, y: Any = 1) -> Any:
    return x, y


@cs.task(pure=True)
def between(x: Any) -> Any:
    return x


@cs.task
def impure(x: Any = 0) -> Any:
    return x


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda: f(1), lambda: f(x=1)),
        (lambda: f(1, 2), lambda: f(y=2, x=1)),
        (lambda: f({"a", "b"}), lambda: f({"b", "a"})),
        (lambda: f(np.arange(1000)), lambda: f(np.arange(1000))),
        (lambda: f(1), lambda: f(1).with_retry(3).with_timeout(5).with_priority(1).with_constraints(cpu=2)),
        (lambda: f(1), lambda: f(1).run_if(impure())),
        (lambda: f(1), lambda: f(1).after(impure())),
        (lambda: f(1), lambda: f(1).with_cache(cs.FileExistenceCache("x"))),
        (lambda: f(between(1)), lambda: f(between(x=1))),
        (lambda: f([between(1), {"k": between(2)}]), lambda: f([between(1), {"k": between(2)}])),
        (lambda: f(between.map(x=[1, 2])), lambda: f(between.map(x=[1, 2]))),
    ],
)
def test_equal_calls_have_one_key(one: Any, other: Any) -> None:
    assert key_of(one()) == key_of(other())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda: f(1), lambda: f(2)),
        (lambda: f(1), lambda: f(1.0)),
        (lambda: f(1), lambda: f(True)),
        (lambda: f([1, 2]), lambda: f((1, 2))),
        (lambda: f(1, 2), lambda: f(2, 1)),
        (lambda: f("1"), lambda: f(b"1")),
        (lambda: f(np.arange(1000)), lambda: f(np.arange(1000) + (np.arange(1000) == 999))),
        (lambda: f(np.arange(6)), lambda: f(np.arange(6).reshape(2, 3))),
        (lambda: f(between(1)), lambda: f(between(2))),
        (lambda: f(between(1)), lambda: f(1)),
        (lambda: f([between(1), 2]), lambda: f([between(1), 3])),
        (lambda: f([between(1), between(2)]), lambda: f([between(2), between(1)])),
        (lambda: f(between.map(x=[1, 2])), lambda: f(between.map(x=[2, 1]))),
        (lambda: f(between.map(x=[1, 2])), lambda: f([between(1), between(2), 3])),
    ],
)
def test_different_calls_have_different_keys(one: Any, other: Any) -> None:
    assert key_of(one()) != key_of(other())


def test_params_count_by_their_values() -> None:
    target = f(cs.Param("n"))
    assert key_of(target, {"n": 1}) == key_of(f(1))
    assert key_of(target, {"n": 2}) != key_of(f(1))


_MODULE = """
import cascade_dist as cs

{before}
FACTOR = {factor}

def helper(x):{comment}
    return {helper}

def make(n):
    def inner(x, y={default}):
        return helper(x) * n + FACTOR
    return inner

g = cs.task(make({closure}), name="g", pure=True, cache="cluster")
"""
_PLAIN = {"before": "", "factor": "2", "comment": "", "helper": "x + 1", "default": "1", "closure": "3"}
_PRINTS = """
import sys
sys.path.insert(0, sys.argv[1])
import module
import cascade_dist as cs
from cascade_dist.graph.build import Compilation
from cascade_dist.graph.value_keys import ValueKeys
from cascade_dist.graph.keys import key_of_parts
keys = ValueKeys()
for node in Compilation(module.g([1, {"a": frozenset("xyz")}, 2.5])).nodes():
    for key in keys.add(node):
        assert key.known
        print(key_of_parts((part.name, part.digest) for part in key.parts).hex())
"""


def _key_in_another_process(root: Path, seed: str = "0", **changes: str) -> str:
    root.mkdir(exist_ok=True)
    (root / "module.py").write_text(_MODULE.format(**{**_PLAIN, **changes}))
    done = subprocess.run(
        [sys.executable, "-B", "-c", _PRINTS, str(root)],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
    )
    return done.stdout.strip()


def test_keys_are_stable_over_processes_hash_seeds_blank_lines_and_comments(tmp_path: Path) -> None:
    keys = {
        _key_in_another_process(tmp_path / "a", seed="0"),
        _key_in_another_process(tmp_path / "b", seed="1"),
        _key_in_another_process(tmp_path / "c", seed="2", before="\n\n# a comment\n", comment="  # another"),
    }
    assert len(keys) == 1
    assert len(keys.pop()) == 32


@pytest.mark.parametrize(
    "change", [{"helper": "x + 2"}, {"closure": "4"}, {"default": "2"}, {"factor": "5"}], ids=str
)
def test_keys_change_with_what_the_code_reaches(tmp_path: Path, change: dict[str, str]) -> None:
    before = _key_in_another_process(tmp_path / "a")
    assert _key_in_another_process(tmp_path / "b", **change) != before


def test_a_resource_counts_by_its_code() -> None:
    def make(url: str) -> Any:
        @cs.resource(name="db")
        def db() -> Any:
            yield url

        @cs.task(name="uses", pure=True, cache="cluster")
        def uses(x: int, db: Any = cs.inject(db)) -> int:
            return x

        return uses(1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cascade_dist.language.resources._registry", {})
        assert key_of(make("a")) == key_of(make("a"))
        assert key_of(make("a")) != key_of(make("b"))


def test_impure_inputs_are_left_to_run_time() -> None:
    keys = keys_of(f([impure(), between(2), impure(1)], y=3))
    assert list(keys) == ["f"]
    assert not keys["f"].known
    assert names_of(keys["f"]) == [("code", -1), ("x", -1), ("x", 0), ("x", 2), ("y", -1)]


def test_keys_of_pure_nodes_in_between_are_told_when_they_are_needed() -> None:
    keys = keys_of(f(between(impure())))
    assert {name: names_of(key) for name, key in keys.items()} == {
        "f": [("code", -1), ("x", -1), ("x", 0)],
        "between": [("code", -1), ("x", -1), ("x", 0)],
    }
    assert keys_of(between(impure())) == {}
    collected = keys_of(f(between.map(x=[impure(), 2])))
    assert names_of(collected["between.map"]) == [("list", 0), ("list", -1)]
    assert sorted(collected) == ["between.map", "between[0]", "f"]


@pytest.mark.parametrize(
    "target",
    [
        lambda: f(between(1).run_if(impure())),
        lambda: f(between(1).after(impure())),
        lambda: f(between(between(1).run_if(impure()))),
        lambda: f(between.map(x=[1]).run_if(impure())),
        lambda: f(cs.Router(between(1), {1: between(2)})),
        lambda: f(impure(1)),
        lambda: f(between(1).with_constraints(cpu=between(1))),
    ],
)
def test_what_can_change_or_skip_an_input_leaves_the_key_to_run_time(target: Any) -> None:
    assert not keys_of(target())["f"].known


def test_a_stage_that_may_be_skipped_needs_its_input() -> None:
    stage = f(between(1)).run_if(impure()).passthrough()
    assert not keys_of(stage)["f"].known
    assert keys_of(f(between(1)).run_if(impure()))["f"].known


def test_children_of_a_map_have_keys_of_their_own() -> None:
    shared = np.arange(100_000)
    keys = keys_of(f.map(x=[1, 2, 1], y=cs.unmapped(shared)))
    made = [key_of_parts((part.name, part.digest) for part in key.parts) for key in keys.values()]
    assert made[0] == made[2] != made[1]
    assert made[0] == key_of(f(1, shared))


def test_a_literal_that_is_a_node_counts_by_its_content() -> None:
    assert keys_of(f(cs.Router(1, {1: between(2)})))["f"].parts[-1].input == 0


def test_a_long_chain_needs_no_recursion() -> None:
    value: Any = impure()
    for _ in range(5_000):
        value = between(value)
    assert len(keys_of(f(value))) == 5_001


def test_a_container_of_many_impure_inputs_is_written_once_each() -> None:
    """Its cost grows with its inputs, not with their square: this takes a moment, or many minutes."""

    @cs.task
    def impure(number: int) -> int:
        return number

    @cs.task(pure=True, cache="cluster")
    def kept(values: list[int]) -> int:
        return len(values)

    nodes = list(Compilation(kept([impure(number) for number in range(60_000)])).nodes())
    keys = ValueKeys()
    (last,) = [key for node in nodes for key in keys.add(node)]
    assert len([part for part in last.parts if not part.digest]) == 60_000
