"""Images for tests, made of what is on this machine: no registry is asked. Named by what is in them."""

from __future__ import annotations

import fcntl
import hashlib
import io
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from importlib.util import cache_from_source
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

PASSWD = b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\ntoor:x:0:0::/root:/bin/sh\n"
GROUP = b"root:x:0:\nuser:x:1000:\n"
_FOLDERS = {"tmp": 0o1777, "root": 0o700, "home": 0o755, "proc": 0o755, "sys": 0o755, "dev": 0o755}
# What a worker imports, as it lies in site-packages.
_DEPENDENCIES = (
    *("cloudpickle", "google", "grpc", "gymnasium", "msgpack", "numpy", "numpy.libs", "pydantic"),
    *("pydantic_core", "annotated_types", "typing_extensions.py", "typing_inspection"),
    *("farama_notifications", "*.dist-info"),
)
# Folders of the standard library, and of packages at any depth, that no worker imports.
_LEFT_OUT = frozenset(
    {"site-packages", "test", "tests", "idlelib", "ensurepip", "lib2to3", "tkinter", "turtledemo"}
)


def busybox() -> str:
    """An image with busybox as its shell and all its programs, root, and a `user` with a folder."""
    program = shutil.which("busybox")
    assert program is not None, "busybox is missing: apt-get install busybox-static"
    content = Path(program).read_bytes()
    applets = subprocess.run([program, "--list"], capture_output=True, text=True, check=True).stdout

    def fill(archive: tarfile.TarFile) -> None:
        add_skeleton(archive)
        add_file(archive, "bin/busybox", content, 0o755)
        for applet in sorted(set(applets.split()) - {"busybox"}):
            add_link(archive, f"bin/{applet}", "busybox")

    return imported("busybox", (content, applets.encode(), PASSWD, GROUP), fill)


def add_skeleton(archive: tarfile.TarFile) -> None:
    """The folders and the users that every image here has."""
    for name, mode in {**_FOLDERS, "bin": 0o755, "etc": 0o755}.items():
        add_folder(archive, name, mode)
    add_folder(archive, "home/user", 0o755, owner=1000)
    add_file(archive, "etc/passwd", PASSWD)
    add_file(archive, "etc/group", GROUP)


def add_folder(archive: tarfile.TarFile, name: str, mode: int, owner: int = 0) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.uid, member.gid = tarfile.DIRTYPE, mode, owner, owner
    archive.addfile(member)


def add_file(
    archive: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644, mtime: float = 0
) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = len(content), mode, int(mtime)
    archive.addfile(member, io.BytesIO(content))


def add_link(archive: tarfile.TarFile, name: str, target: str) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.mode = tarfile.SYMTYPE, target, 0o777
    archive.addfile(member)


def imported(name: str, parts: Iterable[bytes], fill: Callable[[tarfile.TarFile], None]) -> str:
    """The name of an image that `fill` fills, made only where there is none of these parts yet."""
    import docker

    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    repository, tag = f"megaflow-test/{name}", digest.hexdigest()[:16]
    client = docker.from_env(timeout=120).api
    try:
        with _one_at_a_time():
            if not client.images(f"{repository}:{tag}"):
                buffer = io.BytesIO()
                with tarfile.open(fileobj=buffer, mode="w") as archive:
                    fill(archive)
                client.import_image_from_data(buffer.getvalue(), repository=repository, tag=tag)
    finally:
        client.close()
    return f"{repository}:{tag}"


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Of all processes that want an image, one makes it, and the others wait for that."""
    with Path(__file__).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def worker() -> str:
    """An image with this interpreter, what megaflow's base install needs, and megaflow, in /usr/local."""
    library = Path(sysconfig.get_paths()["stdlib"])
    packages = Path(sysconfig.get_paths()["purelib"])
    target = f"usr/local/lib/{library.name}"
    files = dict(_tree(library, target, skip=_LEFT_OUT))
    for name in _DEPENDENCIES:
        for path in sorted(packages.glob(name)):
            files.update(_tree(path, f"{target}/site-packages/{path.name}"))
    for name in ("megaflow", "server/megaflow_server", "envs/megaflow_envs"):
        files.update(_tree(ROOT / name, f"{target}/site-packages/{Path(name).name}"))
    interpreter = Path(sys.executable).resolve()
    files["usr/local/bin/python3"] = interpreter
    loaded = [path for path in files.values() if ".so" in path.name]
    files.update(_libraries([interpreter, *loaded]))

    def fill(archive: tarfile.TarFile) -> None:
        add_skeleton(archive)
        for name, path in files.items():
            state = path.stat()
            mode = 0o755 if state.st_mode & 0o100 else 0o644
            add_file(archive, name, path.read_bytes(), mode, state.st_mtime)
            if (compiled := _compiled(path)) is not None:
                below = f"{name.rpartition('/')[0]}/__pycache__/{compiled.name}"
                add_file(archive, below, compiled.read_bytes(), mtime=state.st_mtime)

    return imported("worker", _stamps(files), fill)


