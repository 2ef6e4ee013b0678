"""Hypothesis strategies for what travels on the wire."""

from __future__ import annotations
