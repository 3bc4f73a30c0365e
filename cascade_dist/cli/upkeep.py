"""Commands that keep house: runs as files, and what nobody needs any more."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cascade_dist.cli.app import Address, OutputFormat, RunId, TokenFile, app, connect, output_format
from cascade_dist.cli.output import Output, emit_json, print_garbage
from cascade_dist.client.records import Garbage
from cascade_dist.config import format_size
from cascade_dist.errors import ConfigError
from cascade_dist.storage.leftovers import default_bases, find_leftovers, remove_leftovers

NAMES_MAX = 100

File = Annotated[Path, typer.Argument(metavar="FILE", help="A run file.")]


@app.command("export")
def export(
    run: RunId,
    file: File,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
    address: Address = None,
    token_file: TokenFile = None,
    output: OutputFormat = None,
) -> None:
    """Write a whole run to one file, for `cascade import`. The scheduler's state has to be in Redis."""
    if file.exists() and not force:
        raise ConfigError(f"{file} is there already: give another name, or --force to replace it")
    with connect(address, token_file) as cluster:
        told = cluster.export_run(run, file)
    if output_format(output) is Output.JSON:
        emit_json(told.to_dict())
    else:
        print(
            f"run {run}: {told.results} results and {told.blobs} blobs in {file} ({format_size(told.bytes)})",
            flush=True,
        )


@app.command("import")
def import_(
    file: File,
    run_id: Annotated[
        str | None,
        typer.Option("--run-id", metavar="NEW", help="The id that it is to have. Default: its own."),
    ] = None,
    address: Address = None,
    token_file: TokenFile = None,
    output: OutputFormat = None,
) -> None:
    """Store a run that was exported elsewhere. Workers will load its pickles: import only what you trust."""
    with connect(address, token_file) as cluster:
        told = cluster.import_run(file, run_id=run_id)
    if output_format(output) is Output.JSON:
        emit_json(told.to_dict())
    elif told.existed:
        print(f"run {told.run_id} was here already ({told.status}); nothing was changed", flush=True)
    else:
        print(
            f"run {told.run_id} ({told.status}): {told.results} results and {told.blobs} blobs are here now",
            flush=True,
        )


@app.command()
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be freed.")] = False,
    blobs_idle: Annotated[
        str, typer.Option("--blobs-idle", metavar="DURATION", help="Blobs that were used in this time stay.")
    ] = "1h",
    directory: Annotated[
        list[Path] | None,
        typer.Option(
            "--dir", metavar="DIR", help="Where else workers of this machine put their files; repeat it."
        ),
    ] = None,
    local: Annotated[
        bool, typer.Option("--local", help="Only what dead processes left on this machine; ask no scheduler.")
    ] = False,
    address: Address = None,
    token_file: TokenFile = None,
    output: OutputFormat = None,
) -> None:
    """Free what nobody needs any more: keys of runs that are gone, blobs, what dead workers left here."""
    for base in directory or ():
        if not base.is_dir():
            raise ConfigError(f"--dir {str(base)!r} is no directory")
    found: list[Garbage] = []
    if not local:
        with connect(address, token_file) as cluster:
            found = cluster.collect_garbage(dry_run=dry_run, blobs_idle=blobs_idle)
    found.append(_leftovers(directory or [], dry_run=dry_run))
    if output_format(output) is Output.JSON:
        emit_json({"dry_run": dry_run, "freed": [kind.to_dict() for kind in found]})
    else:
        print("would be freed:" if dry_run else "freed:", flush=True)
        print_garbage(found)


def _leftovers(further: list[Path], *, dry_run: bool) -> Garbage:
    leftovers = find_leftovers([*default_bases(), *further])
    if not dry_run:
        leftovers = remove_leftovers(leftovers)
    size = sum(leftover.bytes for leftover in leftovers)
    names = tuple(str(leftover.path) for leftover in leftovers[:NAMES_MAX])
    return Garbage("leftovers", len(leftovers), size, names)
