"""What is known of lost sub-environments: how often, whether it was told, and which seed they go on with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.bool_]


class Losses:
    """Seeds and losses of each sub-environment of a vector environment.

    A sub-environment that was lost goes on with a seed derived from its last given seed, its index and the
    number of its losses, so that a rerun with the same losses is the same run.

    Attributes:
        fresh: lost, and not reset since.
        unreported: lost, and neither reset since nor reported by a step.
    """

    def __init__(self, num_envs: int) -> None:
        self._seeds: list[int | None] = [None] * num_envs
        self._counts: npt.NDArray[np.int64] = np.zeros(num_envs, dtype=np.int64)
        self.fresh: Rows = np.zeros(num_envs, dtype=np.bool_)
        self.unreported: Rows = np.zeros(num_envs, dtype=np.bool_)

    def lost(self, indices: Sequence[int]) -> None:
        """Takes down a loss of these sub-environments, wherever it was noticed."""
        rows = list(indices)
        self._counts[rows] += 1
        self.fresh[rows] = True
        self.unreported[rows] = True

    def reset(self, rows: slice | Rows) -> None:
        """Takes down that these sub-environments begin anew."""
        self.fresh[rows] = False
        self.unreported[rows] = False

    def given(self, index: int, seed: int | None) -> None:
        """Takes down the seed that the user gave a sub-environment; None leaves the last one."""
        if seed is not None:
            self._seeds[index] = seed

    def seed(self, index: int) -> int | None:
        """The seed with which a lost sub-environment goes on; None where it never had one.

        Of 31 bits, which older generators take as well.
        """
        seed = self._seeds[index]
        if seed is None:
            return None
        entropy = np.random.SeedSequence([seed, index, int(self._counts[index])])
        return int(entropy.generate_state(1, np.uint32)[0] >> 1)
