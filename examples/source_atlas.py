"""An atlas of a Python source tree: its size, its import graph, its cycles, its most central modules.

    python examples/source_atlas.py [PATH]      # default: the standard library of this Python

It goes in two steps, because a consumer of a skipped task is skipped too:

1. *Survey*: one small run per file. A cheap task says whether the file is valid source, and the costly one,
   which parses and measures it, runs on that condition. A skipped file says so, and stops nobody else.
2. *Atlas*: one graph over all reports. A map links each module to the modules that it imports, a tree of
   merges adds up the sizes, and from the links come the import graph, its cycles and its PageRank.

`plain` computes the same answer in this process, with no cluster: the test compares the two.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
import sysconfig
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any, TypedDict

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import cascade_dist as cs

NOT_THE_TREES_OWN = {"site-packages", "dist-packages", "__pycache__", ".venv", ".git"}
BATCH_FILES = 64
MEASURE_SECONDS_MAX = 120.0
TOP = 10
NO_LINKS = (
    "hint: no module of this tree imports another one by the name that it has here; give the folder that is "
    "on sys.path, such as src/ and not the repository or the package itself"
)

Links = dict[str, list[str]]


class Report(TypedDict):
    """What is known of one file."""

    module: str
    is_package: bool
    lines: int
    functions: int
    classes: int
    depth: int
    complexity: int
    most_complex: str
    imports: list[tuple[str, str, int]]


class Totals(TypedDict):
    """What is known of many files."""

    files: int
    lines: int
    functions: int
    classes: int
    deepest: tuple[int, str]
    most_complex: tuple[int, str]


class Atlas(TypedDict):
    """The answer."""

    totals: Totals
    links: int
    cycles: list[list[str]]
    central: list[tuple[str, float, int]]
    skipped: list[str]


# --- step 1: one file -----------------------------------------------------------------------------


def parse(path: str) -> ast.Module:
    """Parse a file; what the compiler would warn of is not our business here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(Path(path).read_bytes(), filename=path)


@cs.task
def is_source(path: str) -> bool:
    """Whether the file can be read and is source that this Python understands."""
    try:
        parse(path)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.Match)
BRANCHES = (
    ast.If,
    ast.IfExp,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.ExceptHandler,
    ast.comprehension,
    ast.match_case,
)
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def walk(tree: ast.Module) -> Iterator[tuple[ast.AST, str, int]]:
    """Every node, its scope's qualified name and its nesting depth. Not recursive: trees run deep."""
    stack: list[tuple[ast.AST, str, int]] = [(tree, "", 0)]
    while stack:
        node, scope, depth = stack.pop()
        yield node, scope, depth
        if isinstance(node, SCOPES):
            scope = f"{scope}.{node.name}" if scope else node.name
            depth = 0
        elif isinstance(node, ast.If) and len(node.orelse) == 1 and isinstance(node.orelse[0], ast.If):
            stack.append((node.orelse[0], scope, depth))  # an elif stands beside its if, not in it
            stack.extend((child, scope, depth + 1) for child in (node.test, *node.body))
            continue
        elif isinstance(node, BLOCKS):
            depth += 1
        stack.extend((child, scope, depth) for child in ast.iter_child_nodes(node))


