from __future__ import annotations

import json
from importlib.metadata import version

import pytest

from commands import Command, Serve
from leftovers import Place

NEEDED = {"python", "packages", "machine", "server", "session"}


def test_a_healthy_machine(place: Place) -> None:
    report = json.loads(place.run("-m", "megaflow_server", "doctor", "--json"))
    assert report["ok"] is True
    found = {check["name"]: check for check in report["checks"]}
    assert NEEDED | {"fork", "sockets", "loopback"} <= set(found)
    assert all(found[name]["status"] != "failed" for name in found)
    assert f"gymnasium {version('gymnasium')}" in found["packages"]["detail"]
    assert "embedded server started" in found["server"]["detail"]
    place.assert_nothing_left()


def test_of_a_server(serve: Serve, command: Command) -> None:
    served = serve("--listen", "127.0.0.1:0", "--workers", "1", "--backend", "fake")
    done = command("doctor", "--server", served.addresses[0])
    assert done.status == 0
    (line,) = [line for line in done.out.splitlines() if " server " in line]
    assert line.startswith("ok")
    assert served.addresses[0] in line


def test_a_server_that_is_not_there(command: Command) -> None:
    done = command("doctor", "--server", "unix:/nonexistent/server.sock", "--json")
    assert done.status == 1
    found = {check["name"]: check for check in json.loads(done.out)["checks"]}
    assert found["server"]["status"] == "failed"
    assert "megaflow serve --listen unix:/nonexistent/server.sock" in found["server"]["detail"]
    assert "session" not in found


def test_what_fails_is_named_with_the_way_out(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRPC_ENABLE_FORK_SUPPORT", "0")
    done = command("doctor", "--server", "unix:/nonexistent/server.sock")
    assert done.status == 1
    assert "failed: server" in done.out
    lines = done.out.splitlines()
    (index,) = [i for i, line in enumerate(lines) if line.startswith("warning  fork")]
    assert "→ unset GRPC_ENABLE_FORK_SUPPORT" in lines[index + 1]
