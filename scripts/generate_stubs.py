"""Generate the protobuf stubs of the wire, or with --check compare the committed ones with fresh ones.

The compiler runs in an environment of its own that is thrown away: grpcio-tools 1.66.2 is the version whose
output loads under protobuf 5, 6 and 7, and it needs protobuf 5 itself. Needs nothing but Python's own library.
"""

from __future__ import annotations

import argparse
import filecmp
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = Path("megaflow/protocol/megaflow.proto")
STUBS = tuple(PROTO.with_name(f"megaflow_pb2{end}") for end in (".py", ".pyi", "_grpc.py"))
# protobuf's version decides nothing in the output, but an exact one cannot start to. setuptools: 1.66 imports
# pkg_resources, which later versions no longer have.
TOOLS = ("grpcio-tools==1.66.2", "protobuf==5.27.2", "setuptools<81")


def generate(folder: Path) -> None:
    """Write the stubs below `folder`, at the same relative paths as in the repository."""
    with tempfile.TemporaryDirectory(prefix="megaflow-stubs-") as name:
        venv.create(name, with_pip=True)
        python = str(Path(name) / "bin" / "python")
        subprocess.run([python, "-m", "pip", "install", "--quiet", *TOOLS], check=True)
        outputs = [f"--{kind}_out={folder}" for kind in ("python", "pyi", "grpc_python")]
        command = [python, "-m", "grpc_tools.protoc", "-I.", *outputs, str(PROTO)]
        subprocess.run(command, check=True, cwd=ROOT)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="compare, write nothing; 1 if they differ"
    )
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory(prefix="megaflow-stubs-") as name:
        fresh = Path(name)
        generate(fresh)
        if not check:
            for stub in STUBS:
                shutil.copyfile(fresh / stub, ROOT / stub)
            return 0
        stale = [str(stub) for stub in STUBS if not same(fresh / stub, ROOT / stub)]
    if stale:
        print(f"not what {PROTO} generates: {', '.join(stale)}; run `make stubs`", file=sys.stderr)
        return 1
    print(f"the stubs are what {PROTO} generates")
    return 0


def same(fresh: Path, committed: Path) -> bool:
    return committed.exists() and filecmp.cmp(fresh, committed, shallow=False)


if __name__ == "__main__":
    sys.exit(main())
