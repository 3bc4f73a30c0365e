"""Settings of all three processes, and the small texts in which people write them.

Where a value comes from, first match wins: argument > environment > file > default. Files, first match
wins key by key: ``./cascade.toml``, ``[tool.cascade]`` of ``./pyproject.toml``,
``~/.config/cascade/config.toml``, ``/etc/cascade/config.toml``. ``CASCADE_CONFIG`` names one file that is
read instead of these (empty: no file at all).

In a file, common keys stand at the top and those of one process in its table::

    address = "10.0.0.5:7420"
    token_file = "/etc/cascade/token"

    [scheduler]
    state = "redis://localhost:6379/0"

    [worker]
    slots = 4

In the environment a table's key is spelled with two underscores: ``CASCADE_WORKER__SLOTS=4``. Unknown keys
of a file are errors, because a misspelt key that is ignored costs an afternoon.

This module is a leaf: it imports the standard library and `cascade_dist.errors` alone.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, TypeVar

from cascade_dist.errors import ConfigError

__all__ = [
    "DEFAULT_PORT",
    "SECTIONS",
    "Resolved",
    "Setting",
    "Settings",
    "format_duration",
    "format_size",
    "known_environment",
    "load_settings",
    "option_type",
    "parse_amounts",
    "parse_bool",
    "parse_count",
    "parse_duration",
    "parse_size",
]

DEFAULT_PORT = 7420
MICROS = 1_000_000

T = TypeVar("T")

# --- small texts ---------------------------------------------------------------------------------

_SECONDS = {"us": "1e-6", "ms": "1e-3", "s": "1", "m": "60", "min": "60", "h": "3600", "d": "86400"}
_DURATION_PART = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*")

_BYTES = {
    "": 1,
    "b": 1,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
    "tib": 1 << 40,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*")
_AMOUNT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]*")


def parse_duration(text: str | float) -> float:
    """Seconds in ``"30s"``, ``"5m"``, ``"1h 30m"``, ``"250ms"`` or a plain number of seconds.

    Raises:
        ConfigError: (a `ValueError`) when the text is no duration, negative or not finite.
    """
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        if math.isfinite(text) and text >= 0:
            return float(text)
        raise ConfigError(f"{text!r} is not a duration: it must be a finite number of seconds, 0 or more")
    total, position, parts = Decimal(0), 0, 0
    source = str(text)
    while position < len(source):
        match = _DURATION_PART.match(source, position)
        unit = match.group(2).lower() if match else ""
        alone = not unit and match is not None and match.end() == len(source) and parts == 0
        if match is None or not (unit in _SECONDS or alone):
            parts = 0
            break
        total += Decimal(match.group(1)) * Decimal(_SECONDS.get(unit, "1"))
        position, parts = match.end(), parts + 1
    seconds = float(total)
    if not parts or not math.isfinite(seconds):
        raise ConfigError(f"{source!r} is not a duration; write it like '30s', '5m', '1h 30m' or '250ms'")
    return seconds


def parse_size(text: str | int) -> int:
    """Bytes in ``"4GiB"``, ``"64KiB"``, ``"1.5GB"`` or a plain number of bytes.

    Raises:
        ConfigError: (a `ValueError`) when the text is no size.
    """
    if isinstance(text, int) and not isinstance(text, bool) and text >= 0:
        return text
    match = _SIZE.fullmatch(str(text))
    factor = _BYTES.get(match.group(2).lower()) if match else None
    if match is None or factor is None:
        raise ConfigError(f"{text!r} is not a size; write it like '64KiB', '512MiB', '4GiB' or as bytes")
    return int(Decimal(match.group(1)) * factor)


def parse_amounts(text: str | Mapping[str, object]) -> dict[str, int]:
    """Amounts in millionths by name, from ``"gpu=2,memory_gb=8"`` or a mapping of names to numbers.

    Raises:
        ConfigError: (a `ValueError`) for a bad name, a bad or negative number, or a name given twice.
    """
    pairs: list[tuple[str, object]] = []
    if isinstance(text, Mapping):
        pairs = [(str(name), value) for name, value in text.items()]
    else:
        for part in filter(None, (piece.strip() for piece in str(text).split(","))):
            name, equals, number = part.partition("=")
            if not equals:
                raise ConfigError(f"{part!r} is not an amount; write it like 'gpu=2'")
            pairs.append((name.strip(), number.strip()))
    amounts: dict[str, int] = {}
    for name, value in pairs:
        if not _AMOUNT_NAME.fullmatch(name):
            raise ConfigError(f"{name!r} is not a name for an amount; use letters, digits, '_', '-' and '.'")
        if name in amounts:
            raise ConfigError(f"the amount {name!r} is given twice; give it once")
        amounts[name] = _micros(name, value)
    return amounts


def _micros(name: str, value: object) -> int:
    try:
        micros = Decimal(str(value)) * MICROS
    except InvalidOperation:
        raise ConfigError(f"amount {name!r}: {value!r} is not a number") from None
    if isinstance(value, bool) or not micros.is_finite() or micros < 0:
        raise ConfigError(f"amount {name!r}: {value!r} must be a finite number, 0 or more")
    if micros != micros.to_integral_value():
        raise ConfigError(f"amount {name!r}: {value!r} is finer than a millionth")
    if micros >= 2**63:
        raise ConfigError(f"amount {name!r}: {value!r} is too large")
    return int(micros)


def parse_bool(text: str | bool) -> bool:
    """A yes or no: ``true/false``, ``yes/no``, ``on/off``, ``1/0``.

    Raises:
        ConfigError: (a `ValueError`) for any other text.
    """
    lowered = str(text).strip().lower()
    if lowered in ("1", "true", "yes", "on"):
        return True
    if lowered in ("0", "false", "no", "off"):
        return False
    raise ConfigError(f"{text!r} is neither yes nor no; write 'true' or 'false'")


def parse_count(least: int) -> Callable[[str | int], int]:
    """A parser of whole numbers from `least` on; it raises ConfigError for anything else."""

    def parse(text: str | int) -> int:
        try:
            number = int(str(text))
        except ValueError:
            number = least - 1
        if number < least or isinstance(text, bool):
            raise ConfigError(f"{text!r} is not a whole number, {least} or more")
        return number

    return parse


def option_type(parse: Callable[[str], T]) -> Callable[[str], T]:
    """Makes argparse say what a parser says, instead of "invalid ... value"."""

    def read(text: str) -> T:
        try:
            return parse(text)
        except ConfigError as error:
            import argparse  # only commands need it

            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def format_duration(seconds: float) -> str:
    """A duration for people: ``"350ms"``, ``"12.3s"``, ``"5m 03s"``, ``"1h 30m"``, ``"2d 4h"``."""
    if seconds < 0.0995:
        return f"{seconds * 1000:.1f}ms"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d {whole % 86400 // 3600}h"


def format_size(size: int) -> str:
    """A size for people: ``"512 B"``, ``"1.5 MiB"``."""
    if size < 1024:
        return f"{size} B"
    value = float(size)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        value /= 1024
        if value < 1023.95 or unit == "TiB":
            break
    return f"{value:.1f} {unit}"


# --- settings ------------------------------------------------------------------------------------


def _text(value: object) -> str:
    if not isinstance(value, (str, Path)):
        raise ConfigError(f"{value!r} must be text")
    return str(value)


def _positive_int(value: object) -> int:
    try:
        number = int(str(value))
    except ValueError:
        number = -1
    if number < 1 or isinstance(value, bool):
        raise ConfigError(f"{value!r} must be a whole number, 1 or more")
    return number


def _port(value: object) -> int:
    try:
        number = int(str(value))
    except ValueError:
        number = -1
    if not 0 <= number <= 65535 or isinstance(value, bool):
        raise ConfigError(f"{value!r} is not a port; it must be from 0 (any free one) to 65535")
    return number


def _slots(value: object) -> int | str:
    return "auto" if value == "auto" else _positive_int(value)


def _choice(*choices: str) -> Callable[[Any], str]:
    def parse(value: object) -> str:
        lowered = str(value).lower()
        if lowered not in choices:
            raise ConfigError(f"{value!r} must be one of {', '.join(choices)}")
        return lowered

    return parse


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of one process.

    Attributes:
        name: its key in files and among arguments.
        parse: makes the value from a text of the environment or a value of a file.
        default: what holds when nothing is given.
        help: one line.
        env: further environment variables that set it, after its own.
    """

    name: str
    parse: Callable[[Any], Any]
    default: Any = None
    help: str = ""
    env: tuple[str, ...] = ()


