"""Values of the configuration that more than one table has."""

from __future__ import annotations

from typing import Annotated

from pydantic import AllowInfNan, BeforeValidator, PositiveFloat

from megaflow_server.quantities import memory_of

__all__ = ["Memory", "Processors"]


def _memory(given: object) -> object:
    if isinstance(given, str):
        return memory_of(given)
    if type(given) is not int or given < 1:
        raise ValueError("give 512Mi, 4Gi, or a number of bytes")
    return given


# A number of bytes, or a quantity such as 512Mi.
Memory = Annotated[int, BeforeValidator(_memory)]
# A number of processors; half of one is 0.5.
Processors = Annotated[PositiveFloat, AllowInfNan(False)]
