"""How callables of the user's own script reach a server that the same user owns.

They are pickled by cloudpickle into files of a private folder, and only their names travel on the wire: no
network listener ever reads a pickle. A server without such a folder takes names alone.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import Any, Protocol

from megaflow.errors import InvalidArgument


class CodeStore(Protocol):
    """A place that this process and the workers share."""

    def put(self, thing: object, *, path: str) -> str:
        """Stores a callable or its arguments; the name to send. `path` names the argument in errors."""
        ...


class CodeFolder:
    """A private folder of pickles, each named by its own SHA-256."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, thing: object, *, path: str) -> str:
        data = _pickle(thing, path)
        name = hashlib.sha256(data).hexdigest()
        target = self._folder / name
        if not target.exists():
            # Written aside and renamed, so that a worker never reads half a file.
            scratch = self._folder / f".{name}.{os.getpid()}.{os.urandom(4).hex()}"
            descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "wb") as file:
                file.write(data)
            scratch.rename(target)
        return name

    def load(self, name: str) -> Any:
        """The thing that was stored under this name. Raises whatever its unpickling raises."""
        if len(name) != 64 or not set(name) <= set("0123456789abcdef"):
            raise InvalidArgument(f"code={name!r} is not the name of a file in the code folder")
        target = self._folder / name
        try:
            data = target.read_bytes()
        except FileNotFoundError:
            raise InvalidArgument(
                f"code={name!r} is not in the code folder of this server"
            ) from None
        if hashlib.sha256(data).hexdigest() != name:
            raise InvalidArgument(f"code={name!r}: the file does not have this SHA-256")
        import cloudpickle  # type: ignore[import-untyped]

        return cloudpickle.loads(data)


def _pickle(thing: object, path: str) -> bytes:
    import cloudpickle

    # A spawned child's script is called __mp_main__ there, a name that means nothing to a worker.
    main = sys.modules.get("__mp_main__")
    if main is not None:
        cloudpickle.register_pickle_by_value(main)
    try:
        data: bytes = cloudpickle.dumps(thing)
        return data
    except Exception as error:  # whatever an object's own __reduce__ raises
        raise InvalidArgument(
            f"{path}: {thing!r} cannot be handed to a worker process: {type(error).__name__}: {error}. "
            "Build it inside the environment's constructor or function instead"
        ) from error
    finally:
        if main is not None:
            cloudpickle.unregister_pickle_by_value(main)
