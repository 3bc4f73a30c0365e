"""Versions at the handshake."""

from __future__ import annotations

import platform

import pytest

from cascade_dist.v1 import client_pb2
from cascade_dist.wire import PROTOCOL_VERSION, check_versions, local_versions


def changed(**fields: object) -> client_pb2.Versions:
    versions = local_versions()
    for name, value in fields.items():
        setattr(versions, name, value)
    return versions


def test_a_process_goes_together_with_itself() -> None:
    assert check_versions(local_versions()) == (None, [])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"python": "3.9.1"},
            ["the scheduler runs Python 3.9.1", f"Python {platform.python_version()}", "3.9"],
        ),
        ({"python": ""}, ["Python unknown"]),
        (
            {"protocol_major": PROTOCOL_VERSION[0] + 1, "cascade": "7.7"},
            [f"protocol {PROTOCOL_VERSION[0] + 1}.", f"process {PROTOCOL_VERSION[0]}.", "cascade-dist 7.7"],
        ),
    ],
)
def test_what_does_not_go_together_is_refused_with_both_versions(
    fields: dict[str, object], words: list[str]
) -> None:
    error, warnings = check_versions(changed(**fields), "the scheduler")
    assert error is not None
    assert warnings == []
    for word in words:
        assert word in error


def test_other_differences_warn() -> None:
    minor = ".".join(platform.python_version().split(".")[:2])
    peer = changed(python=f"{minor}.99", cloudpickle="0.1", cascade="0.0.1", protocol_minor=9)
    error, warnings = check_versions(peer, "worker w1")
    assert error is None
    assert len(warnings) == 3
    assert all(text.startswith("worker w1 has ") for text in warnings)
    assert "cloudpickle 0.1" in warnings[2]


def test_an_empty_message_is_refused() -> None:
    error, _ = check_versions(client_pb2.Versions())
    assert error is not None
