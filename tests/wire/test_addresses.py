"""Addresses as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_dist.config import DEFAULT_PORT
from cascade_dist.errors import ConfigError
from cascade_dist.wire import Address, check_bind, is_loopback, parse_addresses


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("localhost:7000", [Address("localhost", 7000)]),
        ("localhost", [Address("localhost", DEFAULT_PORT)]),
        ("cascade://10.0.0.5:7420/", [Address("10.0.0.5", 7420, tls=False)]),
        ("cascades://sched.example.org", [Address("sched.example.org", DEFAULT_PORT, tls=True)]),
        ("CASCADE://a:1", [Address("a", 1, tls=False)]),
        ("[::1]:7420", [Address("::1", 7420)]),
        ("cascade://[fe80::1%eth0]", [Address("fe80::1%eth0", DEFAULT_PORT, tls=False)]),
        (" a:1 , b:2,, a:1 ", [Address("a", 1), Address("b", 2)]),
        ("my_service-1.ns.svc:80", [Address("my_service-1.ns.svc", 80)]),
    ],
)
def test_addresses(text: str, expected: list[Address]) -> None:
    assert list(parse_addresses(text)) == expected


def test_a_socket_is_another_way_to_the_same_address() -> None:
    address = Address("127.0.0.1", 7420, socket="/run/cascade/socket")
    assert (address.target, str(address)) == ("unix:/run/cascade/socket", "127.0.0.1:7420")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["is empty", "host:port"]),
        (" , ", ["is empty"]),
        ("http://a:1", ["scheme 'http'", "cascade://"]),
        ("://a:1", ["scheme ''"]),
        ("cascade://", ["names no host"]),
        ("a:b", ["port 'b'", "1 to 65535"]),
        ("a:", ["port ''"]),
        ("a:0", ["port '0'"]),
        ("a:70000", ["port '70000'"]),
        ("a:²", ["port '²'"]),
        (":7420", ["host ''"]),
        ("a b:1", ["host 'a b'"]),
        ("a/b:1", ["host 'a/b'"]),
        ("-a:1", ["host '-a'"]),
        ("::1", ["IPv6 address without brackets", "[::1]:port"]),
        ("a:1:2", ["more than one colon"]),
        ("[::1:7420", ["brackets"]),
        ("[::1]7420", ["brackets"]),
        ("[host]:1", ["no IPv6 address"]),
        ("ok:1,b:x", ["'b:x'", "port 'x'"]),
    ],
)
def test_what_cannot_be_read_is_named_with_the_remedy(text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_addresses(text)
    for word in words:
        assert word in str(caught.value)


def test_an_address_is_text() -> None:
    with pytest.raises(ConfigError, match="is a int, not text"):
        parse_addresses(7420)  # type: ignore[arg-type]


@given(
    host=st.ip_addresses(), port=st.integers(1, 65535), tls=st.sampled_from(["", "cascade://", "cascades://"])
)
def test_targets_are_read_as_what_they_are(host: object, port: int, tls: str) -> None:
    target = Address(str(host), port).target
    (address,) = parse_addresses(tls + target)
    assert (address.host, address.port, str(address)) == (str(host), port, target)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("LOCALHOST.", True),
        ("a.localhost", True),
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("[::1]", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("example.org", False),
        ("localhost.example.org", False),
        ("", False),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_an_open_port_that_others_reach_is_refused() -> None:
    check_bind("127.0.0.1", token=None, mutual_tls=False)
    check_bind("0.0.0.0", token="secret", mutual_tls=False)
    check_bind("0.0.0.0", token=None, mutual_tls=True)
    with pytest.raises(ConfigError, match=r"--host 0\.0\.0\.0 .* --token-file"):
        check_bind("0.0.0.0", token=None, mutual_tls=False)
