"""Runtimes that run in any image: an interpreter with its libraries, the loader of these, and what it imports."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from megaflow.errors import FailedPrecondition

__all__ = ["LOADER", "add_libraries", "add_node", "add_python", "add_tool"]

# Where in a bundle the loader and the libraries are; `ld.so` whatever the machine calls it.
LOADER: Final = "runtime/ld"
# Of Python's library, what agents do not import.
_LEFT_OUT: Final = (
    "site-packages",
    "test",
    "tests",
    "idlelib",
    "ensurepip",
    "lib2to3",
    "tkinter",
    "turtledemo",
    "_tkinter*",
)
_LISTED: Final = re.compile(r"\s+(?:(\S+) => )?(/\S+) \(0x[0-9a-f]+\)")


def add_python(root: Path, packages: Sequence[str]) -> None:
    """This interpreter, and packages that pip installs for it."""
    library = Path(sysconfig.get_paths()["stdlib"])
    target = root / "runtime" / "lib" / library.name
    skip = shutil.ignore_patterns(*_LEFT_OUT, "__pycache__", "config-*", "*.a")
    shutil.copytree(library, target, ignore=skip, symlinks=False)
    _copy(Path(sys.executable).resolve(), root / "runtime" / "bin" / "python")
    if packages:
        into = ("--target", str(target / "site-packages"))
        _run((sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", *into, *packages))
    # Nothing is written beside it later: its modules are compiled here, and not looked at again.
    _run(
        (
            sys.executable,
            "-m",
            "compileall",
            "-q",
            "--invalidation-mode",
            "unchecked-hash",
            str(target),
        ),
        quiet=True,
    )


def add_node(root: Path, packages: Sequence[str], *, runs: bool) -> None:
    """Packages that npm installs, and the node on PATH where it runs them: some are programs of their own."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            raise FailedPrecondition(f"runtime='node': {program} is not installed here")
    if runs:
        node = Path(str(shutil.which("node"))).resolve()
        _copy(node, root / "runtime" / "bin" / "node")
    if packages:
        _run(
            ("npm", "install", "--no-audit", "--no-fund", "--prefix", str(root / "lib"), *packages)
        )


def add_tool(root: Path, name: str) -> None:
    """A program of this machine's."""
    found = shutil.which(name)
    if found is None:
        raise FailedPrecondition(f"tools: {name} is not installed here")
    _copy(Path(found).resolve(), root / "runtime" / "bin" / name)


def add_libraries(root: Path) -> None:
    """What the programs and libraries of a bundle are linked to, and their loader."""
    linked = [path for path in root.rglob("*") if _is_linked(path)]
    into = root / LOADER
    for name, path in _libraries(linked):
        if not (into / name).exists() and root not in path.parents:
            _copy(path, into / name)
    own = [path for path in (root / "runtime").rglob("*") if _is_linked(path)]
    if own and shutil.which("strip"):  # what debuggers need is half of them, and copied each time
        _run(("strip", "--strip-unneeded", *map(str, own)), quiet=True)


def _is_linked(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    if ".so" not in path.name and not path.stat().st_mode & 0o100:
        return False
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _libraries(programs: Iterable[Path]) -> Iterable[tuple[str, Path]]:
    listed = list(programs)
    if not listed:
        return
    # It ends with 1 where one of them is linked to nothing.
    said = subprocess.run(["ldd", *map(str, listed)], capture_output=True, text=True, check=False)
    for line in said.stdout.splitlines():
        match = _LISTED.fullmatch(line)
        if match is not None:
            yield ("ld.so" if match[1] is None else match[1]), Path(match[2]).resolve()


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)
    target.chmod(0o755)


def _run(argv: Sequence[str], *, quiet: bool = False) -> None:
    """Raises FailedPrecondition with its last lines; `quiet`: whatever it ends with."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode and not quiet:
        lines = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        raise FailedPrecondition(f"{' '.join(argv[:4])} … ended with {done.returncode}:\n{lines}")
