"""A server on loopback and the token that it leaves for the programs of its own user."""

from __future__ import annotations

import asyncio
import os
import stat
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from megaflow.errors import Unauthenticated, Unavailable
from megaflow.transport.control import Control
from megaflow.transport.credentials import Target, resolve
from megaflow.transport.io import BlockingCaller, run
from megaflow_server.backends.fake import FakeBackend
from megaflow_server.gateway.listeners import Access
from megaflow_server.gateway.server import Gateway
from megaflow_server.gateway.settings import GatewaySettings
from megaflow_server.gateway.token_file import TokenFile


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's runtime folder and temporary folder."""
    folder = tmp_path / "run"
    folder.mkdir()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.delenv("MEGAFLOW_TOKEN", raising=False)
    return folder


@asynccontextmanager
async def serving(
    folder: Path, *listen: str, access: Access | None = None
) -> AsyncIterator[Gateway]:
    place = folder / f"gateway-{len(os.listdir(folder))}"
    place.mkdir()
    settings = GatewaySettings(
        folder=place,
        listen=listen or ["127.0.0.1:0"],
        access=access or Access(),
        max_workers=1,
        warm_workers=0,
    )
    async with Gateway(settings, FakeBackend()) as gateway:
        yield gateway


def connect(target: Target) -> None:
    control = run(Control.open(BlockingCaller(target), target.address))
    run(control.close())


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


async def test_the_sdk_finds_it_by_itself(tmp_path: Path) -> None:
    async with serving(tmp_path) as gateway:
        (address,) = gateway.addresses
        target = resolve(address)
        assert target.token is not None
        assert target.token.startswith("mf_")
        await asyncio.to_thread(connect, target)
        localhost = resolve(f"localhost:{address.rpartition(':')[2]}")
        assert localhost.token == target.token


async def test_without_it_the_way_out_is_told(tmp_path: Path) -> None:
    async with serving(tmp_path) as gateway:
        with pytest.raises(Unauthenticated, match="leaves one for the programs of its own user"):
            await asyncio.to_thread(connect, Target(gateway.addresses[0]))


async def test_it_is_for_this_user_alone_named_after_the_address_and_gone_in_the_end(
    tmp_path: Path, runtime: Path
) -> None:
    async with serving(tmp_path) as gateway:
        (file,) = files(runtime)
        assert file == runtime / "megaflow" / f"{gateway.addresses[0]}.token"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        # Once more where it stays when the user logs out.
        (other,) = files(tmp_path / "tmp")
        assert other == tmp_path / "tmp" / f"megaflow-{os.getuid()}" / file.name
        assert stat.S_IMODE(other.stat().st_mode) == 0o600
        assert stat.S_IMODE(other.parent.stat().st_mode) == 0o700
    assert os.listdir(runtime) == []
    assert os.listdir(tmp_path / "tmp") == []


async def test_it_is_another_at_every_start(tmp_path: Path) -> None:
    async with serving(tmp_path) as one, serving(tmp_path) as other:
        tokens = {resolve(gateway.addresses[0]).token for gateway in (one, other)}
        assert None not in tokens
        assert len(tokens) == 2


async def test_one_servers_end_leaves_anothers_token(tmp_path: Path) -> None:
    async with serving(tmp_path) as stays:
        async with serving(tmp_path) as goes:
            pass
        assert resolve(stays.addresses[0]).token is not None
        assert resolve(goes.addresses[0]).token is None


async def test_every_address_on_loopback_has_its_file(tmp_path: Path, runtime: Path) -> None:
    unix = f"unix:{tmp_path / 'g.sock'}"
    async with serving(tmp_path, "127.0.0.1:0", unix, "127.0.0.2:0") as gateway:
        one, _, other = gateway.addresses
        assert {file.name for file in files(runtime)} == {f"{one}.token", f"{other}.token"}


async def test_unix_sockets_and_token_files_leave_none(tmp_path: Path, runtime: Path) -> None:
    tokens = TokenFile(tmp_path / "tokens")
    tokens.create("team")
    async with (
        serving(tmp_path, f"unix:{tmp_path / 'g.sock'}"),
        serving(tmp_path, access=Access(token_file=tokens.path)),
    ):
        assert files(runtime) == []


async def test_what_a_killed_server_left_is_replaced(tmp_path: Path, runtime: Path) -> None:
    async with serving(tmp_path) as gateway:
        (address,) = gateway.addresses
    stale = runtime / "megaflow" / f"{address}.token"
    stale.parent.mkdir(mode=0o700)
    stale.write_text("mf_stale")
    stale.chmod(0o600)
    async with serving(tmp_path, address):
        assert resolve(address).token not in (None, "mf_stale")


async def test_a_folder_that_somebody_else_could_open_is_not_used(
    tmp_path: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    squatted = tmp_path / "tmp" / f"megaflow-{os.getuid()}"
    squatted.mkdir(mode=0o700)
    squatted.chmod(0o755)
    async with serving(tmp_path):
        assert files(squatted) == []
        assert len(files(runtime)) == 1
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    with pytest.raises(Unavailable, match=f"{squatted} cannot be made or belongs to somebody else"):
        async with serving(tmp_path):
            pass
    assert files(squatted) == []


async def test_a_server_that_cannot_start_leaves_none(tmp_path: Path, runtime: Path) -> None:
    async with serving(tmp_path) as gateway:
        with pytest.raises(Unavailable, match="cannot be bound"):
            async with serving(tmp_path, "127.0.0.1:0", gateway.addresses[0]):
                pass
        assert len(files(runtime)) == 1
