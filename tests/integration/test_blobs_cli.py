"""`cascade blobs`, against a cluster of real processes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cascade_dist as cs
from cascade_dist.cli.__main__ import run
from cascade_dist.codec.cid import cid_of, cid_to_text

pytestmark = pytest.mark.integration

MISSING = cid_to_text(cid_of(b"nobody has put this"))


@pytest.fixture
def cli(cluster_address: str, capfdbinary: pytest.CaptureFixture[bytes]) -> Callable[..., tuple[int, bytes]]:
    """Runs a command line; its exit code, and what it printed."""

    def call(*arguments: str) -> tuple[int, bytes]:
        capfdbinary.readouterr()
        code = run(["-a", cluster_address, "blobs", *arguments])
        found = capfdbinary.readouterr()
        return code, found.out if code == 0 else found.err

    return call


@pytest.fixture
def stored(cluster_address: str) -> cs.Stored:
    """An object in the cluster."""
    with cs.connect(cluster_address) as cluster:
        return cluster.put(os.urandom(3_000_000))


def test_ls(cli: Any, stored: cs.Stored) -> None:
    code, out = cli("ls")
    assert code == 0
    assert any(stored.cid.encode() in line and b"2.9 MiB" in line for line in out.splitlines())
    _, told = cli("ls", "-o", "json")
    [found] = [blob for blob in json.loads(told) if blob["cid"] == stored.cid]
    assert (found["size_bytes"], found["in_use"], found["pinned"]) == (stored.size, False, False)


def test_get(cli: Any, stored: cs.Stored, tmp_path: Path) -> None:
    file = tmp_path / "blob"
    code, out = cli("get", stored.cid, str(file))
    assert (code, b"2.9 MiB in" in out) == (0, True)
    assert cid_to_text(cid_of(file.read_bytes())) == stored.cid
    code, err = cli("get", stored.cid, str(file))
    assert (code, b"is there already" in err) == (2, True)
    _, told = cli("get", stored.cid, str(file), "--force", "-o", "json")
    assert json.loads(told) == {"cid": stored.cid, "size_bytes": stored.size, "file": str(file)}
    assert cli("get", stored.cid, "-") == (0, file.read_bytes())
    assert cli("get", stored.cid, "-", "-o", "json")[0] == 2
    assert os.listdir(tmp_path) == ["blob"]
    assert file.stat().st_mode & 0o777 == 0o600, "it may be secret"
    nowhere = tmp_path / "nowhere" / "blob"
    code, err = cli("get", stored.cid, str(nowhere))
    assert (code, err) == (2, f"error: {nowhere} cannot be written: No such file or directory\n".encode())


def test_pin_and_unpin(cli: Any, stored: cs.Stored) -> None:
    assert cli("pin", stored.cid) == (0, f"{stored.cid} is pinned\n".encode())
    assert b"pinned" in next(line for line in cli("ls")[1].splitlines() if stored.cid.encode() in line)
    assert json.loads(cli("unpin", stored.cid, MISSING, "-o", "json")[1]) == [
        {"cid": stored.cid, "was_pinned": True},
        {"cid": MISSING, "was_pinned": False},
    ]
    assert cli("unpin", stored.cid) == (0, f"{stored.cid} was not pinned\n".encode())
    assert json.loads(cli("pin", stored.cid, "-o", "json")[1]) == [{"cid": stored.cid, "pinned": True}]
    cli("unpin", stored.cid)


@pytest.mark.parametrize("arguments", [["get", MISSING, "file"], ["pin", MISSING]])
def test_what_is_not_there_is_named(
    cli: Any, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, err = cli(*arguments)
    assert (code, f"does not have blob {MISSING}".encode() in err) == (1, True)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("arguments", [["get", "Qm", "file"], ["pin", "bafy"], ["unpin", "x"], ["pin"]])
def test_what_is_no_content_id_is_wrong_usage(cli: Any, arguments: list[str]) -> None:
    assert cli(*arguments)[0] == 2
