"""Every Python block of the README runs, in order, against a server of its own."""

from __future__ import annotations

import re
from pathlib import Path

from commands import SERVE, Served
from leftovers import place

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_blocks_of_the_readme_run() -> None:
    blocks = BLOCK.findall((ROOT / "README.md").read_text())
    assert len(blocks) >= 5
    with place() as here:
        served = Served(here.start(*SERVE, "--listen", "127.0.0.1:0", "--workers", "1"), 1)
        text = "\n".join(blocks).replace("localhost:7447", served.addresses[0])
        here.run(str(here.script("readme.py", text)))
        assert served.end() == 0
        here.assert_nothing_left()


def test_the_documents_name_files_that_exist() -> None:
    for document in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"
