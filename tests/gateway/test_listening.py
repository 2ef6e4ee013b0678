"""Where a gateway listens, what it takes over and what it leaves alone, and its private folder."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from megaflow.errors import InvalidArgument, Unauthenticated, Unavailable
from megaflow.transport.address import MAX_SOCKET_PATH_BYTES, normalise
from megaflow_server.backends.fake import FakeBackend
from megaflow_server.gateway.listeners import Access, Listeners
from megaflow_server.gateway.server import Gateway, private_folder
from megaflow_server.gateway.settings import GatewaySettings
from megaflow_server.gateway.tls import Certificate
from megaflow_server.gateway.token_file import TokenFile


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A second folder."""
    folder = tmp_path / "other"
    folder.mkdir()
    return folder


@asynccontextmanager
async def gateway(folder: Path, *listen: str) -> AsyncIterator[Gateway]:
    settings = GatewaySettings(folder=folder, listen=listen, max_workers=1, warm_workers=0)
    async with Gateway(settings, FakeBackend()) as running:
        yield running


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("127.0.0.1", "127.0.0.1:7447"),
        ("127.8.9.1:1", "127.8.9.1:1"),
        ("localhost:80", "127.0.0.1:80"),
        ("[::1]:80", "[::1]:80"),
        ("::1", "[::1]:7447"),
        ("unix:/run/x.sock", "unix:/run/x.sock"),
    ],
)
def test_loopback_and_unix_sockets_take_nothing(address: str, target: str) -> None:
    assert Access().target(address) == target


PUBLIC = [
    "0.0.0.0:7447",
    "[::]:7447",
    "10.0.0.5",
    "example.org:80",
    "localhost.example.org",
    "0:80",
]
FILE = Path("file")
CERTIFICATE = Certificate(FILE, FILE)


@pytest.mark.parametrize("address", PUBLIC)
@pytest.mark.parametrize(
    ("access", "missing"),
    [
        (Access(), ["--token-file", "--tls-cert"]),
        (Access(insecure=True), ["--token-file"]),
        (Access(certificate=CERTIFICATE), ["--token-file"]),
        (Access(token_file=FILE), ["--tls-cert", "--insecure"]),
    ],
)
def test_what_other_machines_could_reach_is_refused(
    address: str, access: Access, missing: list[str]
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        access.target(address)
    message = caught.value.message
    assert message.startswith(
        f"listen={address!r}: other machines can connect there, which takes --"
    )
    assert [option for option in ("--token-file", "--tls-cert") if option in message] == [
        option for option in missing if option != "--insecure"
    ]


@pytest.mark.parametrize("address", PUBLIC)
@pytest.mark.parametrize(
    "access", [Access(FILE, CERTIFICATE), Access(FILE, insecure=True)], ids=["tls", "insecure"]
)
def test_with_both_it_listens_anywhere(address: str, access: Access) -> None:
    assert access.target(address) == normalise(address)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((None, FILE, None, False), "--tls-cert and --tls-key go together"),
        ((None, None, FILE, False), "--tls-cert and --tls-key go together"),
        ((None, FILE, FILE, True), "--insecure waives TLS, and --tls-cert asks for it"),
    ],
)
def test_options_that_contradict_each_other(
    options: tuple[Path | None, Path | None, Path | None, bool], says: str
) -> None:
    with pytest.raises(InvalidArgument, match=says):
        Access.of(*options)


def test_what_is_no_address_is_refused_by_the_name_of_the_option() -> None:
    with pytest.raises(InvalidArgument, match=r"^listen='http://x'"):
        Access().target("http://x")


async def test_a_port_that_is_chosen_is_told(tmp_path: Path) -> None:
    async with gateway(tmp_path, "127.0.0.1:0", f"unix:{tmp_path / 'g.sock'}") as running:
        tcp, unix = running.addresses
        assert int(tcp.removeprefix("127.0.0.1:")) > 0
        assert unix == f"unix:{tmp_path / 'g.sock'}"
        assert stat.S_IMODE((tmp_path / "g.sock").stat().st_mode) & 0o077 == 0


async def test_a_port_is_not_shared(tmp_path: Path, other: Path) -> None:
    async with gateway(tmp_path, "127.0.0.1:0") as running:
        with pytest.raises(Unavailable, match="cannot be bound"):
            async with gateway(other, running.addresses[0]):
                pass


async def test_a_socket_that_somebody_listens_at_is_left_to_them(
    tmp_path: Path, other: Path
) -> None:
    address = f"unix:{tmp_path / 'g.sock'}"
    async with gateway(tmp_path, address):
        inode = (tmp_path / "g.sock").stat().st_ino
        with pytest.raises(Unavailable, match="another process listens there"):
            async with gateway(other, address):
                pass
        assert (tmp_path / "g.sock").stat().st_ino == inode


async def test_a_socket_that_a_killed_server_left_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "g.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with gateway(tmp_path, f"unix:{path}"):
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(path))


@pytest.mark.parametrize("content", ["a file", None])
async def test_what_is_no_socket_is_not_removed(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "precious"
    if content is None:
        path.mkdir()
    else:
        path.write_text(content)
    with pytest.raises(Unavailable, match="cannot be bound"):
        async with gateway(tmp_path, f"unix:{path}"):
            pass
    assert path.exists()


# ---------------------------------------------------------------- tokens, read again


async def test_a_broken_token_file_leaves_the_tokens_and_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = TokenFile(tmp_path / "tokens")
    _, kept = file.create("team")
    listeners = Listeners(Access(token_file=file.path), lambda *call: asyncio.sleep(0))
    tokens = listeners._authenticator
    good = file.path.read_text()
    for spoil in (
        lambda: file.path.write_text("mf_00000000_oops\n"),
        lambda: file.path.chmod(0o644),
        file.path.unlink,
    ):
        spoil()
        caplog.clear()
        listeners.reload()
        assert tokens.tokens.principal(kept).name == "team"
        assert "the tokens stay as they were: token file" in caplog.text
        assert "oops" not in caplog.text
    file.path.write_text(good)
    file.path.chmod(0o600)
    _, added = file.create("other")
    file.revoke(kept.split("_")[1])
    listeners.reload()
    assert tokens.tokens.principal(added).name == "other"
    with pytest.raises(Unauthenticated):
        tokens.tokens.principal(kept)


# ---------------------------------------------------------------- the private folder


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a path short enough for sockets in a folder in it."""
    with tempfile.TemporaryDirectory(prefix="mf-", dir="/tmp") as folder:
        yield Path(folder)


async def test_the_folder_is_private_short_and_gone_in_the_end(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(short))
    async with private_folder() as folder:
        assert folder.parent == short
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "log").mkdir()
        (folder / "log" / "x.log").write_text("x")
    assert not folder.exists()


async def test_a_folder_too_long_for_sockets_is_passed_over(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = short / ("l" * 60) / ("m" * 60)
    long.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    async with private_folder() as folder:
        assert folder.parent == Path("/tmp")
        assert len(os.fsencode(folder / "worker-9999-999999.new")) <= MAX_SOCKET_PATH_BYTES


async def test_no_folder_that_will_do(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InvalidArgument, match="set TMPDIR to a short one"):
        async with private_folder():
            pass
