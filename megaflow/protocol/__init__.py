"""The wire: megaflow.proto with its generated stubs, and the codecs of values, space definitions and errors.

No sockets and no environments here: what these modules know is bytes.
"""

from __future__ import annotations

# Raised when an older peer could no longer understand a newer one.
PROTOCOL_VERSION = 1
