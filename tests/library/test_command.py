"""A command line for a target."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

import cascade_dist as cs
from cascade_dist.client import api
from cascade_dist.library.command import create_cli


@cs.task
def greet(name: str, count: int, loud: bool = False) -> str:
    return " ".join([f"Hello {name}!"] * count)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the command gave to `run`, instead of running it."""
    calls: list[dict[str, Any]] = []

    def run(target: Any, *, params: dict[str, Any], **options: Any) -> str:
        calls.append({**params, **options})
        return "the value"

    monkeypatch.setattr(api, "run", run)
    return calls


def target() -> Any:
    name = cs.Param("name", description="Who is greeted")
    return greet(name, cs.Param("count", default=1, type=int), cs.Param("be-loud", default=False, type=bool))


def test_options_have_type_default_and_help(ran: list[dict[str, Any]]) -> None:
    shown = CliRunner().invoke(create_cli(target()), ["--help"], env={"COLUMNS": "120"})
    assert shown.exit_code == 0
    assert "--name" in shown.output
    assert "Who is greeted" in shown.output
    assert "int" in shown.output.lower()
    assert "default: 1" in shown.output
    assert "--be-loud" in shown.output


def test_values_are_given_by_the_params_own_names(ran: list[dict[str, Any]]) -> None:
    shown = CliRunner().invoke(
        create_cli(target(), timeout=5), ["--name", "Ada", "--count", "2", "--be-loud"]
    )
    assert shown.exit_code == 0
    assert shown.output == "the value\n"
    assert ran == [{"name": "Ada", "count": 2, "be-loud": True, "timeout": 5}]


def test_a_required_param_is_asked_for(ran: list[dict[str, Any]]) -> None:
    shown = CliRunner().invoke(create_cli(target()), [])
    assert shown.exit_code == 2
    assert "--name" in shown.output
    assert ran == []


def test_a_value_of_the_wrong_type_is_refused(ran: list[dict[str, Any]]) -> None:
    shown = CliRunner().invoke(create_cli(target()), ["--name", "Ada", "--count", "many"])
    assert shown.exit_code == 2
    assert "--count" in shown.output


def test_a_default_that_is_no_text_stays_the_params_own(ran: list[dict[str, Any]]) -> None:
    shown = CliRunner().invoke(create_cli(greet(cs.Param("name", default=("a", "b")), 1)), [])
    assert shown.exit_code == 0, shown.output
    assert ran == [{}]


def test_only_targets_have_a_command() -> None:
    with pytest.raises(cs.GraphError):
        create_cli(42)
