"""Lets a sandbox without a network reach the hosts that are named, and no others.

A socket is opened at the sandbox's own loopback, from outside: nothing runs in the sandbox, and nothing else leads
out of it. This server answers at that socket: HTTP's CONNECT and plain requests. It looks names up, and connects.
"""

from __future__ import annotations

from megaflow_server.egress.hosts import EVERYTHING, NOTHING, Hosts
from megaflow_server.egress.namespaces import PORT, can_listen, listen, listen_here
from megaflow_server.egress.proxy import Egress

__all__ = [
    "EVERYTHING",
    "NOTHING",
    "PORT",
    "Egress",
    "Hosts",
    "can_listen",
    "listen",
    "listen_here",
]
