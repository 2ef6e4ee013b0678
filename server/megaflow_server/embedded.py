"""The server behind `server=None`: one process that lives as long as somebody holds it.

Holds are the pipe to standard input, which its starter and all its forks keep open, and connections to
`lifetime.sock`, one of each process that uses the server. Such a process connects, sends its client id (32
hexadecimal characters, the `client_id` of the sessions that it opens) and gets b"+"; no answer means that the
server is ending. When its last connection ends, however it does, its sessions are ended at once. A fork must
close the connection that it inherits, and make its own. See megaflow/embedded.py for the other side.

Of megaflow.toml (see `config_file.find`) it takes what sandboxes are made of, `[templates]`, `[sandboxes]` and
`[docker]`; the rest is about servers that somebody starts.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypedDict

from megaflow.errors import MegaflowError
from megaflow.protocol import megaflow_pb2 as pb
from megaflow_server.backends import get_backend, get_builds
from megaflow_server.config_file import find
from megaflow_server.cpus import usable_cpus
from megaflow_server.gateway.server import Gateway, private_folder
from megaflow_server.gateway.settings import GatewaySettings
from megaflow_server.janitor import Janitor
from megaflow_server.pool import Pools
from megaflow_server.requested import Most

if TYPE_CHECKING:
    from megaflow_server.config import Config

logger = logging.getLogger(__name__)

# Workers that start with the server; more come as sessions need them.
_WARM_WORKERS = 2

# Seconds that a process has to say who it is.
_INTRODUCTION = 5.0
_CLIENT_ID = re.compile(rb"[0-9a-f]{32}")

# Everything is to be gone within 5 s of the client's end, however it ends.
_STOP_GRACE = 1.5


class Start(TypedDict):
    """What the client writes to standard input, as one line of JSON."""

    import_paths: list[str]
    directory: str


def main(start: Start) -> None:
    """Runs until nobody holds the server any more, or SIGTERM."""
    try:
        config = _configured()
    except MegaflowError as error:
        _say({"refused": error.message})
        return
    with Janitor() as janitor:
        asyncio.run(_main(start, config, janitor))


def _configured() -> Config | None:
    """What megaflow.toml says; None where there is none, since what reads it takes a quarter of a start to import."""
    file = find()
    if file is None:
        return None
    from megaflow_server.config import load

    return load(file, {})


async def _main(start: Start, config: Config | None, janitor: Janitor) -> None:
    # A Ctrl-C at the terminal is the client's; it lets go when it ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    lifetime = Lifetime()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lifetime.end)
    await lifetime.watch_stdin()
    async with private_folder() as folder:
        janitor.take([folder])
        serving = asyncio.create_task(_serve(start, config, folder, lifetime))
        ended = asyncio.create_task(lifetime.ended.wait())
        await asyncio.wait({serving, ended}, return_when=asyncio.FIRST_COMPLETED)
        serving.cancel()
        ended.cancel()
        results = await asyncio.gather(serving, ended, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result


async def _serve(start: Start, config: Config | None, folder: Path, lifetime: Lifetime) -> None:
    code = folder / "code"
    code.mkdir(mode=0o700)
    backend = get_backend("process")
    docker = config.docker.options() if config else None
    build = config is None or config.docker.build is not False
    anything = Most(math.inf, math.inf, math.inf)  # its user could start such containers without it
    cpus = usable_cpus()
    settings = GatewaySettings(
        folder=folder,
        listen=[f"unix:{folder / 'gateway.sock'}"],
        workers=cpus,
        max_workers=cpus,
        warm_workers=min(cpus, _WARM_WORKERS),
        code_policy=pb.CODE_POLICY_EMBEDDED,
        code_folder=code,
        stop_grace=_STOP_GRACE,
        templates=config.made_templates() if config else {},
        most=config.sandboxes.most(anything) if config else anything,
        open_backend=lambda name: get_backend(name, docker if name == "docker" else None),
        open_builds=partial(get_builds, docker) if build else None,
        import_paths=start["import_paths"],
        directory=Path(start["directory"]),
    )
    async with Gateway(settings, backend) as gateway:
        await lifetime.listen(folder / "lifetime.sock", gateway.sessions)
        _answer(folder)
        await _fill(gateway.pools)
        await asyncio.Event().wait()


async def _fill(pools: Pools) -> None:
    """Have ready what is to wait from the start; whoever asks for what cannot be had is told that, too."""
    try:
        await pools.start()
    except MegaflowError as error:
        logger.warning("%s", error.message)


def _answer(folder: Path) -> None:
    """Tells the client where the server is, and moves what is printed from here on to a log."""
    _say({"folder": str(folder)})
    log = os.open(folder / "log" / "gateway.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s gateway %(message)s")


def _say(answer: Mapping[str, str]) -> None:
    sys.stdout.write("megaflow " + json.dumps(answer) + "\n")
    sys.stdout.flush()


class Clients(Protocol):
    """Who is to know which processes use the server."""

    def client_came(self, client_id: str) -> None: ...

    def client_ended(self, client_id: str) -> None: ...


class Lifetime:
    """Counts the holds; `ended` is set when the last one is let go."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self._holds = 0
        self._connections: Counter[str] = Counter()

    def end(self) -> None:
        self.ended.set()

    async def watch_stdin(self) -> None:
        """The first hold: standard input, until its end."""
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        # The configuration's line was read from a buffer; nothing else was ever written.
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        self._watching = asyncio.create_task(self._hold(reader))

    async def listen(self, path: Path, clients: Clients) -> None:
        """Takes holds from processes at a Unix socket, and tells `clients` of them."""
        self._clients = clients
        self._server = await asyncio.start_unix_server(self._accept, path)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            client_id = await _introduction(reader)
            if client_id and not self.ended.is_set():
                writer.write(b"+")  # held from here on
                await self._hold_for(client_id, reader)
        finally:
            writer.close()

    async def _hold_for(self, client_id: str, reader: asyncio.StreamReader) -> None:
        self._connections[client_id] += 1
        self._clients.client_came(client_id)
        try:
            await self._hold(reader)
        finally:
            self._connections[client_id] -= 1
            if self._connections[client_id] == 0:
                del self._connections[client_id]
                self._clients.client_ended(client_id)

    async def _hold(self, reader: asyncio.StreamReader) -> None:
        self._holds += 1
        try:
            await reader.read()  # nothing more is said over a hold: this is its end
        except ConnectionError:
            logger.info("a process that held this server was killed")
        finally:
            self._holds -= 1
            if self._holds == 0:
                self.ended.set()


async def _introduction(reader: asyncio.StreamReader) -> str:
    """The client id that a connection begins with; empty where it begins with anything else."""
    try:
        async with asyncio.timeout(_INTRODUCTION):
            said = await reader.readexactly(32)
    except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
        said = b""
    if not _CLIENT_ID.fullmatch(said):
        logger.warning("a connection to the lifetime socket did not begin with a client id")
        return ""
    return said.decode()
