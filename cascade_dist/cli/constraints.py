"""Commands about limits on what may start."""

from __future__ import annotations

from typing import Annotated

import typer

from cascade_dist.cli.app import Address, OutputFormat, TokenFile, app, connect, output_format
from cascade_dist.cli.output import Output, emit_json, print_constraints
from cascade_dist.client.constraints import Constraint
from cascade_dist.errors import ConfigError

__all__ = ["constraint"]

constraint = typer.Typer(
    name="constraint", help="Limits on what may start, while runs go on.", no_args_is_help=True
)
app.add_typer(constraint)

Scope = Annotated[str, typer.Argument(metavar="SCOPE", help="global, task:NAME (with * and ?) or run:ID.")]
Ttl = Annotated[
    str | None, typer.Option("--ttl", metavar="DURATION", help="It ends by itself after, such as 5m.")
]


def _print(found: list[Constraint], output: Output | None, *, heading: str = "") -> None:
    if output_format(output) is Output.JSON:
        emit_json([limit.to_dict() for limit in found])
    else:
        if heading:
            print(heading, flush=True)
        print_constraints(found)


@constraint.command("set")
def set_(
    scope: Scope,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", help="How many may run at a time.")
    ] = None,
    rate: Annotated[
        str | None, typer.Option("--rate", metavar="R", help="How many may start, such as 5/s or 10/m.")
    ] = None,
    capacity: Annotated[
        float | None, typer.Option("--capacity", metavar="C", help="With --rate: how many at once.")
    ] = None,
    pause: Annotated[bool, typer.Option("--pause", help="Nothing may start.")] = False,
    ttl: Ttl = None,
    address: Address = None,
    token_file: TokenFile = None,
    output: OutputFormat = None,
) -> None:
    """Set one limit; one of the same scope and type is replaced."""
    if sum((limit is not None, rate is not None, pause)) != 1:
        raise ConfigError("say which limit to set: one of --limit N, --rate R and --pause")
    if capacity is not None and rate is None:
        raise ConfigError("--capacity goes with --rate")
    with connect(address, token_file) as cluster:
        if limit is not None:
            made = cluster.set_concurrency(scope, limit, ttl=ttl)
        elif rate is not None:
            made = cluster.set_rate_limit(scope, rate, capacity=capacity, ttl=ttl)
        else:
            made = cluster.pause(scope, ttl=ttl)
    _print([made], output)


@constraint.command("list")
def list_(address: Address = None, token_file: TokenFile = None, output: OutputFormat = None) -> None:
    """List the limits that hold."""
    with connect(address, token_file) as cluster:
        found = cluster.constraints()
    _print(found, output)


@constraint.command("clear")
def clear(
    scope: Annotated[
        str | None, typer.Argument(metavar="[SCOPE]", help="Those of this scope.", show_default=False)
    ] = None,
    type_: Annotated[
        str | None, typer.Option("--type", help="Those of this type: pause, concurrency or rate_limit.")
    ] = None,
    id_: Annotated[str | None, typer.Option("--id", help="The one with this id.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    address: Address = None,
    token_file: TokenFile = None,
    output: OutputFormat = None,
) -> None:
    """Take limits away; what waited for them goes on."""
    if all_ == any(given is not None for given in (scope, type_, id_)):
        raise ConfigError("say which constraints to clear: SCOPE, --type, --id, or --all")
    with connect(address, token_file) as cluster:
        found = cluster.clear_constraints(scope, type_, id_)
    if not found and output_format(output) is not Output.JSON:
        print("there was nothing to clear", flush=True)
        return
    _print(found, output, heading=f"cleared {len(found)}:")


@app.command()
def pause(
    scope: Scope,
    ttl: Ttl = None,
    address: Address = None,
    token_file: TokenFile = None,
    output: OutputFormat = None,
) -> None:
    """Let nothing more start; what runs goes on."""
    with connect(address, token_file) as cluster:
        made = cluster.pause(scope, ttl=ttl)
    _print([made], output)


@app.command()
def resume(
    scope: Scope, address: Address = None, token_file: TokenFile = None, output: OutputFormat = None
) -> None:
    """Take the pause of a scope away, and nothing else."""
    with connect(address, token_file) as cluster:
        resumed = cluster.resume(scope)
    if output_format(output) is Output.JSON:
        emit_json({"scope": scope, "resumed": resumed})
    else:
        print(f"{scope}: {'goes on' if resumed else 'was not paused'}", flush=True)
