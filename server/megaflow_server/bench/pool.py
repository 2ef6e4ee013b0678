"""What a claim of a sandbox costs: of one that waits, of one that has to be made; and many claims at once."""

from __future__ import annotations

import asyncio
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from megaflow_server.backends import get_backend
from megaflow_server.bench.comparison import Say
from megaflow_server.bench.figures import percentile
from megaflow_server.pool import Pools, PoolStatus
from megaflow_server.templates import Mode, PoolSize, Template

__all__ = ["Burst", "Claims", "Plan", "measure"]

_GLANCE = 0.005


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        backends: whose sandboxes; each is in table rows of its own.
        image: what containers are made of; it is fetched where it is not at hand.
        claims: of each kind, one after the other.
        at_once: claims of the burst.
        size: of the burst's pool.
    """

    backends: Sequence[str] = ("docker", "process")
    image: str = "busybox:stable"
    claims: int = 40
    at_once: int = 40
    size: int = 8


@dataclass
class Burst:
    """Many claims at once, each released after one command and used again.

    Attributes:
        waits: seconds until each had its sandbox, in the order of the claims.
        in_order: whether they were served in that order.
        seconds: until the last was released.
        created: instances, of at most `size` at once.
        creating: the most creations at one moment.
    """

    waits: list[float] = field(default_factory=list)
    in_order: bool = True
    seconds: float = 0.0
    created: int = 0
    creating: int = 0


@dataclass
class Claims:
    """What claims took on one backend, from asking to the result of a first command; seconds."""

    backend: str
    cold: list[float] = field(default_factory=list)
    warm: list[float] = field(default_factory=list)
    burst: Burst = field(default_factory=Burst)

    def ratio(self, part: float) -> float:
        """A warm claim, as a part of a cold one: of the median, or another percentile."""
        return percentile(self.warm, part) / percentile(self.cold, part)


async def measure(plan: Plan, say: Say) -> AsyncIterator[Claims]:
    """Measures one backend after the other.

    Raises:
        MegaflowError: a sandbox cannot be had here.
    """
    for name in plan.backends:
        claims = Claims(name)
        # Cold and warm in turns, since a machine is busier at one time than at another.
        async with _pools(plan, name, "ephemeral", PoolSize(min=1, max=2)) as pools:
            for number in range(plan.claims):
                say(f"{name}: claim {number + 1} of {plan.claims}")
                # Of a template that nobody has asked for before, there is none that waits.
                new = replace(pools.template, name=f"bench-{number}", pool=PoolSize(max=1))
                claims.cold.append(await pools.claim(new))
                await pools.until(lambda one: one.ready == 1)
                claims.warm.append(await pools.claim(pools.template))
        say(f"{name}: {plan.at_once} claims at once on a pool of {plan.size}")
        size = PoolSize(target=plan.size, max=plan.size, max_reuses=plan.at_once)
        async with _pools(plan, name, "persistent", size) as pools:
            claims.burst = await _burst(plan, pools)
        yield claims


async def _burst(plan: Plan, pools: _Pools) -> Burst:
    burst = Burst(waits=[0.0] * plan.at_once)
    order: list[int] = []
    began = time.perf_counter()

    async def session(number: int) -> None:
        leased = await pools.pools.lease(pools.template, owner="bench", session=str(number))
        burst.waits[number] = time.perf_counter() - began
        order.append(number)
        burst.creating = max(burst.creating, pools.status.creating)
        await leased.sandbox.exec("true")
        await leased.release(dirty=False)

    await asyncio.gather(*map(session, range(plan.at_once)))
    burst.seconds = time.perf_counter() - began
    burst.in_order = order == sorted(order)
    burst.created = pools.status.created
    return burst


class _Pools:
    """Pools with one template, of which there is one pool; those of other templates come after it."""

    def __init__(self, pools: Pools, template: Template) -> None:
        self.pools = pools
        self.template = template

    @property
    def status(self) -> PoolStatus:
        return self.pools.list()[0]

    async def until(self, holds: Callable[[PoolStatus], bool]) -> None:
        while not holds(self.status):  # noqa: ASYNC110  # nobody says when a pool has changed
            await asyncio.sleep(_GLANCE)

    async def claim(self, template: Template) -> float:
        """Seconds until a claim has run a command."""
        began = time.perf_counter()
        leased = await self.pools.lease(template, owner="bench", session="bench")
        await leased.sandbox.exec("true")
        seconds = time.perf_counter() - began
        await leased.release(dirty=False)
        while any(one.leased or one.ending for one in self.pools.list()):  # noqa: ASYNC110  # as above
            await asyncio.sleep(_GLANCE)
        return seconds


@asynccontextmanager
async def _pools(plan: Plan, name: str, mode: Mode, size: PoolSize) -> AsyncIterator[_Pools]:
    backend = get_backend(name)
    image = plan.image if "images" in backend.capabilities() else None
    template = Template("bench", name, image, pool=size, mode=mode)
    with tempfile.TemporaryDirectory(prefix="megaflow-bench-") as folder:
        pools = Pools(
            lambda _: backend,
            run=secrets.token_hex(8),
            folder=Path(folder) / "pools",
            templates={"bench": template},
        )
        try:
            await pools.start()
            yield _Pools(pools, template)
        finally:
            await pools.stop()
            await backend.close()
