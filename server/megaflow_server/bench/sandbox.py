"""What a command in a sandbox costs, beside what one would use without it: an exec of the engine, a process."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from megaflow_server.backends import IDLE, Backend, Instance, InstanceSpec, get_backend
from megaflow_server.bench.comparison import Say
from megaflow_server.bench.figures import percentile
from megaflow_server.sandbox.instances import InstanceSandbox
from megaflow_server.sandbox.process import ProcessSandbox, Room
from megaflow_server.sandbox.proxy import Door
from megaflow_server.sandbox.sandbox import AsyncSandbox

__all__ = ["PLAIN", "SHELL", "SOCKET", "STREAM", "Costs", "Plan", "measure"]

# What the sandboxes of each backend are compared with.
PLAIN: Mapping[str, str] = {"docker": "docker exec", "process": "a process"}
STREAM, SHELL, SOCKET = "exec", "shell", "exec by an environment"

_COMMAND = "true"
# Commands that are not counted, before the first that is.
_WARM_UP = 5

Run = Callable[[], Awaitable[object]]


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        backends: whose sandboxes; each is in a table row of its own.
        image: what containers are made of: any with a shell; it is fetched where it is not at hand.
        commands: how many times each is done.
    """

    backends: Sequence[str] = ("docker", "process")
    image: str = "busybox:stable"
    commands: int = 200


@dataclass
class Costs:
    """What commands took in the sandbox of one backend; seconds, by contender."""

    backend: str
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def ratio(self, contender: str, part: float) -> float:
        """What a contender takes, as a part of what the plain way does: of the median, or another percentile."""
        plain = percentile(self.seconds[PLAIN[self.backend]], part)
        return percentile(self.seconds[contender], part) / plain


async def measure(plan: Plan, say: Say) -> AsyncIterator[Costs]:
    """Measures one backend after the other; the contenders in turns, each command on its own.

    Raises:
        MegaflowError: a sandbox cannot be had here.
    """
    for name in plan.backends:
        say(f"{name}: starting a sandbox")
        with tempfile.TemporaryDirectory(prefix="megaflow-bench-") as folder:
            async with _backend(name) as backend:
                yield await _measured(plan, backend, Path(folder), say)


async def _measured(plan: Plan, backend: Backend, folder: Path, say: Say) -> Costs:
    name = f"bench-{secrets.token_hex(4)}"
    costs = Costs(backend.name)
    if backend.name == "docker":
        await backend.prepare(plan.image, lambda what, here, total: say(f"{plan.image}: {what}"))
        spec = InstanceSpec(name, IDLE, folder / "log", image=plan.image)
        contained = await InstanceSandbox.start(backend, spec)
        try:
            await _in_turns(plan, contained, _execute(contained.instance), costs, folder, say)
        finally:
            await contained.destroy()
        return costs
    room = await ProcessSandbox.start(backend, name, folder / name, Room())
    try:
        await _in_turns(plan, room, _spawn, costs, folder, say)
    finally:
        await room.destroy()
    return costs


async def _in_turns(
    plan: Plan, sandbox: AsyncSandbox, plain: Run, costs: Costs, folder: Path, say: Say
) -> None:
    shell = await sandbox.shell()
    door = Door(sandbox, folder)
    await door.open()
    proxy = door.proxy()
    contenders: dict[str, Run] = {
        PLAIN[costs.backend]: plain,
        STREAM: lambda: sandbox.exec(_COMMAND),
        SHELL: lambda: shell.run(_COMMAND),
        SOCKET: lambda: asyncio.to_thread(proxy.exec, _COMMAND),
    }
    costs.seconds = {name: [] for name in contenders}
    try:
        for number in itertools.islice(itertools.count(-_WARM_UP), plan.commands + _WARM_UP):
            if number % 20 == 0:
                say(f"{costs.backend}: {number} of {plan.commands}")
            for name, run in contenders.items():
                began = time.perf_counter()
                await run()
                if number >= 0:
                    costs.seconds[name].append(time.perf_counter() - began)
    finally:
        proxy.close()
        await door.close()


def _execute(instance: Instance) -> Run:
    """One exec of the engine for each command, as it costs without the command line's own start."""

    async def execute() -> None:
        stream = await instance.open_stream(("sh", "-c", _COMMAND))
        while await stream.read():
            pass
        await stream.close()

    return execute


async def _spawn() -> None:
    program = await asyncio.create_subprocess_exec("sh", "-c", _COMMAND)
    await program.wait()


@asynccontextmanager
async def _backend(name: str) -> AsyncIterator[Backend]:
    backend = get_backend(name)
    try:
        yield backend
    finally:
        await backend.close()
