"""The HTTP APIs that programs speak to models, from and to `megaflow.generation`'s one form.

No input or output here, and nothing that needs a library: bytes and JSON in, bytes and JSON out.
"""

from __future__ import annotations

from megaflow.dialects.base import Dialect, Stamp, Writer, http_status
from megaflow.dialects.chat import Chat
from megaflow.dialects.completions import Completions
from megaflow.dialects.messages import Messages
from megaflow.dialects.responses import Responses

__all__ = [
    "DIALECTS",
    "Chat",
    "Completions",
    "Dialect",
    "Messages",
    "Responses",
    "Stamp",
    "Writer",
    "http_status",
]

DIALECTS: tuple[Dialect, ...] = (Chat(), Completions(), Responses(), Messages())
