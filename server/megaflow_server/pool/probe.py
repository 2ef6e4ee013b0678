"""Whether an instance that was used is like a fresh one again: its files, its processes, its environment."""

from __future__ import annotations

import asyncio
import difflib
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from megaflow.errors import FailedPrecondition
from megaflow_server.pool.describe import GONE
from megaflow_server.pool.host import Files, Host
from megaflow_server.sandbox.sandbox import AsyncSandbox
from megaflow_server.templates import Template

__all__ = ["Look", "differences", "look", "run_all"]

# What one command of a template may take; seconds.
_COMMAND_SECONDS = 120.0
# What a look inside may list.
_LISTED_BYTES = 1 << 20
# What was ended may be listed for a moment.
_GONE_SECONDS, _GLANCE_SECONDS = 1.0, 0.05
# Of each kind of difference, so many are told.
_TOLD = 3

# What is not seen from outside: variables, mounts, what other processes share, and what is in memory file systems of
# its own. (A mount of a part of one, or at /, is one of the host's, and seen from there.)
# A shell's own commands; by the time that this runs, the programs of the instance were compared already.
_INSIDE = r"""
look() {
  for f in "$1"/* "$1"/.[!.]* "$1"/..?*; do
    [ -e "$f" ] || [ -L "$f" ] || continue
    case ${f##*/} in .megaflow-*) echo "ours in $1"; continue ;; esac
    if [ -d "$f" ] && ! [ -L "$f" ]; then echo "$f/"; (look "$f")
    elif [ -f "$f" ]; then echo "$f $(wc -c <"$f")"
    else echo "$f"; fi
  done
}
unset _
export -p
umask
while read -r id parent device root folder rest; do
  kind=${rest#*- }
  echo "mount $root $folder $kind"
  case $root in /) ;; *) continue ;; esac
  case $folder in /|/proc/*|/sys/*) continue ;; esac
  case $kind in tmpfs*|ramfs*|mqueue*) look "$folder" ;; esac
done </proc/self/mountinfo
while read -r key rest; do echo "shared $key"; done </proc/sysvipc/shm
while read -r key rest; do echo "semaphores $key"; done </proc/sysvipc/sem
while read -r key rest; do echo "messages $key"; done </proc/sysvipc/msg
"""


@dataclass(frozen=True)
class Look:
    """What an instance is like, with an attached stream and nothing else in it."""

    files: Files
    programs: Counter[str]
    inside: Sequence[str]


async def look(host: Host, sandbox: AsyncSandbox) -> Look:
    """What an instance is like now; `sandbox` is open in it, and idle."""
    inside = await _inside(sandbox)
    # The command above takes a moment to be gone.
    programs = await _settled(host)
    return Look(await host.files(), programs, inside)


async def differences(
    fresh: Look,
    host: Host,
    sandbox: AsyncSandbox,
    template: Template,
    original: Callable[[Sequence[str]], Awaitable[Files]],
) -> str | None:
    """How an instance differs from what it was like when it was fresh, in words; None where it does not.

    Args:
        original: what is at paths of an instance that nobody has used.
    """
    found = []
    if wrong := await _altered(fresh, host, template, original):
        found.append(f"files differ: {_some(wrong)}")
    if left := await _left(fresh.programs, host):
        found.append(f"processes are left: {_some([line[:80] for line in left.elements()])}")
    inside = await _inside(sandbox)
    if inside != fresh.inside:
        lines = difflib.ndiff(list(fresh.inside), list(inside))
        changed = dict.fromkeys(line for line in lines if line[0] in "+-")
        found.append(f"variables, mounts or shared memory differ: {_some(list(changed))}")
    return "; ".join(found) or None


async def _altered(
    fresh: Look,
    host: Host,
    template: Template,
    original: Callable[[Sequence[str]], Awaitable[Files]],
) -> Sequence[str]:
    """Paths at which there is something else than at first."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + _GONE_SECONDS
    while True:
        wrong = await _changed(fresh.files, await host.files(), template.probe.ignore, original)
        # The folder of a stream that has only just been closed goes by itself.
        if clock() >= deadline or not any("/.megaflow-" in path for path in wrong):
            return wrong
        await asyncio.sleep(_GLANCE_SECONDS)


async def _left(fresh: Counter[str], host: Host) -> Counter[str]:
    """What runs and did not at first."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + _GONE_SECONDS
    left = await host.programs() - fresh
    while left and clock() < deadline:
        await asyncio.sleep(_GLANCE_SECONDS)
        left = await host.programs() - fresh
    return left


async def run_all(sandbox: AsyncSandbox, commands: Sequence[str]) -> str | None:
    """Run commands one after the other; what went wrong, in words, or None."""
    for command in commands:
        done = await sandbox.exec(command, timeout=_COMMAND_SECONDS, output_limit=2000)
        if done.timed_out:
            return f"{command!r} took over {_COMMAND_SECONDS:g} s"
        if done.exit_code:
            said = bytes(done.stderr or done.stdout).decode("utf-8", "replace").strip()
            return f"{command!r} ended with exit code {done.exit_code}{': ' + said[-300:] if said else ''}"
    return None


async def _changed(
    fresh: Files,
    now: Files,
    ignore: Sequence[str],
    original: Callable[[Sequence[str]], Awaitable[Files]],
) -> Sequence[str]:
    paths = [path for path in sorted(fresh.keys() | now.keys()) if not _is_in(path, ignore)]
    # What is told of only now may be what it always was: written back by the reset.
    unknown = [path for path in paths if path not in fresh]
    before = {**(await original(unknown) if unknown else {}), **fresh}
    return [path for path in paths if now.get(path) != before.get(path, GONE)]


async def _inside(sandbox: AsyncSandbox) -> Sequence[str]:
    done = await sandbox.exec(_INSIDE, timeout=_COMMAND_SECONDS, output_limit=_LISTED_BYTES)
    if done.timed_out or done.stdout.omitted:
        raise FailedPrecondition(
            "what is in its memory file systems cannot be looked through: it takes over "
            + (f"{_COMMAND_SECONDS:g} s" if done.timed_out else f"{_LISTED_BYTES} bytes to list")
        )
    lines = bytes(done.stdout).decode("utf-8", "replace").splitlines()
    return [*sorted(lines), f"exit code {done.exit_code}"]


async def _settled(host: Host) -> Counter[str]:
    """The fewest of what runs, over a few looks: nothing that is only just ending."""
    programs = await host.programs()
    for _ in range(3):
        await asyncio.sleep(_GLANCE_SECONDS)
        programs &= await host.programs()
    return programs


def _is_in(path: str, folders: Sequence[str]) -> bool:
    return any(path == one or path.startswith(one.rstrip("/") + "/") for one in folders)


def _some(items: Sequence[str]) -> str:
    more = f" and {len(items) - _TOLD} more" if len(items) > _TOLD else ""
    return ", ".join(items[:_TOLD]) + more
