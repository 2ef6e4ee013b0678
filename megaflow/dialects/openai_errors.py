"""Errors as OpenAI's APIs spell them."""

from __future__ import annotations

from typing import Any

from megaflow import errors
from megaflow.dialects.base import http_status

__all__ = ["error_type", "failure"]

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def error_type(error: errors.MegaflowError) -> str:
    """The error's type, as far as OpenAI has one; `server_error` for all that is no fault of the caller's."""
    return _TYPES.get(http_status(error), "server_error")


def failure(error: errors.MegaflowError) -> dict[str, Any]:
    """The body; `code` is the name of our error."""
    return {
        "error": {
            "message": error.message,
            "type": error_type(error),
            "param": None,
            "code": type(error).__name__,
        }
    }
