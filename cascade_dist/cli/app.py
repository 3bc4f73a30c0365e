"""The commands of ``cascade`` and their options."""

from __future__ import annotations

import contextlib
import platform
import sys
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from cascade_dist import client
from cascade_dist._version import __version__
from cascade_dist.cli.output import (
    Output,
    emit_json,
    print_run,
    print_runs,
    print_status,
    print_value,
    print_workers,
)
from cascade_dist.client import events
from cascade_dist.config import DEFAULT_PORT, load_settings, parse_duration
from cascade_dist.errors import CascadeError, ConfigError, SerializationError

__all__ = ["app"]

app = typer.Typer(
    name="cascade",
    help="Look after clusters and runs of Cascade Dist.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

NODES_SHOWN = 20


@dataclass
class Common:
    """Options that stand before the command."""

    address: str | None = None
    token_file: str | None = None
    output: Output | None = None
    debug: bool = False


common = Common()

Address = Annotated[
    str | None,
    typer.Option(
        "--address", "-a", metavar="HOST:PORT", help="The scheduler. Default: CASCADE_ADDRESS, the files."
    ),
]
TokenFile = Annotated[
    str | None, typer.Option("--token-file", metavar="FILE", help="A file that holds the cluster's token.")
]
OutputFormat = Annotated[Output | None, typer.Option("--output", "-o", help="How to print.")]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="The run's id.")]


