"""Terminals in sandboxes, for people: of processes, and of containers of a real engine."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from docker_rig import docker_backend, idle
from megaflow.errors import FailedPrecondition, SessionLost
from megaflow_server.backends.base import Exit, Terminal, TerminalKind
from megaflow_server.backends.process import ProcessBackend
from megaflow_server.sandbox.instances import InstanceSandbox
from megaflow_server.sandbox.process import ProcessSandbox, Room
from megaflow_server.sandbox.sandbox import AsyncSandbox

KIND = TerminalKind(30, 100, "vt100")
WITHIN = 20.0

KINDS = [
    pytest.param("process", marks=pytest.mark.requires("namespaces")),
    pytest.param("docker", marks=pytest.mark.requires("docker")),
]


@pytest.fixture(params=KINDS)
async def sandbox(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AsyncSandbox]:
    if request.param == "process":
        room = await ProcessSandbox.start(ProcessBackend(), "s", tmp_path / "s", Room())
        yield room
        await room.destroy()
        return
    async with docker_backend() as backend:
        spec = idle(tmp_path, profile="standard", directory="/tmp")
        one = await InstanceSandbox.start(backend, spec)
        yield one
        await one.destroy()


async def shown(terminal: Terminal, until: str = "", within: float = WITHIN) -> str:
    """What it shows until it has shown this; until its end, with nothing."""
    text = ""
    async with asyncio.timeout(within):
        while not (until and until in text):
            data = await terminal.read()
            if not data:
                assert not until, text
                break
            text += data.decode()
    return text


async def test_a_command_has_a_terminal_of_the_size_that_was_asked_for(
    sandbox: AsyncSandbox,
) -> None:
    command = "test -t 0 && test -t 1 && test -t 2 && tty && stty size && echo $TERM; exit 3"
    terminal = await sandbox.terminal(KIND, command)
    lines = (await shown(terminal)).split()
    assert await terminal.wait() == Exit(code=3)
    await terminal.close()
    assert lines[0].startswith("/dev/pts/")
    assert lines[1:] == ["30", "100", "vt100"]


async def test_a_shell_takes_what_is_typed(sandbox: AsyncSandbox) -> None:
    terminal = await sandbox.terminal(KIND)
    terminal.write(b"echo $((6 * 7))\n")
    assert "42" in await shown(terminal, "42")
    terminal.write(b"exit 5\n")
    await shown(terminal)
    assert await terminal.wait() == Exit(code=5)
    await terminal.close()


async def test_ctrl_c_goes_to_the_command_and_leaves_the_shell(sandbox: AsyncSandbox) -> None:
    terminal = await sandbox.terminal(KIND)
    terminal.write(b"PS1='no''w> '; sh -c 'echo begu''n; exec sleep 1000'\n")
    await shown(terminal, "begun")
    terminal.write(b"\x03")
    await shown(terminal, "now> ")
    terminal.write(b"echo still $((1 + 1))\n")
    await shown(terminal, "still 2")
    await terminal.close()


async def test_another_size_is_told_to_who_has_the_terminal(sandbox: AsyncSandbox) -> None:
    terminal = await sandbox.terminal(KIND, "trap 'stty size; exit' WINCH; echo ready; read a")
    await shown(terminal, "ready")
    await terminal.resize(50, 132)
    assert "50 132" in await shown(terminal)
    await terminal.resize(10, 10)  # it has ended
    await terminal.close()


async def test_hanging_up_ends_what_runs_at_the_terminal(sandbox: AsyncSandbox) -> None:
    await sandbox.exec("rm -f /tmp/hung")
    command = "trap 'echo yes >/tmp/hung; exit' HUP; echo ready; while :; do sleep 0.1; done"
    terminal = await sandbox.terminal(KIND, command)
    await shown(terminal, "ready")
    await terminal.close()
    async with asyncio.timeout(WITHIN):
        waiting = "until [ -s /tmp/hung ]; do sleep 0.1; done; cat /tmp/hung"
        assert (await sandbox.exec(waiting)).stdout == b"yes\n"
    # The sandbox's own stream is another one.
    assert (await sandbox.exec("echo alive")).stdout == b"alive\n"


async def test_what_stays_in_the_background_does_not_hold_it_open(sandbox: AsyncSandbox) -> None:
    terminal = await sandbox.terminal(KIND, "(trap '' HUP; sleep 1000) & echo done")
    assert "done" in await shown(terminal)
    assert await terminal.wait() == Exit(code=0)
    await terminal.close()


async def test_several_at_once_are_apart(sandbox: AsyncSandbox) -> None:
    terminals = [await sandbox.terminal(KIND, f"read a; echo $a {i}") for i in range(3)]
    for terminal in terminals:
        terminal.write(b"said\n")
    for number, terminal in enumerate(terminals):
        assert f"said {number}" in await shown(terminal)
        await terminal.close()


async def test_a_great_deal_in_both_directions(sandbox: AsyncSandbox) -> None:
    command = "stty raw -echo; echo go; head -c 1000000 | wc -c; seq 1 100000"
    terminal = await sandbox.terminal(KIND, command)
    await shown(terminal, "go")

    async def type_it() -> None:
        for _ in range(100):
            terminal.write(b"x" * 10_000)
            await terminal.drain()

    async with asyncio.timeout(WITHIN):
        _, text = await asyncio.gather(type_it(), shown(terminal))
    assert text.split()[0] == "1000000"
    assert text.split()[-1] == "100000"
    await terminal.close()


async def test_its_end_by_a_signal_is_told(sandbox: AsyncSandbox) -> None:
    terminal = await sandbox.terminal(KIND, "kill -9 $$")
    await shown(terminal)
    assert await terminal.wait() == Exit(signal=signal.SIGKILL)
    await terminal.close()


async def test_a_terminal_ends_with_its_sandbox(sandbox: AsyncSandbox) -> None:
    terminal = await sandbox.terminal(KIND, "echo ready; sleep 1000")
    await shown(terminal, "ready")
    reading = asyncio.ensure_future(terminal.read())
    await asyncio.sleep(0)
    await sandbox.close()
    assert await asyncio.wait_for(reading, WITHIN) == b""
    await terminal.close()


async def test_a_sandbox_that_is_closed_has_none(sandbox: AsyncSandbox) -> None:
    await sandbox.close()
    with pytest.raises(SessionLost):
        await sandbox.terminal(KIND)


async def test_a_kind_without_terminals_says_so() -> None:
    async def none(user: str | None) -> object:
        raise AssertionError

    with pytest.raises(FailedPrecondition, match="no terminals; choose docker or process"):
        await AsyncSandbox(none).terminal(KIND)  # type: ignore[arg-type]
