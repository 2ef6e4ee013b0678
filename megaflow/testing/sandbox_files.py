"""The part of the sandbox's contract that is about files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from megaflow.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)
from megaflow.sandbox import Sandbox
from megaflow.sandbox_messages import BLOCK

__all__ = ["FileContract"]


class FileContract:
    """Files and folders."""

    @pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 4711])
    def test_a_file_comes_back_as_it_was(self, sandbox: Sandbox, size: int) -> None:
        content = (bytes(range(256)) * (size // 256 + 1))[:size]
        sandbox.write_file("/tmp/file", "something longer that was there before")
        sandbox.write_file("/tmp/file", content)
        assert sandbox.read_file("/tmp/file") == content
        assert sandbox.exec("wc -c </tmp/file").stdout.strip() == b"%d" % size

    @pytest.mark.parametrize("name", ["a b", "it's", "-n", 'x"$HOME"', "new\nline", "\\n%s", "é"])
    def test_any_name_will_do(self, sandbox: Sandbox, name: str) -> None:
        sandbox.write_file(f"/tmp/deep er/{name}/{name}", "é")
        assert sandbox.read_file(f"/tmp/deep er/{name}/{name}") == "é".encode()

    def test_a_name_beside_the_working_directory(self, sandbox: Sandbox) -> None:
        sandbox.write_file("beside", "1")
        assert sandbox.exec("cat beside").stdout == b"1"

    def test_what_is_no_file_is_refused(self, sandbox: Sandbox) -> None:
        with pytest.raises(NotFound, match="/tmp/missing"):
            sandbox.read_file("/tmp/missing")
        for refused in (sandbox.read_file, lambda path: sandbox.write_file(path, b"")):
            with pytest.raises(InvalidArgument, match="/tmp"):
                refused("/tmp")
        with pytest.raises(InvalidArgument, match="/dev/zero"):
            sandbox.read_file("/dev/zero")
        with pytest.raises(FailedPrecondition, match="/proc/no/file"):
            sandbox.write_file("/proc/no/file", b"1")
        with pytest.raises(InvalidArgument, match="character"):
            sandbox.write_file("/tmp/half", "half a character: \ud800")

    def test_a_file_over_the_limit_is_refused(self, sandbox: Sandbox) -> None:
        sandbox.exec("head -c 1000000 /dev/zero >/tmp/large")
        with pytest.raises(ResourceExhausted, match="999999 bytes"):
            sandbox.read_file("/tmp/large", limit=999_999)
        assert sandbox.read_file("/tmp/large", limit=1_000_000) == bytes(1_000_000)

    def test_a_folder_goes_up_and_comes_down(self, sandbox: Sandbox, tmp_path: Path) -> None:
        source = tmp_path / "source"
        (source / "in ner").mkdir(parents=True)
        (source / "in ner" / "run.sh").write_text("#!/bin/sh\necho ran")
        (source / "in ner" / "run.sh").chmod(0o755)
        (source / "link").symlink_to("in ner/run.sh")
        (source / "large").write_bytes(os.urandom(BLOCK + 1))
        sandbox.upload(source, "/tmp/up/there")
        assert sandbox.exec(
            "'/tmp/up/there/in ner/run.sh'; readlink /tmp/up/there/link"
        ).stdout == (b"ran\nin ner/run.sh\n")
        sandbox.exec("echo more >/tmp/up/there/more")
        sandbox.download("/tmp/up/there", tmp_path / "back")
        assert (tmp_path / "back" / "large").read_bytes() == (source / "large").read_bytes()
        assert os.access(tmp_path / "back" / "in ner" / "run.sh", os.X_OK)
        assert os.readlink(tmp_path / "back" / "link") == "in ner/run.sh"
        assert (tmp_path / "back" / "more").read_text() == "more\n"
        assert sandbox.exec("ls -A /tmp | grep megaflow-").stdout == b""

    def test_a_file_goes_up_and_comes_down(self, sandbox: Sandbox, tmp_path: Path) -> None:
        (tmp_path / "one").write_text("1")
        (tmp_path / "one").chmod(0o750)
        sandbox.upload(tmp_path / "one", "/tmp/new/name")
        assert sandbox.exec("stat -c %a /tmp/new/name").stdout == b"750\n"
        sandbox.download("/tmp/new/name", tmp_path / "deep" / "two")
        assert (tmp_path / "deep" / "two").read_text() == "1"

    def test_what_is_not_there_does_not_go(self, sandbox: Sandbox, tmp_path: Path) -> None:
        with pytest.raises(NotFound, match="source"):
            sandbox.upload(tmp_path / "none", "/tmp/none")
        with pytest.raises(NotFound, match="source='/tmp/none'"):
            sandbox.download("/tmp/none", tmp_path / "none")
        assert not (tmp_path / "none").exists()

    @pytest.mark.parametrize("target", ["/etc/passwd", "../../outside"])
    def test_a_link_that_leads_out_is_refused(
        self, sandbox: Sandbox, tmp_path: Path, target: str
    ) -> None:
        sandbox.exec(f"mkdir -p /tmp/bad; ln -sfn {target} /tmp/bad/link")
        with pytest.raises(InvalidArgument, match="link"):
            sandbox.download("/tmp/bad", tmp_path / "bad")
        assert not (tmp_path / "outside").exists()
        assert not (tmp_path / "bad").exists()

    def test_what_is_too_deep_leaves_nothing_behind(self, sandbox: Sandbox, tmp_path: Path) -> None:
        deeper = "mkdir -p /tmp/deep; cd /tmp/deep; echo 1 >first; for i in $(seq 21); do mkdir -p $N; cd -P ./$N; done"
        sandbox.exec(deeper, env={"N": "n" * 200})
        with pytest.raises(FailedPrecondition, match="source='/tmp/deep'"):
            sandbox.download("/tmp/deep", tmp_path / "deep")
        assert not (tmp_path / "deep").exists()

    def test_a_folder_over_the_limit_is_refused(self, sandbox: Sandbox, tmp_path: Path) -> None:
        sandbox.exec("mkdir -p /tmp/much; head -c 600000 /dev/zero >/tmp/much/file")
        with pytest.raises(ResourceExhausted, match="/tmp/much"):
            sandbox.download("/tmp/much", tmp_path / "much", limit=500_000)
