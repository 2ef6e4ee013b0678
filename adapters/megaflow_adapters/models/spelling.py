"""Text from tokens as they come: whole characters, and nothing that might be the beginning of a stop sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["Spelling"]

# What a decoder gives for bytes that are no whole character yet.
_BROKEN = "\ufffd"


class Spelling:
    """The text of one answer.

    Args:
        decode: ids to text.
        stop: what ends the answer, and is no part of it.

    Attributes:
        stopped: the stop sequence that came.
    """

    def __init__(self, decode: Callable[[list[int]], str], stop: Sequence[str]) -> None:
        self._decode = decode
        self._stop = [each for each in stop if each]
        self._hold = max((len(each) - 1 for each in self._stop), default=0)
        self._ids: list[int] = []
        # From where on tokens are decoded, and up to where they were said: decoders spell the first token of a
        # text otherwise than one in its middle, so the last that were said are decoded with those that come.
        self._begin = self._said = 0
        self._kept = ""
        self.stopped: str | None = None

    def add(self, token: int) -> str:
        """The text that is certain now; "" where none is."""
        self._ids.append(token)
        whole = self._decode(self._ids[self._begin :])
        if whole.endswith(_BROKEN):
            return ""
        return self._cut(self._advance(whole), end=False)

    def rest(self) -> str:
        """What was held back, once nothing more comes."""
        return self._cut(self._advance(self._decode(self._ids[self._begin :])), end=True)

    def _advance(self, whole: str) -> str:
        before = self._decode(self._ids[self._begin : self._said])
        self._begin, self._said = self._said, len(self._ids)
        return whole[len(before) :]

    def _cut(self, more: str, *, end: bool) -> str:
        if self.stopped is not None:
            return ""
        text = self._kept + more
        found = [(at, each) for each in self._stop if (at := text.find(each)) >= 0]
        if found:
            at, self.stopped = min(found)
            self._kept = ""
            return text[:at]
        hold = 0 if end else min(self._hold, len(text))
        self._kept = text[len(text) - hold :]
        return text[: len(text) - hold]
