"""What ends all that runs in a container but its main process, and how an engine says that it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["KILL", "LEFT", "left"]

# Stops what its user may stop, itself and the first process excepted, so that nothing new comes; then kills it, but for
# the oldest: what the container was made to run, whose end would be the container's. The fields of proc_pid_stat(5)
# after the name: 20 is the start. Nothing here starts a process.
_SCRIPT = r"""
exec 2>/dev/null
kill -s STOP -- -1
o= b=
for f in /proc/[0-9]*/stat; do
  IFS= read -r s <"$f" || continue
  p=${f#/proc/} p=${p%/stat}
  case $p in 1 | $$) continue ;; esac
  set -- ${s##*) }
  [ "${20}" ] || continue
  if [ -z "$o" ] || [ "${20}" -lt "$b" ] || { [ "${20}" -eq "$b" ] && [ "$p" -lt "$o" ]; }; then
    o=$p b=${20}
  fi
done
for f in /proc/[0-9]*; do
  p=${f#/proc/}
  case $p in 1 | $$ | $o) ;; *) kill -s KILL "$p" ;; esac
done
kill -s CONT "$o"
"""
KILL: Sequence[str] = ("/bin/sh", "-c", _SCRIPT)

# What the engine's `top` is asked for.
LEFT = "-eo pid,stat"
# The init process and what it was told to run: with the latter the container would have ended.
_MAIN = 2


def left(table: Mapping[str, Any]) -> int:
    """How many processes there are beside the main ones, by what the engine's `top` says."""
    state = table["Titles"].index("STAT")
    alive = [row for row in table["Processes"] if not row[state].startswith(("Z", "X"))]
    return max(0, len(alive) - _MAIN)
