"""SGLang: token ids, log-probs and weight version of every call, and its control of weights.

Its chat gives token ids only with whole answers, so each is asked for whole, and a caller's stream is written
from it. A prompt of token ids goes to its own `/generate`.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any, Literal

from megaflow.dialects import upstream as spelled
from megaflow.errors import InvalidArgument, Unavailable
from megaflow.generation import Completion, Request, Sampling, WeightVersion
from megaflow_adapters.models.http import AttemptFailed
from megaflow_adapters.models.pausing import TrainedModel

__all__ = ["SglangModel"]

_SAMPLING = {
    "max_tokens": "max_new_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "repetition_penalty": "repetition_penalty",
    "seed": "sampling_seed",
}


class SglangModel(TrainedModel):
    """A model that SGLang serves."""

    def _streams(self, request: Request) -> bool:
        return False

    def _body(self, request: Request, *, stream: bool) -> dict[str, Any]:
        body = super()._body(request, stream=stream)
        if request.prompt is not None:
            body["return_token_ids"] = True
            body.setdefault("logprobs", 1)
        else:
            body |= {"logprobs": True, "return_meta_info": True, "return_prompt_token_ids": True}
        return body

    async def _whole(self, url: str, request: Request, deadline: float) -> Completion:
        before = self.weight_version
        if isinstance(request.prompt, tuple):
            root = url.removesuffix(spelled.path(request)).removesuffix("/v1")
            body = {
                "input_ids": list(request.prompt),
                "sampling_params": _sampling(request.sampling),
                "return_logprob": True,
                **request.extra,
            }
            seconds = deadline - time.monotonic()
            raw = await self._http.post_json(root + "/generate", body, seconds)
            try:
                answer = _generated(raw, request, self.name)
            except Unavailable as error:
                raise AttemptFailed(error, again=True) from error
        else:
            answer = await super()._whole(url, request, deadline)
        return self._stamped(answer, before)

    def _stamped(self, answer: Completion, before: WeightVersion | None) -> Completion:
        """The engine's own version; else ours, where it was one from beginning to end."""
        if answer.weight_versions is not None or answer.token_ids is None:
            return answer
        if before is None or before != self.weight_version:
            return answer
        return dataclasses.replace(answer, weight_versions=(before,) * len(answer.token_ids))

    async def pause(self, mode: Literal["abort", "in_place", "retract"] = "abort") -> None:
        """Hold new calls back, and end or freeze those under way, as SGLang's `mode` says."""
        await self._pausing("/pause_generation", {"mode": mode})

    async def resume(self) -> None:
        """Let calls go on."""
        await self._resuming("/continue_generation")

    async def update_weights(
        self,
        version: WeightVersion,
        *,
        source: Literal["disk", "distributed", "tensor"] = "disk",
        **body: Any,
    ) -> list[Any]:
        """Passed through to `/update_weights_from_…`, with the version as its `weight_version`."""
        if source not in ("disk", "distributed", "tensor"):
            raise InvalidArgument(f"source: {source!r}; expected disk, distributed or tensor")
        body = {**body, "weight_version": str(version)}
        return await self._updating(f"/update_weights_from_{source}", version, body)


def _sampling(sampling: Sampling) -> dict[str, Any]:
    out: dict[str, Any] = {
        theirs: value
        for ours, theirs in _SAMPLING.items()
        if (value := getattr(sampling, ours)) is not None
    }
    if sampling.stop:
        out["stop"] = list(sampling.stop)
    return out


def _generated(raw: object, request: Request, name: str) -> Completion:
    """The answer of `/generate`, as if it had come by completions."""
    match raw:
        case {"text": str(text), "meta_info": dict(meta)}:
            reason = meta.get("finish_reason")
        case _:
            raise Unavailable("the answer of /generate has no text or no meta_info")
    ended = reason if isinstance(reason, dict) else {"type": reason}
    choice = {
        "text": text,
        "meta_info": meta,
        "finish_reason": ended.get("type"),
        "matched_stop": ended.get("matched"),
        "prompt_token_ids": list(request.prompt or ()),
    }
    return spelled.completion({"choices": [choice], "usage": meta}, name)
