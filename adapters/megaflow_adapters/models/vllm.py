"""vLLM: token ids and log-probs of every call, and its control of weights.

Needs vLLM 0.10.2 or newer (`return_token_ids`); pausing and updating need it to run with
VLLM_SERVER_DEV_MODE=1.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Literal
from urllib.parse import quote

from megaflow.errors import Unavailable
from megaflow.generation import Event, Finish, Request, Tokens, WeightVersion
from megaflow_adapters.models.http import AttemptFailed
from megaflow_adapters.models.pausing import TrainedModel

__all__ = ["VllmModel"]


class VllmModel(TrainedModel):
    """A model that vLLM serves.

    Each answer is asked for as a stream, whatever the caller asked for, so that a token is stamped with the
    version that was served when it came.
    """

    def _streams(self, request: Request) -> bool:
        return True

    def _body(self, request: Request, *, stream: bool) -> dict[str, Any]:
        body = super()._body(request, stream=stream)
        body["return_token_ids"] = True
        if request.prompt is not None:
            body.setdefault("logprobs", 0)
        else:
            body["logprobs"] = True
            body.setdefault("top_logprobs", 0)
        return body

    async def _once(
        self, replica: str, request: Request, deadline: float
    ) -> AsyncGenerator[Event, None]:
        """As its base, and counts: a token whose id is lost would be missing from training unseen."""
        ids = 0
        async with aclosing(super()._once(replica, request, deadline)) as answer:
            async for event in answer:
                if isinstance(event, Tokens):
                    ids += len(event.ids)
                if isinstance(event, Finish) and event.usage is not None:
                    made = event.usage.completion_tokens
                    if ids != made:
                        odd = Unavailable(f"vLLM gave {ids} token ids for {made} tokens")
                        raise AttemptFailed(odd, again=False)
                yield event

    async def pause(self, mode: Literal["abort", "wait", "keep"] = "wait") -> None:
        """Hold new calls back, and end (`abort`), finish (`wait`) or freeze (`keep`) those under way."""
        await self._pausing(f"/pause?mode={quote(mode)}", {})

    async def resume(self) -> None:
        """Let calls go on."""
        await self._resuming("/resume")

    async def init_weight_transfer(self, **body: Any) -> list[Any]:
        """Passed through; see vLLM's `/init_weight_transfer_engine`."""
        return await self.control("/init_weight_transfer_engine", body)

    async def update_weights(self, version: WeightVersion, **body: Any) -> list[Any]:
        """Passed through; tokens that come afterwards are stamped with `version`."""
        return await self._updating("/update_weights", version, body)