COMMON = (
    Setting("address", _text, None, "host:port of the scheduler; several with commas between"),
    Setting("token", _text, None, "the cluster's token"),
    Setting("token_file", _text, None, "a file that holds the cluster's token"),
    Setting("tls_ca", _text, None, "PEM file with the authorities that are trusted"),
    Setting("tls_cert", _text, None, "PEM file with this side's certificate"),
    Setting("tls_key", _text, None, "PEM file with this side's private key"),
    Setting("log_level", _choice("debug", "info", "warning", "error"), None, "debug, info, warning or error"),
    Setting("log_format", _choice("text", "json"), "text", "text or json"),
)

CLIENT = (
    Setting("workers", _positive_int, 2, "workers of a private cluster"),
    Setting("slots", _slots, 1, "slots of each worker of a private cluster"),
    Setting("connect_timeout", parse_duration, 5.0, "how long connecting may take"),
    Setting("reconnect_timeout", parse_duration, 60.0, "how long a lost scheduler is looked for"),
)

SCHEDULER = (
    Setting("host", _text, "127.0.0.1", "address to listen on"),
    Setting("port", _port, DEFAULT_PORT, "port to listen on; 0: any free one"),
    Setting(
        "state",
        _text,
        "memory://",
        "where runs are remembered: memory:// or a Redis URL",
        ("CASCADE_REDIS_URL",),
    ),
    Setting("blobs", _text, None, "where blobs are: memory://, file:///DIRECTORY or ipfs://HOST:PORT"),
    Setting("closed", parse_bool, False, "an amount that no worker has now fails a submit at once"),
    Setting("infeasible_after", parse_duration, 60.0, "how long a node waits for an amount no worker has"),
    Setting("pool", parse_amounts, None, "cluster-wide amounts"),
    Setting(
        "fast_loops",
        parse_bool,
        True,
        "whether workers may go on with loops by themselves",
        ("CASCADE_FAST_LOOPS",),
    ),
    Setting("recovery_grace", parse_duration, 10.0, "how long recovered runs wait for their workers"),
    Setting("solver", _text, "native", "who orders graphs: native, csp, or an installed one"),
    Setting("solver_timeout", parse_duration, 5.0, "how long a solver may take for one graph"),
)

