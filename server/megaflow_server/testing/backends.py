"""The contract of a backend, as tests.

Subclass `BackendContract` in a test module, with a `backend` fixture and the few ways to make an
instance behave; pytest-asyncio runs it in its "auto" mode.
"""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import AsyncIterator, Mapping

import pytest

from megaflow.errors import InvalidArgument
from megaflow_server.backends.base import (
    Backend,
    Event,
    Exit,
    Instance,
    InstanceState,
)
from megaflow_server.testing.extras import PATIENCE, ExtrasContract, soon

__all__ = ["BackendContract"]

# What the contract promises for noticing a death.
NOTICE = 2.0


class BackendContract(ExtrasContract):
    """Subclasses add a fixture `backend`, which gives a `Backend` and destroys what a test leaves."""

    @abstractmethod
    async def create_stubborn(self, backend: Backend, instance_id: str) -> Instance:
        """Create an instance that ignores SIGTERM, and does so already."""

    @abstractmethod
    async def create_ending(self, backend: Backend, instance_id: str, code: int) -> Instance:
        """Create an instance that soon ends by itself with this exit code."""

    @abstractmethod
    async def kill(self, backend: Backend, instance: Instance) -> None:
        """SIGKILL its main process, as somebody other than the backend would."""

    async def test_a_new_instance_runs(self, backend: Backend) -> None:
        instance = await backend.create(self.spec("a", labels={"run": "1"}))
        assert (instance.id, dict(instance.labels)) == ("a", {"run": "1"})
        assert instance.state is InstanceState.RUNNING

    async def test_create_finds_what_exists(self, backend: Backend) -> None:
        first = await backend.create(self.spec("a"))
        assert await backend.create(self.spec("a")) is first
        assert len(await backend.list({})) == 1

    async def test_concurrent_creates_of_one_id_make_one(self, backend: Backend) -> None:
        made = await asyncio.gather(*(backend.create(self.spec("a")) for _ in range(4)))
        assert all(instance is made[0] for instance in made)

    async def test_create_does_not_start_again_what_ended(self, backend: Backend) -> None:
        instance = await self.create_ending(backend, "a", 0)
        await soon(instance.wait())
        assert (await backend.create(self.spec("a"))).state is InstanceState.EXITED

    async def test_an_id_is_free_after_destroy(self, backend: Backend) -> None:
        first = await backend.create(self.spec("a"))
        await backend.destroy("a", grace=PATIENCE)
        second = await backend.create(self.spec("a"))
        assert first.state is InstanceState.EXITED
        assert second.state is InstanceState.RUNNING

    async def test_an_instance_that_started_nothing_has_no_processes(
        self, backend: Backend
    ) -> None:
        instance = await backend.create(self.spec("a"))
        assert list(backend.processes(instance.id)) == []
        assert list(backend.processes("absent")) == []

    async def test_destroy_leaves_nothing(self, backend: Backend) -> None:
        instance = await backend.create(self.spec("a"))
        await backend.destroy("a", grace=PATIENCE)
        assert not await backend.list({})
        assert instance.state is InstanceState.EXITED

    async def test_destroy_is_idempotent(self, backend: Backend) -> None:
        await backend.destroy("never-there", grace=0)
        await backend.create(self.spec("a"))
        await asyncio.gather(*(backend.destroy("a", grace=PATIENCE) for _ in range(3)))
        await backend.destroy("a", grace=0)

    async def test_destroy_takes_no_negative_grace(self, backend: Backend) -> None:
        instance = await backend.create(self.spec("a"))
        for grace in (-1.0, float("nan")):
            with pytest.raises(InvalidArgument, match="grace"):
                await backend.destroy("a", grace=grace)
        assert instance.state is InstanceState.RUNNING

    async def test_destroy_forgets_what_ended_by_itself(self, backend: Backend) -> None:
        instance = await self.create_ending(backend, "a", 0)
        await soon(instance.wait())
        assert [found.id for found in await backend.list({})] == ["a"]
        await backend.destroy("a", grace=PATIENCE)
        assert not await backend.list({})

    async def test_destroy_without_grace_kills(self, backend: Backend) -> None:
        instance = await backend.create(self.spec("a"))
        await backend.destroy("a", grace=0)
        assert await soon(instance.wait()) == Exit(signal=9)

    async def test_what_ignores_sigterm_is_killed_after_the_grace(self, backend: Backend) -> None:
        instance = await self.create_stubborn(backend, "a")
        before = time.monotonic()
        await soon(backend.destroy("a", grace=0.3))
        assert time.monotonic() - before >= 0.3
        assert await soon(instance.wait()) == Exit(signal=9)

    async def test_the_shortest_grace_counts(self, backend: Backend) -> None:
        await self.create_stubborn(backend, "a")
        patient = asyncio.ensure_future(backend.destroy("a", grace=100 * PATIENCE))
        await asyncio.sleep(0)
        await soon(backend.destroy("a", grace=0))
        await soon(patient)

    async def test_list_selects_by_all_labels(self, backend: Backend) -> None:
        await backend.create(self.spec("a", labels={"run": "1", "owner": "x"}))
        await backend.create(self.spec("b", labels={"run": "1", "owner": "y"}))
        await backend.create(self.spec("c"))

        async def ids(labels: Mapping[str, str]) -> set[str]:
            return {instance.id for instance in await backend.list(labels)}

        assert await ids({}) == {"a", "b", "c"}
        assert await ids({"run": "1"}) == {"a", "b"}
        assert await ids({"run": "1", "owner": "y"}) == {"b"}
        assert await ids({"run": "2"}) == set()

    async def test_an_exit_code_is_reported(self, backend: Backend) -> None:
        events = backend.events()
        instance = await self.create_ending(backend, "a", 3)
        assert await soon(instance.wait()) == Exit(code=3)
        assert await _take(events, 2) == [Event("a", "running"), Event("a", "exited", Exit(code=3))]

    async def test_a_death_is_noticed(self, backend: Backend) -> None:
        events = backend.events()
        instance = await backend.create(self.spec("a"))
        await self.kill(backend, instance)
        async with asyncio.timeout(NOTICE):
            assert await instance.wait() == Exit(signal=9)
            seen = [await anext(events), await anext(events)]
        assert seen == [Event("a", "running"), Event("a", "exited", Exit(signal=9))]
        assert instance.state is InstanceState.EXITED

    async def test_every_subscriber_sees_every_event_from_its_start_on(
        self, backend: Backend
    ) -> None:
        first, second = backend.events(), backend.events()
        await backend.create(self.spec("a"))
        late = backend.events()
        await backend.destroy("a", grace=0)
        expected = [Event("a", "running"), Event("a", "exited", Exit(signal=9))]
        assert await _take(first, 2) == expected
        assert await _take(second, 2) == expected
        assert await _take(late, 1) == expected[1:]

    async def test_the_configuration_arrives(self, backend: Backend) -> None:
        config = bytes(range(256))
        instance = await backend.create(self.spec("a", config=config))
        assert await self.received(backend, instance) == config

    async def test_a_configuration_of_any_size_arrives(self, backend: Backend) -> None:
        config = bytes(range(256)) * 4096  # 1 MiB: more than a pipe holds
        instance = await backend.create(self.spec("a", config=config))
        assert await self.received(backend, instance) == config

    async def test_a_cancelled_wait_leaves_the_instance_alone(self, backend: Backend) -> None:
        instance = await backend.create(self.spec("a"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await instance.wait()
        assert instance.state is InstanceState.RUNNING


async def _take(events: AsyncIterator[Event], count: int) -> list[Event]:
    async with asyncio.timeout(PATIENCE):
        return [await anext(events) for _ in range(count)]
