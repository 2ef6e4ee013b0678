"""The standalone server: gateway, workers, backends, pools, and the `megaflow` command line.

It imports `megaflow`, never the reverse: the SDK starts a server as a process of its own.
"""
