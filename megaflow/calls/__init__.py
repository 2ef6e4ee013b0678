"""Model calls as they are recorded, and what training makes of them.

No input or output here: who writes records decides where they go.
"""

from __future__ import annotations

from megaflow.calls.branches import Branches, Place
from megaflow.calls.budgets import Allowance, Budget
from megaflow.calls.money import Price
from megaflow.calls.rates import Rate
from megaflow.calls.record import SCHEMA_VERSION, CallRecord
from megaflow.calls.rows import Row, rows

__all__ = [
    "SCHEMA_VERSION",
    "Allowance",
    "Branches",
    "Budget",
    "CallRecord",
    "Place",
    "Price",
    "Rate",
    "Row",
    "rows",
]
