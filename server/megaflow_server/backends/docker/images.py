"""Names of images, and what a registry says while one is fetched; sans-IO."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from megaflow.errors import (
    InvalidArgument,
    MegaflowError,
    NotFound,
    ResourceExhausted,
    Unavailable,
)

__all__ = ["Pull", "Reference"]

_HUB = "docker.io"
_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?P<name>(?:[a-zA-Z0-9][a-zA-Z0-9.-]*(?::\d+)?/)?{_PART}(?:/{_PART})*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?",
    re.ASCII,
)
_ID = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Reference:
    """An image's name, taken apart; `is_id` for one that only this engine knows."""

    text: str
    repository: str
    tag: str | None = None
    digest: str | None = None
    is_id: bool = False

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Raises InvalidArgument for what is no name of an image."""
        if _ID.fullmatch(text):
            return cls(text, text, is_id=True)
        match = _REFERENCE.fullmatch(text)
        if match is None:
            raise InvalidArgument(
                f"image={text!r}: takes name[:tag][@sha256:…], such as python:3.11 or "
                "registry.example/team/image@sha256:…, in lower-case letters"
            )
        tag, digest = match["tag"], match["digest"]
        return cls(text, match["name"], tag or (None if digest else "latest"), digest)

    @property
    def version(self) -> str:
        """What is pulled of the repository: the digest where there is one."""
        return self.digest or self.tag or "latest"

    @property
    def full(self) -> str:
        """The repository with what is pulled of it."""
        return f"{self.repository}{'@' if self.digest else ':'}{self.version}"

    def mirrored(self, mirror: str | None) -> Reference:
        """The image as a registry has it that stands in for the others."""
        if mirror is None or self.is_id:
            return self
        first, slash, rest = self.repository.partition("/")
        is_host = bool(slash) and ("." in first or ":" in first or first == "localhost")
        path = rest if is_host else self.repository
        if (not is_host or first == _HUB) and "/" not in path:
            path = f"library/{path}"
        repository = f"{mirror.rstrip('/')}/{path}"
        return Reference(
            f"{repository}{self.text[len(self.repository) :]}", repository, self.tag, self.digest
        )


class Pull:
    """What was said while an image was fetched: bytes so far and in all, over its layers.

    A layer counts from the moment its size is known. What went wrong is an error of ours.
    """

    def __init__(self, image: str) -> None:
        self._image = image
        self._layers: dict[str, tuple[int, int]] = {}

    def feed(self, event: Mapping[str, Any]) -> tuple[str, int, int]:
        """Take what the engine said; gives it with the bytes so far and in all.

        Raises:
            MegaflowError: it said that it failed.
        """
        if "error" in event:
            raise self.failure(str(event["error"]))
        status, layer = str(event.get("status", "")), str(event.get("id", ""))
        detail = event.get("progressDetail") or {}
        if status == "Downloading" and detail.get("total"):
            self._layers[layer] = (int(detail.get("current", 0)), int(detail["total"]))
        elif status in ("Download complete", "Pull complete") and layer in self._layers:
            total = self._layers[layer][1]
            self._layers[layer] = (total, total)
        done = sum(current for current, _ in self._layers.values())
        return status, done, sum(total for _, total in self._layers.values())

    def failure(self, text: str) -> MegaflowError:
        """The error that a registry's or the engine's words stand for."""
        message, low = f"image={self._image!r}: {text}", text.lower()
        if "toomanyrequests" in low or "rate limit" in low:
            return ResourceExhausted(message, retry_after=60.0)
        if "no space left" in low:
            return ResourceExhausted(message)
        if any(sign in low for sign in ("not found", "manifest unknown", "denied", "unauthorized")):
            return NotFound(f"{message}; check its name, and that this host may have it")
        return Unavailable(message, retry_after=1.0)
