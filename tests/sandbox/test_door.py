"""The socket through which an environment has its sandbox."""

from __future__ import annotations

import os
import pickle
import socket
import stat
import threading
import time
from collections.abc import Iterator

import msgpack  # type: ignore[import-untyped]
import pytest

from megaflow.errors import InvalidArgument, NotFound, PermissionDenied, SessionLost
from megaflow.sandbox_proxy import SandboxProxy
from sandbox_host import SandboxHost


@pytest.fixture(scope="module")
def host() -> Iterator[SandboxHost]:
    host = SandboxHost()
    yield host
    host.close()


@pytest.fixture
def sandbox(host: SandboxHost) -> Iterator[SandboxProxy]:
    sandbox = host.make("bare")
    yield sandbox
    host.destroy(sandbox)


def parts(sandbox: SandboxProxy) -> tuple[str, bytes]:
    """The path of its socket, and what opens it."""
    _, (path, capability) = sandbox.__reduce__()
    return path, capability


def test_only_the_capability_opens_it(sandbox: SandboxProxy) -> None:
    path, capability = parts(sandbox)
    assert len(capability) == 16
    for wrong in (b"", bytes(16), capability[:-1], capability + b"\0"):
        with pytest.raises(PermissionDenied):
            SandboxProxy(path, wrong).exec("true")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_a_capability_opens_its_own_sandbox_alone(host: SandboxHost, sandbox: SandboxProxy) -> None:
    other = host.make("bare")
    with pytest.raises(PermissionDenied):
        SandboxProxy(parts(other)[0], parts(sandbox)[1]).exec("true")
    host.destroy(other)


@pytest.mark.parametrize(
    "hello",
    [
        b"",
        b"\0\0\0\1\xc1",
        b"\xff\xff\xff\xff",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0\0\0\x03\x93\1\2",
        b"\0\0\0\x05\x81\xa1v\xa1x",
    ],
)
def test_nonsense_is_hung_up_on(sandbox: SandboxProxy, hello: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(parts(sandbox)[0])
        connection.sendall(hello)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while data := connection.recv(4096):
            answer += data
    assert not answer or msgpack.unpackb(answer[4:])["error"] == "PermissionDenied"
    assert sandbox.exec("echo alive").stdout == b"alive\n"


def test_requests_that_make_no_sense_are_refused(sandbox: SandboxProxy) -> None:
    for verb, given in (
        ("no-such-verb", {}),
        ("exec", {"command": "true", "more": 1}),
        ("exec", {"command": 5}),
        ("exec", {"command": "true", "env": 3}),
        ("exec", {"command": "true", "timeout": "1"}),
        ("read_block", {"path": "/tmp/x", "block": -1}),
        ("write_block", {"path": "/tmp/x", "data": bytes(1 << 19), "append": False}),
    ):
        with pytest.raises(InvalidArgument):
            sandbox.call(verb, given)
    with pytest.raises(NotFound, match="shell"):
        sandbox.call("shell_run", {"shell": 77, "command": "true"})
    assert sandbox.exec("echo alive").stdout == b"alive\n"


def test_a_caller_that_goes_ends_its_command(sandbox: SandboxProxy, tmp_path: object) -> None:
    path, capability = parts(sandbox)
    hello = msgpack.packb({"capability": capability})
    call = msgpack.packb({"verb": "exec", "command": f"echo $$ >{tmp_path}/pid; sleep 600"})
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        for message in (hello, call):
            connection.sendall(len(message).to_bytes(4, "big") + message)
        pid = _soon(lambda: sandbox.exec(f"cat {tmp_path}/pid").stdout.strip())
    _soon(lambda: not os.path.exists(f"/proc/{int(pid)}"))


def test_it_goes_with_its_sandbox(host: SandboxHost) -> None:
    sandbox = host.make("bare")
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            sandbox.exec("sleep 600")
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.2)
    host.destroy(sandbox)
    thread.join(20)
    assert [type(error) for error in errors] == [SessionLost]
    with pytest.raises(SessionLost):
        sandbox.exec("true")
    assert not os.path.exists(parts(sandbox)[0])


def test_a_copy_and_a_fork_have_connections_of_their_own(sandbox: SandboxProxy) -> None:
    assert sandbox.exec("echo first").stdout == b"first\n"
    copy = pickle.loads(pickle.dumps(sandbox))
    assert copy.exec("echo copy").stdout == b"copy\n"
    copy.close()
    pid = os.fork()
    if not pid:
        os._exit(sandbox.exec("exit 7").exit_code)
    assert sandbox.exec("echo parent").stdout == b"parent\n"
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def _soon(condition: object) -> bytes:
    end = time.monotonic() + 20
    while not (value := condition()):  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.05)
    return value  # type: ignore[no-any-return]
