"""The process that hosts sessions: it makes environments, runs their code and serves the data plane.

Each shard session has a thread of its own, on which its environments are made, stepped and closed. Nothing
here places sessions or watches processes: that is the gateway's.
"""