@cs.task
def measure(path: str, module: str) -> Report:
    """Parse one file, measure it and collect what it imports."""
    tree = parse(path)
    seen: Counter[str] = Counter()
    branches: Counter[str] = Counter()
    imports: set[tuple[str, str, int]] = set()
    deepest = 0
    for node, scope, depth in walk(tree):
        if isinstance(node, BLOCKS):
            deepest = max(deepest, depth + 1)
        if isinstance(node, BRANCHES):
            branches[scope] += 1
        elif isinstance(node, ast.BoolOp):
            branches[scope] += len(node.values) - 1
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            seen["functions"] += 1
        elif isinstance(node, ast.ClassDef):
            seen["classes"] += 1
        elif isinstance(node, ast.Import):
            imports.update((alias.name, "", 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            imports.update((node.module or "", alias.name, node.level) for alias in node.names)
    complexity, worst = max(((count + 1, scope) for scope, count in branches.items()), default=(1, ""))
    return Report(
        module=module,
        is_package=Path(path).name == "__init__.py",
        lines=Path(path).read_bytes().count(b"\n"),
        functions=seen["functions"],
        classes=seen["classes"],
        depth=deepest,
        complexity=complexity,
        most_complex=f"{module}:{worst}" if worst else module,
        imports=sorted(imports),
    )


# --- step 2: all reports --------------------------------------------------------------------------


def imported_names(report: Report) -> Iterator[str]:
    """The absolute dotted names that a module asks for, relative ones resolved."""
    own = report["module"].split(".")
    package = own if report["is_package"] else own[:-1]
    for base, name, level in report["imports"]:
        if level > len(package) + 1:
            continue  # above the top: it would fail at run time
        start = package[: len(package) - level + 1] if level else []
        yield ".".join([*start, *filter(None, (base, name))])


@cs.task
def link(report: Report, known: frozenset[str]) -> tuple[str, list[str]]:
    """A module and those of the known modules that it imports."""
    found = set()
    for name in imported_names(report):
        while name and name not in known:
            name = name.rpartition(".")[0]
        found.add(name)
    return report["module"], sorted(found - {"", report["module"]})


@cs.task
def import_graph(links: list[tuple[str, list[str]]]) -> Links:
    """The links as one graph, from importer to imported, in a fixed order."""
    return dict(sorted(links))


@cs.task
def total(reports: Sequence[Report]) -> Totals:
    """The sum of a batch of files."""
    return Totals(
        files=len(reports),
        lines=sum(report["lines"] for report in reports),
        functions=sum(report["functions"] for report in reports),
        classes=sum(report["classes"] for report in reports),
        deepest=max((report["depth"], report["module"]) for report in reports),
        most_complex=max((report["complexity"], report["most_complex"]) for report in reports),
    )


@cs.task
def merge(left: Totals, right: Totals) -> Totals:
    """The sum of two sums."""
    return Totals(
        files=left["files"] + right["files"],
        lines=left["lines"] + right["lines"],
        functions=left["functions"] + right["functions"],
        classes=left["classes"] + right["classes"],
        deepest=max(left["deepest"], right["deepest"]),
        most_complex=max(left["most_complex"], right["most_complex"]),
    )


@cs.task
def find_cycles(graph: Links) -> list[list[str]]:
    """The groups of modules that import each other in a circle, largest first (Tarjan, iterative)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []
    on_path: set[str] = set()
    cycles: list[list[str]] = []
    for root in graph:
        if root in order:
            continue
        work = [(root, iter(graph[root]))]
        order[root] = lowest[root] = len(order)
        path.append(root)
        on_path.add(root)
        while work:
            module, targets = work[-1]
            for target in targets:
                if target not in order:
                    order[target] = lowest[target] = len(order)
                    path.append(target)
                    on_path.add(target)
                    work.append((target, iter(graph[target])))
                    break
                if target in on_path:
                    lowest[module] = min(lowest[module], order[target])
            else:
                work.pop()
                if work:
                    above = work[-1][0]
                    lowest[above] = min(lowest[above], lowest[module])
                if lowest[module] == order[module]:
                    start = path.index(module)
                    group = path[start:]
                    del path[start:]
                    on_path.difference_update(group)
                    if len(group) > 1:
                        cycles.append(sorted(group))
    return sorted(cycles, key=lambda cycle: (-len(cycle), cycle))


@cs.task
def rank(graph: Links, damping: float = 0.85, rounds: int = 100, enough: float = 1e-10) -> dict[str, float]:
    """PageRank: how often somebody who follows imports at random stands in each module."""
    share = 1 / len(graph)
    ranks = dict.fromkeys(graph, share)
    for _ in range(rounds):
        idle = sum(value for module, value in ranks.items() if not graph[module])
        fresh = dict.fromkeys(graph, (1 - damping) * share + damping * idle * share)
        for module, targets in graph.items():
            for target in targets:
                fresh[target] += damping * ranks[module] / len(targets)
        change = sum(abs(fresh[module] - ranks[module]) for module in graph)
        ranks = fresh
        if change < enough:
            break
    return ranks


@cs.task
def most_central(graph: Links, ranks: Mapping[str, float], count: int = TOP) -> list[tuple[str, float, int]]:
    """The modules that the others stand on: name, rank, and how many import it directly."""
    importers = Counter(target for targets in graph.values() for target in targets)
    best = sorted(ranks, key=lambda module: (-ranks[module], module))[:count]
    return [(module, round(ranks[module], 9), importers[module]) for module in best]


@cs.task
def count_links(graph: Links) -> int:
    """The edges of the import graph."""
    return sum(map(len, graph.values()))


# --- the graphs -----------------------------------------------------------------------------------


def survey(path: str, module: str) -> Any:
    """The target of one file's run: its report, on condition that it is source."""
    return measure(path, module).run_if(is_source(path)).with_timeout(MEASURE_SECONDS_MAX)


def tree_of_merges(leaves: Sequence[Any]) -> Any:
    """Merge neighbours until one is left: as many levels as the logarithm, with no wall between them."""
    while len(leaves) > 1:
        pairs = [leaves[start : start + 2] for start in range(0, len(leaves), 2)]
        leaves = [merge(*pair) if len(pair) == 2 else pair[0] for pair in pairs]
    return leaves[0]


def build(reports: Sequence[Report]) -> dict[str, Any]:
    """The target of the second run: the atlas, as a dict of lazy values."""
    known = frozenset(report["module"] for report in reports)
    graph = import_graph(link.map(report=reports, known=cs.unmapped(known)))
    return {
        "totals": tree_of_merges([total(batch) for batch in batches(reports)]),
        "links": count_links(graph),
        "cycles": find_cycles(graph),
        "central": most_central(graph, rank(graph)),
    }


def batches(reports: Sequence[Report]) -> list[Sequence[Report]]:
    """The reports in pieces that are worth a task."""
    return [reports[start : start + BATCH_FILES] for start in range(0, len(reports), BATCH_FILES)]


# --- running them ---------------------------------------------------------------------------------


def source_files(root: Path) -> dict[str, str]:
    """Path and module name of every Python file below a folder, without what others installed there."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).with_suffix("")
        if NOT_THE_TREES_OWN.isdisjoint(name.parts) and not path.is_dir():
            parts = name.parts[:-1] if name.name == "__init__" else name.parts
            found[str(path)] = ".".join(parts or (root.resolve().name,))
    return found


def run(cluster: Any, root: Path, console: Console) -> Atlas:
    """Make the atlas on a cluster whose workers can read the tree."""
    began = time.monotonic()
    files = source_files(root)
    console.print(f"files: {len(files):,} found, {since(began)}")
    reports: list[Report] = []
    skipped: list[str] = []
    with Progress(console=console) as progress:
        bar = progress.add_task("survey", total=len(files))
        runs = {cluster.submit(survey(path, module), progress=False): path for path, module in files.items()}
        for done in as_completed(runs):
            try:
                reports.append(done.result())
            except cs.DependencyMissingError:
                skipped.append(runs[done])
            progress.advance(bar)
    console.print(f"survey: {len(reports)} files measured, {len(skipped)} skipped, {since(began)}")
    in_order(reports, root)

    began = time.monotonic()
    answer = cluster.submit(build(reports), progress=None).result()
    console.print(f"atlas: {answer['links']} imports linked, {since(began)}")
    if not answer["links"]:
        console.print(NO_LINKS)
    return Atlas(
        totals=answer["totals"],
        links=answer["links"],
        cycles=answer["cycles"],
        central=answer["central"],
        skipped=sorted(skipped),
    )


def plain(root: Path) -> Atlas:
    """The same answer from the same functions, one after the other in this process."""
    files = source_files(root)
    sound = {path: module for path, module in files.items() if is_source.func(path)}
    reports = [measure.func(path, module) for path, module in sound.items()]
    in_order(reports, root)
    known = frozenset(sound.values())
    graph = import_graph.func([link.func(report, known) for report in reports])
    return Atlas(
        totals=total.func(reports),
        links=count_links.func(graph),
        cycles=find_cycles.func(graph),
        central=most_central.func(graph, rank.func(graph)),
        skipped=sorted(files.keys() - sound.keys()),
    )


def in_order(reports: list[Report], root: Path) -> None:
    """Sort the reports, which came in the order in which they were finished; there must be some."""
    if not reports:
        raise SystemExit(f"there is no valid Python source in {root}")
    reports.sort(key=lambda report: report["module"])


def since(began: float) -> str:
    """The time that has passed, for people."""
    return f"{time.monotonic() - began:.1f} s"


# --- showing the answer ---------------------------------------------------------------------------


def tables(atlas: Atlas, root: Path) -> Iterable[Table]:
    """The atlas as tables."""
    totals = atlas["totals"]
    size = Table(title=f"Atlas of {root}", show_header=False)
    size.add_row("files", f"{totals['files']:,}")
    size.add_row("skipped, not valid source", f"{len(atlas['skipped']):,}")
    size.add_row("lines", f"{totals['lines']:,}")
    size.add_row("functions", f"{totals['functions']:,}")
    size.add_row("classes", f"{totals['classes']:,}")
    size.add_row("imports between modules", f"{atlas['links']:,}")
    size.add_row("deepest nesting", "{} in {}".format(*totals["deepest"]))
    size.add_row("most branches", "{} in {}".format(*totals["most_complex"]))
    size.add_row("import cycles", f"{len(atlas['cycles'])}")
    for cycle in atlas["cycles"][:3]:
        size.add_row("", f"{len(cycle)} modules: {', '.join(cycle[:4])}{', …' if len(cycle) > 4 else ''}")
    yield size

    central = Table(
        "", "module", "rank", "imported by", title=f"The {len(atlas['central'])} most central modules"
    )
    for column in (0, 2, 3):
        central.columns[column].justify = "right"
    for place, (module, value, importers) in enumerate(atlas["central"], 1):
        central.add_row(str(place), module, f"{value:.4f}", f"{importers:,}")
    yield central


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    stdlib = Path(sysconfig.get_path("stdlib"))
    parser.add_argument("path", nargs="?", type=Path, default=stdlib, help="the tree (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="workers of the private cluster")
    parser.add_argument("--address", help="a running cluster instead of a private one")
    parser.add_argument("--plain", action="store_true", help="no cluster: compute it in this process")
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    options = parser.parse_args(argv)
    if not options.path.is_dir():
        parser.error(f"{options.path} is not a folder: name one that holds Python source")
    return options


def make(options: argparse.Namespace, console: Console) -> Atlas:
    """The atlas that the command line asks for."""
    if options.plain:
        return plain(options.path)
    choice = {} if options.address else {"workers": options.workers}
    with cs.connect(options.address, **choice) as cluster:
        return run(cluster, options.path, console)


def main(argv: Sequence[str] | None = None) -> int:
    """Make the atlas and print it."""
    options = arguments(sys.argv[1:] if argv is None else argv)
    console = Console(stderr=options.json)
    try:
        atlas = make(options, console)
    except KeyboardInterrupt:
        print("source_atlas: interrupted", file=sys.stderr)
        return 130
    if options.json:
        json.dump(atlas, sys.stdout, indent=2)
    else:
        console.print(*tables(atlas, options.path), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
