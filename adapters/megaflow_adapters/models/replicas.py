"""Which replica a call goes to; no input or output."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence

from megaflow.errors import InvalidArgument

__all__ = ["Replicas"]

# How many more calls than the least loaded a rollout's own replica may have: its prefix cache is worth these.
_SLACK = 4
# Rollouts whose replica is remembered; the one that asked longest ago is forgotten first.
_REMEMBERED = 100_000


class Replicas:
    """Least loaded first, and a rollout's calls to the replica that has its prefix in its cache.

    Args:
        names: of the replicas.
        clock: seconds; monotonic.
        cooldown: seconds for which a replica that failed is asked only where no other can be.
        most: calls that a replica is given at once; None for no limit.
    """

    def __init__(
        self,
        names: Sequence[str],
        clock: Callable[[], float],
        *,
        cooldown: float = 5.0,
        most: int | None = None,
    ) -> None:
        if not names or len(set(names)) != len(names):
            raise InvalidArgument(f"base_urls: {list(names)}; expected at least one, each once")
        self._loads = dict.fromkeys(names, 0)
        self._picks = dict.fromkeys(names, 0)
        self._cool_until = dict.fromkeys(names, float("-inf"))
        self._homes: OrderedDict[str, str] = OrderedDict()
        self._clock = clock
        self._cooldown = cooldown
        self._most = most

    @property
    def loads(self) -> dict[str, int]:
        """Calls under way, by replica."""
        return dict(self._loads)

    def start(self, rollout: str | None, avoid: Collection[str] = ()) -> str | None:
        """Begin a call: the replica it goes to, None where all have as many as they may.

        Args:
            rollout: whose call it is; None: nobody's that asks again.
            avoid: replicas that failed this call, asked again only where there is no other.
        """
        free = [
            name for name, load in self._loads.items() if self._most is None or load < self._most
        ]
        if not free:
            return None
        now = self._clock()
        well = [name for name in free if self._cool_until[name] <= now]
        fresh = [name for name in well if name not in avoid]
        name = self._choose(rollout, fresh or [n for n in free if n not in avoid] or well or free)
        self._loads[name] += 1
        self._picks[name] += 1
        if rollout is not None:
            self._homes[rollout] = name
            self._homes.move_to_end(rollout)
            if len(self._homes) > _REMEMBERED:
                self._homes.popitem(last=False)
        return name

    def _choose(self, rollout: str | None, among: Sequence[str]) -> str:
        least = min(among, key=lambda name: (self._loads[name], self._picks[name]))
        home = self._homes.get(rollout) if rollout is not None else None
        if home is not None and home in among and self._loads[home] <= self._loads[least] + _SLACK:
            return home
        return least

    def finish(self, name: str, *, failed: bool = False) -> None:
        """End a call; a replica that failed cools down."""
        self._loads[name] -= 1
        if failed:
            self._cool_until[name] = self._clock() + self._cooldown
