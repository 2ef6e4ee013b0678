"""The main process of a sandbox that is made of processes: `python room.py`, with its settings as input.

It makes namespaces, in them a file system of its own, and becomes the first process there: when it ends,
whatever it is, the kernel ends everything in it. Over a socket it is told what to run. Not a security boundary.
The standard library alone: it runs with nothing else on its path.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import fcntl
import json
import os
import resource
import select
import shutil
import signal
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

# <linux/sched.h>, <linux/mount.h>, <linux/prctl.h>, <linux/sockios.h>
_NEW_MOUNTS, _NEW_NAMES, _NEW_IPC, _NEW_USERS, _NEW_PIDS, _NEW_NET = (
    0x20000,
    0x4000000,
    0x8000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
_READ_ONLY, _NO_SETUID, _NO_DEVICES, _NO_EXEC = 1, 2, 4, 8
_REMOUNT, _BIND, _RECURSIVE, _PRIVATE = 32, 4096, 16384, 1 << 18
_DETACH = 2
_SET_PARENT_DEATH_SIGNAL, _SET_NO_NEW_PRIVILEGES = 1, 38
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 1
# <asm/ioctls.h>
_SET_SIZE, _SET_TERMINAL = 0x5414, 0x540E
# Of a room: the host's are counted together.
_MOST_TERMINALS = 64
# How long what was killed may take to be gone.
_END_WITHIN = 5.0

# What is seen of the host, and not to be written to.
_HOST = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "etc", "opt")
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
# Secrets of the host in what is seen of it.
_MASKED = ("etc/shadow", "etc/shadow-", "etc/gshadow", "etc/gshadow-", "etc/ssh", "etc/krb5.keytab")

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> NoReturn:
    settings = json.loads(sys.stdin.buffer.read())
    control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    control.connect(settings["control"])
    try:
        _die_with(settings["parent"])
        _unshare(settings)
        first = os.fork()
        if not first:
            _first(settings, control)
    except OSError as error:
        _refuse(control, error)
    control.close()
    with contextlib.suppress(ChildProcessError):
        os.waitpid(first, 0)
    sys.exit(0)


def _first(settings: dict[str, Any], control: socket.socket) -> NoReturn:
    """The first process of the namespaces."""
    try:
        _call("prctl", _SET_PARENT_DEATH_SIGNAL, int(signal.SIGKILL), 0, 0, 0)
        _build(Path(settings["root"]), settings)
        socket.sethostname("sandbox")
        if settings["network"] == "none":
            _loopback_up()
        _limit(settings)
        _call("prctl", _SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, 0)
    except OSError as error:
        _refuse(control, error)
    control.send(b'{"ready": true}')
    _serve(settings, control)


def _refuse(control: socket.socket, error: OSError) -> NoReturn:
    control.send(json.dumps({"refused": str(error)}).encode())
    os._exit(1)


def _die_with(parent: int) -> None:
    _call("prctl", _SET_PARENT_DEATH_SIGNAL, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        raise OSError(errno.ESRCH, "whoever started this is gone")


def _unshare(settings: dict[str, Any]) -> None:
    flags = _NEW_MOUNTS | _NEW_PIDS | _NEW_IPC | _NEW_NAMES
    if settings["network"] == "none":
        flags |= _NEW_NET
    user, group = os.geteuid(), os.getegid()
    if user != 0:
        flags |= _NEW_USERS
    _call("unshare", flags)
    if user != 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def _build(root: Path, settings: dict[str, Any]) -> None:
    """A file system of its own: the folder `root`, what is shown of the host, and devices."""
    _mount("none", "/", None, _RECURSIVE | _PRIVATE)
    _mount(str(root), str(root), None, _BIND)
    for name in _HOST:
        _show(Path("/", name), root / name)
    for path in settings["read_only"]:
        _show(Path(path), root / path.lstrip("/"))
    for name in _MASKED:
        _mask(root / name)
    for name in ("passwd", "group"):
        _mount(str(root.parent / name), str(root / "etc" / name), None, _BIND)
    for name in ("proc", "dev"):
        (root / name).mkdir(exist_ok=True)
    _mount("proc", str(root / "proc"), "proc", _NO_SETUID | _NO_DEVICES | _NO_EXEC)
    _devices(root / "dev")
    old = root / ".old"
    old.mkdir(exist_ok=True)
    number = _PIVOT_ROOT.get(os.uname().machine)
    if number is None:
        raise OSError(errno.ENOSYS, f"pivot_root on {os.uname().machine}")
    _call("syscall", number, str(root).encode(), str(old).encode())
    os.chdir("/")
    _call("umount2", b"/.old", _DETACH)
    Path("/.old").rmdir()
    _mount("none", "/", None, _REMOUNT | _BIND | _NO_SETUID | _NO_DEVICES)


def _show(source: Path, target: Path) -> None:
    if source.is_symlink():
        if not target.is_symlink():
            target.symlink_to(os.readlink(source))
    elif source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        _mount(str(source), str(target), None, _BIND)
        flags = _REMOUNT | _BIND | _READ_ONLY | _NO_SETUID | _NO_DEVICES
        _mount("none", str(target), None, flags)


def _mask(path: Path) -> None:
    if path.is_dir():
        _mount("tmpfs", str(path), "tmpfs", _READ_ONLY, "size=4k")
    elif path.exists():
        _mount("/dev/null", str(path), None, _BIND)


def _devices(folder: Path) -> None:
    _mount("tmpfs", str(folder), "tmpfs", _NO_SETUID | _NO_EXEC, "size=64k,mode=755")
    for name in _DEVICES:
        (folder / name).touch()
        _mount(f"/dev/{name}", str(folder / name), None, _BIND)
    for name, target in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        (folder / name).symlink_to(f"/proc/self/{target}")
    (folder / "pts").mkdir()
    flags = _NO_SETUID | _NO_EXEC
    options = f"newinstance,ptmxmode=0666,mode=0620,max={_MOST_TERMINALS}"
    _mount("devpts", str(folder / "pts"), "devpts", flags, options)
    (folder / "ptmx").symlink_to("pts/ptmx")
    (folder / "shm").mkdir()
    flags = _NO_SETUID | _NO_DEVICES
    _mount("tmpfs", str(folder / "shm"), "tmpfs", flags, "size=64m,mode=1777")


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        request = array.array("B", struct.pack("16sH14x", b"lo", 0))
        fcntl.ioctl(probe, _GET_FLAGS, request)
        (flags,) = struct.unpack_from("H", request, 16)
        fcntl.ioctl(probe, _SET_FLAGS, struct.pack("16sH14x", b"lo", flags | _UP))


def _limit(settings: dict[str, Any]) -> None:
    limits = {"core": 0, **settings["limits"]}
    for name, value in limits.items():
        kind = getattr(resource, f"RLIMIT_{name.upper()}")
        _, most = resource.getrlimit(kind)
        value = value if most == resource.RLIM_INFINITY else min(value, most)
        resource.setrlimit(kind, (value, value))


def _serve(settings: dict[str, Any], control: socket.socket) -> NoReturn:
    """Runs what it is told to, and reaps whatever ends in here, until the control socket does."""
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken)
    names: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([control.fileno(), wake], [], [])
        if wake in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(wake, 4096)
            _reap(names, control)
        if control.fileno() in ready:
            data, passed, _, _ = socket.recv_fds(control, 1 << 18, 2)
            if not data:
                os._exit(0)
            order = json.loads(data)
            if order.get("end"):
                control.send(json.dumps({"all_ended": _end_all(names, control)}).encode())
                continue
            names[_run(order, passed, settings)] = order["number"]
            for descriptor in passed:
                os.close(descriptor)


def _end_all(names: dict[int, int], control: socket.socket) -> bool:
    """Kill everything in here but this; whether nothing is left: what loses its parent is this one's child."""
    until = time.monotonic() + _END_WITHIN
    while time.monotonic() < until:
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
        if _reap(names, control):
            return True
        time.sleep(0.002)
    return False


