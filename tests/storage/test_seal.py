"""The seal of stored records, and where its key comes from."""

from __future__ import annotations

import hmac
import pickle
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_dist.errors import ConfigError
from cascade_dist.storage.seal import SEAL_BYTES, Sealer, SealError, read_seal_key

KEY = b"k" * 32


@given(st.text(max_size=20), st.text(max_size=20), st.integers(0, 2**64 - 1), st.binary(max_size=200))
def test_a_sealed_record_opens(run: str, node: str, attempt: int, data: bytes) -> None:
    record = Sealer(KEY).seal(run, node, attempt, data)
    assert len(record) == len(data) + SEAL_BYTES
    assert Sealer(KEY).open(run, node, record) == (attempt, data)


def test_a_pickle_loads_with_its_seal_behind_it() -> None:
    record = Sealer(KEY).seal("r", "n", 1, pickle.dumps({"a": 1}, protocol=5))
    assert pickle.loads(record) == {"a": 1}


@pytest.mark.parametrize("size", [16, 64, 65, 4_096])
def test_the_code_is_an_hmac_over_the_place_and_the_bytes(size: int) -> None:
    key = bytes(range(256)) * 16
    record = Sealer(key[:size]).seal("run", "node", 7, b"data")
    message = record[4:12] + b"3:4:4:" + b"run" + b"node" + (7).to_bytes(8, "big") + b"data"
    assert record[-32:] == hmac.digest(key[:size], message, "sha256")


def test_every_changed_byte_is_noticed() -> None:
    record = Sealer(KEY).seal("r", "n", 7, b"some bytes")
    for at in range(len(record)):
        changed = bytearray(record)
        changed[at] ^= 1
        with pytest.raises(SealError, match="'n' of run 'r'"):
            Sealer(KEY).open("r", "n", bytes(changed))


@pytest.mark.parametrize(("run", "node"), [("other", "n"), ("r", "other"), ("rn", ""), ("", "rn")])
def test_a_record_fits_only_its_place(run: str, node: str) -> None:
    record = Sealer(KEY).seal("r", "n", 7, b"some bytes")
    with pytest.raises(SealError, match="another key, or was changed"):
        Sealer(KEY).open(run, node, record)


def test_another_key_and_no_seal_are_told_apart() -> None:
    record = Sealer(KEY).seal("r", "n", 7, b"some bytes")
    with pytest.raises(SealError, match=r"sealed with another key.*--seal-key-file"):
        Sealer(b"x" * 32).open("r", "n", record)
    for bare in (b"", b"short", pickle.dumps("x" * 200)):
        with pytest.raises(SealError, match="no seal"):
            Sealer(KEY).open("r", "n", bare)


def test_a_key_is_made_once_for_the_user_alone(tmp_path: Path) -> None:
    environ = {"XDG_STATE_HOME": str(tmp_path)}
    first = read_seal_key(environ=environ)
    path = tmp_path / "cascade" / "seal-key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_seal_key(environ=environ) == first
    assert [entry.name for entry in path.parent.iterdir()] == ["seal-key"]


def test_processes_that_start_together_get_one_key(tmp_path: Path) -> None:
    environ = {"XDG_STATE_HOME": str(tmp_path)}
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(lambda _: read_seal_key(environ=environ), range(32)))
    assert len(set(keys)) == 1


def test_argument_then_environment_then_own_key(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("f" * 40 + "\n")
    environ = {"XDG_STATE_HOME": str(tmp_path), "CASCADE_SEAL_KEY": "e" * 40}
    assert read_seal_key(file, environ) == b"f" * 40
    assert read_seal_key(None, environ) == b"e" * 40
    assert not (tmp_path / "cascade").exists()


def test_a_bad_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere cannot be read: No such file"):
        read_seal_key(tmp_path / "nowhere", {})
    with pytest.raises(ConfigError, match=r"CASCADE_SEAL_KEY holds 5 bytes.*openssl rand"):
        read_seal_key(None, {"CASCADE_SEAL_KEY": "short"})
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be .*--seal-key-file"):
        read_seal_key(None, {"XDG_STATE_HOME": str(tmp_path / "file")})
