"""Sandboxes: commands and files in an instance, over one attached stream per sandbox and user.

What runs inside is a shell and a few commands that every image with one has (`boot.sh`, `main.sh`,
`shell.sh`); `frames` reads what they send, `machine` decides without doing input or output, `link` moves
the bytes, `sandbox` has the verbs and `proxy` hands them to an environment in a worker. Nothing here starts
an instance, except `process`, which has one of its own.
"""

from __future__ import annotations
