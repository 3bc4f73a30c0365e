"""Commands about the blob store: what is in it, and what is to stay."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cascade_dist.cli.app import Address, OutputFormat, TokenFile, app, connect, output_format
from cascade_dist.cli.output import Output, emit_json, print_blobs
from cascade_dist.codec.cid import cid_from_text
from cascade_dist.config import format_size
from cascade_dist.errors import ConfigError

__all__ = ["blobs"]

blobs = typer.Typer(
    name="blobs",
    help="Large arguments, functions, results and objects that were put, by content id.",
    no_args_is_help=True,
)
app.add_typer(blobs)

Cid = Annotated[str, typer.Argument(metavar="CID", help="A content id, as `cascade blobs ls` shows it.")]
Cids = Annotated[list[str], typer.Argument(metavar="CID…", help="Content ids.")]


def _checked(cid: str) -> str:
    try:
        cid_from_text(cid)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return cid


@blobs.command("ls")
def ls(address: Address = None, token_file: TokenFile = None, output: OutputFormat = None) -> None:
    """List the blobs, the least recently used first."""
    with connect(address, token_file) as cluster:
        found = cluster.blobs()
    if output_format(output) is Output.JSON:
        emit_json([blob.to_dict() for blob in found])
    else:
        print_blobs(found)


@blobs.command("get")
def get(
    cid: Cid,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where it goes; - is standard output.")],
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
    address: Address = None,
    token_file: TokenFile = None,
    output: OutputFormat = None,
) -> None:
    """Write a blob, as it is stored, to a file. Its bytes are checked."""
    cid = _checked(cid)
    if str(file) == "-":
        if output_format(output) is Output.JSON:
            raise ConfigError("-o json goes with a file: standard output is the blob's alone")
        with connect(address, token_file) as cluster:
            cluster.write_blob(cid, sys.stdout.buffer.write)
        sys.stdout.buffer.flush()
        return
    if file.exists() and not force:
        raise ConfigError(f"{file} is there already: give another name, or --force to replace it")
    with connect(address, token_file) as cluster:
        size = cluster.save_blob(cid, file)
    if output_format(output) is Output.JSON:
        emit_json({"cid": cid, "size_bytes": size, "file": str(file)})
    else:
        print(f"{format_size(size)} in {file}", flush=True)


@blobs.command("pin")
def pin(
    cids: Cids, address: Address = None, token_file: TokenFile = None, output: OutputFormat = None
) -> None:
    """Keep blobs until they are unpinned, whether anything needs them or not."""
    wanted = list(map(_checked, cids))
    with connect(address, token_file) as cluster:
        cluster.pin(*wanted)
    if output_format(output) is Output.JSON:
        emit_json([{"cid": cid, "pinned": True} for cid in wanted])
    else:
        for cid in wanted:
            print(f"{cid} is pinned", flush=True)


@blobs.command("unpin")
def unpin(
    cids: Cids, address: Address = None, token_file: TokenFile = None, output: OutputFormat = None
) -> None:
    """Keep blobs no longer than something needs them."""
    wanted = list(map(_checked, cids))
    with connect(address, token_file) as cluster:
        done = cluster.unpin(*wanted)
    if output_format(output) is Output.JSON:
        emit_json([{"cid": cid, "was_pinned": was} for cid, was in zip(wanted, done, strict=True)])
    else:
        for cid, was in zip(wanted, done, strict=True):
            print(f"{cid} {'is unpinned' if was else 'was not pinned'}", flush=True)
