"""How frames travel: gRPC channels and streams over one sans-IO session state machine.

Nothing here knows what an observation is.
"""
