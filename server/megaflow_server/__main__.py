"""`python -m megaflow_server` is the `megaflow` command."""

from __future__ import annotations

from megaflow_server.cli import main

if __name__ == "__main__":
    main()
