"""What the engine's numbers mean: exit codes and what a container uses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megaflow_server.backends.base import Exit, Stats
from megaflow_server.quantities import shown

__all__ = ["container_exit", "exit_of", "program_exit", "stats"]

# The init process, and the engine, say 128 + n for a signal n, as shells do.
_SIGNALS = range(129, 193)


def exit_of(code: int, reason: str | None = None) -> Exit:
    """How a program ended that the engine reports with this code; one that exits with 137 looks killed."""
    if code in _SIGNALS:
        return Exit(signal=code - 128, reason=reason)
    return Exit(code=code, reason=reason)


def container_exit(inspected: Mapping[str, Any], reason: str | None) -> Exit:
    """How a container that has ended ended."""
    state = inspected["State"]
    if state["Status"] == "created":
        return Exit(reason="it was never started")
    how = exit_of(int(state["ExitCode"]), reason)
    if reason is None and state.get("OOMKilled") and how.signal == 9:
        limit = inspected["HostConfig"].get("Memory") or 0
        what = f"it needed more memory than its {shown(limit)}" if limit else "memory ran out"
        return Exit(signal=9, reason=what)
    return how


def program_exit(inspected: Mapping[str, Any] | None) -> Exit | None:
    """How a program in a container ended; None where it still runs."""
    if inspected is None:  # it went with its container
        return Exit()
    if inspected["Running"] or inspected["ExitCode"] is None:
        return None
    return exit_of(int(inspected["ExitCode"]))


def stats(said: Mapping[str, Any], disk: int | None) -> Stats:
    """What a container uses, from either version of control groups."""
    memory = said["memory_stats"]
    details = memory.get("stats") or {}
    # The page cache that nobody has used lately: total_inactive_file in version 1.
    spare = details.get("total_inactive_file", details.get("inactive_file", 0))
    return Stats(
        cpu_seconds=said["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9,
        memory=max(0, int(memory.get("usage", 0)) - int(spare)),
        pids=int(said["pids_stats"]["current"]),
        memory_peak=memory.get("max_usage"),
        disk=disk,
    )
