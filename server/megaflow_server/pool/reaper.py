"""Destroys what a run has left, by the run's id: at the start what runs that are over left, then every few seconds
what nobody of this run means to have."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from megaflow.errors import FailedPrecondition, InvalidArgument, MegaflowError
from megaflow_server import janitor, marks, runs
from megaflow_server.backends.base import Backend
from megaflow_server.removal import remove_tree

__all__ = ["FOLDER_PREFIX", "PERIOD", "Found", "Reaper", "find", "reap", "remove_local"]

_log = logging.getLogger(__name__)

# How the name of a server's private folder begins.
FOLDER_PREFIX = "megaflow-"
# Between two looks; seconds.
PERIOD = 5.0
# Instances that are destroyed at once.
_AT_ONCE = 8
# An image that another one came of goes after it: so many rounds for so long a line of them.
_ROUNDS = 8

Owns = Callable[[str], bool]


@dataclass
class Found:
    """What there is of a run.

    Attributes:
        instances, images: ids.
        folder: None where it is gone.
        kept: what could not be destroyed, and why.
    """

    instances: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    folder: str | None = None
    kept: list[str] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        return not (self.instances or self.images or self.folder)


def _nobodys(_: str) -> bool:
    return False


async def find(
    backend: Backend, run: str, owns: Owns = _nobodys, owns_image: Owns = _nobodys
) -> Found:
    """What a backend has of a run, but for what somebody owns."""
    found = Found()
    found.instances = [one.id for one in await backend.list({"run": run}) if not owns(one.id)]
    if "commit" in backend.capabilities():
        images = await backend.images({"run": run})
        found.images = [one.id for one in images if not owns_image(one.id)]
    return found


async def reap(
    backend: Backend, run: str, owns: Owns = _nobodys, owns_image: Owns = _nobodys
) -> Found:
    """Destroy what a backend has of a run, but for what somebody owns; says what that was.

    Raises:
        Unavailable: the backend cannot be asked.
    """
    found = await find(backend, run, owns, owns_image)
    turn = asyncio.Semaphore(_AT_ONCE)

    async def destroy(name: str) -> None:
        async with turn:
            try:
                await backend.destroy(name, grace=0)
            except MegaflowError as error:
                found.kept.append(f"{name}: {error.message}")

    await asyncio.gather(*map(destroy, found.instances))
    found.kept += await _remove(backend, found.images)
    return found


async def _remove(backend: Backend, images: Iterable[str]) -> list[str]:
    """Remove images, each after those that came of it; what is left, and why."""
    left = dict.fromkeys(images, "")
    for _ in range(_ROUNDS):
        for image in list(left):
            try:
                await backend.remove(image)
                del left[image]
            except FailedPrecondition as error:
                left[image] = error.message
        if not left:
            break
    return [f"{image}: {why}" for image, why in left.items()]


class Reaper:
    """Of one server.

    Args:
        state: the folder with the runs of this host's servers.
        run: this server's own.
        backends: those that it uses at the moment.

    Attributes:
        owners: each says of an instance's id whether somebody means it to be there.
        image_owners: the same of what was committed.
    """

    def __init__(
        self, state: Path, run: runs.Run, backends: Callable[[], Iterable[Backend]]
    ) -> None:
        self.owners: list[Owns] = []
        self.image_owners: list[Owns] = []
        self._state = state
        self._file = _record(state, run)
        self._run = run
        self._backends = backends
        self._task: asyncio.Task[None] | None = None
        self._unowned: set[str] = set()  # images that nobody owned at the last look
        self._done_here: set[str] = set()  # runs that left nothing but what other places have

    def start(self) -> None:
        """Begin with what runs that are over have left."""
        self._task = asyncio.create_task(self._reap_for_ever())

    def use(self, backend: Backend) -> None:
        """Take down where instances of this run will be; before there is any."""
        if backend.place is not None and self._file is not None:
            self._file.note(backend.place)

    async def stop(self) -> None:
        """Destroy everything that is left of this run."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        clean = True
        for backend in self._backends():
            try:
                found = await reap(backend, self._run.id)
            except MegaflowError as error:
                clean = False
                _log.warning("what this run left on %s: %s", backend.name, error.message)
            else:
                clean = clean and not found.kept
        if self._file is not None:
            self._file.end() if clean else self._file.let_go()

    async def _reap_for_ever(self) -> None:
        while True:
            began = asyncio.get_running_loop().time()
            try:
                await self._reap_the_dead()
                self._unowned, before = set(), self._unowned
                for backend in self._backends():
                    _tell(await reap(backend, self._run.id, self._owns, self._image_owned(before)))
            except MegaflowError as error:
                _log.warning("the reaper looks again in %g s: %s", PERIOD, error.message)
            except Exception:  # a reaper that gives up is a leak
                _log.exception("the reaper looks again in %g s", PERIOD)
            await asyncio.sleep(max(0.0, began + PERIOD - asyncio.get_running_loop().time()))

    async def _reap_the_dead(self) -> None:
        with runs.over(self._state) as dead:
            for run in dead:
                here = {one.place: one for one in self._backends() if one.place is not None}
                clean = True
                for place in run.places:
                    if place in here:
                        found = await reap(here[place], run.id)
                        _tell(found)
                        clean = clean and not found.kept
                    else:
                        clean = False
                        _log.debug("run %s may have left something at %s", run.id, place)
                if run.id not in self._done_here:
                    await asyncio.to_thread(remove_local, run)
                    self._done_here.add(run.id)
                if clean:
                    runs.forget(self._state, run)

    def _owns(self, instance: str) -> bool:
        return any(owns(instance) for owns in self.owners)

    def _image_owned(self, before: Collection[str]) -> Owns:
        """Whether somebody owns an image, or may be about to: it is new, and was not looked at before."""

        def owned(image: str) -> bool:
            if any(owns(image) for owns in self.image_owners):
                return True
            self._unowned.add(image)
            return image not in before

        return owned


def remove_local(run: runs.Run) -> None:
    """End what is left of a run's processes, which its janitor may not have got to, and remove its folder."""
    if run.mark != marks.RUN:
        janitor.end_all(run.mark)
    if Path(run.folder).name.startswith(FOLDER_PREFIX):
        try:
            remove_tree(Path(run.folder))
        except OSError as error:
            _log.warning("%s is left of run %s: %s", run.folder, run.id, error)


def _record(state: Path, run: runs.Run) -> runs.RunFile | None:
    """None, with a warning, where nothing can be written: only after SIGKILL is that missed."""
    try:
        return runs.RunFile(state, run)
    except InvalidArgument as error:
        _log.warning(
            "what this server leaves when it is killed, nobody will find by itself: %s; its run is %s",
            error.message,
            run.id,
        )
        return None


def _tell(found: Found) -> None:
    for name in [*found.instances, *found.images]:
        _log.info("the reaper destroyed %s", name)
    for what in found.kept:
        _log.warning("the reaper could not destroy %s", what)
