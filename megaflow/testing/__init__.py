"""Conformance suites for what a user of megaflow writes: a class of tests to subclass for each contract.

They need pytest, which megaflow itself does not.
"""

from __future__ import annotations
