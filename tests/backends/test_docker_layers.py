"""What a container has written, by layers that are made by hand."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from megaflow_server.backends.docker import layers
from megaflow_server.backends.docker.layers import Layers
from megaflow_server.egress import can_listen

# Who may not administer neither makes what an overlay writes down, nor sees it.
pytestmark = pytest.mark.skipif(os.geteuid() != 0 or not can_listen(), reason="takes root")


def layered(folder: Path) -> Layers:
    """A container's own layer and two of its image; the links there lead into this host."""
    for name in ("upper", "second/made/new", "first/made/in", "first/plain/in", "first/gone"):
        (folder / name).mkdir(parents=True)
    for name in ("second/made/new/b", "first/made/in/a", "first/plain/file", "first/gone/c"):
        (folder / name).write_text("1")
    (folder / "host").mkdir()
    (folder / "host" / "a").write_text("the host's")
    (folder / "first" / "link").symlink_to(folder / "host")
    return Layers(folder / "upper", [folder / "second", folder / "first"])


def test_all_that_was_written_is_listed(tmp_path: Path) -> None:
    one = layered(tmp_path)
    upper = tmp_path / "upper"
    assert one.changes() == {"/": "changed"}
    (upper / "plain").mkdir()
    (upper / "plain" / "file").write_text("2")
    (upper / "plain" / "more").write_text("2")
    os.mknod(upper / "gone", stat.S_IFCHR)
    (upper / "made" / "new").mkdir(parents=True)
    os.setxattr(upper / "made", "trusted.overlay.opaque", b"y")
    (upper / "link").mkdir()
    (upper / "link" / "a").write_text("2")
    os.setxattr(upper / "link", "trusted.overlay.opaque", b"y")
    assert one.changes() == {
        "/": "changed",
        "/plain": "changed",
        "/plain/file": "changed",
        "/plain/more": "added",
        "/gone": "deleted",
        "/made": "changed",
        "/made/new": "changed",
        "/made/new/b": "deleted",
        "/made/in": "deleted",
        "/made/in/a": "deleted",
        "/link": "changed",
        "/link/a": "added",
    }


def test_attributes_are_those_of_the_topmost_and_never_the_hosts(tmp_path: Path) -> None:
    one = layered(tmp_path)
    upper, first, host = (tmp_path / name for name in ("upper", "first", "host"))
    assert one.attributes("/plain/file") == ""
    os.setxattr(first / "plain" / "file", "user.of", b"the image")
    of_image = one.attributes("/plain/file")
    assert of_image
    (upper / "plain").mkdir()
    (upper / "plain" / "file").write_text("1")
    assert one.attributes("/plain/file") == ""
    for name in ("impure", "origin", "opaque"):  # what an overlay writes down
        os.setxattr(upper / "plain", f"trusted.overlay.{name}", b"y")
    assert one.attributes("/plain") == ""
    # What is in a folder that was moved is in no layer of the container's own.
    os.setxattr(upper / "plain", "trusted.overlay.redirect", b"gone")
    assert one.attributes("/plain")
    os.setxattr(host / "a", "user.of", b"the host")
    assert one.attributes("/link/a") == ""
    assert one.attributes("/absent") == ""


def test_what_is_not_to_be_seen_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(name: str, upper: Path) -> dict[str, Any]:
        data = {"UpperDir": str(upper), "LowerDir": f"{tmp_path}/one:{tmp_path}/two"}
        return {"GraphDriver": {"Name": name, "Data": data}}

    monkeypatch.setattr(layers, "can_listen", lambda: True)
    assert Layers.of(said("overlay2", tmp_path)) is not None
    assert Layers.of(said("overlay2", tmp_path / "another-hosts")) is None
    assert Layers.of(said("btrfs", tmp_path)) is None
    assert Layers.of({}) is None
    monkeypatch.setattr(layers, "can_listen", lambda: False)
    assert Layers.of(said("overlay2", tmp_path)) is None
