"""Models behind the gateway: engines that others serve (`openai`, `vllm`, `sglang`), and ones that need none
(`scripted`, `echo`, `replay`).

Each is a `megaflow.model.Model`. Only those that speak HTTP need aiohttp (the extra `models`).
"""
