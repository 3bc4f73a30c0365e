"""Settings, and the small texts in which people write them."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cascade_dist
from cascade_dist.config import (
    ConfigError,
    Settings,
    format_duration,
    format_size,
    known_environment,
    load_settings,
    parse_amounts,
    parse_bool,
    parse_duration,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30.0),
        ("5m", 300.0),
        ("1h 30m", 5400.0),
        ("1h30m5s", 5405.0),
        ("250ms", 0.25),
        ("1.5 min", 90.0),
        ("2d", 172_800.0),
        ("10us", 1e-5),
        ("7", 7.0),
        ("0", 0.0),
        (3, 3.0),
        (0.5, 0.5),
    ],
)
def test_durations(text: Any, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "soon", "5x", "-3s", "5 5s", "1h 30", "s", -1, float("nan"), float("inf")]
)
def test_what_is_no_duration(text: Any) -> None:
    with pytest.raises(ConfigError, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4GiB", 4 << 30),
        ("64 KiB", 65_536),
        ("1.5GB", 1_500_000_000),
        ("12", 12),
        (7, 7),
        ("3b", 3),
        ("1mib", 1 << 20),
    ],
)
def test_sizes(text: Any, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "big", "4GX", "-1", "1 2", -5, True])
def test_what_is_no_size(text: Any) -> None:
    with pytest.raises(ConfigError, match="is not a size"):
        parse_size(text)


def test_amounts() -> None:
    assert parse_amounts("gpu=2, memory_gb=8.5,x.y-z=0.000001") == {
        "gpu": 2_000_000,
        "memory_gb": 8_500_000,
        "x.y-z": 1,
    }
    assert parse_amounts("") == {}
    assert parse_amounts({"gpu": 1, "half": 0.5}) == {"gpu": 1_000_000, "half": 500_000}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("gpu", "write it like 'gpu=2'"),
        ("gpu=-1", "0 or more"),
        ("gpu=many", "not a number"),
        ("gpu=nan", "finite"),
        ("gpu=1e-7", "millionth"),
        ("gpu=1e30", "too large"),
        ("1x=1", "not a name"),
        ("=1", "not a name"),
        ("a=1,a=2", "twice"),
    ],
)
def test_bad_amounts(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_amounts(text)


def test_yes_and_no() -> None:
    assert all(parse_bool(text) for text in ("true", "Yes", "on", "1", True))
    assert not any(parse_bool(text) for text in ("false", "NO", "off", "0", False))
    with pytest.raises(ConfigError, match="neither yes nor no"):
        parse_bool("maybe")


@pytest.mark.parametrize(
    ("format_", "value", "text"),
    [
        (format_duration, 0.0041, "4.1ms"),
        (format_duration, 0.25, "250ms"),
        (format_duration, 12.34, "12.3s"),
        (format_duration, 59.99, "1m 00s"),
        (format_duration, 303, "5m 03s"),
        (format_duration, 5400, "1h 30m"),
        (format_duration, 187_200, "2d 4h"),
        (format_size, 512, "512 B"),
        (format_size, 1536, "1.5 KiB"),
        (format_size, 200 << 20, "200.0 MiB"),
        (format_size, 5 << 50, "5120.0 TiB"),
    ],
)
def test_for_people(format_: Callable[[Any], str], value: Any, text: str) -> None:
    assert format_(value) == text


# --- settings -------------------------------------------------------------------------------------


def load(
    section: str = "client",
    arguments: dict[str, object | None] | None = None,
    environ: dict[str, str] | None = None,
    files: list[Path] | None = None,
) -> Settings:
    return load_settings(section, arguments, environ=environ or {}, files=files or [])


def test_argument_environment_file_default(tmp_path: Path) -> None:
    first, second = tmp_path / "cascade.toml", tmp_path / "config.toml"
    first.write_text('address = "file1:1"\n[client]\nslots = 3\n')
    second.write_text('address = "file2:2"\nlog_level = "debug"\n[client]\nworkers = 7\nslots = 9\n')
    files = [first, tmp_path / "missing.toml", second]
    found = load(files=files)
    assert (found["address"], found["workers"], found["slots"]) == ("file1:1", 7, 3)
    assert found["log_level"] == "debug"
    assert found["reconnect_timeout"] == 60.0
    assert found.origin("address") == str(first)
    assert found.origin("reconnect_timeout") == "default"
    environ = {"CASCADE_ADDRESS": "env:1", "CASCADE_CLIENT__WORKERS": "5", "CASCADE_TOKEN": ""}
    found = load(environ=environ, files=files)
    assert (found["address"], found["workers"], found["token"]) == ("env:1", 5, None)
    assert found.origin("workers") == "CASCADE_CLIENT__WORKERS"
    found = load(
        arguments={"address": "arg:1", "workers": None, "slots": "auto"}, environ=environ, files=files
    )
    assert (found["address"], found["workers"], found["slots"]) == ("arg:1", 5, "auto")
    assert found.origin("address") == "argument"
    assert dict(found)["address"] == "arg:1"


def test_texts_are_parsed_wherever_they_come_from(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(
        '[worker]\nresources = {gpu = 2}\ncancel_grace = "2s"\n[scheduler]\ninfeasible_after = 5\n'
    )
    assert load("worker", files=[file])["resources"] == {"gpu": 2_000_000}
    assert load("worker", files=[file])["cancel_grace"] == 2.0
    assert load("scheduler", files=[file])["infeasible_after"] == 5.0
    assert load("worker", environ={"CASCADE_WORKER__RESOURCES": "gpu=1"})["resources"] == {"gpu": 1_000_000}
    assert load("scheduler", environ={"CASCADE_REDIS_URL": "redis://h"})["state"] == "redis://h"


def test_pyproject_has_a_table_for_us(tmp_path: Path) -> None:
    file = tmp_path / "pyproject.toml"
    file.write_text(
        '[project]\nname = "x"\n[tool.cascade]\naddress = "a:1"\n[tool.cascade.client]\nslots = 2\n'
    )
    found = load(files=[file])
    assert (found["address"], found["slots"]) == ("a:1", 2)
    file.write_text("this is not TOML, and not our business\n")
    assert load(files=[file])["address"] is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('adress = "x"', "unknown key 'adress'; did you mean 'address'"),
        ("[client]\nworker = 2", r"unknown key 'worker' in \[client\]; did you mean 'workers'"),
        ("[clint]\nworkers = 2", "unknown key 'clint'; did you mean 'client'"),
        ("zzz = 1", "unknown key 'zzz'; known are address"),
        ("client = 2", r"must be a table: \[client\]"),
        ("address = 5", "address: 5 must be text"),
        ("[client]\nworkers = 0", "client.workers: 0 must be a whole number"),
        ('log_level = "loud"', "'loud' must be one of debug"),
        ("[scheduler]\nport = 99999", "not a port"),
        ("not toml", "not valid TOML"),
    ],
)
def test_bad_files_are_errors_that_name_file_and_key(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "cascade.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=says) as caught:
        load("scheduler" if "port" in text else "client", files=[file])
    assert str(file) in str(caught.value)


def test_bad_variables_and_arguments() -> None:
    with pytest.raises(ConfigError, match="CASCADE_CLIENT__WORKERS: 'two'"):
        load(environ={"CASCADE_CLIENT__WORKERS": "two"})
    with pytest.raises(ConfigError, match="argument slots: 0"):
        load(arguments={"slots": 0})
    with pytest.raises(ConfigError, match="unknown setting 'slot'; did you mean 'slots'"):
        load(arguments={"slot": 1})


def test_the_usual_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "home"
    (home / "cascade").mkdir(parents=True)
    (home / "cascade" / "config.toml").write_text('address = "home:1"\nlog_level = "error"\n')
    environ = {"XDG_CONFIG_HOME": str(home)}
    assert load_settings("client", environ=environ)["address"] == "home:1"
    (tmp_path / "cascade.toml").write_text('address = "here:1"\n')
    found = load_settings("client", environ=environ)
    assert (found["address"], found["log_level"]) == ("here:1", "error")
    assert load_settings("client", environ={**environ, "CASCADE_CONFIG": ""})["address"] is None
    other = tmp_path / "other.toml"
    other.write_text('address = "other:1"\n')
    found = load_settings("client", environ={**environ, "CASCADE_CONFIG": str(other)})
    assert (found["address"], found["log_level"]) == ("other:1", None)
    with pytest.raises(ConfigError, match="CASCADE_CONFIG names"):
        load_settings("client", environ={"CASCADE_CONFIG": str(tmp_path / "missing")})


def test_every_variable_is_known() -> None:
    names = known_environment()
    assert {"CASCADE_ADDRESS", "CASCADE_TOKEN_FILE", "CASCADE_WORKER__SLOTS", "CASCADE_REDIS_URL"} <= set(
        names
    )
    assert "CASCADE_CONFIG" in names


# --- weight ---------------------------------------------------------------------------------------


def test_one_version(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert project.get("version", cascade_dist.__version__) == cascade_dist.__version__


def test_importing_the_package_is_light() -> None:
    heavy = (
        "[m for m in ('grpc', 'redis', 'aiohttp', 'pydantic', 'typer', 'rich', 'uvloop') if m in sys.modules]"
    )
    code = f"import sys, cascade_dist, cascade_dist.config; print({heavy})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert done.stdout == "[]\n"
