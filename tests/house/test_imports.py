"""Who may import whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Within cascade_dist the arrows run one way: a package imports those that stand at or below its own height.
HEIGHTS = {
    "language": 1,
    "graph": 2,
    "codec": 3,
    "wire": 3,
    "v1": 3,
    "storage": 4,
    "caching": 4,
    "state": 4,
    "connectors": 4,
    "library": 5,
    "client": 5,
    "cli": 6,
}
PURE_HEIGHT = 3  # what a core may see: language, graph, codec, and leaf modules
PROCESSES = ("cascade_scheduler", "cascade_worker")

CORE_BANS_MODULES = frozenset(
    "aiohttp asyncio concurrent grpc http logging multiprocessing os random redis secrets select selectors "
    "signal socket ssl subprocess threading time urllib uuid uvloop".split()
)
CORE_BANS_ROOMS = frozenset({"v1", "wire", "storage", "client", "cli"})
LOADERS_OF_USER_BYTES = frozenset({"pickle", "cloudpickle", "dill", "marshal", "shelve", "_pickle"})
REDIS_FOLDERS = frozenset({"store", "storage", "caching", "state"})


def imports_of(module: str, is_package: bool, source: str) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything that a module imports, wherever in it, also by literal name.

    `from a import b` yields `a.b`: whether b is a module or an attribute, it is what a rule is about.
    """
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                kept = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*kept, *filter(None, [node.module])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = ast.unparse(node.func)
            if called in ("__import__", "import_module", "importlib.import_module"):
                yield node.lineno, str(node.args[0].value)


class House:
    """The modules of the three packages and what each of them imports."""

    def __init__(self, sources: dict[str, str]) -> None:
        self.sources = {Path(path): text for path, text in sources.items()}
        self.modules = {self.name_of(path): path for path in self.sources}
        self.imports = {
            name: list(imports_of(name, path.name == "__init__.py", self.sources[path]))
            for name, path in self.modules.items()
        }

    @staticmethod
    def name_of(path: Path) -> str:
        """The dotted name under which a file is imported."""
        parts = list(path.with_suffix("").parts)
        if parts[0] in ("scheduler", "worker"):
            parts = parts[1:]
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def module_of(self, imported: str) -> str | None:
        """The module of ours that an imported name stands for or lives in."""
        if imported.startswith("cascade_dist.") and imported.split(".")[1] in HEIGHTS:
            return imported
        while imported:
            if imported in self.modules:
                return imported
            imported = imported.rpartition(".")[0]
        return None

    def height(self, module: str, above: tuple[str, ...] = ()) -> int:
        """How high a module of cascade_dist stands: its package's height.

        A module beside the packages stands as high as the highest that it imports; a leaf stands at 0.
        """
        parts = module.split(".")
        if len(parts) > 1 and parts[1] in HEIGHTS:
            return HEIGHTS[parts[1]]
        if module in above:
            return 0
        names = {self.module_of(name) or name for _, name in self.imports.get(module, [])}
        ours = [name for name in names if name.split(".")[0] == "cascade_dist"]
        return max((self.height(name, (*above, module)) for name in ours), default=0)

    def violations(self) -> list[str]:
        """One line for every import that breaks a rule."""
        found = []
        for module, path in self.modules.items():
            for line, imported in self.imports[module]:
                target = self.module_of(imported) or imported
                reason = self.broken_rule(module, path, imported, target)
                if reason:
                    found.append(f"{path}:{line} imports {imported}: {reason}")
        return found

    def broken_rule(self, module: str, path: Path, imported: str, target: str) -> str | None:
        """Why a module may not import a name, or None if it may."""
        ours, theirs = module.split(".")[0], imported.split(".")[0]
        if theirs in PROCESSES and theirs != ours:
            return f"{ours} does not know {theirs}"
        if theirs in ("scheduler", "worker"):
            return "that is a folder; importing it makes a second copy of every class"
        if theirs == "redis" and not may_name_redis(path):
            return "Redis is named in store/, storage/, state/ and the cache backends alone"
        if ours == "cascade_scheduler" and theirs in LOADERS_OF_USER_BYTES:
            return "the scheduler never unpickles what users send"
        if ours in PROCESSES and "core" in path.parts:
            return self.broken_core_rule(module, imported, target)
        inside = ours == theirs == "cascade_dist" and module != "cascade_dist"
        if inside and self.height(target) > self.height(module):
            return f"{target} stands above {module}"
        return None

    def broken_core_rule(self, module: str, imported: str, target: str) -> str | None:
        """Why a core may not import a name, or None if it may."""
        parts = imported.split(".")
        if parts[0] in CORE_BANS_MODULES:
            return "a core does no I/O, reads no clock and rolls no dice"
        if parts[0] == module.split(".")[0] and target.split(".")[1:2] != ["core"]:
            return "a core knows nothing of the shell around it"
        if parts[0] == "cascade_dist" and parts[1:2] and parts[1] in CORE_BANS_ROOMS:
            return "a core sees no messages, no stores, no clients"
        if target == "cascade_dist" or (parts[0] == "cascade_dist" and self.height(target) > PURE_HEIGHT):
            return "a core imports the pure rooms by name, not what stands above them"
        return None


