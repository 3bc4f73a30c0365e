"""A command line for a target: an option for each of its params."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Final

from cascade_dist.graph.build import params_of
from cascade_dist.language.inputs import Param

__all__ = ["create_cli"]

_PLAIN: Final = (bool, int, float, str)


def create_cli(target: Any, **options: Any) -> Any:
    """A command that runs a target, with an option for each of its params; call it to run it.

    An option has the param's type, default and description; a param without default is required. What the
    run gives is printed, unless it is None.

    Args:
        target: as `cs.run`.
        options: as `cs.run`, for every run.

    Returns:
        A `typer.Typer`.
    """
    import typer

    params = {_option(param.name): param for param in params_of(target)}

    def command(**given: Any) -> None:
        from cascade_dist.client.api import run

        value = run(target, params=_given(params, given), **options)
        if value is not None:
            typer.echo(value)

    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [_parameter(name, param) for name, param in params.items()]
    )
    command.__annotations__ = {name: _kind(param) for name, param in params.items()}
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(command)
    return app


def _option(name: str) -> str:
    """The name of the Python parameter that stands for a param."""
    return "".join(char if char.isalnum() else "_" for char in name)


def _given(params: Mapping[str, Param], given: Mapping[str, Any]) -> dict[str, Any]:
    """What was said, by the params' own names; what was left out has its default."""
    return {params[name].name: value for name, value in given.items() if value is not None}


def _kind(param: Param) -> Any:
    return param.type if param.type in _PLAIN else str


def _parameter(name: str, param: Param) -> inspect.Parameter:
    import typer

    default = ... if param.required else param.default
    if default is not ... and default is not None and not isinstance(default, _PLAIN):
        default = None  # it is no text; left out, the param itself has it
    option = typer.Option(default, f"--{param.name.replace('_', '-')}", help=param.description or None)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=_kind(param))
