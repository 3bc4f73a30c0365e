"""`python -m benchmarks`: figures of this project, its peers and the bare transport, side by side."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console

from benchmarks import loop, machine, objects, resume, state
from benchmarks.figures import MEASURES, OURS
from benchmarks.processes import adopt_orphans, stop_children
from benchmarks.report import NAMES, Report
from benchmarks.rounds import Absent, Round, Sizes, play

PEERS = ("ray", "dask")
OURSELVES = (OURS, "transport", "grpc")
SIDE_SECONDS = 300.0


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    default = Sizes()
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "measure",
        nargs="?",
        default="all",
        choices=[*MEASURES, "transport", "all"],
        help="what to measure; `transport`: the bare transport by itself, direct and by gRPC (default: all)",
    )
    parser.add_argument("--peers", default="ray,dask", help="`none`, or names from ray,dask (default: both)")
    parser.add_argument(
        "--without", default="", help="leave out `cascade` or `transport` (or both, with a comma)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything to a file as well")
    parser.add_argument("--markdown", action="store_true", help="print the figures as the README's table too")
    parser.add_argument("--repeat", type=int, default=3, metavar="K", help="rounds (default: %(default)s)")
    for name, help_ in (
        ("tasks", "no-op tasks"),
        ("trips", "round trips"),
        ("steps", "links of a chain"),
        ("waiting", "waiting tasks, for memory"),
    ):
        shown = f"{help_} (default: %(default)s)"
        parser.add_argument(f"--{name}", type=int, default=getattr(default, name), metavar="N", help=shown)
    parser.add_argument(
        "--timeout",
        type=float,
        default=SIDE_SECONDS,
        metavar="SECONDS",
        help="for one side in one round; past it the side is stopped and absent (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    for name in ("repeat", "tasks", "trips", "steps", "waiting"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be 1 or more")
    options.peers = [] if options.peers == "none" else options.peers.split(",")
    options.without = options.without.split(",") if options.without else []
    for given, known, option in (
        (options.peers, PEERS, "--peers"),
        (options.without, OURSELVES, "--without"),
    ):
        if unknown := set(given) - set(known):
            parser.error(f"{option}: unknown {', '.join(sorted(unknown))}; known are {', '.join(known)}")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 whatever the figures are; 1 if our own side or the transport crashed."""
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == ["loop"]:
        return loop.main(given[1:])
    if given[:1] == ["state"]:
        return state.main(given[1:])
    if given[:1] == ["objects"]:
        return objects.main(given[1:])
    if given[:1] == ["resume"]:
        return resume.main(given[1:])
    options = parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else 200)
    progress = Console(stderr=True)
    wanted = [name for name in MEASURES if options.measure in (name, "transport", "all")]
    sides = [OURS, "transport", *options.peers]
    if options.measure == "transport":
        sides = ["transport", "grpc"]
    elif options.measure == "memory":
        sides = [OURS]
    sides = [side for side in sides if side not in options.without]
    sizes = Sizes(options.tasks, options.trips, options.steps, options.waiting)
    report = Report(machine.describe(), sizes, options.repeat)
    adopt_orphans()
    found: dict[str, list[Round]] = {}
    try:
        for number, side, outcome in play(sides, wanted, sizes, options.repeat, options.timeout):
            if isinstance(outcome, Absent):
                report.absent.append(outcome)
                progress.print(f"round {number + 1}: {NAMES[side]}: absent")
            else:
                found.setdefault(side, []).append(outcome)
                progress.print(f"round {number + 1}: {NAMES[side]}: done")
    except KeyboardInterrupt:
        progress.print("stopped; what was measured until then:")
    finally:
        stop_children()
    for side, rounds in found.items():
        report.add(side, rounds)
    report.print(console)
    if options.markdown:
        print(report.markdown())
    if options.json:
        options.json.write_text(json.dumps(report.as_json(), indent=2) + "\n", encoding="utf-8")
    return int(any(absent.side in OURSELVES for absent in report.absent))


if __name__ == "__main__":
    sys.exit(main())
