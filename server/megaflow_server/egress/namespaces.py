"""A socket at the loopback of another network namespace; nothing runs there for that."""

from __future__ import annotations

import ctypes
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from megaflow.errors import FailedPrecondition

__all__ = ["PORT", "can_listen", "listen", "listen_here"]

# Where proxies usually are. The same each time, so that what a sandbox's variables say does not differ.
PORT = 3128
# <linux/sched.h>
_NEW_NET = 0x40000000
# Who may enter namespaces; <linux/capability.h>
_ADMINISTER = 21


def can_listen() -> bool:
    """Whether this process may enter network namespaces that others have made; only Linux has any."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _ADMINISTER & 1)
    return False


def listen(pid: int, port: int = PORT, *, of: str) -> socket.socket:
    """A socket that listens at 127.0.0.1 of the network that a process is in.

    Args:
        port: 0 for any that is free.
        of: what must be in the name of a control group of the process, so that it is no other than is meant: this
            server may see other processes than an engine does. Empty where it is a child of this one's.

    Raises:
        FailedPrecondition: that cannot be had; with why.
    """
    said: list[socket.socket | BaseException] = []

    def work() -> None:
        # In a thread of its own: the namespace that it enters is this thread's alone, and ends with it.
        try:
            said.append(_listen(pid, port, of))
        except BaseException as error:
            said.append(error)

    thread = threading.Thread(target=work, name="egress")
    thread.start()
    thread.join()
    (one,) = said
    if isinstance(one, OSError):
        raise FailedPrecondition(
            f"nothing can listen at port {port} of the sandbox's loopback for it: {one}"
        ) from one
    if isinstance(one, BaseException):
        raise one
    return one


def _listen(pid: int, port: int, of: str) -> socket.socket:
    namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    try:
        if of not in Path(f"/proc/{pid}/cgroup").read_text():
            raise FailedPrecondition(
                f"process {pid} is another on this host than the engine's: a server that listens in sandboxes sees "
                "the same processes as its engine does"
            )
        if os.fstat(namespace).st_ino == os.stat("/proc/self/ns/net").st_ino:
            raise FailedPrecondition(f"process {pid} has no network of its own")
        _enter(namespace)
    finally:
        os.close(namespace)
    return _bound(port)


def listen_here(port: int) -> socket.socket:
    """The same for a sandbox that has this process's own network. Raises FailedPrecondition."""
    try:
        return _bound(port)
    except OSError as error:
        raise FailedPrecondition(f"port {port} of this host's loopback: {error}") from error


def _bound(port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        # The one before may have left connections that only just ended.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(("127.0.0.1", port))
        made.listen(64)
        made.setblocking(False)
    except BaseException:
        made.close()
        raise
    return made


def _enter(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    setns: Callable[[int, int], int] = libc.setns
    if setns(namespace, _NEW_NET):
        code = ctypes.get_errno()
        raise OSError(code, f"its network cannot be entered: {os.strerror(code)}")
