"""What may be written as an address, and the gRPC target that it stands for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaflow.errors import InvalidArgument
from megaflow.transport.address import DEFAULT_PORT, MAX_SOCKET_PATH_BYTES, normalise

LONGEST = "/" + "p" * (MAX_SOCKET_PATH_BYTES - 1)


@pytest.mark.parametrize(
    ("written", "target"),
    [
        ("localhost", f"localhost:{DEFAULT_PORT}"),
        (" localhost:1 ", "localhost:1"),
        ("10.0.0.5:65535", "10.0.0.5:65535"),
        ("::1", f"[::1]:{DEFAULT_PORT}"),
        ("[::1]", f"[::1]:{DEFAULT_PORT}"),
        ("[::1]:80", "[::1]:80"),
        ("unix:/run/x.sock", "unix:/run/x.sock"),
        ("unix:///run/x.sock", "unix:/run/x.sock"),
        (f"unix:{LONGEST}", f"unix:{LONGEST}"),
    ],
)
def test_targets(written: str, target: str) -> None:
    assert normalise(written) == target
    assert normalise(target) == target


@pytest.mark.parametrize(
    "written",
    [
        "",
        "  ",
        ":80",
        "host:",
        "host:x",
        "host:65536",
        "host:-1",
        "host:٣",
        "host:" + "1" * 5000,
        "a:b:80",
        "two words:80",
        "[::1",
        "[::1]80",
        "[host]:80",
        "http://host:80",
        "host:80/path",
        "dns:host:80",
        "unix:relative",
        "unix://relative",
        "unix:/a\0b",
        f"unix:{LONGEST}p",
    ],
)
def test_what_is_no_address_is_refused_by_the_name_of_its_option(written: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        normalise(written, name="listen")
    assert caught.value.message.startswith(
        f"listen={written.strip()!r}" if written.strip() else "listen="
    )


def test_something_else_than_text_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="server=7447 is no address"):
        normalise(7447)  # type: ignore[arg-type]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_anything_is_normalised_once_or_refused(text: str) -> None:
    try:
        target = normalise(text)
    except InvalidArgument:
        return
    assert normalise(target) == target
