"""What an engine itself writes for a container, by files that are made by hand."""

from __future__ import annotations

from pathlib import Path

from megaflow_server.backends.docker.own_files import OwnFiles, addresses

ID = "0123456789abcdef"


def own_files(folder: Path) -> OwnFiles:
    for name, text in (("hosts", "127.0.0.1 localhost\n"), ("resolv", "old\n"), ("name", "me\n")):
        (folder / name).write_text(text)
    said = {"HostsPath": f"{folder}/hosts", "ResolvConfPath": f"{folder}/resolv", "Id": ID}
    return OwnFiles({**said, "HostnamePath": f"{folder}/name", "Config": {"Hostname": "me"}})


def differing(before: dict[str, str], now: dict[str, str]) -> list[str]:
    return [path for path in before if before[path] != now[path]]


def test_a_line_of_the_engines_own_is_no_difference(tmp_path: Path) -> None:
    one, hosts = own_files(tmp_path), tmp_path / "hosts"
    fresh = one.describe([])
    assert fresh.keys() == {"/etc/hosts", "/etc/resolv.conf", "/etc/hostname"}
    plain = hosts.read_text()
    hosts.write_text(f"{plain}10.0.0.2\tme {ID[:12]}\nfd00::2\tme\n")
    assert one.describe(["10.0.0.2", "fd00::2"]) == fresh
    # Not its address now, more names, and one line more.
    assert differing(fresh, one.describe(["10.0.0.3", "fd00::2"])) == ["/etc/hosts"]
    for line in ("10.0.0.2 me packages.example", "10.0.0.2", "10.0.0.2 me\n10.0.0.2 me"):
        hosts.write_text(f"{plain}{line}\n")
        assert differing(fresh, one.describe(["10.0.0.2"])) == ["/etc/hosts"]
    hosts.write_text(plain)
    hosts.chmod(0o666)
    (tmp_path / "name").write_text("another\n")
    assert differing(fresh, one.describe([])) == ["/etc/hosts", "/etc/hostname"]


def test_what_the_first_change_of_networks_writes_is_the_engines(tmp_path: Path) -> None:
    one, resolver = own_files(tmp_path), tmp_path / "resolv"
    assert one.resolver() is None
    fresh = one.describe([])
    before = one.resolver()
    one.switched(before)  # which wrote nothing
    resolver.write_text("of the network\n")
    assert differing(fresh, one.describe([])) == ["/etc/resolv.conf"]
    one.switched(before)
    assert one.describe([]) == fresh
    resolver.write_text("old\n")
    assert one.describe([]) == fresh
    before = one.resolver()
    resolver.write_text("an agent's\n")
    one.switched(before)
    assert differing(fresh, one.describe([])) == ["/etc/resolv.conf"]


def test_what_was_written_to_before_is_not_taken_for_the_engines(tmp_path: Path) -> None:
    one, resolver = own_files(tmp_path), tmp_path / "resolv"
    fresh = one.describe([])
    resolver.write_text("an agent's\n")
    before = one.resolver()
    one.switched(before)
    assert differing(fresh, one.describe([])) == ["/etc/resolv.conf"]


def test_the_addresses_that_a_container_has() -> None:
    networks = {
        "a": {"IPAddress": "10.0.0.2", "GlobalIPv6Address": ""},
        "b": {"IPAddress": "", "GlobalIPv6Address": "fd00::2"},
    }
    assert addresses({"NetworkSettings": {"Networks": networks}}) == ["10.0.0.2", "fd00::2"]
    assert addresses({"NetworkSettings": None}) == []