WORKER = (
    Setting("slots", _slots, "auto", "how many cpus it offers; auto: one per core"),
    Setting("resources", parse_amounts, None, "further amounts, like 'gpu=2,memory_gb=8'"),
    Setting("name", _text, None, "a name for people"),
    Setting("executors_max", _positive_int, None, "most sync executors at once"),
    Setting("object_dir", _text, None, "directory of large results"),
    Setting("local_dir", _text, None, "directory of everything else"),
    Setting("object_memory", parse_size, None, "most bytes of large results in object_dir"),
    Setting("spill_max", parse_size, None, "most bytes of large results in local_dir"),
    Setting("cancel_grace", parse_duration, 5.0, "from asking user code to stop until it is killed"),
    Setting("host", _text, "127.0.0.1", "address that other workers fetch from"),
    Setting("death_timeout", parse_duration, None, "exit when the scheduler is away for longer"),
    Setting("ipfs", _text, None, "IPFS node of this host: ipfs://HOST:PORT of its RPC, or none"),
)

SECTIONS: Mapping[str, tuple[Setting, ...]] = {"client": CLIENT, "scheduler": SCHEDULER, "worker": WORKER}


@dataclass(frozen=True, slots=True)
class Resolved:
    """A setting's value and where it came from, such as ``"argument"`` or ``"CASCADE_ADDRESS"``."""

    value: Any
    origin: str


class Settings(Mapping[str, Any]):
    """The settings of one process, by name."""

    def __init__(self, resolved: Mapping[str, Resolved]) -> None:
        self._resolved = dict(resolved)

    def __getitem__(self, name: str) -> Any:
        return self._resolved[name].value

    def __iter__(self) -> Iterator[str]:
        return iter(self._resolved)

    def __len__(self) -> int:
        return len(self._resolved)

    def origin(self, name: str) -> str:
        """Where the value came from."""
        return self._resolved[name].origin


def known_environment() -> list[str]:
    """Every environment variable that is read as a setting."""
    names = [_env_name(None, setting) for setting in COMMON]
    names += [_env_name(section, s) for section, settings in SECTIONS.items() for s in settings]
    names += [name for settings in SECTIONS.values() for s in settings for name in s.env]
    return [*names, "CASCADE_CONFIG"]


