"""What is known of lost sub-environments: how often, and which seed they go on with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


class Losses:
    """Seeds and losses of each sub-environment of a vector environment.

    A sub-environment that was lost goes on with a seed derived from its last given seed, its index and the
    number of its losses, so that a rerun with the same losses is the same run.
    """

    def __init__(self, num_envs: int) -> None:
        self._seeds: list[int | None] = [None] * num_envs
        self._counts: npt.NDArray[np.int64] = np.zeros(num_envs, dtype=np.int64)
        # Lost, and not reset since.
        self.fresh: npt.NDArray[np.bool_] = np.zeros(num_envs, dtype=np.bool_)

    def lost(self, indices: Sequence[int]) -> None:
        """Takes down a loss of these sub-environments."""
        self._counts[list(indices)] += 1
        self.fresh[list(indices)] = True

    def given(self, index: int, seed: int | None) -> None:
        """Takes down the seed that the user gave a sub-environment; None leaves the last one."""
        if seed is not None:
            self._seeds[index] = seed

    def seed(self, index: int) -> int | None:
        """The seed with which a lost sub-environment goes on; None where it never had one."""
        seed = self._seeds[index]
        if seed is None:
            return None
        entropy = np.random.SeedSequence([seed, index, int(self._counts[index])])
        return int(entropy.generate_state(1, np.uint64)[0])