def may_name_redis(path: Path) -> bool:
    """Redis is named where state is kept and in the cache backends."""
    return bool(REDIS_FOLDERS & set(path.parts)) or path.stem.startswith("cache")


def test_rules_hold(root: Path, python_files: list[Path]) -> None:
    packages = ("cascade_dist", "scheduler", "worker")
    ours = [path for path in python_files if path.parts[0] in packages]
    assert len(ours) > 5
    house = House({str(path): (root / path).read_text() for path in ours})
    assert house.violations() == []


FACADE = {"cascade_dist/__init__.py": "from cascade_dist.client.session import connect\n"}
CORE = "scheduler/cascade_scheduler/core/state.py"


@pytest.mark.parametrize(
    ("sources", "word"),
    [
        ({"scheduler/cascade_scheduler/turn.py": "import cascade_worker\n"}, "does not know"),
        ({"worker/cascade_worker/session.py": "from cascade_scheduler import core\n"}, "does not know"),
        ({"cascade_dist/client/local.py": "def f():\n    import cascade_scheduler.app\n"}, "does not know"),
        (
            {"cascade_dist/client/local.py": "import importlib\nimportlib.import_module('cascade_worker')\n"},
            "does not",
        ),
        ({"tests/x.py": "import scheduler.cascade_scheduler\n"}, "second copy"),
        ({CORE: "import asyncio\n"}, "no I/O"),
        ({CORE: "from time import monotonic\n"}, "no I/O"),
        ({CORE: "from os import path\n"}, "no I/O"),
        ({CORE: "from cascade_dist.v1 import graph_pb2\n"}, "no messages"),
        ({CORE: "from .. import turn\n", "scheduler/cascade_scheduler/turn.py": ""}, "the shell"),
        ({CORE: "import cascade_dist as cs\n", **FACADE}, "pure rooms"),
        ({"scheduler/cascade_scheduler/turn.py": "import redis.asyncio\n"}, "store/"),
        ({"scheduler/cascade_scheduler/blobs.py": "import cloudpickle\n"}, "never unpickles"),
        ({"cascade_dist/language/task.py": "from cascade_dist.graph import model\n"}, "stands above"),
        ({"cascade_dist/language/task.py": "from ..graph.model import Node\n"}, "stands above"),
        ({"cascade_dist/graph/build.py": "import cascade_dist.v1.graph_pb2\n"}, "stands above"),
        ({"cascade_dist/storage/redis.py": "from cascade_dist import connect\n", **FACADE}, "stands above"),
        (
            {
                "cascade_dist/wire/a.py": "from cascade_dist import aio\n",
                "cascade_dist/aio.py": "import cascade_dist.client\n",
            },
            "stands above",
        ),
    ],
)
def test_a_broken_rule_is_found(sources: dict[str, str], word: str) -> None:
    found = House(sources).violations()
    assert len(found) == 1, found
    assert word in found[0]


@pytest.mark.parametrize(
    "sources",
    [
        {
            "cascade_dist/language/task.py": "from cascade_dist.errors import CascadeError\n",
            "cascade_dist/errors.py": "",
        },
        {
            "cascade_dist/cli/main.py": "import cascade_dist as cs\nfrom cascade_dist.client import local\n",
            **FACADE,
        },
        {"cascade_dist/graph/build.py": "from ..language.task import Task\n"},
        {"cascade_dist/storage/backend.py": "import redis.asyncio\n"},
        {"scheduler/cascade_scheduler/store/redis.py": "from redis.asyncio import Redis\n"},
        {"scheduler/cascade_scheduler/turn.py": "import asyncio\nfrom cascade_dist.v1 import graph_pb2\n"},
        {
            CORE: "from dataclasses import dataclass\nfrom .events import Event\n"
            "from cascade_dist.graph.model import Node\n"
        },
    ],
)
def test_what_is_allowed_passes(sources: dict[str, str]) -> None:
    assert House(sources).violations() == []


def test_importing_the_language_loads_no_network_library(root: Path) -> None:
    heavy = {"redis", "hiredis", "aiohttp", "grpc", "typer", "pydantic"}
    code = f"import sys, cascade_dist; print(*sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
