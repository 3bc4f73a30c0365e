"""Files and functions stay small enough to read."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 100

# What may be longer, with the reason why it reads better in one piece: {"path" or "path:name": "reason"}.
ALLOWED: dict[str, str] = {}


def too_long(path: str, source: str) -> Iterator[tuple[str, int]]:
    """What of a file is longer than it should be: `path` or `path:function`, and its lines."""
    lines = source.count("\n")
    if lines > FILE_LINES_MAX:
        yield path, lines
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES_MAX:
                yield f"{path}:{node.name}", length


def test_files_and_functions_are_small(root: Path, python_files: list[Path]) -> None:
    assert python_files
    found = dict(
        entry for path in python_files for entry in too_long(path.as_posix(), (root / path).read_text())
    )
    assert {name: lines for name, lines in found.items() if name not in ALLOWED} == {}
    assert sorted(set(ALLOWED) - set(found)) == [], "no longer too long: take it out of ALLOWED"
    assert all(ALLOWED.values()), "an exception needs a reason"


def test_a_long_function_and_a_long_file_are_found() -> None:
    body = "    pass\n" * FUNCTION_LINES_MAX
    assert list(too_long("a.py", "async def f():\n" + body)) == [("a.py:f", FUNCTION_LINES_MAX + 1)]
    assert list(too_long("a.py", "pass\n" * 601)) == [("a.py", 601)]
    assert list(too_long("a.py", "def f():\n    pass\n")) == []
