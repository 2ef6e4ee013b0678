"""Where the configuration is, where nobody says; without what reading it takes."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["VARIABLE", "find"]

# Names the configuration's file.
VARIABLE = "MEGAFLOW_CONFIG"
_NAME = "megaflow.toml"


def find() -> Path | None:
    """The file that `$MEGAFLOW_CONFIG` names, else megaflow.toml in the working directory, else None.

    One that is named need not be there: whoever reads it says so.
    """
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)
    here = Path.cwd() / _NAME
    return here if here.is_file() else None
