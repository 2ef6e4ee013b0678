"""Generating tokens with a causal language model of transformers, several calls at once. Needs torch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from megaflow.generation import Sampling

__all__ = ["Row", "generate"]


@dataclass(eq=False)
class Row:
    """One call's place in a batch.

    Attributes:
        prompt: at least one id.
        most: tokens that it may get.
        take: gets each token with its log-prob; False ends the row.
    """

    prompt: Sequence[int]
    sampling: Sampling
    most: int
    take: Callable[[int, float], bool]

    def __post_init__(self) -> None:
        self.made = 0
        self._draw: torch.Generator | None = None
        if self.sampling.seed is not None:
            self._draw = torch.Generator().manual_seed(self.sampling.seed)

    def choose(self, logits: Any) -> int:
        """The next token, as the call's sampling says; `logits` are float32, on the CPU."""
        sampling = self.sampling
        if sampling.temperature == 0:
            return int(logits.argmax())
        scaled = logits if sampling.temperature is None else logits / sampling.temperature
        likely = torch.softmax(scaled, -1)
        likely = likely * _kept(likely, sampling)
        return int(torch.multinomial(likely, 1, generator=self._draw))


def _kept(likely: Any, sampling: Sampling) -> Any:
    """Which tokens may be drawn; the likeliest always may."""
    kept = torch.ones_like(likely, dtype=torch.bool)
    if sampling.top_k is not None and 0 < sampling.top_k < len(likely):
        kept &= likely >= likely.topk(sampling.top_k).values[-1]
    if sampling.min_p is not None:
        kept &= likely >= sampling.min_p * likely.max()
    if sampling.top_p is not None and sampling.top_p < 1:
        ordered, places = likely.sort(descending=True)
        # Until what came before reaches top_p, so that the first is always there.
        within = ordered.cumsum(-1) - ordered < max(sampling.top_p, 1e-9)
        kept &= torch.zeros_like(kept).scatter(-1, places, within)
    return kept


def generate(model: Any, rows: Sequence[Row]) -> None:
    """Give each row its tokens, until `take` says that it is enough or it has as many as it may.

    Log-probs are those of the model itself, at temperature 1, whatever was sampled with: a forward pass over
    the same tokens gives the same.
    """
    with torch.inference_mode():
        _generate(model, rows)


def _generate(model: Any, rows: Sequence[Row]) -> None:
    ids, mask = _padded(rows)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    last = {"logits_to_keep": 1} if _keeps_few(type(model)) else {}
    left, cache = list(rows), None
    while left:
        out = model(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            position_ids=positions.to(model.device),
            past_key_values=cache,
            use_cache=True,
            **last,
        )
        logits = out.logits[:, -1].float().cpu()
        logprobs = torch.log_softmax(logits, -1)
        chosen = [row.choose(each) for row, each in zip(left, logits, strict=True)]
        going = [
            at
            for at, (row, token) in enumerate(zip(left, chosen, strict=True))
            if _goes_on(row, token, float(logprobs[at, token]))
        ]
        cache = out.past_key_values
        if going and len(going) < len(left):
            cache.batch_select_indices(torch.tensor(going, device=model.device))
            mask = mask[going]
        left = [left[at] for at in going]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], -1)
        ids = torch.tensor([[chosen[at]] for at in going])
        positions = mask.sum(-1, keepdim=True) - 1


def _padded(rows: Sequence[Row]) -> tuple[Any, Any]:
    """The prompts, padded in front so that every row goes on at the same place; and which are no padding."""
    longest = max(len(row.prompt) for row in rows)
    gaps = [longest - len(row.prompt) for row in rows]
    ids = torch.tensor([[0] * gap + list(row.prompt) for gap, row in zip(gaps, rows, strict=True)])
    return ids, torch.tensor([[0] * gap + [1] * (longest - gap) for gap in gaps])


def _goes_on(row: Row, token: int, logprob: float) -> bool:
    row.made += 1
    return row.take(token, logprob) and row.made < row.most


def _keeps_few(model: type) -> bool:
    """Whether the model can be told to give the last token's logits alone."""
    return "logits_to_keep" in inspect.signature(model.forward).parameters  # type: ignore[attr-defined]
