"""What `megaflow bench` measures. `cli/bench.py` is its command; `benchmarks/` keeps results and says how to
read them.
"""

from __future__ import annotations
