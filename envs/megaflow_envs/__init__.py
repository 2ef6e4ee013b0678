"""Environments that megaflow ships: one folder each.

Nothing of the server belongs here; an environment imports `megaflow` and what it simulates.
"""
