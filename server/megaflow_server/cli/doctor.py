"""`megaflow doctor`: whether megaflow works on this machine, and what to do where it does not."""

from __future__ import annotations

from megaflow_server.cli.options import AsJson, Server
from megaflow_server.cli.report import print_report


def doctor(server: Server = None, as_json: AsJson = False) -> None:
    """Check that megaflow works here; exit status 1 where something that is needed does not."""
    import megaflow  # noqa: F401  # before gRPC, which reads what it sets when it is imported
    from megaflow_server.cli.doctor_checks import checks

    print_report(checks(server), as_json=as_json)
