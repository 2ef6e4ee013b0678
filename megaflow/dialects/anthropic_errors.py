"""Errors as Anthropic's API spells them."""

from __future__ import annotations

from typing import Any

from megaflow import errors
from megaflow.dialects.base import http_status

__all__ = ["failure"]

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def failure(error: errors.MegaflowError) -> dict[str, Any]:
    """The body, of an answer and of a stream's `error` event alike."""
    kind = _TYPES.get(http_status(error), "api_error")
    return {"type": "error", "error": {"type": kind, "message": error.message}}
