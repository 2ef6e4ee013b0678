"""Everything that fits megaflow to somebody else's framework.

An adapter imports its framework lazily and `megaflow` alone of ours.
"""
