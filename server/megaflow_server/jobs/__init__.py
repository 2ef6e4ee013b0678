"""What `megaflow run` and the commands around it are made of: datasets, manifests, the live table, the local server.

What belongs here: reading and checking what is to be run, and telling people what became of it. Everything that is
asked of a server goes through the SDK.
"""

from __future__ import annotations
