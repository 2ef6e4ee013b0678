"""What the base install imports is what it declares: a plain `pip install megaflow` has everything it needs."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
# The adapters are left out: each fits somebody else's framework, which its user has.
PACKAGES = {
    "megaflow": ROOT / "megaflow",
    "megaflow_envs": ROOT / "envs" / "megaflow_envs",
    "megaflow_server": ROOT / "server" / "megaflow_server",
}
# Where the import name is not the distribution's.
IMPORTED_AS = {"grpcio": "grpc", "protobuf": "google"}
# Modules and packages that are themselves imported only when used, with what their extra brings.
FROM_EXTRAS = {
    ROOT / "server" / "megaflow_server" / "gateway" / "authority.py": {"cryptography"},
    ROOT / "server" / "megaflow_server" / "backends" / "docker" / "calls.py": {
        "docker",
        "requests",
    },
    ROOT / "server" / "megaflow_server" / "models" / "app.py": {"aiohttp"},
    ROOT / "server" / "megaflow_server" / "models" / "answers.py": {"aiohttp"},
    ROOT / "server" / "megaflow_server" / "models" / "opening.py": {"aiohttp"},
    ROOT / "server" / "megaflow_server" / "models" / "weights.py": {"aiohttp"},
    ROOT / "server" / "megaflow_server" / "bench" / "gateway.py": {"aiohttp"},
    ROOT / "server" / "megaflow_server" / "bench" / "gateway_askers.py": {"aiohttp"},
    ROOT / "server" / "megaflow_server" / "backends" / "kubernetes.py": {"kubernetes"},
    ROOT / "server" / "megaflow_server" / "backends" / "ray.py": {"ray"},
    ROOT / "server" / "megaflow_server" / "observability": {"aiohttp", "prometheus_client"},
    ROOT / "server" / "megaflow_server" / "testing" / "kube": {"aiohttp"},
    ROOT / "server" / "megaflow_server" / "orchestrator" / "store": {"alembic", "sqlalchemy"},
}
# The conformance suites ship, and are run by their user's own pytest.
FROM_TEST_SUITES = {"hypothesis", "pytest"}


def imports(body: list[ast.stmt]) -> Iterator[str]:
    """Top-level names of what runs on import: functions are left out, `if` and `try` are not."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]
        elif isinstance(node, ast.If | ast.Try | ast.With | ast.ClassDef):
            yield from imports(node.body)
            yield from imports(getattr(node, "orelse", []))


def declared() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [Requirement(text).name for text in project["dependencies"]]
    return {IMPORTED_AS.get(name, name) for name in names}


def allowed(path: Path) -> set[str]:
    suites = FROM_TEST_SUITES if "testing" in path.relative_to(ROOT).parts else set()
    return suites.union(*(FROM_EXTRAS.get(place, set()) for place in (path, *path.parents)))


def test_every_import_of_the_base_install_is_declared() -> None:
    known = declared() | sys.stdlib_module_names | PACKAGES.keys()
    wrong = {
        f"{path.relative_to(ROOT)}: {name}"
        for folder in PACKAGES.values()
        for path in folder.rglob("*.py")
        for name in imports(ast.parse(path.read_text()).body)
        if name not in known | allowed(path)
    }
    assert not wrong


def test_only_what_runs_on_import_counts() -> None:
    source = "import a.b\nif x:\n  from c.d import e\nelse:\n  import f\ndef g():\n  import h"
    assert list(imports(ast.parse(source).body)) == ["a", "c", "f"]
