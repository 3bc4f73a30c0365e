"""A conditional data pipeline: sales in files of several formats, one report.

    python examples/data_pipeline.py [DIRECTORY]     # default: a sample that is written for you

Every file takes its own way through one graph, and the scheduler decides which:

- a *router* reads each file by its format; the readers that were not chosen never run,
- a file without rows is *skipped* by a condition, and what stands for it in the report is an empty summary,
- repairs are stages of a *pipeline*: one that a file does not need is passed by,
- what fails to be read twice is a real error, and stops the run with the file's name.

`plain` computes the same report in this process, with no cluster: the test compares the two.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypedDict

import cascade_dist as cs

FORMATS = ("csv", "json", "log")
CURRENCIES = {"EUR": 1.0, "USD": 0.9, "NOK": 0.085}


class Row(TypedDict):
    """One sale."""

    shop: str
    item: str
    amount: float
    currency: str


class Summary(TypedDict):
    """What a file comes to, in euros by shop."""

    file: str
    rows: int
    totals: dict[str, float]


class Report(TypedDict):
    """What all files come to."""

    files: int
    empty: list[str]
    rows: int
    totals: dict[str, float]


# --- what the tasks do, as plain functions --------------------------------------------------------


def format_of_file(path: str) -> str:
    """The format of a file, by its content where the name does not say."""
    suffix = Path(path).suffix.lstrip(".").lower()
    if suffix in FORMATS:
        return suffix
    return "json" if Path(path).read_text().lstrip().startswith(("[", "{")) else "log"


def rows_of_csv(path: str) -> list[Row]:
    """Comma separated, with a head."""
    with open(path, newline="") as file:
        return [_row(record) for record in csv.DictReader(file)]


def rows_of_json(path: str) -> list[Row]:
    """A list of objects."""
    return [_row(record) for record in json.loads(Path(path).read_text() or "[]")]


def rows_of_log(path: str) -> list[Row]:
    """Lines such as ``shop=north item=tea amount=3.5 currency=EUR``; others are left out."""
    lines = Path(path).read_text().splitlines()
    records = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines]
    return [_row(record) for record in records if "amount" in record]


def _row(record: dict[str, Any]) -> Row:
    currency = str(record.get("currency") or "EUR")
    return Row(
        shop=str(record["shop"]), item=str(record["item"]), amount=float(record["amount"]), currency=currency
    )


def without_doubles(rows: list[Row]) -> list[Row]:
    """Each row once, in order."""
    return list({json.dumps(row, sort_keys=True): row for row in rows}.values())


def in_euros(rows: list[Row]) -> list[Row]:
    """The same with every amount in euros."""
    return [
        Row(
            shop=row["shop"],
            item=row["item"],
            amount=round(row["amount"] * CURRENCIES[row["currency"]], 2),
            currency="EUR",
        )
        for row in rows
    ]


def summary_of(path: str, rows: list[Row]) -> Summary:
    """The totals of a file."""
    totals: defaultdict[str, float] = defaultdict(float)
    for row in rows:
        totals[row["shop"]] += row["amount"]
    return Summary(
        file=Path(path).name,
        rows=len(rows),
        totals={shop: round(total, 2) for shop, total in sorted(totals.items())},
    )


def report_of(summaries: Sequence[Summary]) -> Report:
    """All files together."""
    totals: defaultdict[str, float] = defaultdict(float)
    for summary in summaries:
        for shop, total in summary["totals"].items():
            totals[shop] += total
    return Report(
        files=len(summaries),
        empty=sorted(summary["file"] for summary in summaries if not summary["rows"]),
        rows=sum(summary["rows"] for summary in summaries),
        totals={shop: round(total, 2) for shop, total in sorted(totals.items())},
    )


# --- the tasks ------------------------------------------------------------------------------------

format_of = cs.task(format_of_file, name="format_of")
read_csv = cs.task(rows_of_csv, name="read_csv", retry=2)
read_json = cs.task(rows_of_json, name="read_json", retry=2)
read_log = cs.task(rows_of_log, name="read_log", retry=2)
drop_doubles = cs.task(without_doubles, name="drop_doubles")
convert = cs.task(in_euros, name="convert")
summarise = cs.task(summary_of, name="summarise")
report = cs.task(report_of, name="report")


@cs.task
def has_rows(rows: list[Row]) -> bool:
    """Whether there is anything to do."""
    return bool(rows)


@cs.task
def has_doubles(rows: list[Row]) -> bool:
    """Whether a repair is needed."""
    return len(without_doubles(rows)) < len(rows)


@cs.task
def has_foreign_money(rows: list[Row]) -> bool:
    """Whether a conversion is needed."""
    return any(row["currency"] != "EUR" for row in rows)


@cs.task
def nothing_in(path: str) -> Summary:
    """What stands for a file without rows."""
    return summary_of(path, [])


def file_graph(path: str) -> Any:
    """One file's way: read by format, repaired where needed, summed up if there is anything in it."""
    rows: Any = cs.Router(
        format_of(path), {"csv": read_csv(path), "json": read_json(path), "log": read_log(path)}
    )
    repaired = cs.pipeline(
        rows,
        [
            lambda found: drop_doubles(found).run_if(has_doubles(found)),
            lambda found: convert(found).run_if(has_foreign_money(found)),
        ],
    )
    return cs.Router(has_rows(rows), {True: summarise(path, repaired), False: nothing_in(path)})


