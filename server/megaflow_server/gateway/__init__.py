"""The public endpoint: catalogue, placement of sessions on workers, and the workers' lives.

The gateway never imports an environment's code and never decodes a value: workers do. It starts workers
through a backend and speaks to them over gRPC.
"""
