"""The tables `[models.NAME]` of megaflow.toml."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AllowInfNan, BaseModel, ConfigDict, Field, NonNegativeFloat

from megaflow.calls import Price

__all__ = ["ModelTable", "PriceTable"]

_Dollars = Annotated[NonNegativeFloat, AllowInfNan(False)]


class PriceTable(BaseModel):
    """USD for a million tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    # Of prompts.
    input_per_million: _Dollars
    # Of answers, reasoning included.
    output_per_million: _Dollars
    # Of what the engine had of a prompt already. Default: as the rest of it.
    cached_input_per_million: _Dollars | None = None

    def price(self) -> Price:
        """What it says."""
        return Price(self.input_per_million, self.output_per_million, self.cached_input_per_million)


class ModelTable(BaseModel):
    """A model that the server answers with; the keys beside these are its kind's own, which checks them."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    # What it is: vllm, sglang, openai, … or what another package has registered.
    kind: Annotated[str, Field(min_length=1)]
    # What its tokens cost. Default: not known, so that calls have no cost, and budgets of money refuse them.
    price: PriceTable | None = None

    @property
    def secrets(self) -> frozenset[str]:
        """The variables that it names: those of keys that end with `_env`, as `api_key_env`."""
        given = self.settings.items()
        return frozenset(
            value for key, value in given if key.endswith("_env") and isinstance(value, str)
        )

    @property
    def keys(self) -> frozenset[str]:
        """Of `settings`."""
        return frozenset(self.model_extra or {})

    @property
    def settings(self) -> dict[str, Any]:
        """The kind's own keys."""
        return dict(self.model_extra or {})