def load_settings(
    section: str,
    arguments: Mapping[str, object | None] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    files: Sequence[Path] | None = None,
    command: bool = False,
) -> Settings:
    """The common settings and those of one process.

    Args:
        section: ``"client"``, ``"scheduler"`` or ``"worker"``.
        arguments: what the caller was given; None values count as not given. Texts are parsed.
        environ: instead of ``os.environ``.
        files: instead of the usual files; those that do not exist are passed over.
        command: the arguments are options of a command line, and errors name them so.

    Raises:
        ConfigError: a value that cannot be read, or an unknown key; names it, where it stands and the remedy.
    """
    environ = os.environ if environ is None else environ
    given = {name: value for name, value in (arguments or {}).items() if value is not None}
    tables = _read_files(environ, files)
    resolved: dict[str, Resolved] = {}
    for setting in SECTIONS[section]:
        resolved[setting.name] = _resolve(section, setting, given, environ, tables, command)
    for setting in COMMON:
        # A process's own setting of the same name (none today) would win over the common one.
        resolved.setdefault(setting.name, _resolve(None, setting, given, environ, tables, command))
    unknown = sorted(set(given) - set(resolved))
    if unknown:
        raise ConfigError(f"unknown setting {unknown[0]!r}{_hint(unknown[0], resolved)}")
    return Settings(resolved)


def _env_name(section: str | None, setting: Setting) -> str:
    return f"CASCADE_{section + '__' if section else ''}{setting.name}".upper()


def _resolve(
    section: str | None,
    setting: Setting,
    given: Mapping[str, object],
    environ: Mapping[str, str],
    tables: Sequence[tuple[Path, Mapping[str, Any]]],
    command: bool,
) -> Resolved:
    if setting.name in given:
        where = "--" + setting.name.replace("_", "-") if command else f"argument {setting.name}"
        return Resolved(_parse(setting, given[setting.name], where), "argument")
    for variable in (_env_name(section, setting), *setting.env):
        text = environ.get(variable)
        if text:
            return Resolved(_parse(setting, text, variable), variable)
    for path, table in tables:
        source = table.get(section, {}) if section else table
        if setting.name in source:
            where = f"{path}: {section + '.' if section else ''}{setting.name}"
            return Resolved(_parse(setting, source[setting.name], where), str(path))
    return Resolved(setting.default, "default")


def _parse(setting: Setting, value: object, where: str) -> object:
    try:
        return setting.parse(value)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _read_files(
    environ: Mapping[str, str], files: Sequence[Path] | None
) -> list[tuple[Path, Mapping[str, Any]]]:
    chosen = environ.get("CASCADE_CONFIG")
    if files is None and chosen is not None:
        if not chosen:
            return []
        path = Path(chosen).expanduser()
        if not path.is_file():
            raise ConfigError(f"CASCADE_CONFIG names {chosen!r}, which is not a file; correct or unset it")
        files = [path]
    if files is None:
        home = environ.get("XDG_CONFIG_HOME") or "~/.config"
        files = [
            Path("cascade.toml"),
            Path("pyproject.toml"),
            Path(home, "cascade", "config.toml").expanduser(),
            Path("/etc/cascade/config.toml"),
        ]
    tables = []
    for path in files:
        table = _read_file(path)
        if table:
            _check_keys(path, table)
            tables.append((path, table))
    return tables


def _read_file(path: Path) -> Mapping[str, Any] | None:
    try:
        raw = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
    ours = path.name != "pyproject.toml"
    if not ours and b"tool.cascade" not in raw:
        # Somebody else's file: whether it is well formed is not our business.
        return None
    try:
        table: Mapping[str, Any] = tomllib.loads(raw.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    if ours:
        return table
    section = table.get("tool", {}).get("cascade")
    return section if isinstance(section, Mapping) else None


def _check_keys(path: Path, table: Mapping[str, Any]) -> None:
    common = {setting.name for setting in COMMON}
    for key, value in table.items():
        if key in SECTIONS:
            if not isinstance(value, Mapping):
                raise ConfigError(f"{path}: {key!r} must be a table: [{key}]")
            names = {setting.name for setting in SECTIONS[key]}
            for inner in value:
                if inner not in names:
                    raise ConfigError(f"{path}: unknown key {inner!r} in [{key}]{_hint(inner, names)}")
        elif key not in common:
            raise ConfigError(f"{path}: unknown key {key!r}{_hint(key, common | set(SECTIONS))}")


def _hint(key: str, known: Mapping[str, object] | set[str]) -> str:
    close = difflib.get_close_matches(key, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(sorted(known))}"
