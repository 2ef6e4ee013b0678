"""Resets and steps of a vector environment over its shards, losses included.

`ShardedBatch` puts the shards' batches together; `NativeBatch` (native_batch.py) passes on what the one native
vector class gives. What both do about a lost shard is the same, and stands in `Batch`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import create_empty_array

from megaflow.batching import join_observations, overlay, rows_of, split_actions
from megaflow.contract import Mask
from megaflow.errors import SessionLost
from megaflow.losses import Losses
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.protocol import values
from megaflow.session import Session, Shard, decoded
from megaflow.shard_calls import Outcome, Pending, ShardCalls, all_of
from megaflow.vector_options import Layout, VectorOptions

Infos = dict[str, Any]
AddInfo = Callable[[Infos, Infos, int], Infos]
Results = tuple[Any, Any, Any, Any, Infos]


class Batch(ABC):
    """The state of a vector environment on the client's side.

    Keeps the last observations of each shard (of its own, never the caller's arrays), because a masked reset
    and a loss both give them again.
    """

    def __init__(
        self, session: Session, layout: Layout, options: VectorOptions, add_info: AddInfo
    ) -> None:
        self._session = session
        self._layout = layout
        self._options = options
        self._add_info = add_info
        self._pending = Pending(session)
        self._calls = ShardCalls(session)
        self._losses = Losses(options.num_envs)
        self._autoreset_envs = np.zeros(options.num_envs, dtype=np.bool_)
        self._last: dict[int, Any] = {}
        self._seeds: Any = None
        self._reset_options: dict[str, Any] | None = None
        self._mask: Mask | None = None
        self._restarted: set[int] = set()

    # ------------------------------------------------------------------ what the two kinds do differently

    @abstractmethod
    def _reset_verb(self, shard: Shard, rows_mask: Mask | None) -> pb.Reset: ...

    @abstractmethod
    def _split(self, actions: Any) -> list[Any]: ...

    @abstractmethod
    def _joined(self) -> Any:
        """The last observations of all shards, in arrays of the caller's own."""

    @abstractmethod
    def _add_infos(self, infos: Infos, shard: Shard, data: bytes, mask: Mask | None) -> Infos: ...

    # ------------------------------------------------------------------ reset

    def start_reset(self, seeds: Any, options: dict[str, Any] | None, mask: Mask | None) -> None:
        """Sends a reset to every shard that the mask touches; lost ones are made anew first."""
        self._seeds, self._reset_options, self._mask = seeds, options, mask
        for shard in self._session.shards:
            if mask is None or mask[shard.rows].any():
                self._send_reset(shard)

    def _send_reset(self, shard: Shard) -> None:
        part = self._mask[shard.rows] if self._mask is not None else None
        if shard.loss is not None:
            self._session.reopen(shard)
            part = None  # nothing in it has been reset yet
        self._pending.send(shard, self._reset_verb(shard, part))

    def finish_reset(self, timeout: float | None) -> tuple[Any, Infos]:
        """The observations and infos; a loss meanwhile is tried once more, then raised."""
        infos: Infos = {}
        for shard, outcome in self._retried(self._pending.outcomes(timeout)):
            part = self._mask[shard.rows] if self._mask is not None else None
            self._keep(shard, outcome.transition.observation, part)
            infos = self._add_infos(infos, shard, outcome.transition.info, part)
        rows = slice(None) if self._mask is None else self._mask
        self._autoreset_envs[rows] = False
        self._losses.fresh[rows] = False
        return self._joined(), infos

    def _retried(self, outcomes: list[tuple[Shard, Outcome]]) -> list[tuple[Shard, pb.Reply]]:
        for shard, outcome in outcomes:
            if isinstance(outcome, SessionLost):
                self._losses.lost(shard.indices)
                self._send_reset(shard)
        again = {shard.first: reply for shard, reply in self._pending.outcomes(None)}
        results = [(shard, again.get(shard.first, outcome)) for shard, outcome in outcomes]
        lost = [outcome for _, outcome in results if isinstance(outcome, SessionLost)]
        if lost:
            raise all_of(lost)
        return [(shard, outcome) for shard, outcome in results if isinstance(outcome, pb.Reply)]

    def _keep(self, shard: Shard, data: bytes, mask: Mask | None) -> None:
        observation = decoded(data, "observation")
        if mask is not None and not mask.all():
            old = self._last_of(shard)
            observation = overlay(self._layout.single_observation_space, old, observation, mask)
        self._last[shard.first] = observation

    def _last_of(self, shard: Shard) -> Any:
        """The last known observations of a shard; zeros before the first, as gymnasium has them."""
        if shard.first not in self._last:
            space = self._layout.single_observation_space
            self._last[shard.first] = create_empty_array(space, shard.count, fn=np.zeros)
        return self._last[shard.first]

    # ------------------------------------------------------------------ step

    def start_step(self, actions: Any) -> None:
        """Sends every living shard its actions, and a reset to those that were truncated by a loss."""
        lost = [shard for shard in self._session.shards if shard.loss is not None]
        if lost and self._options.on_lost == "raise":
            raise all_of([shard.loss for shard in lost if shard.loss is not None])
        if self._layout.autoreset_mode == AutoresetMode.DISABLED:
            # As SyncVectorEnv asserts it: whoever steps has reset what was done.
            assert not self._autoreset_envs.any(), f"{self._autoreset_envs=}"
        verbs = [
            pb.Step(action=values.encode(part, path="actions")) for part in self._split(actions)
        ]
        self._mask = None
        for shard, verb in zip(self._session.shards, verbs, strict=True):
            if shard.loss is None:
                self._pending.send(shard, verb)
        self._seeds, self._reset_options = None, None
        self._restarted = {shard.first for shard in lost}
        for shard in lost:
            self._send_reset(shard)

    def finish_step(self, timeout: float | None) -> Results:
        """The batch of results, lost sub-environments as `on_lost` says."""
        outcomes = self._pending.outcomes(timeout)
        restarted, self._restarted = self._restarted, set()
        again = [pair for pair in outcomes if pair[0].first in restarted]
        replies = {shard.first: reply for shard, reply in self._retried(again)}
        lost: list[Shard] = []
        for shard, outcome in outcomes:
            if isinstance(outcome, SessionLost) and shard.first not in replies:
                self._losses.lost(shard.indices)
                lost.append(shard)
            else:
                replies.setdefault(shard.first, outcome)  # type: ignore[arg-type]
        results = self._results(replies, lost)
        if lost and self._options.on_lost == "raise":
            raise all_of([shard.loss for shard in lost if shard.loss is not None])
        return results

    def _results(self, replies: dict[int, Any], lost: list[Shard]) -> Results:
        count = self._options.num_envs
        rewards = np.zeros(count, dtype=np.float64)
        terminations = np.zeros(count, dtype=np.bool_)
        truncations = np.zeros(count, dtype=np.bool_)
        infos: Infos = {}
        for shard in self._session.shards:
            if shard in lost:
                rewards[shard.rows] = self._options.lost_reward
                truncations[shard.rows] = True
                infos = self._lose(infos, shard)
                continue
            transition = replies[shard.first].transition
            if transition.reward:
                rewards[shard.rows] = decoded(transition.reward, "reward")
                terminations[shard.rows] = decoded(transition.terminated, "terminated")
                truncations[shard.rows] = decoded(transition.truncated, "truncated")
            else:  # a reset, after a loss
                self._losses.fresh[shard.rows] = False
            self._keep(shard, transition.observation, None)
            infos = self._add_infos(infos, shard, transition.info, None)
        self._autoreset_envs = terminations | truncations
        return self._joined(), rewards, terminations, truncations, infos

    def _lose(self, infos: Infos, shard: Shard) -> Infos:
        """Writes the loss of a shard into the infos; under SAME_STEP makes it anew at once."""
        same_step = self._layout.autoreset_mode == AutoresetMode.SAME_STEP
        if not same_step or self._options.on_lost == "raise":
            for index in shard.indices:
                infos = self._add_info(infos, {"lost": True}, index)
            return infos
        last = self._rows_of_shard(shard)
        for index, observation in zip(shard.indices, last, strict=True):
            final = {"final_obs": observation, "final_info": {}, "lost": True}
            infos = self._add_info(infos, final, index)
        self._send_reset(shard)
        ((_, reply),) = self._retried(self._pending.outcomes(None))
        self._losses.fresh[shard.rows] = False
        self._keep(shard, reply.transition.observation, None)
        return self._add_infos(infos, shard, reply.transition.info, None)

    def _rows_of_shard(self, shard: Shard) -> list[Any]:
        space = self._layout.observation_space
        return rows_of(space, self._joined())[shard.rows]

    # ------------------------------------------------------------------ calls

    def start_call(self, verb: pb.Call) -> None:
        """Sends a call to every shard."""
        self._calls.start(verb)

    def set_attr(self, name: str, entries: list[Any]) -> None:
        """Sets an attribute of every sub-environment."""
        self._calls.set_attr(name, entries)

    @abstractmethod
    def finish_call(self, timeout: float | None) -> Any: ...

    @abstractmethod
    def lookup(self, name: str) -> Any: ...


class ShardedBatch(Batch):
    """Sub-environments made one by one, in contiguous parts over the workers."""

    def _reset_verb(self, shard: Shard, rows_mask: Mask | None) -> pb.Reset:
        verb = pb.Reset()
        seeds = [
            self._seed(i, rows_mask is None or rows_mask[i - shard.first]) for i in shard.indices
        ]
        if any(seed is not None for seed in seeds):
            verb.seed = values.encode(seeds)
        if self._reset_options is not None:
            verb.options = values.encode(self._reset_options, path="options")
        if rows_mask is not None and not rows_mask.all():
            verb.mask = values.encode(rows_mask)
        return verb

    def _seed(self, index: int, reset: bool) -> int | None:
        given: int | None = self._seeds[index] if self._seeds is not None else None
        if not reset:
            return None
        self._losses.given(index, given)
        if given is None and self._losses.fresh[index]:
            return self._losses.seed(index)
        return given

    def _split(self, actions: Any) -> list[Any]:
        parts = [shard.rows for shard in self._session.shards]
        return split_actions(self._layout.action_space, actions, self._options.num_envs, parts)

    def _joined(self) -> Any:
        parts = [self._last_of(shard) for shard in self._session.shards]
        return join_observations(self._layout.single_observation_space, parts)

    def _add_infos(self, infos: Infos, shard: Shard, data: bytes, mask: Mask | None) -> Infos:
        for index, info in decoded(data, "infos") or ():
            if mask is None or mask[index]:
                infos = self._add_info(infos, info, shard.first + index)
        return infos

    def finish_call(self, timeout: float | None) -> tuple[Any, ...]:
        """One result for each sub-environment."""
        return tuple(entry for part in self._calls.finish(timeout) for entry in part)

    def lookup(self, name: str) -> tuple[Any, ...]:
        """An attribute of each sub-environment."""
        self.start_call(pb.Call(name=name))
        return self.finish_call(None)
