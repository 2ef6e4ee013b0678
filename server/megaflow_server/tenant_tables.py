"""The tables `[tenants.NAME]` of megaflow.toml."""

from __future__ import annotations

from typing import Annotated

from pydantic import (
    AllowInfNan,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

__all__ = ["BudgetConfig", "QuotaConfig", "TenantConfig"]


class QuotaConfig(BaseModel):
    """What a tenant may have."""

    # One of its keys begins as pydantic's own names do.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())

    # Sessions at once. Default: as many as the server has.
    sessions: PositiveInt | None = None
    # Attempts at tasks at once. Default: as many as runners have room for.
    running: NonNegativeInt | None = None
    # Sessions opened; a tenth of it may come in one burst. Default: no limit.
    sessions_per_minute: Annotated[PositiveFloat, AllowInfNan(False)] | None = None
    # Calls of models; a tenth of it may come in one burst. Default: no limit.
    model_calls_per_minute: Annotated[PositiveFloat, AllowInfNan(False)] | None = None


class BudgetConfig(BaseModel):
    """What a tenant may spend on models."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    # USD from midnight to midnight, UTC, as this server counts them. Default: no limit.
    usd_per_day: Annotated[NonNegativeFloat, AllowInfNan(False)] | None = None


class TenantConfig(BaseModel):
    """A table `[tenants.NAME]`; the name is what its tokens say."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    # Its share of what runs, beside the others' weights. Default: as much as anybody.
    weight: Annotated[PositiveFloat, AllowInfNan(False)] = 1.0
    # What it may have at most. Default: whatever is free.
    quota: QuotaConfig = Field(default_factory=QuotaConfig)
    # What it may spend on models at most. Default: no limit.
    budget: BudgetConfig = Field(default_factory=BudgetConfig)
