"""Which tasks start next: the decision, from what there is to choose from.

The tenant that runs least for its weight is served first, and of its tasks the one of the highest priority, the
oldest among these. What a tenant may not start (its quota, or what cannot be made now), or a runner has no room for,
is passed over.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from megaflow_server.orchestrator.changing import changed
from megaflow_server.orchestrator.records import Resources, Task, Tenant

__all__ = ["Chosen", "Heads", "Needs", "choose", "standing"]

# (tenants, after, most) -> up to so many queued tasks of each of them, or those of one behind a task.
Heads = Callable[[Sequence[str], Task | None, int], Sequence[Task]]

# How far behind a task that does not fit another is looked for that does.
LOOK_AHEAD = 64


# What a task takes of the room.
Needs = Callable[[Task], Resources]


class Chosen(NamedTuple):
    """A task to start, its tenant as it is from then on, and what it takes of the room."""

    task: Task
    tenant: Tenant
    takes: Resources


def choose(
    tenants: Sequence[Tenant],
    heads: Heads,
    needs: Needs,
    room: Resources,
    most: int,
    may: Callable[[Task], bool] = lambda _: True,
) -> Iterator[Chosen]:
    """Up to `most` tasks that fit into `room` together, in the order in which they start.

    Args:
        may: whether a task may start at all; asked for each when what was chosen before it has been yielded.
    """
    clock = max((tenant.served for tenant in tenants), default=0)
    queue = [(standing(tenant), tenant) for tenant in tenants]
    heapq.heapify(queue)
    lines = _lines(queue, heads, most)
    while queue and most > 0 and room.slots > 0:
        _, tenant = heapq.heappop(queue)
        if _full(tenant):
            continue
        found = lines[tenant.name].next(needs, room, may)
        if found is None:
            continue
        task, takes = found
        most -= 1
        room -= takes
        clock += 1
        tenant = changed(tenant, running=tenant.running + 1, served=clock)
        yield Chosen(task, tenant, takes)
        heapq.heappush(queue, (standing(tenant), tenant))


def standing(tenant: Tenant) -> tuple[float, int, str]:
    """Lowest first: what one more task would be of its share; who was served longest ago; a name."""
    return ((tenant.running + 1) / tenant.weight, tenant.served, tenant.name)


def _full(tenant: Tenant) -> bool:
    return tenant.most is not None and tenant.running >= tenant.most


def _lines(
    queue: Sequence[tuple[tuple[float, int, str], Tenant]], heads: Heads, most: int
) -> dict[str, _Line]:
    """Every tenant's line; of those who are likely to be served, what they are likely to be given is read at once."""
    likely = [tenant.name for _, tenant in heapq.nsmallest(most, queue) if not _full(tenant)]
    page = min(LOOK_AHEAD, most if len(likely) == 1 else most // max(1, len(likely)) + 2)
    read: dict[str, list[Task]] = {name: [] for name in likely}
    for task in heads(likely, None, page):
        read[task.tenant].append(task)
    return {
        tenant.name: _Line(tenant.name, heads, min(most, LOOK_AHEAD), read.get(tenant.name), page)
        for _, tenant in queue
    }


class _Line:
    """A tenant's queue, read as far as it is needed.

    Args:
        page: how many are read at once.
        read: what was read before, up to `asked` tasks; None: nothing.
    """

    def __init__(
        self, tenant: str, heads: Heads, page: int, read: list[Task] | None, asked: int
    ) -> None:
        self._tenant = tenant
        self._heads = heads
        self._page = page
        self._read = read or []
        self._last = self._read[-1] if self._read else None
        self._whole = read is not None and len(read) < asked

    def next(
        self, needs: Needs, room: Resources, may: Callable[[Task], bool]
    ) -> tuple[Task, Resources] | None:
        """The first that fits and may start, taken out, and what it takes."""
        position = 0
        while position < LOOK_AHEAD:
            if position == len(self._read) and not self._more():
                return None
            takes = needs(self._read[position])
            if takes.fits(room) and may(self._read[position]):
                return self._read.pop(position), takes
            position += 1
        return None

    def _more(self) -> bool:
        if not self._whole:
            found = self._heads([self._tenant], self._last, self._page)
            self._whole = len(found) < self._page
            self._last = found[-1] if found else None
            self._read += found
            return bool(found)
        return False
