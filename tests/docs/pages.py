"""Pages of documentation as programs.

The Python blocks of a page, one after the other, are one program. A line ``expression  # → text`` says what
the expression's value looks like (its ``repr``); a block under ``<!-- raises NAME -->`` has to raise that
exception. The lines of shell blocks that call this project's commands are looked at one by one.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=indent)```", re.MULTILINE | re.DOTALL
)
RAISES = re.compile(r"<!-- raises (\w+) -->\s*\Z")
ARROW = re.compile(r"#\s*→\s*(?P<shown>.*)$")
COMMANDS = ("cascade", "cascade-scheduler", "cascade-worker")


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    page: Path
    line: int
    language: str
    text: str
    raises: str = ""


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    source = page.read_text(encoding="utf-8")
    for found in FENCE.finditer(source):
        indent = found["indent"]
        lines = [line.removeprefix(indent) for line in found["text"].splitlines()]
        raises = RAISES.search(source[: found.start()])
        yield Block(
            page,
            source.count("\n", 0, found.start()) + 2,
            found["language"],
            "\n".join(lines) + "\n",
            raises[1] if raises else "",
        )


def program(page: Path) -> str:
    """A page's Python blocks as one module, with line numbers of the page; "" when it has none."""
    parts: list[str] = []
    length = 0
    for block in blocks(page):
        if block.language != "python":
            continue
        text = _raising(block) if block.raises else _checked(block.text)
        at = max(0, block.line - 1 - length)
        parts.append("\n" * at + text)
        length += at + text.count("\n")
    return "".join(parts)


def _checked(text: str) -> str:
    """The block with each arrow as a comparison, line for line."""
    lines = text.splitlines()
    for statement in ast.walk(ast.parse(text)):
        if not isinstance(statement, ast.Expr) or statement.end_lineno is None:
            continue
        last = lines[statement.end_lineno - 1]
        arrow = ARROW.search(last)
        if arrow is None:
            continue
        first = statement.lineno - 1
        column = statement.col_offset
        expected = repr(arrow["shown"].strip())
        lines[statement.end_lineno - 1] = last[: arrow.start()].rstrip() + f"), {expected})"
        lines[first] = f"{lines[first][:column]}_expect(({lines[first][column:]}"
    return "\n".join(lines) + "\n"


def _raising(block: Block) -> str:
    body = "".join(f"    {line}\n" for line in block.text.splitlines())
    return f"with _raises({block.raises!r}):\n{body}"


def commands(page: Path) -> Iterator[tuple[int, str, int]]:
    """(line, command, exit code) of the lines of shell blocks that call this project's commands."""
    for block in blocks(page):
        if block.language not in ("sh", "bash", "console"):
            continue
        for offset, line in enumerate(block.text.splitlines()):
            text, _, comment = line.strip().removeprefix("$ ").partition("#")
            if text.split(" ", 1)[0] in COMMANDS:
                code = re.search(r"exit (\d+)", comment)
                yield block.line + offset, text.strip(), int(code[1]) if code else 0
