"""Each decision has a number of its own, which its title repeats."""

from __future__ import annotations

import re
from pathlib import Path


def test_decisions_are_numbered_without_gaps(root: Path) -> None:
    pages = sorted((root / "docs" / "decisions").glob("0*.md"))
    numbers = [int(page.name[:4]) for page in pages]
    assert numbers == list(range(1, len(pages) + 1))
    for number, page in zip(numbers, pages, strict=True):
        assert re.match(rf"# {number}\. \S", page.read_text()), page.name
