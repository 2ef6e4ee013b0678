"""A backend whose instances exist in this process alone, for tests and simulations.

What happens is scripted, and happens in the order of the calls: delays, failures and deaths. An
instance can have a body: an object made from its spec, such as a worker's server, which is closed
when the instance ends.
"""

from __future__ import annotations

import asyncio
import inspect
import signal as signals
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from weakref import WeakValueDictionary

from megaflow.errors import FailedPrecondition, NotFound
from megaflow_server.backends.base import (
    Event,
    Exit,
    Image,
    InstanceSpec,
    Profile,
    Progress,
    check_grace,
    has_labels,
    require,
)
from megaflow_server.backends.events import EventHub, Subscription
from megaflow_server.backends.fake_instance import Body, FakeImages, FakeInstance, Verb
from megaflow_server.backends.fake_stream import Program, cat

__all__ = ["Body", "FakeBackend", "FakeInstance", "Run"]


Run = Callable[[InstanceSpec], Awaitable[Body | None] | Body | None]


class FakeBackend:
    """Instances without processes.

    Args:
        run: makes the body of an instance; what it raises, `create` raises.
        create_delay: seconds that `create` takes; may be changed at any time.
        capabilities: what this backend has beyond the rest.
        program: what a stream leads to: a coroutine function that gets the program's end of it.

    Attributes:
        calls: every call of a verb, as (verb, instance id or image), in order; `list` has "".
        stubborn: the ids of instances that ignore SIGTERM.
        prepared: the images that were prepared.
        unknown: images that no registry has.
        volumes: folders that images declare volumes.
    """

    name = "fake"
    about = "fake: nothing runs, but in the server's own process"
    profile: Profile | None = "strict"
    place: str | None = None

    def __init__(
        self,
        run: Run | None = None,
        *,
        create_delay: float = 0.0,
        capabilities: frozenset[str] = frozenset(),
        program: Program = cat,
    ) -> None:
        self.create_delay = create_delay
        self.calls: list[tuple[Verb, str]] = []
        self.stubborn: set[str] = set()
        self.prepared: list[str] = []
        self.unknown: set[str] = set()
        self.volumes: dict[str, Sequence[str]] = {}
        self._run = run
        self._program = program
        self._committed = FakeImages()
        self._capabilities = capabilities
        self._instances: dict[str, FakeInstance] = {}
        self._failures: defaultdict[Verb, deque[BaseException]] = defaultdict(deque)
        self._events = EventHub()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def fail_next(self, error: BaseException, *, verb: Verb = "create", times: int = 1) -> None:
        """Have the next `times` calls of a verb raise `error`, after those asked for already.

        A `create` that finds its instance does not count: it makes nothing that could fail.
        """
        self._failures[verb].extend([error] * times)

    async def kill(self, instance_id: str, signal: int = signals.SIGKILL) -> None:
        """End an instance by a signal, as from outside; its body is closed when this returns.

        Raises:
            NotFound: no such instance runs.
        """
        await self._end(self._running(instance_id), Exit(signal=int(signal)))

    async def finish(self, instance_id: str, code: int = 0) -> None:
        """Have an instance end by itself, with this exit code.

        Raises:
            NotFound: no such instance runs.
        """
        await self._end(self._running(instance_id), Exit(code=code))

    async def close(self) -> None:
        """Nothing is held."""

    async def create(self, spec: InstanceSpec) -> FakeInstance:
        self.calls.append(("create", spec.id))
        async with self._lock(spec.id):
            existing = self._instances.get(spec.id)
            if existing is not None:
                return existing
            if self.create_delay > 0:
                await asyncio.sleep(self.create_delay)
            self._fail("create")
            self._check_image(spec)
            body = self._run(spec) if self._run is not None else None
            if inspect.isawaitable(body):
                body = await body
            instance = FakeInstance(
                spec,
                body,
                self._capabilities,
                self._program,
                self._committed,
                self._fail,
                self.volumes.get(spec.image or "", ()),
            )
            self._instances[spec.id] = instance
            self._events.publish(Event(spec.id, "running"))
            return instance

    async def destroy(self, instance_id: str, *, grace: float) -> None:
        self.calls.append(("destroy", instance_id))
        check_grace(grace)
        self._fail("destroy")
        async with self._lock(instance_id):  # until it is created, where that is going on
            instance = self._instances.get(instance_id)
        if instance is None:
            return
        await self._terminate(instance, grace)
        if self._instances.get(instance_id) is instance:
            del self._instances[instance_id]

    async def list(self, labels: Mapping[str, str]) -> Sequence[FakeInstance]:
        self.calls.append(("list", ""))
        self._fail("list")
        return [instance for instance in self._instances.values() if has_labels(instance, labels)]

    def processes(self, instance_id: str) -> Sequence[int]:
        return []

    def events(self) -> Subscription:
        return self._events.subscribe()

    def capabilities(self) -> frozenset[str]:
        return self._capabilities

    async def prepare(self, image: str, progress: Progress | None = None) -> None:
        self.calls.append(("prepare", image))
        require(self, "images")
        self._fail("prepare")
        if image in self.unknown:
            raise NotFound(f"image={image!r}: no registry has it")
        if progress is not None and image not in self.prepared:
            progress("pulling", 0, 1)
            progress("pulling", 1, 1)
        self.prepared.append(image)

    async def images(self, labels: Mapping[str, str]) -> Sequence[Image]:
        require(self, "commit")
        return self._committed.select(labels)

    async def remove(self, image: str) -> None:
        self.calls.append(("remove", image))
        require(self, "commit")
        self._fail("remove")
        if users := [one.id for one in self._instances.values() if one.spec.image == image]:
            raise FailedPrecondition(f"image {image} is in use by {', '.join(users)}")
        self._committed.remove(image)

    def _check_image(self, spec: InstanceSpec) -> None:
        if spec.image is None:
            return
        require(self, "images")
        if spec.image not in self.prepared and spec.image not in self._committed:
            raise FailedPrecondition(
                f"instance {spec.id}: image={spec.image!r} is not at hand; prepare it first"
            )

    async def _terminate(self, instance: FakeInstance, grace: float) -> None:
        if grace > 0 and instance.id not in self.stubborn:
            await self._end(instance, Exit(signal=int(signals.SIGTERM)))
            return
        if grace > 0:
            try:
                async with asyncio.timeout(grace):
                    await instance.wait()
            except TimeoutError:
                pass  # that it did not end in time is what the signal below is for
        await self._end(instance, Exit(signal=int(signals.SIGKILL)))

    async def _end(self, instance: FakeInstance, how: Exit) -> None:
        if instance.exit is not None:
            await instance.closed.wait()
            return
        await instance.end(how)
        try:
            closing = instance.body.close() if instance.body is not None else None
            if closing is not None:
                await closing
        finally:
            instance.closed.set()
            self._events.publish(Event(instance.id, "exited", how))

    def _running(self, instance_id: str) -> FakeInstance:
        instance = self._instances.get(instance_id)
        if instance is None or instance.exit is not None:
            running = [one.id for one in self._instances.values() if one.exit is None]
            raise NotFound(f"instance {instance_id!r} does not run; these do: {running}")
        return instance

    def _fail(self, verb: Verb) -> None:
        if self._failures[verb]:
            raise self._failures[verb].popleft()

    def _lock(self, instance_id: str) -> asyncio.Lock:
        return self._locks.setdefault(instance_id, asyncio.Lock())
