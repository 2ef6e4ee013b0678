"""What stands in for a Docker Engine whose registry is to behave in a certain way: HTTP on a Unix socket."""

from __future__ import annotations

import json
import re
import socketserver
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

# What a pull says, event by event; it may wait in between.
Pull = Callable[[str], Iterable[Mapping[str, Any]]]


class ScriptedEngine:
    """Knows images, and pulls them as it is told to; a context manager.

    Attributes:
        images: by name, what `docker inspect` says.
        pulls: the names that were asked of a registry, in order.
    """

    def __init__(self, folder: Path, pull: Pull) -> None:
        self.path = folder / "docker.sock"
        self.images: dict[str, dict[str, Any]] = {}
        self.pulls: list[str] = []
        self._pull = pull
        engine = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def address_string(self) -> str:
                return "unix"

            def log_message(self, format: str, *arguments: object) -> None:
                del format, arguments

            def do_GET(self) -> None:
                found = engine._look(unquote(urlsplit(self.path).path))
                self._reply(
                    200 if found is not None else 404, found or {"message": "no such image"}
                )

            def do_POST(self) -> None:
                query = parse_qs(urlsplit(self.path).query)
                version = query["tag"][0]
                name = f"{query['fromImage'][0]}{'@' if ':' in version else ':'}{version}"
                engine.pulls.append(name)
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                failed = False
                for event in engine._pull(name):
                    failed = failed or "error" in event
                    line = json.dumps(event).encode() + b"\r\n"
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
                if not failed:
                    engine.images[name] = {"Id": f"sha256:{len(engine.images):064x}", "Config": {}}
                self.wfile.write(b"0\r\n\r\n")

            def _reply(self, status: int, value: object) -> None:
                content = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
            daemon_threads = True
            # A test ends although a registry has stopped in the middle of a pull.
            block_on_close = False

            def handle_error(self, request: Any, client_address: Any) -> None:
                if not isinstance(sys.exception(), BrokenPipeError):  # who pulled has gone
                    super().handle_error(request, client_address)

        self._server = Server(str(self.path), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> ScriptedEngine:
        self._thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _look(self, path: str) -> object:
        if path.endswith("/version"):
            return {"ApiVersion": "1.41", "Version": "20.10"}
        match = re.fullmatch(r"/v[\d.]+/images/(.*)/json", path)
        return self.images.get(match[1]) if match else None
