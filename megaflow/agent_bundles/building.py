"""Makes bundles: once for each version."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Final

from megaflow.agent_bundles import runtime
from megaflow.agent_bundles.recipe import Recipe
from megaflow.agent_bundles.store import ARCHIVE, DESCRIPTION, Bundle, find, folder
from megaflow.errors import FailedPrecondition, InvalidArgument, NotFound

__all__ = ["build"]

# What is on PATH in a sandbox: a few words for any shell. The runtime's loader, so that neither the image's libraries
# nor its C library matter; no variable, since what the agent starts would have it, too.
_PROGRAM: Final = """\
#!/bin/sh
case $0 in */*) here=${{0%/*}} ;; *) here=$(command -v -- "$0"); here=${{here%/*}} ;; esac
root=$here/..
exec {line} "$@"
"""
_LOADED: Final = '"$root/{loader}/ld.so" --library-path "$root/{loader}" "$root/{program}"'


def build(recipe: Recipe, where: Path | None = None) -> Bundle:
    """Make the bundle of a recipe.

    Args:
        where: the folder of all bundles; None for this machine's.

    Raises:
        FailedPrecondition: there is one of this version, which does not change; its runtime or its packages are not
            to be had here.
        InvalidArgument, NotFound: the recipe names what is not there.
    """
    whole = where or folder()
    target = whole / recipe.name / recipe.version
    if target.exists():
        raise FailedPrecondition(
            f"{target} is there: a version is built once; give the recipe another, or remove that folder"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".making-") as making:
        made = Path(making) / "bundle"
        made.mkdir()
        _fill(made, recipe)
        _seal(made)
        _pack(made, f"megaflow-{recipe.name}-{recipe.version}")
        made.rename(target)
    return find(f"{recipe.name}@{recipe.version}", whole)


def _fill(root: Path, recipe: Recipe) -> None:
    if recipe.runtime == "python":
        runtime.add_python(root, recipe.packages)
    elif recipe.runtime == "node":
        runs = any(argv[0] == "node" for argv in recipe.programs.values())
        runtime.add_node(root, recipe.packages, runs=runs)
    for pattern in recipe.leave_out:
        for path in list(root.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name in recipe.files:
        source = recipe.base / name
        if not source.exists():
            raise NotFound(f"files: {source} is not there")
        if source.is_dir():
            shutil.copytree(source, root / name)
        else:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, root / name)
    for tool in recipe.tools:
        runtime.add_tool(root, tool)
    runtime.add_libraries(root)
    for program, argv in recipe.programs.items():
        _write(root / "bin" / program, _line(root, recipe, program, list(argv)))
    for tool in recipe.tools:
        _write(root / "tools" / tool, _loaded(tool))
    told = {
        "name": recipe.name,
        "version": recipe.version,
        "command": recipe.command,
        "env": dict(recipe.env),
    }
    (root / DESCRIPTION).write_text(json.dumps(told, indent=2) + "\n")


def _write(path: Path, line: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(_PROGRAM.format(line=line))
    path.chmod(0o755)


def _loaded(program: str) -> str:
    return _LOADED.format(loader=runtime.LOADER, program=f"runtime/bin/{program}")


def _line(root: Path, recipe: Recipe, program: str, argv: list[str]) -> str:
    first, *rest = argv
    words = [
        f'"$root"/{shlex.quote(one)}' if (root / one).exists() else shlex.quote(one) for one in rest
    ]
    if first == recipe.runtime:
        return " ".join([_loaded(first), *words])
    if not (root / first).is_file():
        raise InvalidArgument(
            f"programs: {program}: {first!r} is neither the runtime nor a file of the bundle"
        )
    return " ".join([f'"$root"/{shlex.quote(first)}', *words])


def _seal(root: Path) -> None:
    """Nobody writes to it any more, and everybody may read and run it."""
    for path in root.rglob("*"):
        if not path.is_symlink() and path.is_file():
            path.chmod(0o555 if path.stat().st_mode & 0o100 else 0o444)


def _pack(root: Path, name: str) -> None:
    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        if member.isdir():
            member.mode = 0o755
        return member

    archive = root.parent / ARCHIVE
    with tarfile.open(archive, "w") as tar:
        tar.add(root, name, filter=plain)
    os.replace(archive, root / ARCHIVE)