@app.callback()
def _before(
    address: Address = None,
    token_file: TokenFile = None,
    output: OutputFormat = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    common.address, common.token_file, common.output = address, token_file, output
    common.debug = debug


def output_format(given: Output | None) -> Output:
    """How to print."""
    return given or common.output or Output.TEXT


def _settings(address: str | None, token_file: str | None) -> tuple[str | None, str | None]:
    return address or common.address, token_file or common.token_file


def connect(address: str | None, token_file: str | None, **options: Any) -> client.Cluster:
    """The cluster that is meant; where nothing is configured, the one that `cascade up` starts."""
    address, token_file = _settings(address, token_file)
    if address is None and load_settings("client")["address"] is None:
        address = f"127.0.0.1:{DEFAULT_PORT}"
    return client.connect(address, token_file=token_file, **options)


@app.command()
def status(address: Address = None, token_file: TokenFile = None, output: OutputFormat = None) -> None:
    """Show the cluster in numbers."""
    with connect(address, token_file) as cluster:
        found = cluster.status()
    if output_format(output) is Output.JSON:
        emit_json(found.to_dict())
    else:
        print_status(found)


@app.command()
def workers(address: Address = None, token_file: TokenFile = None, output: OutputFormat = None) -> None:
    """List the workers."""
    with connect(address, token_file) as cluster:
        found = cluster.workers()
    if output_format(output) is Output.JSON:
        emit_json([worker.to_dict() for worker in found])
    else:
        print_workers(found)


@app.command()
def run(
    target: Annotated[str, typer.Argument(metavar="MODULE:TARGET", help="A lazy result, by its place.")],
    param: Annotated[
        list[str] | None, typer.Option("--param", "-p", metavar="NAME=VALUE", help="A param; repeat it.")
    ] = None,
    run_id: Annotated[str | None, typer.Option("--run-id", help="The run's id; the same joins it.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run of --run-id: what is done is not run again.")
    ] = False,
    name: Annotated[str | None, typer.Option("--name", help="A name for people.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Print the run's id and leave it.")] = False,
    timeout: Annotated[
        str | None, typer.Option("--timeout", metavar="DURATION", help="Cancel the run after, such as 5m.")
    ] = None,
    progress: Annotated[bool | None, typer.Option(help="Show a bar. Default: on a terminal.")] = None,
    logs: Annotated[bool, typer.Option(help="Print what tasks print.")] = True,
    address: Address = None,
    token_file: TokenFile = None,
    output: OutputFormat = None,
) -> None:
    """Run a target and print its value.

    MODULE is a dotted name or a file, TARGET a lazy result in it or a function that returns one. Without an
    address a private cluster is started for it.
    """
    from cascade_dist.cli.targets import load_target, parse_params

    seconds = None if timeout is None else parse_duration(timeout)
    params = parse_params(param or [])
    address, token_file = _settings(address, token_file)
    if detach and address is None and load_settings("client")["address"] is None:
        raise ConfigError(
            "--detach leaves the run to a cluster that goes on: give --address, or set CASCADE_ADDRESS"
        )
    if resume and run_id is None:
        raise ConfigError("--resume goes on with a run: give its id with --run-id")
    as_json = output_format(output) is Output.JSON
    if detach:
        logs = progress = False
    # Standard output is the JSON's alone: what the tasks and their module print goes to stderr then.
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        made = load_target(target)
        with client.connect(address, token_file=token_file, logs=logs, progress=progress) as cluster:
            handle = cluster.submit(
                made, params=params, run_id=run_id, resume=resume, name=name, detach=detach
            )
            told = {"run_id": handle.id, "status": str(handle.status)}
            if not detach:
                value = _wait(handle, seconds, timeout)
                told |= {"status": str(handle.status), "value": value}
    if as_json:
        emit_json(told)
    elif detach:
        print(handle.id, flush=True)
    else:
        print_value(value)


def _wait_for_end(handle: client.Run[Any], seconds: float | None, timeout: str | None) -> None:
    """Waits for a run whose value is of no interest here: its classes may not even be known."""
    try:
        error = handle.exception(seconds)
    except TimeoutError:
        raise TimeoutError(f"run {handle.id} was not done within {timeout}; it goes on") from None
    except CancelledError:
        raise _cancelled(handle) from None
    if error is not None and not isinstance(error, SerializationError):
        raise error


@app.command("resume-run")
def resume_run(
    run: RunId,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for its end.")] = False,
    timeout: Annotated[str | None, typer.Option(metavar="DURATION", help="How long to wait at most.")] = None,
    progress: Annotated[bool | None, typer.Option(help="Show a bar. Default: on a terminal.")] = None,
    address: Address = None,
    token_file: TokenFile = None,
    output: OutputFormat = None,
) -> None:
    """Let a run that failed or was cancelled go on: only what has no stored result is executed."""
    seconds = None if timeout is None else parse_duration(timeout)
    with connect(address, token_file, progress=False if detach else progress) as cluster:
        handle = cluster.resume_run(run)
        if not detach:
            _wait_for_end(handle, seconds, timeout)
        told = {"run_id": handle.id, "status": str(handle.status)}
    if output_format(output) is Output.JSON:
        emit_json(told)
    else:
        print(f"run {run}: {told['status']}", flush=True)


def _wait(handle: client.Run[Any], seconds: float | None, timeout: str | None) -> Any:
    try:
        return handle.result(seconds)
    except TimeoutError:
        if handle.done():
            raise
        raise TimeoutError(f"run {handle.id} was not done within {timeout} and is cancelled") from None
    except CancelledError:
        raise _cancelled(handle) from None


def _cancelled(handle: client.Run[Any]) -> CascadeError:
    return CascadeError(f"run {handle.id} was cancelled")


@app.command()
def runs(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many at most.")] = 20,
    address: Address = None,
    token_file: TokenFile = None,
    output: OutputFormat = None,
) -> None:
    """List the runs, newest first."""
    with connect(address, token_file) as cluster:
        found = cluster.runs(limit)
    if output_format(output) is Output.JSON:
        emit_json([run.to_dict() for run in found])
    else:
        print_runs(found)


@app.command()
def show(
    run: RunId,
    nodes: Annotated[int, typer.Option(min=0, help="Unfinished nodes to list.")] = NODES_SHOWN,
    address: Address = None,
    token_file: TokenFile = None,
    output: OutputFormat = None,
) -> None:
    """Show one run and what of it is not finished."""
    with connect(address, token_file) as cluster:
        found = cluster.describe(run, nodes=nodes)
    if output_format(output) is Output.JSON:
        emit_json(found.to_dict())
    else:
        print_run(found)


@app.command()
def explain(
    run: RunId,
    node: Annotated[str, typer.Argument(metavar="NODE", help="Its index, task's name, or id's beginning.")],
    address: Address = None,
    token_file: TokenFile = None,
    output: OutputFormat = None,
) -> None:
    """Say why a node waits, ran where it did, was skipped, or hit or missed a cache."""
    with connect(address, token_file) as cluster:
        found = cluster.explain(run, node)
    if output_format(output) is Output.JSON:
        emit_json([explanation.to_dict() for explanation in found])
    else:
        print("\n\n".join(map(str, found)), flush=True)


@app.command()
def cancel(
    run: RunId, address: Address = None, token_file: TokenFile = None, output: OutputFormat = None
) -> None:
    """Stop a run's work."""
    with connect(address, token_file) as cluster:
        state = cluster.cancel(run)
    if output_format(output) is Output.JSON:
        emit_json({"run_id": run, "status": str(state)})
    else:
        print(f"run {run}: {state}", flush=True)


@app.command()
def logs(
    run: RunId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run has ended.")] = False,
    address: Address = None,
    token_file: TokenFile = None,
    output: OutputFormat = None,
) -> None:
    """Print what a run's tasks printed."""
    as_json = output_format(output) is Output.JSON
    with connect(address, token_file) as cluster:
        for event in cluster.events(run, follow=follow):
            if not isinstance(event, events.LogLine):
                continue
            if as_json:
                emit_json(event.to_dict())
            else:
                stream = sys.stderr if event.stream == "stderr" else sys.stdout
                print(f"({event.task} {event.worker}) {event.text}", file=stream, flush=True)


@app.command()
def version(output: OutputFormat = None) -> None:
    """Print versions."""
    import grpc

    from cascade_dist.wire import PROTOCOL_VERSION

    protocol = ".".join(map(str, PROTOCOL_VERSION))
    if output_format(output) is Output.JSON:
        emit_json(
            {
                "cascade": __version__,
                "protocol": protocol,
                "python": platform.python_version(),
                "grpc": grpc.__version__,
            }
        )
    else:
        python = platform.python_version()
        print(f"cascade-dist {__version__} (protocol {protocol}, Python {python}, gRPC {grpc.__version__})")


@app.command()
def up(
    workers: Annotated[int, typer.Option("--workers", "-w", min=1, help="Worker processes.")] = 2,
    slots: Annotated[str, typer.Option("--slots", metavar="N|auto", help="Slots of each worker.")] = "1",
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option("--port", help="Port to listen on; 0: any free one.")] = None,
    state: Annotated[
        str | None, typer.Option("--state", metavar="URL", help="memory:// or a Redis URL.")
    ] = None,
    token_file: TokenFile = None,
    output: OutputFormat = None,
) -> None:
    """Start a scheduler and workers on this machine, until Ctrl-C."""
    from cascade_dist.cli.up import up as start

    checked = load_settings("client", {"slots": slots})["slots"]
    start(
        workers=workers,
        slots=checked,
        host=host,
        port=port,
        state=state,
        token_file=token_file or common.token_file,
        output=output_format(output),
    )
