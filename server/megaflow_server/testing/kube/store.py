"""Objects with resource versions, and the changes since any of them that is not too old."""

from __future__ import annotations

import asyncio
import copy
import itertools
import uuid
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

__all__ = ["Change", "Key", "Object", "Refusal", "Store", "now"]

Object = dict[str, Any]


class Refusal(Exception):
    """An answer that is none of success: a `Status` object.

    Args:
        code: of HTTP.
        reason: Kubernetes' word, such as "NotFound".
        retry_after: seconds, for the header of that name.
    """

    def __init__(
        self, code: int, reason: str, message: str, *, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.retry_after = retry_after

    def status(self) -> Object:
        """What the body of the answer is."""
        about = {"code": self.code, "reason": self.reason, "message": self.message}
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", **about}


@dataclass(frozen=True)
class Key:
    """Where an object is: `namespace` is "" for those of the whole cluster."""

    resource: str
    namespace: str
    name: str


@dataclass(frozen=True)
class Change:
    """What became of an object, which is a copy of its own, and what it was before."""

    version: int
    kind: Literal["ADDED", "MODIFIED", "DELETED"]
    key: Key
    object: Object
    before: Object | None


def now() -> str:
    """The time, as objects have it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Store:
    """All objects of a cluster; use it from one event loop.

    Args:
        history: how many changes are kept for watches that begin in the past.
    """

    def __init__(self, history: int = 10_000) -> None:
        self.version = 1
        self.oldest = 1
        self._objects: dict[Key, Object] = {}
        self._told: dict[Key, Object] = {}
        self._changes: deque[Change] = deque()
        self._history = history
        self._news = asyncio.Event()

    def get(self, key: Key) -> Object:
        """The object itself: change it through `update` alone."""
        try:
            return self._objects[key]
        except KeyError:
            raise Refusal(404, "NotFound", f'{key.resource} "{key.name}" not found') from None

    def select(self, resource: str, namespace: str) -> list[Object]:
        """Those of a namespace; of all, for ""."""
        return [
            found
            for key, found in self._objects.items()
            if key.resource == resource and namespace in ("", key.namespace)
        ]

    def create(self, key: Key, body: Object) -> Object:
        if key in self._objects:
            raise Refusal(409, "AlreadyExists", f'{key.resource} "{key.name}" already exists')
        made = copy.deepcopy(body)
        metadata = {"uid": str(uuid.uuid4()), "creationTimestamp": now(), "name": key.name}
        made["metadata"] = made.get("metadata", {}) | metadata
        if key.namespace:
            made["metadata"]["namespace"] = key.namespace
        self._objects[key] = made
        self._changed("ADDED", key, made)
        return made

    def update(self, key: Key, changes: Mapping[str, Any]) -> Object:
        """Replace top-level fields of an object; `metadata` is merged into."""
        found = self.get(key)
        for name, value in changes.items():
            found[name] = found["metadata"] | value if name == "metadata" else value
        self._changed("MODIFIED", key, found)
        return found

    def remove(self, key: Key) -> Object:
        """Remove an object; what it owned goes with it through `owned`, by whoever removes."""
        found = self.get(key)
        del self._objects[key]
        self._changed("DELETED", key, found)
        return found

    def owned(self, uid: str) -> list[Key]:
        """What has owners, of which this was one and none other is there."""
        there = {found["metadata"]["uid"] for found in self._objects.values()}

        def orphaned(found: Object) -> bool:
            owners = {owner["uid"] for owner in found["metadata"].get("ownerReferences") or ()}
            return uid in owners and not owners & there

        return [key for key, found in self._objects.items() if orphaned(found)]

    def since(self, version: int) -> Iterator[Change]:
        """The changes after a version.

        Raises:
            Refusal: 410, some of them are no longer known.
        """
        if version < self.oldest:
            raise Refusal(410, "Expired", f"too old resource version: {version} ({self.oldest})")
        behind = self.version - version
        first = max(0, len(self._changes) - behind)
        return itertools.islice(tuple(self._changes), first, None)

    def compact(self) -> None:
        """Forget all changes so far: a watch that begins before now is too late."""
        self._changes.clear()
        self.version += 1
        self.oldest = self.version

    async def news(self) -> None:
        """Return with the next change."""
        await self._news.wait()

    def _changed(
        self, kind: Literal["ADDED", "MODIFIED", "DELETED"], key: Key, found: Object
    ) -> None:
        self.version += 1
        found["metadata"]["resourceVersion"] = str(self.version)
        told = copy.deepcopy(found)
        self._changes.append(Change(self.version, kind, key, told, self._told.pop(key, None)))
        if kind != "DELETED":
            self._told[key] = told
        if len(self._changes) > self._history:
            self.oldest = self._changes.popleft().version
        self._news.set()
        self._news = asyncio.Event()
