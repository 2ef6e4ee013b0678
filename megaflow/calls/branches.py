"""Which call continues which: by exact prefix of token ids, never by text."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Branches", "Place"]


@dataclass(frozen=True, slots=True)
class Place:
    """A call's branch, and the call that it continues there."""

    branch: int
    parent: str | None


class _Branch:
    def __init__(self) -> None:
        self.tokens = bytearray()
        self.last: str | None = None


class Branches:
    """The branches of one rollout and role, each a row of tokens that only grows at its end.

    A call continues a branch if its prompt begins with all that the branch holds, the last answer included;
    of several the longest, and of these the oldest. Any other call begins one. So two answers to one prompt
    are two branches, whichever of them the next prompt continues.
    """

    def __init__(self) -> None:
        self._branches: list[_Branch] = []

    def place(self, call_id: str, prompt: Sequence[int], completion: Sequence[int]) -> Place:
        """Put a finished call in, and say where it went."""
        asked = array("q", prompt).tobytes()
        best: int | None = None
        for number, branch in enumerate(self._branches):
            longer = best is None or len(branch.tokens) > len(self._branches[best].tokens)
            if longer and asked.startswith(branch.tokens):
                best = number
        if best is None:
            best = len(self._branches)
            self._branches.append(_Branch())
        branch = self._branches[best]
        place = Place(best, branch.last)
        # What the branch held is a prefix of the prompt, so the prompt and the answer are all of it.
        branch.tokens += asked[len(branch.tokens) :]
        branch.tokens += array("q", completion).tobytes()
        branch.last = call_id
        return place