def graph(paths: Sequence[str]) -> Any:
    """The whole target."""
    return report([file_graph(path) for path in paths])


def plain(paths: Sequence[str]) -> Report:
    """The same report without a cluster."""
    readers: dict[str, Callable[[str], list[Row]]] = {
        "csv": rows_of_csv,
        "json": rows_of_json,
        "log": rows_of_log,
    }
    summaries = []
    for path in paths:
        rows: list[Row] = readers[format_of_file(path)](path)
        summaries.append(summary_of(path, in_euros(without_doubles(rows))))
    return report_of(summaries)


# --- a sample ------------------------------------------------------------------------------------


def write_sample(directory: Path, files: int = 24, seed: int = 7) -> list[str]:
    """Writes files of all formats, some empty, some with doubles or foreign money; gives their paths."""
    dice = random.Random(seed)
    paths = []
    for number in range(files):
        rows = [
            Row(
                shop=dice.choice(["north", "south", "harbour"]),
                item=dice.choice(["tea", "rope", "lamp"]),
                amount=dice.randrange(1, 2_000) / 10,
                currency=dice.choice(list(CURRENCIES)) if number % 3 == 0 else "EUR",
            )
            for _ in range(0 if number % 8 == 5 else dice.randrange(3, 30))
        ]
        rows += rows[:2] if number % 4 == 1 else []
        path = directory / f"sales-{number:02}.{FORMATS[number % 3]}"
        path.write_text(_text(rows, FORMATS[number % 3]))
        paths.append(str(path))
    return paths


def _text(rows: list[Row], form: str) -> str:
    if form == "json":
        return json.dumps(rows)
    if form == "csv":
        lines = ["shop,item,amount,currency"]
        return "\n".join([*lines, *(",".join(map(str, row.values())) for row in rows)]) + "\n"
    return "".join(" ".join(f"{name}={value}" for name, value in row.items()) + "\n" for row in rows)


def main() -> None:
    """Runs the example."""
    parser = argparse.ArgumentParser(description="A report over sales files of several formats.")
    parser.add_argument("directory", nargs="?", help="where the files are; default: a sample")
    chosen = parser.parse_args().directory
    with tempfile.TemporaryDirectory() as sample:
        paths = (
            sorted(str(path) for path in Path(chosen).iterdir() if path.is_file())
            if chosen
            else write_sample(Path(sample))
        )
        found = cs.run(graph(paths), name="sales")
    print(f"{found['rows']} rows in {found['files']} files; empty: {', '.join(found['empty']) or 'none'}")
    for shop, total in found["totals"].items():
        print(f"{shop:<10} {total:>12,.2f} EUR")


if __name__ == "__main__":
    main()
