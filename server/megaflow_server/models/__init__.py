"""The Model Service: sessions of rollouts, the HTTP API that their programs speak, and a record of each call; and calls
without a session, over the wire.

Knows models by their contract, `megaflow.model.Model`, alone; provider keys are theirs, and never come here.
`app` needs aiohttp (the extra `server`).
"""
