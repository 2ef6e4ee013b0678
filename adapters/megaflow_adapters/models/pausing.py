"""What engines share whose weights a trainer updates while rollouts ask."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping
from typing import Any

from megaflow.errors import ResourceExhausted
from megaflow.generation import Event, Tokens, WeightVersion
from megaflow_adapters.models.openai import OpenAIModel

__all__ = ["TrainedModel"]


class TrainedModel(OpenAIModel):
    """An engine that can be paused, given new weights, and resumed.

    While it is paused calls that begin wait, `pause_wait` seconds at most, and are then told to come back.

    Args:
        weight_version: of the weights that are served now; None: not known, and tokens are not stamped.
        config: see `settings.Settings`.
    """

    def __init__(self, *, weight_version: WeightVersion | None = None, **config: Any) -> None:
        super().__init__(**config)
        self.weight_version = weight_version
        self._running = asyncio.Event()
        self._running.set()

    @property
    def paused(self) -> bool:
        """Whether calls wait."""
        return not self._running.is_set()

    async def _admitted(self) -> None:
        if self._running.is_set():
            return
        try:
            async with asyncio.timeout(self.settings.pause_wait):
                await self._running.wait()
        except TimeoutError as error:
            raise ResourceExhausted(
                f"model {self.name!r} is paused for new weights", retry_after=1.0
            ) from error

    async def _pausing(self, path: str, body: Mapping[str, Any]) -> None:
        self._running.clear()
        try:
            await self.control(path, body)
        except BaseException:
            self._running.set()
            raise

    async def _resuming(self, path: str) -> None:
        await self.control(path, {})
        self._running.set()

    async def _updating(
        self, path: str, version: WeightVersion, body: Mapping[str, Any]
    ) -> list[Any]:
        answers = await self.control(path, body)
        self.weight_version = version
        return answers

    def _seen(self, event: Event) -> Event:
        if isinstance(event, Tokens) and event.version is None and self.weight_version is not None:
            return dataclasses.replace(event, version=self.weight_version)
        return event
