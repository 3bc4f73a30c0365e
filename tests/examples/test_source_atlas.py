"""The demo: its parts by themselves, and its answer from a cluster against its answer from one process."""

from __future__ import annotations

import importlib.util
import json
import random
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

EXAMPLE = Path(__file__).parents[2] / "examples" / "source_atlas.py"


@pytest.fixture(scope="module")
def atlas() -> ModuleType:
    """The example as a module."""
    return load()


def load() -> ModuleType:
    name = "source_atlas"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, EXAMPLE)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


BROKEN = {
    "unclosed.py": b"def f(:\n",
    "nulls.py": b"x = 1\0\n",
    "latin.py": b"name = '\xe9'\n",
    "python2.py": b"print 'hello'\n",
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of 150 modules with cycles among them, and four files that are no Python."""
    root = tmp_path_factory.mktemp("tree")
    (root / "shop").mkdir()
    (root / "shop" / "__init__.py").write_text("from . import m0\n")
    dice = random.Random(20)
    for number in range(150):
        others = dice.sample(range(150), dice.randrange(4))
        imports = [f"from .m{other} import f{other}" for other in others]
        body = (
            f"def f{number}(x):\n    if x and not x:\n        for y in x:\n            pass\n    return x\n"
        )
        text = "\n".join(["import json, os.path", *imports, f"class C{number}: pass", body])
        (root / "shop" / f"m{number}.py").write_text(text)
    for name, content in BROKEN.items():
        (root / "shop" / name).write_bytes(content)
    return root


def report_of(atlas: ModuleType, folder: Path, text: str, name: str = "m.py", module: str = "pkg.m") -> Any:
    (folder / name).write_text(text)
    return atlas.measure.func(str(folder / name), module)


def test_what_is_no_source_is_told_from_what_is(atlas: ModuleType, tree: Path) -> None:
    verdicts = {Path(path).name: atlas.is_source.func(path) for path in atlas.source_files(tree)}
    assert {name for name, verdict in verdicts.items() if not verdict} == set(BROKEN)
    assert not atlas.is_source.func(str(tree / "missing.py"))


def test_a_file_is_measured(atlas: ModuleType, tmp_path: Path) -> None:
    text = (
        "class A:\n"
        "    def f(self, x):\n"
        "        if x == 1 or x == 2:\n"
        "            while x:\n"
        "                x -= 1\n"
        "        elif x == 3:\n"
        "            pass\n"
        "    async def g(self):\n"
        "        return [y for y in self]\n"
    )
    report = report_of(atlas, tmp_path, text)
    assert (report["lines"], report["functions"], report["classes"]) == (9, 2, 1)
    assert report["depth"] == 2
    assert (report["complexity"], report["most_complex"]) == (5, "pkg.m:A.f")


@pytest.mark.parametrize(
    ("name", "module", "text", "expected"),
    [
        ("m.py", "a.m", "import a.b.c\nimport os\n", ["a.b"]),
        ("m.py", "a.m", "from a import b, nothing\n", ["a", "a.b"]),
        ("m.py", "a.m", "from .b import x\nfrom . import n\n", ["a.b", "a.n"]),
        ("m.py", "a.m", "from ..a.b import x\n", ["a.b"]),
        ("m.py", "a.m", "from ....a import b\nimport a.m\n", []),
        ("__init__.py", "a", "from .b import x\n", ["a.b"]),
    ],
)
def test_imports_are_linked_to_known_modules(
    atlas: ModuleType, tmp_path: Path, name: str, module: str, text: str, expected: list[str]
) -> None:
    report = report_of(atlas, tmp_path, text, name, module)
    known = frozenset({"a", "a.b", "a.m", "a.n", module})
    assert atlas.link.func(report, known) == (module, expected)


def test_a_tree_of_merges_is_the_sum_of_all(atlas: ModuleType, tmp_path: Path) -> None:
    reports = [
        report_of(atlas, tmp_path, "def f():\n    if 1:\n        pass\n" * count, module=f"m{count}")
        for count in range(1, 8)
    ]
    merged = atlas.total.func(reports[:1])
    for report in reports[1:]:
        merged = atlas.merge.func(merged, atlas.total.func([report]))
    assert merged == atlas.total.func(reports)
    assert merged["functions"] == 28


graphs = st.dictionaries(st.integers(0, 9), st.sets(st.integers(0, 9)), min_size=1).map(
    lambda raw: {
        str(node): sorted(str(target) for target in raw.get(node, ()) if target != node) for node in range(10)
    }
)


@given(graphs)
def test_cycles_are_the_groups_that_reach_each_other(graph: dict[str, list[str]]) -> None:
    reach = {node: set(targets) for node, targets in graph.items()}
    for middle in graph:
        for node in graph:
            if middle in reach[node]:
                reach[node] |= reach[middle]
    groups = {frozenset(b for b in graph if b in reach[a] and a in reach[b]) for a in graph}
    expected = sorted((sorted(group) for group in groups if len(group) > 1), key=lambda g: (-len(g), g))
    assert load().find_cycles.func(graph) == expected


def test_a_long_chain_of_imports_needs_no_recursion(atlas: ModuleType) -> None:
    ring = {str(number): [str((number + 1) % 20_000)] for number in range(20_000)}
    (cycle,) = atlas.find_cycles.func(ring)
    assert len(cycle) == 20_000


@given(graphs)
def test_ranks_are_shares_of_one(graph: dict[str, list[str]]) -> None:
    ranks = load().rank.func(graph)
    assert sum(ranks.values()) == pytest.approx(1)
    assert min(ranks.values()) > 0


def test_the_most_imported_module_is_the_most_central(atlas: ModuleType) -> None:
    graph = {"base": [], "one": ["base"], "two": ["base"], "three": ["base", "two"]}
    central = atlas.most_central.func(graph, atlas.rank.func(graph), count=2)
    assert [(module, importers) for module, _, importers in central] == [("base", 3), ("two", 1)]


def test_the_plain_answer(atlas: ModuleType, tree: Path) -> None:
    answer = atlas.plain(tree)
    assert answer["totals"]["files"] == 151
    assert answer["totals"]["functions"] == answer["totals"]["classes"] == 150
    assert sorted(Path(path).name for path in answer["skipped"]) == sorted(BROKEN)
    assert len(answer["central"]) == 10
    assert any(len(cycle) > 1 for cycle in answer["cycles"])


def test_a_tree_without_source_is_named(atlas: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"no valid Python source in .*"):
        atlas.plain(tmp_path)


def test_a_path_that_is_no_folder_is_refused(
    atlas: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        atlas.main([str(tmp_path / "nowhere")])
    assert refused.value.code == 2
    assert "nowhere is not a folder" in capsys.readouterr().err


def test_the_tables_show_the_answer(
    atlas: ModuleType, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert atlas.main(["--plain", str(tree)]) == 0
    shown = capsys.readouterr().out
    assert "10 most central modules" in shown
    assert "skipped, not valid source" in shown


@pytest.mark.integration
def test_a_cluster_gives_the_plain_answer(atlas: ModuleType, tree: Path) -> None:
    """As a user runs it: a private cluster of two workers, in a process of its own."""
    command = [sys.executable, str(EXAMPLE), str(tree), "--workers", "2", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(json.dumps(atlas.plain(tree)))
    assert "151 files measured, 4 skipped" in done.stderr
