"""Instances as containers of a Docker Engine: workers with megaflow in them, and sandboxes of any image.

`calls` alone imports the SDK; `isolation` says what a profile means, and is the place to read it.
`backend` has the backend, `options` what an operator says about it.
"""

from __future__ import annotations