def _reap(names: dict[int, int], control: socket.socket) -> bool:
    """Whether nothing is left that could end."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return True
        if not pid:
            return False
        number = names.pop(pid, None)
        if number is not None:
            with contextlib.suppress(OSError):  # nobody listens any more: the next turn ends this
                control.send(json.dumps({"number": number, "status": status}).encode())


def _run(order: dict[str, Any], passed: list[int], settings: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        if order["terminal"] is not None:
            _sit_down(order["terminal"], settings["uid"], *passed)
        else:
            stream, errors = passed
            os.dup2(stream, 0)
            os.dup2(stream, 1)
            os.dup2(errors, 2)
        os.closerange(3, 1024)
        signal.set_wakeup_fd(-1)
        # What Python itself catches or ignores, and what a shell has its background ignore.
        for one in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(one, signal.SIG_DFL)
        if os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(*[settings["uid"]] * 3)
            os.setresuid(*[settings["uid"]] * 3)
        os.chdir(order["directory"])
        program = shutil.which(order["argv"][0], path=order["environ"].get("PATH"))
        os.execve(program or order["argv"][0], order["argv"], order["environ"])
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    os._exit(127)


def _sit_down(size: list[int], user: int, answer: int) -> None:
    """Have a new terminal for input and output, and send its other end over a socket."""
    other, terminal = os.openpty()
    if os.geteuid() == 0:
        os.chown(os.ttyname(terminal), user, user)
    fcntl.ioctl(terminal, _SET_SIZE, struct.pack("4H", *size, 0, 0))
    fcntl.ioctl(terminal, _SET_TERMINAL, 0)
    with socket.socket(fileno=os.dup(answer)) as speaking:
        socket.send_fds(speaking, [b"terminal"], [other])
    for descriptor in range(3):
        os.dup2(terminal, descriptor)


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    _call(
        "mount",
        source.encode(),
        target.encode(),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        data.encode() if data else None,
    )


def _call(name: str, *arguments: Any) -> None:
    if getattr(_libc, name)(*arguments) < 0:
        code = ctypes.get_errno()
        shown = ", ".join(
            argument.decode() if isinstance(argument, bytes) else str(argument)
            for argument in arguments[:2]
        )
        raise OSError(code, f"{name}({shown}): {os.strerror(code)}")


if __name__ == "__main__":
    main()
