"""A server's part of a sandbox, in a process of its own: it makes sandboxes and opens doors to them.

As a script, it reads lines of JSON and answers each with one.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megaflow.errors import MegaflowError
from megaflow.sandbox_proxy import SandboxProxy
from sandbox_kinds import KINDS, Made

__all__ = ["SandboxHost"]


class SandboxHost:
    """Starts the script, with these variables beside ours; gives proxies."""

    def __init__(self, **variables: str) -> None:
        folder = Path(__file__).parent
        environ = {
            **os.environ,
            **variables,
            "PYTHONPATH": os.pathsep.join([str(folder), *sys.path]),
        }
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environ,
            text=True,
        )
        self._paths: dict[int, str] = {}

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, **request: object) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        if "failed" in answer:
            raise RuntimeError(answer["failed"])
        return answer

    def make(self, kind: str, **settings: object) -> SandboxProxy:
        answer = self.ask(verb="make", kind=kind, settings=settings)
        proxy = SandboxProxy(answer["path"], bytes.fromhex(answer["capability"]))
        self._paths[id(proxy)] = answer["path"]
        return proxy

    def kill(self, proxy: object) -> None:
        self.ask(verb="kill", path=self._paths[id(proxy)])

    def destroy(self, proxy: SandboxProxy) -> None:
        proxy.close()
        self.ask(verb="destroy", path=self._paths.pop(id(proxy)))

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        assert self._process.wait(30) == 0
        self._process.stdout.close()


async def serve() -> None:
    made: dict[str, Made] = {}
    with tempfile.TemporaryDirectory() as folder:
        while line := await asyncio.to_thread(sys.stdin.readline):
            request: Mapping[str, Any] = json.loads(line)
            try:
                answer = await carry_out(request, made, Path(folder))
            except MegaflowError as error:
                answer = {"failed": f"{type(error).__name__}: {error}"}
            print(json.dumps(answer), flush=True)


async def carry_out(
    request: Mapping[str, Any], made: dict[str, Made], folder: Path
) -> dict[str, str]:
    if request["verb"] == "make":
        one = await KINDS[request["kind"]](folder, **request["settings"])
        made[one.door.path] = one
        return {"path": one.door.path, "capability": one.door.capability.hex()}
    if request["verb"] == "kill":
        await made[request["path"]].kill()
    else:
        await made.pop(request["path"]).destroy()
    return {}


if __name__ == "__main__":
    asyncio.run(serve())
