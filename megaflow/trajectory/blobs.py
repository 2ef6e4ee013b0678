"""Images, frames and other large parts: each a file beside the trajectories, named by what it holds.

A blob is `blobs/ab/abcdef….png` in the folder of its trajectories, by the SHA-256 of its bytes, and in a record
stands a reference: `{"$blob": digest, "media_type": …, "size": bytes}`. It is `$array` where an array was taken out,
and `$data_url` where the text of a `data:` URL was. What comes again, in this trajectory or in another of the folder,
such as the images in each call of a conversation, is stored once.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeGuard, TypeVar, cast

from megaflow.errors import InvalidArgument
from megaflow.trajectory.records import Record

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "FOLDER",
    "LARGE",
    "VALUE",
    "Blob",
    "blob_of",
    "externalise",
    "internalise",
    "is_large",
    "reference",
    "snapshot",
]

FOLDER: Final = "blobs"
# Bytes from which on an array, and characters from which on a `data:` URL, lies beside its trajectory.
LARGE: Final = 16 << 10
# An array that is no frame, in the wire's value codec.
VALUE: Final = "application/vnd.megaflow.value"

_EXTENSIONS: Final = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/gif": "gif",
    "image/webp": "webp",
    "text/plain": "txt",
    "application/json": "json",
    VALUE: "value",
}
_FORMS: Final = ("blob", "array", "data_url")
_DATA_URL: Final = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,")
R = TypeVar("R", bound=Record)
Form: TypeAlias = Literal["blob", "array", "data_url"]


@dataclass(frozen=True, slots=True)
class Blob:
    """A reference: `digest` is the SHA-256 of the `size` bytes, in hexadecimal; `form` is what they came from."""

    digest: str
    media_type: str
    size: int
    form: Form = "blob"

    @property
    def path(self) -> str:
        """Where it lies, from the folder of its trajectories."""
        return f"{FOLDER}/{self.digest[:2]}/{self.digest}.{_EXTENSIONS.get(self.media_type, 'bin')}"

    def as_value(self) -> dict[str, Any]:
        """What stands in a record for it."""
        return {f"${self.form}": self.digest, "media_type": self.media_type, "size": self.size}

    def check(self, data: bytes) -> bytes:
        """The data, if it is this blob's. Raises InvalidArgument if it is not."""
        if hashlib.sha256(data).hexdigest() != self.digest:
            raise InvalidArgument(f"blob {self.path} does not hold what its name says")
        return data


def blob_of(data: bytes, media_type: str, form: Form = "blob") -> Blob:
    """The reference to some bytes."""
    return Blob(hashlib.sha256(data).hexdigest(), media_type, len(data), form)


def reference(value: Any) -> Blob | None:
    """The blob that a value stands for, if it stands for one."""
    if type(value) is not dict or len(value) != 3:
        return None
    form = next((each for each in _FORMS if f"${each}" in value), None)
    if form is None:
        return None
    digest = value[f"${form}"]
    media_type, size = value.get("media_type"), value.get("size")
    if not (isinstance(digest, str) and isinstance(media_type, str) and isinstance(size, int)):
        return None
    # A digest becomes a path, and who wrote it is not trusted.
    if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        return None
    return Blob(digest, media_type, size, cast("Form", form))


def is_large(record: Record, large: int = LARGE) -> bool:
    """Whether `externalise` would take something out."""
    found = False

    def look(value: Any) -> Any:
        nonlocal found
        found = found or _out(value, large)
        return value

    _changed(record, look)
    return found


def snapshot(record: R, large: int = LARGE) -> R:
    """The record with copies of its large arrays: an environment may reuse their memory."""

    def copied(value: Any) -> Any:
        return value.copy() if _is_array(value) and _out(value, large) else value

    return _changed(record, copied)


def _out(value: Any, large: int) -> bool:
    if type(value) is str:
        return len(value) >= large and value.startswith("data:")
    return _is_array(value) and value.nbytes >= large and value.dtype.kind != "O"


def _is_array(value: Any) -> TypeGuard[np.ndarray[Any, Any]]:
    # Where nobody has imported numpy, as in a gateway, nothing is one.
    numpy = sys.modules.get("numpy")
    return numpy is not None and type(value) is numpy.ndarray


def externalise(record: R, store: Callable[[Blob, bytes], None], large: int = LARGE) -> R:
    """The record with its large arrays stored, frames as PNG, others in the value codec; and its `data:` URLs."""

    def put(value: Any) -> Any:
        if not _out(value, large):
            return value
        found = _url_parts(value) if type(value) is str else _array_parts(value)
        if found is None:
            return value
        blob, data = found
        store(blob, data)
        return blob.as_value()

    return _changed(record, put)


def _array_parts(array: np.ndarray[Any, Any]) -> tuple[Blob, bytes]:
    from megaflow.protocol import values
    from megaflow.trajectory import png

    if png.is_frame(array):
        data = png.write(array)
        return blob_of(data, "image/png", "array"), data
    data = values.encode(array)
    return blob_of(data, VALUE, "array"), data


def _url_parts(url: str) -> tuple[Blob, bytes] | None:
    """None for one that would not come back letter by letter."""
    head = _DATA_URL.match(url)
    if head is None:
        return None
    try:
        data = base64.b64decode(url[head.end() :], validate=True)
    except (binascii.Error, ValueError):
        return None
    blob = blob_of(data, head[1], "data_url")
    return (blob, data) if _url(blob, data) == url else None


def _url(blob: Blob, data: bytes) -> str:
    return f"data:{blob.media_type};base64,{base64.b64encode(data).decode()}"


def internalise(record: R, load: Callable[[Blob], bytes]) -> R:
    """The record with its arrays and `data:` URLs back in place; other blobs stay references.

    Raises:
        InvalidArgument: a blob does not hold what its name says.
    """

    def get(value: Any) -> Any:
        blob = reference(value)
        if blob is None or blob.form == "blob":
            return value
        data = blob.check(load(blob))
        if blob.form == "data_url":
            return _url(blob, data)
        return _array(blob, data)

    return _changed(record, get)


def _array(blob: Blob, data: bytes) -> Any:
    from megaflow.protocol import values
    from megaflow.trajectory import png

    return png.read(data) if blob.media_type == "image/png" else values.decode(data, path=blob.path)


def _changed(record: R, change: Callable[[Any], Any]) -> R:
    new = {}
    for each in fields(record):
        old = getattr(record, each.name)
        value = _walk(old, change)
        if value is not old:
            new[each.name] = value
    return replace(record, **new) if new else record


def _walk(value: Any, change: Callable[[Any], Any]) -> Any:
    """The value with every part changed that `change` changes; what stays is not copied."""
    changed = change(value)
    if changed is not value:
        return changed
    if isinstance(value, Mapping):
        parts = {key: _walk(part, change) for key, part in value.items()}
        same = all(parts[key] is part for key, part in value.items())
        return value if same else parts
    if type(value) in (list, tuple):
        items = [_walk(part, change) for part in value]
        same = all(new is old for new, old in zip(items, value, strict=True))
        return value if same else type(value)(items)
    return value
