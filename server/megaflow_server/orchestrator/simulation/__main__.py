"""`python -m megaflow_server.orchestrator.simulation SEEDS [FIRST]`: that many runs, and what did not hold."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

from megaflow_server.orchestrator.simulation.scenario import Run, run


def main() -> int:
    """The number of runs in which something did not hold; at most 1, as an exit status."""
    count = int(sys.argv[1])
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    begin, wrong = time.monotonic(), 0
    reached: Counter[str] = Counter()
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for one in pool.map(run, range(first, first + count), chunksize=50):
            reached.update(one.reached)
            if one.wrong:
                wrong += 1
                _show(one)
    print(f"{count} seeds, {wrong} of them wrong, in {time.monotonic() - begin:.0f} s")
    for name, times in reached.most_common():
        print(f"{times:10,}  {name}")
    return min(wrong, 1)


def _show(one: Run) -> None:
    for promise, case in one.wrong.items():
        print(f"seed {one.seed}: {promise}: {case}")


if __name__ == "__main__":
    sys.exit(main())