def workbench() -> str:
    """An image in which repositories are mended: this interpreter, git, and busybox's programs; only root."""
    git, shell = shutil.which("git"), shutil.which("busybox")
    assert git is not None
    assert shell is not None, "busybox is missing: apt-get install busybox-static"
    library = Path(sysconfig.get_paths()["stdlib"])
    interpreter = Path(sys.executable).resolve()
    files = dict(_tree(library, f"usr/local/lib/{library.name}", skip=_LEFT_OUT))
    files |= {
        "usr/local/bin/python3": interpreter,
        "bin/git": Path(git),
        "bin/busybox": Path(shell),
    }
    loaded = [path for path in files.values() if ".so" in path.name]
    files.update(_libraries([interpreter, Path(git), *loaded]))
    listed = subprocess.run([shell, "--list"], capture_output=True, text=True, check=True).stdout

    def fill(archive: tarfile.TarFile) -> None:
        add_skeleton(archive)
        for name, path in files.items():
            mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
            add_file(archive, name, path.read_bytes(), mode)
        for applet in sorted(set(listed.split()) - {"busybox"}):
            add_link(archive, f"bin/{applet}", "busybox")

    return imported("workbench", _stamps(files), fill)


def _stamps(files: Mapping[str, Path]) -> Iterator[bytes]:
    """What an image of these files is named by."""
    for name, path in sorted(files.items()):
        yield f"{name} {path.stat().st_size} {path.stat().st_mtime_ns}".encode()


def _compiled(path: Path) -> Path | None:
    """What Python keeps of a module, where it has it already: it fits as long as the module has its time."""
    if path.suffix != ".py":
        return None
    compiled = Path(cache_from_source(str(path)))
    return compiled if compiled.is_file() else None


def _tree(
    root: Path, target: str, skip: Set[str] = frozenset({"tests"})
) -> Iterator[tuple[str, Path]]:
    """The files below a folder, or a file, with their names in the image; what one links statically is left out."""
    if root.is_file():
        yield target, root
        return
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        if path.is_file() and path.suffix != ".a" and not {"__pycache__", *skip} & set(parts[:-1]):
            yield f"{target}/{'/'.join(parts)}", path


def _libraries(programs: Sequence[Path]) -> dict[str, Path]:
    """What programs and libraries are linked to, where the loader looks for it."""
    command = ["ldd", *map(str, programs)]
    said = subprocess.run(command, capture_output=True, text=True).stdout
    found = {}
    for line in said.splitlines():
        match = re.fullmatch(r"\s+(?:(\S+) => )?(/\S+) \(0x[0-9a-f]+\)", line)
        if match is None or "site-packages" in match[2]:
            continue
        name = "lib64/ld-linux-x86-64.so.2" if match[1] is None else f"usr/lib/{match[1]}"
        found[name] = Path(match[2]).resolve()
    return found
