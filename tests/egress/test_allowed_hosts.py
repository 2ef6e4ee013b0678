"""Which hosts a list allows, what a proxy is asked for, and which addresses are nobody's to reach."""

from __future__ import annotations

import re
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaflow.errors import InvalidArgument
from megaflow_server.egress import EVERYTHING, NOTHING, Hosts
from megaflow_server.egress.hosts import is_forbidden
from megaflow_server.egress.requests import BadRequest, read

HOSTS = Hosts.parse(
    ["packages.example", "*.hosted.example", "mirror.example:8080", "10.1.2.3", "[fd00::1]:443"]
)


@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("packages.example", 443),
        ("Packages.example.", 80),
        ("files.hosted.example", 443),
        ("a.b.hosted.example", 443),
        ("mirror.example", 8080),
        ("10.1.2.3", 80),
        ("fd00:0::1", 443),
    ],
)
def test_what_is_named_is_allowed(host: str, port: int) -> None:
    assert HOSTS.allows(host, port)
    assert EVERYTHING.allows(host, port)
    assert not NOTHING.allows(host, port)


@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("packages.example", 22),
        ("packages.example.evil.example", 443),
        ("evilpackages.example", 443),
        ("sub.packages.example", 443),
        ("hosted.example", 443),
        ("evilhosted.example", 443),
        ("mirror.example", 443),
        ("10.1.2.30", 80),
        ("", 443),
    ],
)
def test_what_is_not_named_is_not(host: str, port: int) -> None:
    assert not HOSTS.allows(host, port)


@given(st.text(max_size=40), st.integers(1, 65535))
def test_no_other_text_is_allowed(host: str, port: int) -> None:
    name = host.lower().rstrip(".")
    named = name in ("packages.example", "mirror.example", "10.1.2.3") or name.endswith(
        ".hosted.example"
    )
    assert named or ":" in name or not HOSTS.allows(host, port)


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "http://packages.example",
        "packages.example/simple",
        "a b",
        "*",
        "*.*.org",
        "packages.example:0",
        "x:99999",
        "u@h",
    ],
)
def test_what_is_no_host_is_refused_by_name(entry: str) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(repr(entry))):
        Hosts.parse([entry])


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::"),
        *("169.254.169.254", "fe80::1%eth0", "224.0.0.1", "fd00:ec2::254", "100.100.100.200"),
    ],
)
def test_addresses_of_this_machine_and_of_its_cloud_are_forbidden(address: str) -> None:
    assert is_forbidden(address)


def test_an_address_of_this_machine_that_others_reach_is_forbidden_as_well() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no network")
        own = probe.getsockname()[0]
    assert is_forbidden(own)
    assert not is_forbidden("192.0.2.1")
    assert not is_forbidden("10.255.1.2")


def test_a_plain_request_is_passed_on_with_its_own_host() -> None:
    head = (
        b"GET http://packages.example:8080/simple/?a=b#c HTTP/1.1\r\nhost: metadata.internal\r\nAccept: */*\r\n"
        b"Proxy-Authorization: x\r\nConnection: keep-alive\r\n\r\n"
    )
    wanted = read(head)
    assert (wanted.host, wanted.port, wanted.is_tunnel) == ("packages.example", 8080, False)
    assert wanted.head == (
        b"GET /simple/?a=b HTTP/1.1\r\nHost: packages.example:8080\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    )


def test_a_tunnel() -> None:
    wanted = read(b"CONNECT [::1]:443 HTTP/1.1\r\nHost: packages.example\r\n\r\n")
    assert (wanted.host, wanted.port, wanted.is_tunnel) == ("::1", 443, True)


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: packages.example\r\n\r\n",
        b"GET https://packages.example/ HTTP/1.1\r\n\r\n",
        b"GET http://user@packages.example/ HTTP/1.1\r\n\r\n",
        b"GET http://packages.example\\@evil.example/ HTTP/1.1 x\r\n\r\n",
        b"GET http://packages.example/ HTTP/2\r\n\r\n",
        b"GET http://packages.example/ HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
        b"GET http://packages.example/ HTTP/1.1\nHost: evil.example\r\n\r\n",
        b"CONNECT packages.example HTTP/1.1\r\n\r\n",
        b"CONNECT packages.example:443/x HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\r\n\r\n",
        b"\r\n\r\n",
    ],
)
def test_what_is_no_request_for_a_proxy_is_refused(head: bytes) -> None:
    with pytest.raises(BadRequest):
        read(head)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_none(data: bytes) -> None:
    for head in (data, b"GET http://" + data + b"\r\n\r\n", b"CONNECT " + data + b"\r\n\r\n"):
        try:
            wanted = read(head)
        except BadRequest:
            continue
        assert 0 < wanted.port < 1 << 16
        assert wanted.host
        assert b"\r\n\r\n" not in wanted.head.removesuffix(b"\r\n\r\n")
